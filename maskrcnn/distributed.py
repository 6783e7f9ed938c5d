"""Processes of a run under ``torchrun``: who am I, and the few exchanges that training needs.

Every function also works in a single process without ``torch.distributed``, and then costs nothing.
"""

from __future__ import annotations

import datetime
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Other processes wait at the next exchange while the first one evaluates or writes: allow it an hour.
_TIMEOUT = datetime.timedelta(hours=1)


def is_initialized() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number in the group, from 0; 0 without a group."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Processes of the group; 1 without a group."""
    return dist.get_world_size() if is_initialized() else 1


def default_device() -> torch.device:
    """The GPU of this process (``LOCAL_RANK`` under torchrun), or the CPU where torch sees no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that ``torchrun`` describes in the environment, and leave it at the end.

    Does nothing outside ``torchrun`` or where a group exists already. gloo on the CPU; on CUDA NCCL, with
    gloo beside it for CPU tensors.
    """
    if is_initialized() or "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield
        return
    # Imported later, as DDP does it, its functions' defaults would hold the group for ever; and threads of gloo that
    # are still there when Python ends may abort the process.
    import torch.distributed.nn.functional

    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield
    finally:
        gc.collect()  # what DDP leaves in cycles holds the group, too
        dist.destroy_process_group()


def mean_across_processes(value: Tensor) -> Tensor:
    """The mean of ``value`` over processes, on all of them; ``value`` itself without a group."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_objects(value: Any) -> list[Any]:
    """Every process's ``value`` in order of rank, on all of them. For small things, on rare occasions."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()
