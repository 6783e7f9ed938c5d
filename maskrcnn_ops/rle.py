"""COCO run-length encodings of many masks at once: bitmaps, areas, boxes, overlaps. Strings, so on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_ops import _host, _runs

__all__ = ["rle_area", "rle_decode", "rle_iou", "rle_to_boxes"]


def rle_decode(encodings: Sequence[_runs.Rle]) -> Tensor:
    """Bitmaps bool [D, H, W] of D encodings of one size; contiguous down the columns, as the runs go.

    ``counts`` may be bytes, str or a list of lengths. ValueError for malformed ones, here and below.
    """
    ends, offsets, (height, width) = _runs.decode(encodings, "rle_decode")
    output = torch.empty(len(encodings), width, height, dtype=torch.bool)
    _host.run_bitmaps(ends.data_ptr(), offsets.data_ptr(), len(encodings), height * width, output.data_ptr())
    return output.transpose(1, 2)


def rle_area(encodings: Sequence[_runs.Rle]) -> Tensor:
    """int64 [D], the pixels of each mask."""
    ends, offsets, _ = _runs.decode(encodings, "rle_area")
    output = torch.empty(len(encodings), dtype=torch.int64)
    _host.run_areas(ends.data_ptr(), offsets.data_ptr(), len(encodings), output.data_ptr())
    return output


def rle_to_boxes(encodings: Sequence[_runs.Rle]) -> Tensor:
    """float32 [D, 4], the tight boxes xyxy in pixel *edges* (pycocotools' ``toBbox`` is xywh of a mask that may
    be a column too large); zeros for an empty mask."""
    ends, offsets, (height, _) = _runs.decode(encodings, "rle_to_boxes")
    output = torch.empty(len(encodings), 4, dtype=torch.int64)
    _host.run_boxes(ends.data_ptr(), offsets.data_ptr(), len(encodings), height, output.data_ptr())
    return output.float()


def rle_iou(a: Sequence[_runs.Rle], b: Sequence[_runs.Rle], crowd: Sequence[bool] | None = None) -> Tensor:
    """float64 [A, B], intersection over union; for a crowd of ``b``, intersection over the area of ``a``.

    Equivalent to: ``pycocotools.mask.iou(a, b, crowd)``.
    """
    flags = [False] * len(b) if crowd is None else [bool(flag) for flag in crowd]
    if len(flags) != len(b):
        raise ValueError(f"rle_iou: expected one crowd flag for each of {len(b)} masks, got {len(flags)}")
    a_ends, a_offsets, a_size = _runs.decode(a, "rle_iou")
    b_ends, b_offsets, b_size = _runs.decode(b, "rle_iou")
    if len(a) and len(b) and a_size != b_size:
        raise ValueError(f"rle_iou: expected encodings of one size, got {a_size} and {b_size}")
    output = torch.empty(len(a), len(b), dtype=torch.float64)
    left = a_ends.data_ptr(), a_offsets.data_ptr(), len(a)
    _host.run_ious(*left, b_ends.data_ptr(), b_offsets.data_ptr(), len(b), flags, output.data_ptr())
    return output
