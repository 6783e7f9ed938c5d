"""multiscale_roi_align and its module: levels, order, gradients and dtypes; against the reference and by hand."""

import pytest
import torch
from cases import (
    DTYPES,
    NAN,
    TOLERANCES,
    assert_as_reference,
    hostile_rois,
    layouts,
    random_boxes,
    random_map,
    random_rois,
)
from hypothesis import given
from hypothesis import strategies as st

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

    def pooled(maps, boxes):  # an average of equal numbers may differ from them in the last bit
        return module(maps, [boxes], [(256, 256)])[:, 0, 0, 0].cpu().numpy().round(5).tolist()

    centres = pooled(maps, squares)
    assert centres[:6] == [3, 4, 3, 2, 5, 2]
    assert centres[7] == 2
    assert centres[8] == 2
    around = squares[6:7] - 2000
    assert pooled(maps, around) == [5]
    # 1e-6 of a level is forgiven, two millionths are not.
    near = torch.tensor(
        [[0.0, 0, 224 * 2**-below, 224 * 2**-below] for below in (5e-7, 2e-6)], dtype=torch.float64
    )
    doubles = {name: map.double() for name, map in maps.items()}
    assert pooled(doubles, near.to(device)) == [4, 3]


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
    module = ops.MultiScaleRoIAlign(["0", "1"], 7, 0, aligned=True, epsilon=0.0, epsilon_inside=1e-8)
    assert repr(module).endswith("canonical_level=4, aligned=True, epsilon=0.0, epsilon_inside=1e-08)")


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


def levels_of(rois, count=4, **options):
    """The level that the operator takes for each region: maps that hold nothing but their level's number."""
    maps = [rois.new_full((1, 1, 2, 2), float(k)) for k in range(count)]
    scales = [2.0 ** -(k + 2) for k in range(count)]
    return ops.multiscale_roi_align(maps, rois, 1, scales, 1, True, **options)[:, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"canonical_scale": 112},
        {"canonical_scale": 56, "canonical_level": 2, "epsilon": 0.0},
        {"epsilon": 1e-8, "canonical_scale": 160.5},
        {"epsilon": 0.0, "epsilon_inside": 1e-8},
        {"epsilon": 0.3, "epsilon_inside": 0.01, "canonical_level": 3.5},
    ],
    ids=str,
)
def test_the_level_is_that_of_the_reference_at_every_border(device, dtype, options):
    # Centred on the origin, so that the middle of each lies on the first cell of every map.
    exponents = torch.arange(-6, 4, dtype=dtype)[:, None] + torch.linspace(-4e-6, 4e-6, 201, dtype=dtype)
    scale = options.get("canonical_scale", 224)
    sides = torch.cat(
        [
            scale * torch.exp2(exponents.flatten()),
            scale
            * (2.0 ** torch.arange(-6, 4, dtype=dtype)[:, None] - options.get("epsilon_inside", 0)).flatten(),
            torch.logspace(-3, 4, 2000, dtype=dtype),
        ]
    )
    rois = torch.zeros(len(sides), 5, dtype=dtype)
    rois[:, 1:3], rois[:, 3:] = -sides[:, None] / 2, sides[:, None] / 2
    rule = {"eps" + key[7:]: value for key, value in options.items() if key.startswith("epsilon")}
    rule |= {key: value for key, value in options.items() if key.startswith("canonical")}
    expected = reference.assign_levels(rois[:, 1:], 2, 5, **rule)
    assert len(expected.unique()) == 4
    assert torch.equal(levels_of(rois.to(device), **options).cpu().long(), expected)


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mixed", [False, True])
def test_function_matches_reference(device, dtype, mixed, reduction):
    kinds = ["channels_last", "strided", "transposed"] if mixed else ["contiguous"] * 3
    maps = [
        layouts(random_map(2, 19, 24 >> k, 32 >> k, dtype=dtype, seed=k).to(device))[kind]
        .detach()
        .requires_grad_()
        for k, kind in enumerate(kinds)
    ]
    scales, options = [0.5, 0.25, 0.125], {"reduction": reduction, "aligned": True}
    rois = random_rois(60, 2, 64, 48, dtype=torch.float64 if dtype == torch.float64 else torch.float32).to(
        device
    )
    levels = torch.arange(60, device=device, dtype=torch.int32) * 7 % 3
    exact_maps = [each.detach().double().cpu().requires_grad_() for each in maps]
    for chosen in ({"levels": levels}, {"canonical_scale": 16.0, "canonical_level": 2, "epsilon": 1e-7}):
        actual = ops.multiscale_roi_align(maps, rois, (3, 2), scales, 2, **options, **chosen)
        chosen = {key: value.cpu() if key == "levels" else value for key, value in chosen.items()}
        exact = reference.multiscale_roi_align(
            exact_maps, rois.double().cpu(), (3, 2), scales, 2, **options, **chosen
        )
        tolerance = TOLERANCES[dtype]
        torch.testing.assert_close(actual.double().cpu(), exact, rtol=tolerance, atol=tolerance)
        if dtype in (torch.float16, torch.bfloat16) and reduction == "max":
            continue  # of samples equal but for rounding either may win
        weight = random_map(*actual.shape, dtype=dtype, seed=5).to(device)
        gradients = torch.autograd.grad(actual, maps, weight)
        for mine, other in zip(
            gradients, torch.autograd.grad(exact, exact_maps, weight.double().cpu()), strict=True
        ):
            torch.testing.assert_close(mine.double().cpu(), other, rtol=tolerance, atol=8 * tolerance)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 8),
    channels=st.integers(1, 20),
    ratio=st.integers(-1, 3),
    aligned=st.booleans(),
    reduction=st.sampled_from(["mean", "max"]),
    given_levels=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_random_cases(device, seed, count, channels, ratio, aligned, reduction, given_levels, layout):
    maps = [
        layouts(
            random_map(2, channels, max(1, 24 >> k), max(1, 40 >> k), dtype=torch.float64, seed=seed + k)
        )[layout].to(device)
        for k in range(count)
    ]
    rois = hostile_rois(2, 40, 24, seed)
    levels = torch.arange(len(rois)) % count
    scales = [2.0**-k for k in range(count)]
    options = {"canonical_scale": 4, "canonical_level": 1, "reduction": reduction}

    def run(package, *maps):
        given = levels.to(maps[0].device) if given_levels else None
        return package.multiscale_roi_align(
            maps, rois.to(maps[0]), 2, scales, ratio, aligned, levels=given, **options
        )

    assert_as_reference(run, *maps)


