"""Anchors: a few cell-centred boxes per level, repeated at every grid cell by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

DEFAULT_SIZES = ((32,), (64,), (128,), (256,), (512,))
DEFAULT_RATIOS = (0.5, 1.0, 2.0)


class AnchorGenerator(nn.Module):
    """The anchor shapes of every pyramid level.

    Args:
        sizes: anchor sides in pixels, one tuple per level (a flat tuple gives one size to each level).
        aspect_ratios: height over width, one tuple per level (a flat tuple is used on every level).
        rounded: corners of the cell anchors are whole pixels, as torchvision's weights expect; False: exact.
        strides: pixels between grid cells, one number per level; None: the padded image's side over the
            map's, rounded down, as torchvision's weights expect (61 for the 13 rows that a stride of 64
            leaves of 800 pixels).

    :attr:`cell_anchors` is a list of float32 ``[A, 4]`` boxes around the origin, ratio-major. They are
    constants, not part of the state dict. The anchors of the first cell have the image's corner as centre.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]] | Sequence[float] = DEFAULT_SIZES,
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float] = DEFAULT_RATIOS,
        *,
        rounded: bool = True,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.sizes = tuple(tuple(s) if isinstance(s, Sequence) else (s,) for s in sizes)
        per_level = [tuple(r) for r in aspect_ratios if isinstance(r, Sequence)]
        flat = tuple(r for r in aspect_ratios if not isinstance(r, Sequence))
        self.aspect_ratios = tuple(per_level) if per_level else (flat,) * len(self.sizes)
        if len(self.aspect_ratios) != len(self.sizes):
            raise ValueError(
                f"aspect_ratios: expected one tuple for each of the {len(self.sizes)} levels of sizes, "
                f"got {len(self.aspect_ratios)}"
            )
        if strides is not None and len(strides) != len(self.sizes):
            raise ValueError(
                f"strides: expected one for each of the {len(self.sizes)} levels of sizes, got {len(strides)}"
            )
        self.strides = None if strides is None else tuple(strides)
        shapes = zip(self.sizes, self.aspect_ratios, strict=True)
        self.cell_anchors = [cell_anchors(*shape, rounded=rounded) for shape in shapes]

    def num_anchors_per_location(self) -> list[int]:
        """Anchors per grid cell, one number per level."""
        return [len(cells) for cells in self.cell_anchors]

    def cells(self, num_levels: int, device: torch.device) -> list[Tensor]:
        """The cell anchors on ``device``, after a check that there are as many levels as feature maps."""
        if num_levels != len(self.cell_anchors):
            raise ValueError(
                f"rpn_anchor_generator: expected as many levels as feature maps ({num_levels}), "
                f"got sizes for {len(self.cell_anchors)}"
            )
        if self.cell_anchors[0].device != device:
            self.cell_anchors = [cells.to(device) for cells in self.cell_anchors]
        return self.cell_anchors

    def grid_strides(
        self, image_size: tuple[int, int], grid_sizes: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """(y, x) pixels between grid cells of each level, for a padded image of ``image_size``."""
        if self.strides is not None:
            return [(stride, stride) for stride in self.strides]
        height, width = image_size
        return [(height // h, width // w) for h, w in grid_sizes]


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], rounded: bool = True) -> Tensor:
    """Boxes ``[A, 4]`` around the origin: every size for every ratio; corners rounded half to even, or exact."""
    side = torch.tensor(sizes, dtype=torch.float32)
    height = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    w = (height.reciprocal()[:, None] * side).flatten()
    h = (height[:, None] * side).flatten()
    corners = torch.stack([-w, -h, w, h], dim=1) / 2
    return corners.round() if rounded else corners


def anchors_at(
    index: Tensor, cells: list[Tensor], grid_sizes: list[tuple[int, int]], strides: list[tuple[int, int]]
) -> Tensor:
    """Some of the anchors of all levels, ``[I, 4]``; the others are not computed.

    Args:
        index: int64 ``[I]`` into the anchors of all levels, one level after the other, each in (y, x, anchor)
            order.
        cells: for each level ``[A, 4]`` boxes around the origin, pixels.
        grid_sizes: (H, W) of each feature map.
        strides: (y, x) pixels between grid cells of each level.
    """
    kinds = [len(each) for each in cells]
    sizes = [count * height * width for count, (height, width) in zip(kinds, grid_sizes, strict=True)]
    rows = [kinds, [0, *accumulate(kinds)][:-1], [0, *accumulate(sizes)][:-1], [w for _, w in grid_sizes]]
    rows += [[x for _, x in strides], [y for y, _ in strides]]
    table = torch.tensor(rows).to(index.device, non_blocking=True)
    level = torch.bucketize(index, table[2], right=True) - 1
    kind, first_cell, first, width, stride_x, stride_y = table[:, level]
    place = index - first
    x, y = place // kind % width * stride_x, place // kind // width * stride_y
    return torch.cat(cells)[first_cell + place % kind] + torch.stack([x, y, x, y], dim=1)
