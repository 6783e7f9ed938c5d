"""COCO run-length encodings of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .paste_masks import paste_masks


def masks_to_rle(
    masks: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    threshold: float = 0.5,
    convention: str = "continuous",
) -> list[dict[str, Any]]:
    """Encodings ``{"size": [H, W], "counts": bytes}`` of the pasted masks."""
    return encode_bitmaps(paste_masks(masks, boxes, image_size, threshold, convention))


def encode_bitmaps(bitmaps: Tensor) -> list[dict[str, Any]]:
    """bool [D, H, W] -> encodings: lengths of runs of zeros and ones in turn, zeros first, down the columns."""
    size = list(bitmaps.shape[1:])
    return [{"size": size, "counts": _string(_run_lengths(each.mT.flatten()))} for each in bitmaps.cpu()]


def _run_lengths(pixels: Tensor) -> list[int]:
    before = torch.cat([pixels.new_zeros(1), pixels[:-1]])[: len(pixels)]
    ends = [*(pixels != before).nonzero()[:, 0].tolist(), len(pixels)]
    return [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _string(lengths: list[int]) -> bytes:
    """Each length less the one two places before (from the fourth on), five bits a character, lowest first;
    bit 5 says that more follow, bit 4 of the last is the sign."""
    text = []
    for i, length in enumerate(lengths):
        value = length - lengths[i - 2] if i > 2 else length
        while True:
            bits, value = value & 31, value >> 5
            last = value == (-1 if bits & 16 else 0)
            text.append(48 + bits + (0 if last else 32))
            if last:
                break
    return bytes(text)
