"""MultiScaleRoIAlign: the level of each box, order, gradients and dtypes; against the reference and by hand."""

import pytest
import torch
from cases import DTYPES, NAN, TOLERANCES, random_boxes, random_map

import maskrcnn_ops as ops
from maskrcnn_ops import reference

NAMES = ["2", "3", "4", "5"]
SIZES = [(250, 256), (256, 192)]


def pyramid(device, dtype=torch.float32, channels=5, requires_grad=False):
    """Maps of a batch of 256 x 256 pixels at strides 4 to 32, and one that is not to be used."""
    maps = {
        name: random_map(2, channels, 256 >> int(name), 256 >> int(name), dtype=dtype, seed=int(name))
        .to(device)
        .requires_grad_(requires_grad)
        for name in NAMES
    }
    return {**maps, "pool": torch.full((2, channels, 1, 1), NAN, device=device, dtype=dtype)}


def boxes(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [random_boxes(count, 250, 250, generator, dtype).to(device) for count in (40, 25)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("names", [NAMES, ["3", "4"], ["4"]], ids=str)
def test_matches_reference(device, dtype, names):
    maps = pyramid(device, dtype)
    lists = boxes(device, torch.float64 if dtype == torch.float64 else torch.float32)
    options = {"canonical_scale": 112, "canonical_level": 4}
    actual = ops.MultiScaleRoIAlign(names, (3, 4), 2, **options)(maps, lists, SIZES)
    exact = reference.MultiScaleRoIAlign(names, (3, 4), 2, **options)(
        {name: map.double().cpu() for name, map in maps.items()},
        [each.double().cpu() for each in lists],
        SIZES,
    )
    assert actual.dtype == dtype
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(actual.double().cpu(), exact, rtol=tolerance, atol=tolerance)


def test_each_box_is_pooled_from_its_level(device):
    maps = {
        name: torch.full((1, 3, 256 >> int(name), 256 >> int(name)), float(name), device=device)
        for name in NAMES
    }
    # Sides at and just below the borders 112, 224, 448; without area; inside out; very large.
    sides = [112, 224, 223.9, 111.9, 448, 10, 4000, 0]
    squares = torch.tensor([[7.0, 9, 7 + side, 9 + side] for side in sides] + [[90, 7, 7, 90]], device=device)
    module = ops.MultiScaleRoIAlign(NAMES, 1, 1)
    centres = module(maps, [squares], [(256, 256)])[:, 0, 0, 0].tolist()
    assert centres[:6] == [3, 4, 3, 2, 5, 2]
    assert centres[7] == 2
    assert centres[8] == 2
    around = squares[6:7] - 2000
    assert module(maps, [around], [(256, 256)])[0, 0, 0, 0] == 5
    # 1e-6 of a level is forgiven, two millionths are not.
    near = torch.tensor(
        [[0.0, 0, 224 * 2**-below, 224 * 2**-below] for below in (5e-7, 2e-6)], dtype=torch.float64
    )
    doubles = {name: map.double() for name, map in maps.items()}
    assert module(doubles, [near.to(device)], [(256, 256)])[:, 0, 0, 0].tolist() == [4, 3]


def test_scales_are_inferred_once_from_the_largest_image(device):
    maps, lists = pyramid(device), boxes(device)
    module = ops.MultiScaleRoIAlign(NAMES, 2, 2)
    assert module.scales is None
    module(maps, lists, [(10, 256), (230, 10)])  # 64 / 230 is nearest to 1/4
    assert module.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    with pytest.raises(ValueError, match="MultiScaleRoIAlign: expected 4 maps as in the first call, got 1"):
        module({"2": maps["2"]}, lists, SIZES)


def test_a_left_out_level_keeps_every_box(device):
    maps = {name: torch.ones(1, 1, 256 >> int(name), 256 >> int(name), device=device) for name in ("2", "4")}
    squares = torch.tensor([[0.0, 0, side, side] for side in (20, 120, 250)], device=device)
    pooled = ops.MultiScaleRoIAlign(["2", "4"], 2, 2)(maps, [squares], [(256, 256)])
    assert (pooled == 1).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_reach_every_map(device, layout):
    maps = {name: map.to(memory_format=layout) for name, map in pyramid(device, torch.float64).items()}
    used = [maps[name].requires_grad_() for name in NAMES]
    lists = [each * 0.8 for each in boxes(device, torch.float64)]  # too small for the coarsest map
    pooled = ops.MultiScaleRoIAlign(NAMES, 3, 2)(maps, lists, SIZES)
    assert pooled.is_contiguous(memory_format=layout)
    weight = random_map(*pooled.shape, dtype=torch.float64, seed=1).to(device)
    actual = torch.autograd.grad(pooled, used, weight)
    expected_pooled = reference.MultiScaleRoIAlign(NAMES, 3, 2)(maps, lists, SIZES)
    for mine, other in zip(actual, torch.autograd.grad(expected_pooled, used, weight), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    assert not actual[-1].any()
    assert actual[0].any()


def test_gradcheck(device):
    maps = {
        name: random_map(1, 1, 32 >> int(name), 32 >> int(name), dtype=torch.float64)
        .to(device)
        .requires_grad_()
        for name in ("2", "3")
    }
    lists = [torch.tensor([[1.0, 2, 9, 12], [0, 0, 30, 30]], dtype=torch.float64, device=device)]
    module = ops.MultiScaleRoIAlign(["2", "3"], 2, 2, canonical_scale=16, canonical_level=3)

    def run(fine, coarse):
        return module({"2": fine, "3": coarse}, lists, [(32, 32)])

    assert torch.autograd.gradcheck(run, tuple(maps.values()))
    assert torch.autograd.gradgradcheck(run, tuple(maps.values()))


def test_no_boxes(device):
    maps = pyramid(device, requires_grad=False)
    for name in NAMES:
        maps[name].requires_grad_()
    empty = torch.zeros(0, 4, device=device)
    pooled = ops.MultiScaleRoIAlign(NAMES, 7, 2)(maps, [empty, empty], SIZES)
    assert pooled.shape == (0, 5, 7, 7)
    assert not any(each.any() for each in torch.autograd.grad(pooled.sum(), [maps[name] for name in NAMES]))
    some = ops.MultiScaleRoIAlign(NAMES, 7, 2)(maps, [empty, boxes(device)[1]], SIZES)
    assert some.shape == (25, 5, 7, 7)


def test_mixed_dtypes_follow_the_finest_map(device):
    maps = pyramid(device)
    maps["3"] = maps["3"].bfloat16()
    assert ops.MultiScaleRoIAlign(NAMES, 2, 2)(maps, boxes(device), SIZES).dtype == torch.float32


def test_repr_and_output_size():
    module = ops.MultiScaleRoIAlign(["0", "1"], 7, 2)
    assert module.output_size == (7, 7)
    assert repr(module) == (
        "MultiScaleRoIAlign(featmap_names=['0', '1'], output_size=(7, 7), sampling_ratio=2, "
        "canonical_scale=224, canonical_level=4)"
    )


def test_errors(device):
    maps, lists = pyramid(device), boxes(device)
    with pytest.raises(
        ValueError, match=r"expected a map named one of \['9'\], got \['2', '3', '4', '5', 'pool'\]"
    ):
        ops.MultiScaleRoIAlign(["9"], 7, 2)(maps, lists, SIZES)
    with pytest.raises(ValueError, match="expected image_shapes of at least one image, got none"):
        ops.MultiScaleRoIAlign(NAMES, 7, 2)(maps, lists, [])
    with pytest.raises(
        ValueError, match=r"MultiScaleRoIAlign: expected boxes\[1\] of shape \[L, 4\], got \[25, 3\]"
    ):
        ops.MultiScaleRoIAlign(NAMES, 7, 2)(maps, [lists[0], lists[1][:, :3]], SIZES)
