"""The most memory that a call holds at one time beyond what was there before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_bytes(call: Callable[[], object], cuda: bool) -> int | None:
    """Bytes, the result included; None where the system does not tell. Call it once before: first calls set up pools.

    On the CPU the growth of the resident set (Linux), so it is known to a few hundred kilobytes.
    """
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    if not _RESET.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have freed would be used again without growth
    try:
        _RESET.write_text("5")  # the peak starts anew
    except OSError:
        return None
    before = _kilobytes("VmRSS")
    call()
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(field: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