def test_one_level_is_roi_align(device):
    map, rois = random_map(2, 5, 15, 20).to(device), random_rois(20, 2, 40, 30).to(device)
    pooled = ops.multiscale_roi_align([map], rois, 3, [0.5], 2, True)
    assert torch.equal(pooled, ops.roi_align(map, rois, 3, 0.5, 2, True))


def test_empty_maps_and_infinite_regions(device):
    maps = [torch.ones(1, 3, 8, 8, device=device), torch.ones(1, 3, 0, 4, device=device, requires_grad=True)]
    rois = torch.tensor([[0.0, 0, 0, 4, 4], [0, 0, 0, NAN, 4], [0, 0, 0, float("inf"), 9]], device=device)
    levels = torch.tensor([0, 0, 1], device=device)
    pooled = ops.multiscale_roi_align(maps, rois, 2, [0.5, 0.25], 2, levels=levels)
    assert pooled.amax((1, 2, 3)).tolist() == [1, 0, 0]
    levels[0] = 1
    pooled = ops.multiscale_roi_align(maps, rois, 2, [0.5, 0.25], 2, levels=levels)
    assert not pooled.any()
    assert torch.autograd.grad(pooled.sum(), maps[1])[0].shape == maps[1].shape


def test_compiles(device):
    maps = [each.requires_grad_() for each in list(pyramid(device).values())[:4]]

    def run(maps, boxes):
        return ops.multiscale_roi_align(maps, boxes, 2, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 2)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for part in (slice(0, 20), slice(3, 9)):
        lists = [each[part] for each in boxes(device)]
        assert torch.equal(compiled(maps, lists), run(maps, lists))
        compiled(maps, lists).sum().backward()


def test_function_errors(device):
    maps = [torch.zeros(2, 3, 8, 8, device=device), torch.zeros(2, 3, 4, 4, device=device)]
    rois, levels = torch.zeros(3, 5, device=device), torch.zeros(3, dtype=torch.int64, device=device)
    wrong = [
        (
            (maps, rois, 2, [1.0]),
            {},
            "expected as many spatial_scales as features, at least one, got 1 and 2",
        ),
        (([], rois, 2, []), {}, "expected as many spatial_scales as features, at least one, got 0 and 0"),
        ((maps * 5, rois, 2, [1.0] * 10), {}, "expected between 1 and 8 maps, got 10"),
        (
            ([maps[0], maps[1][:, :2]], rois, 2, [1.0, 0.5]),
            {},
            "expected features[1] of shape [2, 3, H, W], got [2, 2, 4, 4]",
        ),
        (
            ([maps[0], maps[1].double()], rois, 2, [1.0, 0.5]),
            {},
            "expected features[1] of dtype float32, got float64",
        ),
        ((maps, rois, 2, [1.0, 0.5]), {"levels": levels[:2]}, "expected levels of shape [3], got [2]"),
        (
            (maps, rois, 2, [1.0, 0.5]),
            {"levels": levels.float()},
            "expected levels of dtype int32 or int64, got float32",
        ),
        ((maps, rois[:, 1:], 2, [1.0, 0.5]), {}, "expected rois of shape [R, 5], or a list"),
    ]
    for arguments, options, message in wrong:
        with pytest.raises((ValueError, RuntimeError)) as error:
            ops.multiscale_roi_align(*arguments, **options)
        assert str(error.value).startswith("multiscale_roi_align: " + message)
    levels[1] = 2
    if device == "cpu":
        with pytest.raises(RuntimeError, match=r"expected levels in \[0, 2\), got 2 in row 1"):
            ops.multiscale_roi_align(maps, rois, 2, [1.0, 0.5], levels=levels)
    else:
        ones = [each + 1 for each in maps]
        assert ops.multiscale_roi_align(ones, rois, 2, [1.0, 0.5], levels=levels)[:, 0, 0, 0].tolist() == [
            1,
            0,
            1,
        ]
