"""What all operators promise alike: the same result whatever was called before, and none that depends on a value."""

import pytest
import torch
from operator_calls import CALLS, OTHERS, assert_same, results

import maskrcnn_ops as ops

REPEATS = {"cpu": 10, "cuda": 100}


@pytest.fixture
def deterministic():
    """Torch refuses what is not, and fills new memory with NaN and the largest integers."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_every_operator_has_a_call():
    called = {name.split("/")[0] for name in CALLS}
    assert sorted(called | set(OTHERS)) == sorted(ops.__all__)
    assert not called & set(OTHERS)


@pytest.mark.parametrize("name", CALLS)
def test_repeats_are_equal_to_the_bit(device, deterministic, name):
    """Forward and backward; with other inputs in between, so that memory holds something else each time."""
    call = CALLS[name]
    inputs, others = ([each.to(device) for each in call.inputs(seed)] for seed in (0, 1))
    expected = results(call, inputs)
    for _ in range(REPEATS[device]):
        results(call, others)
        assert_same(results(call, inputs), expected)


@pytest.mark.parametrize("name", CALLS)
def test_seeds_give_other_results_of_one_shape(name):
    """Else the tests on this table would compare too little."""
    call = CALLS[name]
    first, second = (results(call, call.inputs(seed)) for seed in (0, 1))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    if call.reads == 0:
        assert [each.shape for each in first] == [each.shape for each in second]


@pytest.mark.parametrize("name", CALLS)
def test_no_value_is_needed_on_the_host(name):
    """Tensors without values give the shapes of the results; where a value is asked for, they raise. (Copies from the
    host, for which a GPU's user may wait as well, only a GPU shows: test_cuda_guarantees.py.)"""
    call = CALLS[name]
    inputs = call.inputs(0)
    bare = [each.to("meta") for each in inputs]
    if call.reads:
        with pytest.raises(RuntimeError):
            results(call, bare)
        return
    for actual, expected in zip(results(call, bare), results(call, inputs), strict=True):
        assert actual.is_meta
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
