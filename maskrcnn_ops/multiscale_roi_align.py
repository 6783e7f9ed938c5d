"""RoIAlign over the levels of a feature pyramid."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from maskrcnn_ops._checks import as_rois, pair
from maskrcnn_ops.roi_align import SINGLE_LEVEL, pool_levels

__all__ = ["MultiScaleRoIAlign", "multiscale_roi_align"]


def multiscale_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    levels: Tensor | None = None,
    canonical_scale: float = 224,
    canonical_level: float = 4,
    epsilon: float = 1e-6,
    epsilon_inside: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """:func:`roi_align` of each region from the level of a feature pyramid that fits its size, in one kernel call.

    Lin et al.: Feature Pyramid Networks for Object Detection (CVPR 2017), equation 1. A box of area A is pooled from
    level ``floor(canonical_level + log2(sqrt(A) / canonical_scale + epsilon_inside) + epsilon)``, clamped to the levels
    there are: level k has scale 2^-k, and the maps are taken to be one level apart, finest first. A box without area,
    inside out, or with a NaN goes to the finest. The rule is evaluated in the type in which regions are pooled
    (float32, or float64 for float64 features), and agrees with torch's own evaluation in that type.

    Args:
        features: one map [N, C, H_k, W_k] per level, finest first, one to eight; N, C, dtype and device alike, H, W and
            strides of their own. The result has the layout of the first.
        boxes: as for :func:`roi_align`, in pixels of the image.
        output_size: P or (P_h, P_w), at least 1.
        spatial_scales: map cells per image pixel, one for each level.
        sampling_ratio, aligned, reduction: as for :func:`roi_align`.
        levels: index into ``features`` of each region, int32 or int64 [R]; the rule is then not used.
        canonical_scale: side in pixels of a box that belongs to ``canonical_level``.
        canonical_level: level of a box of ``canonical_scale``.
        epsilon, epsilon_inside: keep a box of exactly the canonical size on its level in spite of rounding.
            torchvision adds 1e-6 to the logarithm; detectron2 1e-8 inside it.

    Returns:
        [R, C, P_h, P_w] in the features' dtype, in the order of the boxes.

    Raises:
        ValueError, RuntimeError: as :func:`roi_align`; for maps that do not fit together, and on the CPU for a level
            outside [0, len(features)). On CUDA, where nothing is read back, such a region gives zeros.

    Gradients flow to every map, zeros to one that no box falls on, and to the boxes, as in :func:`roi_align`; the
    choice of the level has none. Forward and backward are deterministic, without synchronisation, and have batching
    rules for ``torch.vmap``.

    Equivalent to:
        ``roi_align(features[k], boxes[levels == k], ...)`` for each k, put together in the order of the boxes; see
        ``maskrcnn_ops.reference.multiscale_roi_align``.
    """
    op = "multiscale_roi_align"
    if len(features) != len(spatial_scales) or not features:
        raise ValueError(
            f"{op}: expected as many spatial_scales as features, at least one, got {len(spatial_scales)} and "
            f"{len(features)}"
        )
    rule = SINGLE_LEVEL
    if len(features) > 1:
        finest, coarsest = (round(-math.log2(scale)) for scale in (spatial_scales[0], spatial_scales[-1]))
        rule = [canonical_scale, canonical_level, epsilon, epsilon_inside, finest, coarsest]
    return pool_levels(
        op,
        list(features),
        as_rois(boxes, op),
        levels,
        output_size,
        list(spatial_scales),
        sampling_ratio,
        aligned,
        reduction,
        rule,
    )


# Of the module, beyond torchvision's; it shows them where they differ.
_OPTIONS = {"aligned": False, "epsilon": 1e-6, "epsilon_inside": 0.0}


class MultiScaleRoIAlign(nn.Module):
    """Pools each box from the pyramid level that fits its size: :func:`multiscale_roi_align`.

    The scales are inferred at the first call and kept: that of a level is the power of two nearest to the
    map's height over the height of the batch (the largest of ``image_shapes``). Where a level is left out, maps are
    still counted from the finest, and boxes beyond the last map take the last (torchvision gives zeros for those).

    Args:
        featmap_names: names of the maps to pool from; ``forward`` takes them in its
            dictionary's order, finest first.
        output_size: P or (P_h, P_w), at least 1.
        sampling_ratio: samples per bin and axis; 0 or less: adaptive. As for :func:`roi_align`.
        canonical_scale: side in pixels of a box that belongs to ``canonical_level``.
        canonical_level: level of a box of ``canonical_scale``.
        aligned, epsilon, epsilon_inside: as for :func:`multiscale_roi_align`; the defaults are torchvision's,
            whose module has no such arguments.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
        aligned: bool = False,
        epsilon: float = 1e-6,
        epsilon_inside: float = 0.0,
    ) -> None:
        super().__init__()
        self.featmap_names = list(featmap_names)
        self.output_size = pair(output_size, "MultiScaleRoIAlign")
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.aligned = aligned
        self.epsilon = epsilon
        self.epsilon_inside = epsilon_inside
        self.scales: list[float] | None = None

    def forward(
        self, x: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Pool every box.

        Args:
            x: maps by name, each [N, C, H_k, W_k]; names not in ``featmap_names`` are left aside.
            boxes: one [L, 4] per image, (x1, y1, x2, y2) in pixels of the image; float32 or float64.
            image_shapes: (height, width) of each image as the backbone saw it.

        Returns:
            [R, C, P_h, P_w] in the order of the boxes. Maps of other dtypes are converted to the finest's.

        Raises:
            ValueError: for no images, or if no map has one of the names; RuntimeError: as :func:`roi_align`.

        Gradients and determinism as for :func:`multiscale_roi_align`; no synchronisation.
        """
        maps = [features for name, features in x.items() if name in self.featmap_names]
        if not maps:
            raise ValueError(
                f"MultiScaleRoIAlign: expected a map named one of {self.featmap_names}, got {list(x)}"
            )
        if self.scales is None:
            self.scales = _infer_scales(maps, image_shapes)
        if len(maps) != len(self.scales):
            raise ValueError(
                f"MultiScaleRoIAlign: expected {len(self.scales)} maps as in the first call, got {len(maps)}"
            )
        return multiscale_roi_align(
            [each.to(maps[0].dtype) for each in maps],
            as_rois(boxes, "MultiScaleRoIAlign"),
            self.output_size,
            self.scales,
            self.sampling_ratio,
            self.aligned,
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
            epsilon=self.epsilon,
            epsilon_inside=self.epsilon_inside,
        )

    def extra_repr(self) -> str:
        ours = {
            name: getattr(self, name) for name, default in _OPTIONS.items() if getattr(self, name) != default
        }
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}, canonical_scale={self.canonical_scale}, "
            f"canonical_level={self.canonical_level}"
            + "".join(f", {name}={value}" for name, value in ours.items())
        )


def _infer_scales(maps: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[float]:
    if not image_shapes:
        raise ValueError("MultiScaleRoIAlign: expected image_shapes of at least one image, got none")
    height = max(shape[0] for shape in image_shapes)
    return [2.0 ** round(math.log2(features.shape[-2] / height)) for features in maps]
