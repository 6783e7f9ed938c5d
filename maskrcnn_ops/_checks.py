"""Argument checks and conversions that the Python faces share."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pair(value: int | Sequence[int], op: str, argument: str = "output_size") -> tuple[int, int]:
    """An int or a pair of ints as (height, width)."""
    if isinstance(value, (int, torch.SymInt)):
        return value, value
    if len(value) == 2:
        return value[0], value[1]
    raise ValueError(f"{op}: expected {argument} of one or two integers, got {tuple(value)}")


def as_rois(boxes: Tensor | Sequence[Tensor], op: str) -> Tensor:
    """Boxes as rois [R, 5] (image index, x1, y1, x2, y2): [R, 5] already, or a list of one [L, 4] per image."""
    if isinstance(boxes, Tensor):
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise ValueError(
                f"{op}: expected rois of shape [R, 5], or a list with one [L, 4] per image, got {list(boxes.shape)}"
            )
        return boxes
    if not boxes:
        raise ValueError(
            f"{op}: expected rois of shape [R, 5] or a list with one [L, 4] per image, got an empty list"
        )
    for i, each in enumerate(boxes):
        if not isinstance(each, Tensor) or each.dim() != 2 or each.shape[1] != 4:
            got = list(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(f"{op}: expected boxes[{i}] of shape [L, 4], got {got}")
    # Half precision cannot count images beyond 2048 (256 for bfloat16), so its boxes are widened first.
    boxes = [each.float() if each.dtype in (torch.float16, torch.bfloat16) else each for each in boxes]
    indices = torch.cat([each.new_full((each.shape[0], 1), i) for i, each in enumerate(boxes)])
    return torch.cat([indices, torch.cat(list(boxes))], dim=1)


def from_host(tensor: Tensor, device: torch.device, op: str) -> Tensor:
    """A CPU tensor that the caller is done with, on the device; without waiting for what a GPU has to do before.

    A CUDA graph would copy anew at each replay, from memory that then holds something else.
    """
    running = device.type == "cuda" and torch.cuda.is_initialized() and not torch.compiler.is_compiling()
    if running and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"{op}: expected tensors on the GPU in a CUDA graph, got numbers on the host")
    return tensor.to(device, non_blocking=True)


def is_channels_last(map: Tensor) -> bool:
    """Whether the operators keep `map`'s layout as channels_last."""
    return not map.is_contiguous() and map.is_contiguous(memory_format=torch.channels_last)


def empty_map(like: Tensor, shape: Sequence[int | torch.SymInt], channels_last: bool) -> Tensor:
    """An uninitialised map in the given layout; what the kernels allocate, for their fake versions."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=layout)
