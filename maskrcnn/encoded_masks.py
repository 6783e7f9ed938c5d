"""The masks of one image's objects as training wants them: encoded, and read only where regions sample them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from maskrcnn.geometry import mirror_boxes, resize_boxes


@dataclass(frozen=True)
class EncodedMasks:
    """Run lengths that stay as they were annotated while their image is mirrored and resized.

    A target's ``masks`` may be this in the place of bitmaps: less memory, no work per pixel of the image, and
    crops from the annotation itself instead of its resized bitmap.

    Attributes:
        encodings: L COCO encodings ``{"size": [H, W], "counts": ...}``, all of one size.
        annotated_size: (H, W) of the encodings, pixels.
        size: (H, W) of the image as it is now.
        mirrored: whether it is mirrored top to bottom, and left to right.
    """

    encodings: Sequence[dict[str, Any]]
    annotated_size: tuple[int, int]
    size: tuple[int, int]
    mirrored: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, encodings: Sequence[dict[str, Any]], size: tuple[int, int]) -> EncodedMasks:
        """Masks of an image of ``size`` (H, W) as they were annotated."""
        return cls(encodings, size, size)

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, H, W), that of the bitmaps."""
        return (len(self), *self.size)

    def flip(self, dim: int) -> EncodedMasks:
        """Mirrored top to bottom (``dim`` -2) or left to right (-1)."""
        if dim not in (-2, -1):
            raise ValueError(f"dim: expected -2 (rows) or -1 (columns), got {dim}")
        rows, columns = self.mirrored
        return replace(self, mirrored=(not rows, columns) if dim == -2 else (rows, not columns))

    def resize(self, size: tuple[int, int]) -> EncodedMasks:
        """Of the image resized to ``size`` (H, W)."""
        return replace(self, size=size)

    def crop(self, boxes: Tensor, side: int | tuple[int, int], matches: Tensor, *, aligned: bool) -> Tensor:
        """Masks cropped to boxes and resampled to M x M: float32 ``[P, M, M]`` in [0, 1].

        Args:
            boxes: ``[P, 4]``, pixels of the image as it is now.
            side: M, or (rows, columns).
            matches: int64 ``[P]``, the mask of each box.
            aligned: as for :func:`maskrcnn_ops.crop_masks`, in the annotation's pixels.
        """
        boxes = resize_boxes(boxes, self.size, self.annotated_size)
        last = 0 if aligned else 1  # as indices, pixel 0 becomes pixel W - 1, not W
        for dim in self._mirrored_dims():
            boxes = mirror_boxes(boxes, self.annotated_size[dim] - last, dim)
        crops = ops.crop_masks(self.encodings, boxes, side, matches, aligned=aligned)
        return crops.flip(self._mirrored_dims())

    def areas(self) -> Tensor:
        """Pixels of each mask, float32 ``[L]``, in the image as it is now."""
        scale = self.size[0] * self.size[1] / (self.annotated_size[0] * self.annotated_size[1])
        return ops.rle_area(self.encodings).float() * scale

    def decode(self) -> Tensor:
        """Bitmaps bool ``[L, H, W]`` of the masks, mirrored like the image but of the annotated size."""
        if not len(self):
            return torch.zeros((0, *self.annotated_size), dtype=torch.bool)
        return ops.rle_decode(self.encodings).flip(self._mirrored_dims())

    def _mirrored_dims(self) -> list[int]:
        return [dim for dim, mirrored in zip((-2, -1), self.mirrored, strict=True) if mirrored]
