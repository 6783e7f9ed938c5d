"""Rows, the gate that every row must pass before it is timed, and the timing.

Ours and the peer alternate, caches are flushed before each call; reported are medians with quartiles.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs, limits
from benchmarks.memory import peak_bytes

Result = Tensor | Sequence[Tensor]
Call = Callable[[], Result]
WARM_UPS = 2


@dataclass(frozen=True)
class Setting:
    """What a row needs to know to prepare itself."""

    device: str = "cpu"
    peer: bool = True  # torchvision is there and wanted
    quick: bool = False

    @property
    def sizes(self) -> inputs.Sizes:
        return inputs.QUICK if self.quick else inputs.FULL

    def count(self, full: int) -> int:
        return full // self.sizes.shrink


@dataclass(frozen=True)
class Case:
    """A prepared row.

    `expected` computes what ours must give: the peer's answer, or where there is no peer the reference's.
    `reads` are the tensors that any implementation must read once; `operations` the floating-point operations that none
    avoids (operations.py), None where nobody counted them.
    """

    ours: Call
    peer: Call | None
    expected: Call
    reads: Sequence[Tensor]
    note: str = ""
    operations: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table, or with `series` a point of the cost plot.

    `tolerance` bounds `difference`; `at_least` is the ratio to reach on the CPU.
    """

    name: str
    prepare: Callable[[Setting], Case]
    tolerance: float
    at_least: float | None = None
    against: str = "torchvision"
    what: str = ""
    series: tuple[str, int] | None = None  # the line of the cost plot that it is a point of, and its size


def difference(result: Result, expected: Result) -> float:
    """Largest error relative to the largest value; for booleans and integers the share that is unequal."""
    ours, theirs = _flat(result), _flat(expected)
    if len(ours) != len(theirs):
        return float("inf")
    if not len(ours):
        return 0.0
    if not ours.is_floating_point():
        return (ours != theirs).double().mean().item()
    ours, theirs = ours.double(), theirs.double()
    error, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    return error / scale if scale > 0 else error


def _flat(result: Result) -> Tensor:
    parts = [result] if isinstance(result, Tensor) else result
    return torch.cat([part.detach().reshape(-1).cpu() for part in parts])


class Clock:
    """Times single calls on one device, with cold caches."""

    def __init__(self, device: str, flush_bytes: int) -> None:
        self.cuda = device == "cuda"
        self.buffer = torch.zeros(flush_bytes, dtype=torch.uint8, device=device)

    def seconds(self, call: Call) -> float:
        # Writing more than the last cache holds drives the inputs out of it.
        self.buffer.add_(1)
        if not self.cuda:
            start = time.perf_counter()
            result = call()
            elapsed = time.perf_counter() - start
            del result  # not before the clock has stopped
            return elapsed
        # The flush is still running while the call is enqueued, which hides the launches' latency.
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        result = call()
        end.record()
        torch.cuda.synchronize()
        del result
        return begin.elapsed_time(end) / 1000

    def interleaved(self, calls: Sequence[Call], repeats: int, settle: bool = False) -> list[list[float]]:
        """`repeats` samples of each call: a, b, a, b, ...

        With `settle` an untimed call goes before each timed one. Memory that one side frees goes back to a virtual
        machine's host while the other side has its turn, and touching it again would measure the host.
        """
        for call in calls:
            for _ in range(WARM_UPS):
                call()
        samples: list[list[float]] = [[] for _ in calls]
        for _ in range(repeats):
            for call, seconds in zip(calls, samples, strict=True):
                if settle:
                    call()
                seconds.append(self.seconds(call))
        return samples

    def copy_bandwidth(self, size: int, repeats: int) -> float:
        """Bytes read and written per second by a copy of `size` bytes."""
        source = torch.zeros(size, dtype=torch.uint8, device=self.buffer.device)
        target = torch.empty_like(source)
        (samples,) = self.interleaved([lambda: target.copy_(source)], repeats)
        return 2 * size / statistics.median(samples)


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and the samples themselves, in seconds."""
    lower, median, upper = quartiles(samples)
    rounded = [round(sample, 8) for sample in samples]
    return {"median": median, "quartiles": [lower, upper], "samples": rounded}


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return lower, median, upper


def measure(row: Row, setting: Setting, clock: Clock, repeats: int) -> dict[str, Any]:
    """The row's entry in the JSON. A row that fails its gate has "failed" in place of times."""
    entry: dict[str, Any] = {
        "name": row.name,
        "what": row.what,
        "against": row.against,
        "series": row.series,
        "at_least": row.at_least if setting.device == "cpu" else None,
    }
    try:
        case = row.prepare(setting)
        result = case.ours()
        wrong = difference(result, case.expected())
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return {**entry, "failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    entry |= {"note": case.note, "difference": wrong, "tolerance": row.tolerance}
    if not wrong <= row.tolerance:  # also for NaN
        return {**entry, "failed": f"differs by {wrong:.3g}, allowed are {row.tolerance:.3g}"}
    results = [result] if isinstance(result, Tensor) else list(result)
    entry["bytes"] = sum(tensor.nbytes for tensor in [*case.reads, *results])
    entry |= {"operations": case.operations, **limits.written(results)}
    calls = [case.ours] if case.peer is None else [case.ours, case.peer]
    samples = clock.interleaved(calls, repeats, settle=entry["written_bytes"] >= limits.SETTLED)
    peaks = [peak_bytes(call, clock.cuda) for call in calls]
    entry["peak_bytes"] = dict(zip(("ours", "peer"), peaks, strict=False))
    entry["ours"] = summary(samples[0])
    if case.peer is not None:
        entry["peer"] = summary(samples[1])
        entry["ratio"] = entry["peer"]["median"] / entry["ours"]["median"]
        lower, _, upper = quartiles([peer / ours for ours, peer in zip(*samples, strict=True)])
        entry["ratio_quartiles"] = [lower, upper]
    return entry
