"""On what terms torchvision's pooling is timed in a dtype that it may not have."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import inputs
from benchmarks.clock import Call, Result

Mode = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Terms:
    """The dtypes that the peer is given, and whether it is called under autocast."""

    dtype: torch.dtype
    rois: torch.dtype = torch.float32
    mode: Mode = nullcontext
    note: str = ""


def peer_terms(dtype: str, native: bool, device: str, peer: str = "torchvision") -> Terms:
    """`native`: the peer has this dtype itself."""
    wanted = inputs.DTYPES[dtype]
    if native:
        half = f"torchvision's RoIs are {dtype} too, as it demands; held to its float32, whose RoIs are exact"
        return Terms(wanted, wanted, note="" if dtype == "float32" else half)
    if device == "cuda":
        note = f"{peer} has no {dtype}: under autocast, which widens its input and rounds its result"
        return Terms(wanted, mode=partial(torch.autocast, device, wanted), note=note)
    return Terms(torch.float32, note=f"{peer} has no {dtype}: its float32, conversion not counted")


def within(mode: Mode, make: Callable[[], Call]) -> Call:
    """A call that is made and called in a mode."""
    with mode():
        call = make()

    def inside() -> Result:
        with mode():
            return call()

    return inside
