"""Boxes and keypoints of images that are resized and mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def resize_boxes(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Boxes ``[L, 4]`` of an image resized from ``old`` to ``new`` (H, W)."""
    return _multiply(boxes, _scales(old, new) * 2)


def resize_keypoints(keypoints: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Keypoints ``[L, K, 3]`` (x, y, visibility) of an image resized from ``old`` to ``new`` (H, W)."""
    return _multiply(keypoints, (*_scales(old, new), 1.0))


def _multiply(rows: Tensor, factors: Sequence[float]) -> Tensor:
    """The last dimension times one number each; no tensor of them, which a GPU would have to wait for."""
    return torch.stack([each * factor for each, factor in zip(rows.unbind(-1), factors, strict=True)], dim=-1)


def _scales(old: tuple[int, int], new: tuple[int, int]) -> tuple[float, float]:
    return new[1] / old[1], new[0] / old[0]


def mirror_boxes(boxes: Tensor, extent: int, dim: int) -> Tensor:
    """Boxes ``[L, 4]`` of an image mirrored top to bottom (``dim`` -2) or left to right (-1).

    ``extent`` is the image's height or width: boxes are pixel edges, so x becomes W - x.
    """
    edges = [1, 3] if dim == -2 else [0, 2]
    mirrored = boxes.clone()
    mirrored[:, edges] = extent - boxes[:, edges[::-1]]
    return mirrored


def mirror_keypoints(keypoints: Tensor, extent: int, dim: int) -> Tensor:
    """Keypoints ``[L, K, 3]`` of an image mirrored as in :func:`mirror_boxes`; left and right are not swapped.

    Keypoints without visibility stay where they are: COCO puts them at zero.
    """
    axis = 1 if dim == -2 else 0
    mirrored = keypoints.clone()
    mirrored[..., axis] = torch.where(
        keypoints[..., 2] > 0, extent - keypoints[..., axis], keypoints[..., axis]
    )
    return mirrored
