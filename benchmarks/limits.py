"""The least time that a row can take on this machine: bytes and operations over rates that are measured beside it."""

import mmap
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import Clock, Result

# glibc hands smaller blocks out again without giving them back to the system; larger ones are fresh pages every time.
FRESH = 32 * 2**20
# From here on what was freed before decides whether a result is fresh memory; one untimed call before each timed one
# makes that the same each time.
SETTLED = FRESH // 2
PASSES = 32  # over the buffer that measures the L2 cache: the first brings it there


def rates(clock: Clock, size: int, side: int, repeats: int) -> dict[str, float]:
    """On the CPU: reading `size` bytes, writing as many never touched, and the faster of a product of side x side
    matrices and a 3 x 3 convolution: they come from two libraries, of which one may not know the processor."""
    source = torch.ones(size // 4)
    left, right = torch.rand(2, side, side)
    channels, extent = side // 8, side // 16
    features = torch.rand(1, channels, extent, extent).to(memory_format=torch.channels_last)
    weights = torch.rand(channels, channels, 3, 3).to(memory_format=torch.channels_last)

    def touch(huge: bool) -> Tensor:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(block, dtype=torch.uint8).fill_(1)

    calls: list[Callable[[], Tensor]] = [
        source.sum,
        lambda: touch(False),
        lambda: touch(True),
        lambda: left @ right,
        lambda: torch.conv2d(features, weights, padding=1),
    ]
    read, small, huge, product, convolution = map(statistics.median, clock.interleaved(calls, repeats))
    return {
        "read_bytes_per_second": size / read,
        "first_touch_bytes_per_second": size / min(small, huge),
        "operations_per_second": max(
            2 * side**3 / product, 2 * 9 * features.numel() * channels / convolution
        ),
    }


def l2_rate(clock: Clock, cache_bytes: int, repeats: int) -> float:
    """On CUDA: bytes per second between the L2 cache and the kernels, over a buffer of a third of it.

    The best of reading it many times in one kernel, once a kernel, and of copying one half onto the other.
    """
    buffer = torch.zeros(cache_bytes // 12, device=clock.buffer.device)
    rows, (source, target) = buffer.expand(PASSES, -1), buffer[: len(buffer) // 2 * 2].chunk(2)
    calls: list[Callable[[], Result]] = [
        lambda: rows.sum(1),
        lambda: [buffer.sum() for _ in range(PASSES)],
        lambda: [target.copy_(source) for _ in range(PASSES)],
    ]
    return PASSES * buffer.nbytes / min(map(statistics.median, clock.interleaved(calls, repeats)))


def written(results: Sequence[Tensor]) -> dict[str, int]:
    """Bytes of the results, and how many of them are fresh memory."""
    sizes = [each.nbytes for each in results]
    return {"written_bytes": sum(sizes), "fresh_bytes": sum(size for size in sizes if size >= FRESH)}


def floors(entry: dict[str, Any], facts: dict[str, Any]) -> dict[str, float]:
    """The least seconds of a row by what takes them; the largest is its limit.

    On the CPU "bytes" and "operations", where the operations were counted and the rates measured. On CUDA "DRAM", what
    is read and written once, at a copy's rate, and for pooling "L2", the sectors that it gathers (sectors.py).
    """
    if facts["device"] == "cuda":
        moved = entry["bytes"] - entry.get("untouched_bytes", 0)
        found = {"DRAM": moved / facts["copy_bytes_per_second"]}
        if "gathered_bytes" in entry and "l2_bytes_per_second" in facts:
            found["L2"] = entry["gathered_bytes"] / facts["l2_bytes_per_second"]
        return found
    if entry.get("operations") is None or "operations_per_second" not in facts:
        return {}
    return {
        "bytes": sum(size / facts[f"{kind}_bytes_per_second"] for kind, size in traffic(entry).items()),
        "operations": entry["operations"] / facts["operations_per_second"],
    }


def share(entry: dict[str, Any], facts: dict[str, Any]) -> float | None:
    """Of the limit, what ours reaches."""
    least = max(floors(entry, facts).values(), default=None)
    return None if least is None else least / entry["ours"]["median"]


def traffic(entry: dict[str, Any]) -> dict[str, int]:
    """Bytes of a row by the rate at which they can be moved."""
    fresh, written = entry["fresh_bytes"], entry["written_bytes"]
    return {"read": entry["bytes"] - written, "first_touch": fresh, "copy": written - fresh}
