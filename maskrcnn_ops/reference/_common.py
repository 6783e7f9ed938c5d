"""Decisions that several operators share, each written once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Integer cell coordinates are clamped to this magnitude: far outside any map, and sums of two still fit any
# integer.
FAR = 2**30

HALF_DTYPES = (torch.float16, torch.bfloat16)


def widen(tensor: Tensor) -> Tensor:
    """Half precision to float32 (coordinates and accumulation are never half); other dtypes as they are."""
    return tensor.float() if tensor.dtype in HALF_DTYPES else tensor


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """An output size as (height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def as_rois(boxes: Tensor | Sequence[Tensor]) -> Tensor:
    """[R, 5] rows (image index, x1, y1, x2, y2) from [R, 5], or from one [L, 4] per image."""
    if isinstance(boxes, Tensor):
        return widen(boxes)
    if not boxes:
        return torch.zeros(0, 5)
    rows = [torch.nn.functional.pad(widen(b), (1, 0), value=float(n)) for n, b in enumerate(boxes)]
    return torch.cat(rows)


def image_indices(operator: str, rois: Tensor, num_images: int) -> Tensor:
    """int64 [R]: ``rois[:, 0]`` truncated to an integer; 0 where it is not finite (such a RoI gives zeros).

    Raises RuntimeError for a finite index outside the batch.
    """
    index = rois[:, 0].trunc()
    finite = index.isfinite()
    outside = finite & ((index < 0) | (index >= num_images))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise RuntimeError(
            f"{operator}: expected image indices (column 0 of rois) in [0, {num_images}), "
            f"got {rois[row, 0].item():g} in row {row}"
        )
    return index.where(finite, 0).long()


def linear_weights(u: Tensor, size: int) -> Tensor:
    """Weights of linear interpolation at cell index ``u`` ([...]) on cells 0..size-1: [..., size].

    A hat of height 1 and half-width 1 on every cell: 1 - frac on floor(u), frac on the next. What falls on
    cells that do not exist is dropped, so outside the map is zero; clamp ``u`` to [0, size - 1] to repeat the
    border instead.
    """
    cells = torch.arange(size, device=u.device, dtype=u.dtype)
    return (1 - (u[..., None] - cells).abs()).clamp(min=0)
