"""Boxes of images that are resized and mirrored."""

from __future__ import annotations

from torch import Tensor


def resize_boxes(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Boxes ``[L, 4]`` of an image resized from ``old`` to ``new`` (H, W)."""
    y, x = new[0] / old[0], new[1] / old[1]
    return boxes * boxes.new_tensor([x, y, x, y])


def mirror_boxes(boxes: Tensor, extent: int, dim: int) -> Tensor:
    """Boxes ``[L, 4]`` of an image mirrored top to bottom (``dim`` -2) or left to right (-1).

    ``extent`` is the image's height or width: boxes are pixel edges, so x becomes W - x.
    """
    edges = [1, 3] if dim == -2 else [0, 2]
    mirrored = boxes.clone()
    mirrored[:, edges] = extent - boxes[:, edges[::-1]]
    return mirrored
