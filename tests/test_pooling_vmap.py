"""torch.vmap over the pooling operators: as a loop, in one call."""

import pytest
import torch
from cases import random_map, random_rois

import maskrcnn_ops as ops

SIZE, IMAGES = 3, 2
RULE = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]  # one level
OPERATORS = {
    "roi_align": lambda x, rois: ops.roi_align(x, rois, 3, 0.5, 2),
    "roi_align_max": lambda x, rois: ops.roi_align(x, rois, 3, 0.5, 2, reduction="max"),
    "roi_pool": lambda x, rois: ops.roi_pool(x, rois, 3, 0.5),
    "ps_roi_align": lambda x, rois: ops.ps_roi_align(x.repeat_interleave(9, -3), rois, 3, 0.5, 2),
    "ps_roi_pool": lambda x, rois: ops.ps_roi_pool(x.repeat_interleave(9, -3), rois, 3, 0.5),
    "multiscale": lambda x, rois: ops.multiscale_roi_align(
        [x, x[..., ::2, ::2]], rois, 3, [0.5, 0.25], 2, canonical_scale=16, canonical_level=1
    ),
    "levels": lambda x, rois: ops.multiscale_roi_align(
        [x, x[..., ::2, ::2]], rois, 3, [0.5, 0.25], 2, levels=(rois[:, 1] > 9).long(), reduction="max"
    ),
}


@pytest.fixture(params=OPERATORS)
def operator(request):
    return OPERATORS[request.param]


def maps(device):
    return random_map(SIZE, IMAGES, 5, 15, 20).to(device)


def regions(device):
    return torch.stack([random_rois(6, IMAGES, 40, 30, seed) for seed in range(SIZE)]).to(device)


@pytest.mark.filterwarnings("error")  # such as that of the slow fallback
@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (0, None), (None, 0), (None, 1), (3, 2)], ids=str)
def test_is_the_loop(device, operator, in_dims):
    x, rois = maps(device), regions(device)
    inputs = []
    for value, dim in zip((x, rois), in_dims, strict=True):
        inputs.append(value[0] if dim is None else value.movedim(0, dim).contiguous())
    actual = torch.vmap(operator, in_dims)(*inputs)
    one = [
        x[:1].expand_as(x) if in_dims[0] is None else x,
        rois[:1].expand_as(rois) if in_dims[1] is None else rois,
    ]
    expected = torch.stack([operator(*each) for each in zip(*one, strict=True)])
    assert torch.equal(actual, expected)


def test_gradients_are_those_of_the_loop(device, operator):
    x, rois = maps(device).requires_grad_(), regions(device)
    expected = torch.autograd.grad(
        torch.stack([operator(*each) for each in zip(x, rois, strict=True)]).square().sum(), x
    )
    actual = torch.autograd.grad(torch.vmap(operator)(x, rois).square().sum(), x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["mean", "max", "roi_pool", "ps_roi_align", "ps_roi_pool", "boxes"])
def test_backward_operators_for_several_gradients(device, name):
    kernels = torch.ops.maskrcnn_ops
    x, rois = maps(device)[0], regions(device)[0]
    _, argmax = kernels.roi_align([x], rois, None, [0.5], 3, 3, 2, False, True, RULE)
    _, cells = kernels.roi_pool(x, rois, 0.5, 3, 3)
    sizes = (IMAGES, [15, 20], [0])
    operator = {
        "mean": lambda g: kernels.roi_align_backward(g, None, rois, None, [0.5], 2, False, RULE, *sizes)[0],
        "max": lambda g: kernels.roi_align_backward(g, argmax, rois, None, [0.5], 2, False, RULE, *sizes)[0],
        "roi_pool": lambda g: kernels.roi_pool_backward(g, cells, rois, 0.5, 3, 3, IMAGES, 5, 15, 20, False),
        "ps_roi_align": lambda g: kernels.ps_roi_align_backward(g, rois, 0.5, 2, IMAGES, 15, 20, False),
        "ps_roi_pool": lambda g: kernels.ps_roi_pool_backward(g, rois, 0.5, IMAGES, 15, 20, True),
        "boxes": lambda g: kernels.roi_align_backward_boxes(
            g, argmax, [x], rois, None, [0.5], 2, False, RULE
        ),
    }[name]
    gradients = random_map(SIZE, 6, 5, 3, 3, seed=1).to(device)
    expected = torch.stack([operator(each) for each in gradients])
    torch.testing.assert_close(torch.vmap(operator)(gradients), expected, rtol=1e-5, atol=1e-5)
    moved = gradients.movedim(0, 2).contiguous()
    torch.testing.assert_close(
        torch.vmap(operator, 2, 1)(moved), expected.movedim(0, 1), rtol=1e-5, atol=1e-5
    )


def test_gradients_of_boxes(device):
    x, rois = maps(device), regions(device).requires_grad_()
    one = OPERATORS["roi_align"]
    expected = torch.autograd.grad(
        torch.stack([one(*each) for each in zip(x, rois, strict=True)]).square().sum(), rois
    )[0]
    actual = torch.autograd.grad(torch.vmap(one)(x, rois).square().sum(), rois)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_no_regions(device, operator):
    assert torch.vmap(operator)(maps(device), torch.zeros(SIZE, 0, 5, device=device)).shape == (
        SIZE,
        0,
        5,
        3,
        3,
    )


def test_an_index_outside_one_batch_does_not_reach_the_next(device):
    x, rois = maps(device), regions(device)
    rois[0, 2, 0] = IMAGES
    if device == "cpu":
        with pytest.raises(
            RuntimeError, match=r"roi_align: expected image indices rois\[:, 0\] in \[0, 6\), got -1"
        ):
            torch.vmap(OPERATORS["roi_align"])(x, rois)
    else:
        assert not torch.vmap(OPERATORS["roi_align"])(x, rois)[0, 2].any()
    rois[0, 2, 0] = float("nan")
    output = torch.vmap(OPERATORS["roi_align"])(x, rois)
    assert not output[0, 2].any()
    assert torch.equal(output[1], OPERATORS["roi_align"](x[1], rois[1]))
