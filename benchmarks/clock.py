"""The timing of single calls, with cold caches."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Result = Tensor | Sequence[Tensor]
Call = Callable[[], Result]
WARM_UPS = 2


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
