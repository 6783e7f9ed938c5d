"""Where things lie: the conventions that weights were trained with, torchvision's and detectron2's.

The weights of one give poor boxes and masks under the conventions of the other, though every shape fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import maskrcnn_ops as ops
from maskrcnn.models.anchors import DEFAULT_RATIOS, DEFAULT_SIZES, AnchorGenerator
from maskrcnn.models.losses import SMOOTH_L1_BETA

PYRAMID_MAPS = ("0", "1", "2", "3")  # that regions are pooled from
PYRAMID_STRIDES = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Geometry:
    """One set of conventions; the defaults are torchvision's.

    Attributes:
        aligned: RoIAlign takes cell centres at half pixels.
        sampling_ratio: RoIAlign's samples per bin and axis; 0: as many as the bin has cells, rounded up.
        level_epsilon, level_epsilon_inside: of the choice of a region's level, see
            :func:`maskrcnn_ops.multiscale_roi_align`.
        rounded_anchors: see :class:`~maskrcnn.models.anchors.AnchorGenerator`.
        exact_strides: anchors stand at the levels' nominal strides, not at the quotient of image and map.
        mask_convention: one of :data:`maskrcnn.models.masks.MASK_CONVENTIONS`.
        smooth_l1_beta: of the box losses, see :func:`~maskrcnn.models.losses.box_loss`.
    """

    aligned: bool = False
    sampling_ratio: int = 2
    level_epsilon: float = 1e-6
    level_epsilon_inside: float = 0.0
    rounded_anchors: bool = True
    exact_strides: bool = False
    mask_convention: str = "integer"
    smooth_l1_beta: float = SMOOTH_L1_BETA

    def roi_pool(self, maps: Sequence[str], side: int) -> ops.MultiScaleRoIAlign:
        """RoIAlign from the maps of these names to ``side`` x ``side`` cells."""
        return ops.MultiScaleRoIAlign(
            list(maps),
            output_size=side,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            epsilon=self.level_epsilon,
            epsilon_inside=self.level_epsilon_inside,
        )

    def anchors(
        self,
        sizes: Sequence[Sequence[float]] | Sequence[float] = DEFAULT_SIZES,
        strides: Sequence[int] = PYRAMID_STRIDES,
    ) -> AnchorGenerator:
        """The anchors of levels with these nominal strides, of ratios 0.5, 1, 2."""
        used = strides if self.exact_strides else None
        return AnchorGenerator(sizes, DEFAULT_RATIOS, rounded=self.rounded_anchors, strides=used)

    def detector_options(self) -> dict[str, Any]:
        """Options of a detector where they are not torchvision's, which are the defaults."""
        names = ("mask_convention", "smooth_l1_beta")
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(Geometry, name)}


GEOMETRIES = {
    "torchvision": Geometry(),
    "detectron2": Geometry(
        aligned=True,
        sampling_ratio=0,
        level_epsilon=0.0,
        level_epsilon_inside=1e-8,
        rounded_anchors=False,
        exact_strides=True,
        mask_convention="continuous",
        smooth_l1_beta=0.0,
    ),
}


def geometry_named(name: str) -> Geometry:
    """One of :data:`GEOMETRIES`; ``ValueError`` for another name."""
    if name not in GEOMETRIES:
        raise ValueError(f"geometry: expected one of {', '.join(GEOMETRIES)}, got {name!r}")
    return GEOMETRIES[name]
