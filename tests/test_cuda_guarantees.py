"""What the operators promise on a GPU: CUDA graphs, no hidden waiting, any stream, any device, errors that are seen."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from operator_calls import CALLS, REPLAYABLE, assert_same, results

from maskrcnn_ops import _host

HOSTED = [name for name, call in CALLS.items() if call.from_host]
WAITED = "called a synchronizing CUDA operation"  # torch's words


def inputs_of(name, seed, device="cuda"):
    return [each.to(device) for each in CALLS[name].inputs(seed)]


def capture(function: Callable[[], list[torch.Tensor]]) -> Callable[[], list[torch.Tensor]]:
    """What replays the function as a CUDA graph. It is called before on a side stream, as torch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = function()

    def replay() -> list[torch.Tensor]:
        graph.replay()
        return captured

    return replay


@pytest.mark.parametrize("name", REPLAYABLE)
def test_graph_of_forward_and_backward_replays_on_new_inputs(gpu, name):
    inputs = inputs_of(name, 0)
    replay = capture(lambda: results(CALLS[name], inputs))
    for seed in (1, 2):
        fresh = inputs_of(name, seed)
        for into, values in zip(inputs, fresh, strict=True):
            into.copy_(values)
        assert_same(replay(), results(CALLS[name], fresh))


@pytest.mark.parametrize("name", HOSTED)
def test_graph_refuses_what_lies_on_the_host(gpu, name):
    inputs = inputs_of(name, 0)
    results(CALLS[name], inputs)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        inputs[0].clone()  # an empty graph would be warned of
        with pytest.raises(RuntimeError, match="expected tensors on the GPU in a CUDA graph"):
            results(CALLS[name], inputs)


@pytest.fixture
def waiting():
    """Sets what torch does where it waits for the GPU."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.reads == 0])
def test_nothing_waits(gpu, waiting, name):
    inputs = inputs_of(name, 0)
    expected = results(CALLS[name], inputs)
    waiting("error")
    with pytest.raises(RuntimeError, match=WAITED):
        inputs[0].sum().item()
    actual = results(CALLS[name], inputs)
    waiting("default")
    assert_same(actual, expected)


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.reads])
def test_waits_are_counted(gpu, waiting, capfd, name):
    """Torch warns in Python or, from inside an operator, on stderr; and each time."""
    inputs = inputs_of(name, 0)
    results(CALLS[name], inputs)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        waiting("warn")
        capfd.readouterr()
        results(CALLS[name], inputs)
        waiting("default")
    in_python = sum(WAITED in str(each.message) for each in seen)
    assert in_python + capfd.readouterr().err.count(WAITED) == CALLS[name].reads


@pytest.mark.parametrize("name", CALLS)
def test_each_stream_gives_its_own_result(gpu, name):
    """Inputs arrive late on each stream, and go as soon as the call returns: work on another one finds zeros."""
    expected = [results(CALLS[name], inputs_of(name, seed)) for seed in range(4)]
    arriving = [inputs_of(name, seed) for seed in range(4)]
    first = torch.cuda.current_stream()
    actual, streams = [], [torch.cuda.Stream() for _ in arriving]
    for stream, values in zip(streams, arriving, strict=True):
        stream.wait_stream(first)
        with torch.cuda.stream(stream):
            inputs = [torch.zeros_like(each) for each in values]
            torch.cuda._sleep(20_000_000)  # cycles: some ten milliseconds
            for into, each in zip(inputs, values, strict=True):
                into.copy_(each)
            actual.append(results(CALLS[name], inputs))
            for each in inputs:
                each.zero_()
    for stream, outputs in zip(streams, actual, strict=True):
        first.wait_stream(stream)
        for each in outputs:
            if each.is_cuda:
                each.record_stream(first)
    for outputs, right in zip(actual, expected, strict=True):
        assert_same(outputs, right)


@pytest.mark.parametrize("name", CALLS)
def test_another_device_than_the_current_one(gpu, name):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")  # not for want of a GPU, so never a failure
    with torch.cuda.device(0):
        actual = results(CALLS[name], inputs_of(name, 0, "cuda:1"))
        assert torch.cuda.current_device() == 0
        assert {each.get_device() for each in actual if each.is_cuda} <= {1}
        assert_same(actual, results(CALLS[name], inputs_of(name, 0, "cuda:0")))


def run_alone(program: str, **environment: str) -> str:
    """What a new process prints."""
    command = [sys.executable, "-c", "import os, torch, maskrcnn_ops as ops\n" + program]
    place = Path(_host.__file__).parents[
        1
    ]  # where Python looks first: the package under test, wherever it is
    options = {"cwd": place, "env": {**os.environ, **environment}}
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


FAILING = """
boxes = torch.rand(8, 4, device="cuda")
ops.box_iou(boxes, boxes)  # leaves memory for the next one's result
try:
    boxes[torch.tensor([9], device="cuda")]
    torch.cuda.synchronize()
except RuntimeError:
    pass
try:
    ops.box_iou(boxes, boxes)
except RuntimeError as error:
    print(error, flush=True)
os._exit(0)  # torch would abort, since it cannot clean up
"""


def test_errors_of_the_device_are_seen(gpu):
    """By the CUDA runtime in the library, which is not torch's: after a kernel that failed, ours cannot be launched."""
    assert re.match(r"(box_iou|maskrcnn_ops): CUDA error: device-side assert", run_alone(FAILING))


# No kernel of torch's, whose libraries may be without PTX.
PRINTING = """
boxes = torch.tensor([[0.0, 0, 8, 1], [2, 0, 10, 1], [4, 0, 12, 1]]).cuda()
print(ops.box_iou(boxes, boxes).cpu())
"""


def test_kernels_compiled_by_the_driver_give_the_same(gpu):
    """From the PTX in the library, as on a GPU that is newer than the library."""
    if not re.search(r"\b\d+\b(?!-real)", _host.cuda_architectures):
        pytest.skip("the library was built without PTX")
    assert run_alone(PRINTING, CUDA_FORCE_PTX_JIT="1") == run_alone(PRINTING)
