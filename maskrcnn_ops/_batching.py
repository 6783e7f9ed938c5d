"""torch.vmap over the pooling operators: the new dimension is folded into the batch, and image indices follow."""

from collections.abc import Sequence

import torch
from torch import Tensor


def fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """[B * N, ...] from [N, ...] with a vmapped dimension, or repeated B times without one."""
    batched = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return batched.flatten(0, 1)


def unfold(tensor: Tensor, size: int) -> Tensor:
    """The inverse of :func:`fold`, the vmapped dimension first."""
    return tensor.unflatten(0, (size, -1)) if tensor.shape[0] else tensor.reshape(size, 0, *tensor.shape[1:])


def fold_maps(maps: Sequence[Tensor], dims: Sequence[int | None], size: int) -> tuple[list[Tensor], int]:
    """The maps with the dimension in their batch, and by how many images each repetition of the rois moves.

    Maps that are all without the dimension stay as they are: then the rois need not move.
    """
    if all(dim is None for dim in dims):
        return list(maps), 0
    folded = [fold(map, dim, size) for map, dim in zip(maps, dims, strict=True)]
    return folded, folded[0].shape[0] // size


def fold_rois(rois: Tensor, dim: int | None, size: int, images: int, shift: int) -> Tensor:
    """[B * R, 5]: repetition b moved by b * shift images; an index outside [0, images) becomes -1, as wrong."""
    rois = fold(rois, dim, size)
    if rois.dtype in (torch.float16, torch.bfloat16):
        rois = rois.float()  # they cannot count that many images
    index = rois[:, :1]
    repetition = torch.arange(size, device=rois.device, dtype=rois.dtype)
    moved = index.trunc() + shift * repetition.repeat_interleave(rois.shape[0] // size)[:, None]
    outside = index.isfinite() & ((index < 0) | (index >= images))
    return torch.cat([moved.masked_fill(outside, -1), rois[:, 1:]], dim=1)
