"""The least time that a row can take on this machine: bytes and operations over rates that are measured beside it."""

import mmap
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.harness import Clock

# glibc hands smaller blocks out again without giving them back to the system; larger ones are fresh pages every time.
FRESH = 32 * 2**20
# From here on what was freed before decides whether a result is fresh memory; one untimed call before each timed one
# makes that the same each time.
SETTLED = FRESH // 2


def rates(clock: "Clock", size: int, side: int, repeats: int) -> dict[str, float]:
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


def written(results: Sequence[Tensor]) -> dict[str, int]:
    """Bytes of the results, and how many of them are fresh memory."""
    sizes = [each.nbytes for each in results]
    return {"written_bytes": sum(sizes), "fresh_bytes": sum(size for size in sizes if size >= FRESH)}


@dataclass(frozen=True)
class Limit:
    """Seconds that the bytes and the operations of a row take; the larger is the limit."""

    bytes: float
    operations: float


def seconds(entry: dict[str, Any], facts: dict[str, Any]) -> Limit | None:
    """None where the operations were not counted or the rates not measured."""
    if entry.get("operations") is None or "operations_per_second" not in facts:
        return None
    moved = traffic(entry)
    return Limit(
        sum(size / facts[f"{kind}_bytes_per_second"] for kind, size in moved.items()),
        entry["operations"] / facts["operations_per_second"],
    )


def traffic(entry: dict[str, Any]) -> dict[str, int]:
    """Bytes of a row by the rate at which they can be moved."""
    fresh, written = entry["fresh_bytes"], entry["written_bytes"]
    return {"read": entry["bytes"] - written, "first_touch": fresh, "copy": written - fresh}
