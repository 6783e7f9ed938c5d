"""Rows, and the gate that every row must pass before it is timed.

Ours and the peer alternate, caches are flushed before each call; reported are medians with quartiles.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs, limits
from benchmarks.clock import Call, Clock, Result
from benchmarks.memory import peak_bytes

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Setting:
    """What a row needs to know to prepare itself."""

    device: str = "cpu"
    peer: bool = True  # torchvision is there and wanted
    quick: bool = False

    @property
    def sizes(self) -> inputs.Sizes:
        return inputs.QUICK if self.quick else inputs.FULL

    def batch(self, images: int) -> inputs.Sizes:
        """With so many images; a toy batch has two."""
        return dataclasses.replace(self.sizes, images=min(images, 2) if self.quick else images)

    def count(self, full: int) -> int:
        return full // self.sizes.shrink


@dataclass(frozen=True)
class Case:
    """A prepared row.

    `expected` computes what ours must give: the peer's answer, or where there is no peer the reference's.
    `reads` are the tensors that any implementation must read once; `operations` the floating-point operations that none
    avoids (operations.py), None where nobody counted them. `gather` counts what a pooling kernel fetches through the L2
    cache of a GPU (sectors.py). `images` is how many go through a detector.
    """

    ours: Call
    peer: Call | None
    expected: Call
    reads: Sequence[Tensor]
    note: str = ""
    operations: float | None = None
    gather: Callable[[], dict[str, int]] | None = None
    images: int | None = None


@dataclass(frozen=True)
class Target:
    """What this project set itself: the least ratio, the least share of the limit (limits.py), and the most that the
    peak memory may be of the other's."""

    at_least: float
    limit_at_least: float | None = None
    memory_at_most: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table, or with `series` a point of the cost plot.

    `tolerance` bounds `difference`; `targets` are by device. `devices` are those that the row is meant for: another
    measures it only when asked to by its name. `repeats` bounds the timed calls on CUDA, where time is dear, of a row
    whose other side takes long.
    """

    name: str
    prepare: Callable[[Setting], Case]
    tolerance: float
    targets: Mapping[str, Target] = field(default_factory=dict)
    against: str = "torchvision"
    what: str = ""
    series: tuple[str, int] | None = None  # the line of the cost plot that it is a point of, and its size
    devices: tuple[str, ...] = DEVICES
    repeats: int | None = None


def difference(result: Result, expected: Result) -> float:
    """Largest error relative to the largest value; for booleans and integers the share that is unequal."""
    ours, theirs = _flat(result), _flat(expected)
    theirs = theirs.to(ours.device)
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
    return torch.cat([part.detach().reshape(-1).to(parts[0].device) for part in parts])


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
    """The row's entry in the JSON. A row that fails its gate, or raises, has "failed" in place of times."""
    entry: dict[str, Any] = {
        "name": row.name,
        "what": row.what,
        "against": row.against,
        "series": row.series,
        "at_least": None,
    }
    if setting.device in row.targets:
        entry |= dataclasses.asdict(row.targets[setting.device])
    try:
        case = row.prepare(setting)
        entry |= _gate(row, case, count_gather=clock.cuda or setting.quick)
        if "failed" not in entry:
            most = min(repeats, row.repeats or repeats) if clock.cuda else repeats
            settle = not clock.cuda and entry["written_bytes"] >= limits.SETTLED
            entry |= _times(case, clock, most, settle)
    except Exception as error:  # whatever it is, the other rows are measured
        entry["failed"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return entry


def _gate(row: Row, case: Case, count_gather: bool) -> dict[str, Any]:
    """Whether ours is right, and what it must move and compute."""
    # On CUDA float32 convolutions round their operands to ten bits by default, and the two sides' operands differ.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        result = case.ours()
        wrong = difference(result, case.expected())
    found: dict[str, Any] = {"note": case.note, "difference": wrong, "tolerance": row.tolerance}
    if not wrong <= row.tolerance:  # also for NaN
        return {**found, "failed": f"differs by {wrong:.3g}, allowed are {row.tolerance:.3g}"}
    results = [result] if isinstance(result, Tensor) else list(result)
    found["bytes"] = sum(tensor.nbytes for tensor in [*case.reads, *results])
    found |= {"operations": case.operations, **limits.written(results)}
    if case.gather is not None and count_gather:
        found |= case.gather()
    return found if case.images is None else {**found, "images": case.images}


def _times(case: Case, clock: Clock, repeats: int, settle: bool) -> dict[str, Any]:
    """Times and peaks of both sides, and their ratio."""
    calls = [case.ours] if case.peer is None else [case.ours, case.peer]
    samples = clock.interleaved(calls, repeats, settle)
    peaks = [peak_bytes(call, clock.cuda) for call in calls]
    found: dict[str, Any] = {"peak_bytes": dict(zip(("ours", "peer"), peaks, strict=False))}
    found["ours"] = summary(samples[0])
    if case.peer is not None:
        found["peer"] = summary(samples[1])
        found["ratio"] = found["peer"]["median"] / found["ours"]["median"]
        lower, _, upper = quartiles([peer / ours for ours, peer in zip(*samples, strict=True)])
        found["ratio_quartiles"] = [lower, upper]
    return found
