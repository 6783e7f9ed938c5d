"""Masks of regions as COCO run lengths: the operator's Python face and its fake kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_ops import _runs
from maskrcnn_ops._checks import pair

__all__ = ["masks_to_rle"]

_CONVENTIONS = ("continuous", "integer")


def masks_to_rle(
    masks: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    threshold: float = 0.5,
    convention: str = "continuous",
) -> list[_runs.Rle]:
    """The masks that :func:`~maskrcnn_ops.paste_masks` gives, as COCO run-length encodings, without bitmaps.

    Args:
        masks: probabilities [D, M, M] or [D, 1, M, M], floating point; any strides.
        boxes: [D, 4] xyxy in pixels, float32 or float64; half precision is widened.
        image_size: (H, W) in pixels.
        threshold, convention: those of :func:`~maskrcnn_ops.paste_masks`.

    Returns:
        D dictionaries ``{"size": [H, W], "counts": bytes}``, for pycocotools; decode the bytes for JSON.

    Raises:
        ValueError, RuntimeError: for bad shapes, dtypes, devices or sizes, a NaN threshold, an unknown
            convention.

    Not differentiable. Deterministic. Time and memory follow the outlines of the masks, not the area of the
    image. On CUDA two things are read back: the number of runs, then the run lengths, which become Python strings.

    Equivalent to:
        ``pycocotools.mask.encode(paste_masks(...))``, byte for byte.
    """
    if convention not in _CONVENTIONS:
        raise ValueError(
            f"masks_to_rle: expected convention of {' or '.join(map(repr, _CONVENTIONS))}, got {convention!r}"
        )
    height, width = pair(image_size, "masks_to_rle", "image_size")
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks.squeeze(1)
    counts, offsets = torch.ops.maskrcnn_ops.masks_to_rle(
        masks, boxes, height, width, threshold, convention == "integer"
    )
    return _runs.encode(counts, offsets, (height, width))


@torch.library.register_fake("maskrcnn_ops::masks_to_rle")
def _(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, integer: bool
) -> tuple[Tensor, Tensor]:
    torch._check(
        masks.dim() == 3,
        lambda: f"masks_to_rle: expected masks of shape [D, M, M] or [D, 1, M, M], got {list(masks.shape)}",
    )
    runs = torch.library.get_ctx().new_dynamic_size()
    long = torch.int64
    return masks.new_empty(runs, dtype=long), masks.new_empty(masks.shape[0] + 1, dtype=long)
