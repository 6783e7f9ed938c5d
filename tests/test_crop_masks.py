"""Cropped masks and polygons against the reference and roi_align; hostile input; errors."""

import pytest
import torch
from cases import HUGE_BOXES, NON_FINITE_BOXES, SPECIAL_BOXES, random_boxes
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference

SIZE = (30, 40)
TOLERANCES = {torch.float32: 3e-6, torch.float64: 1e-13}  # sums of weights that add up to one
EVERY_BOX = {**SPECIAL_BOXES, **NON_FINITE_BOXES, **HUGE_BOXES}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bitmaps(count, size=SIZE, seed=0):
    """Blobs, and one mask of noise."""
    coarse = torch.randn(count, 1, 5, 5, generator=generator(seed))
    masks = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[:, 0] > 0
    masks[-1] = torch.rand(size, generator=generator(seed)) > 0.5
    return masks


def random_polygons(count, size=SIZE, seed=0, spread=1.3):
    """Objects of one to three rings of 3 to 12 corners, some beyond the image, some on whole and half pixels."""
    source = generator(seed)
    objects = []
    for _ in range(count):
        rings = []
        for _ in range(int(torch.randint(1, 4, (1,), generator=source))):
            corners = int(torch.randint(3, 13, (1,), generator=source))
            points = (torch.rand(corners, 2, generator=source, dtype=torch.float64) - 0.5) * spread + 0.5
            points *= torch.tensor([size[1], size[0]])
            kind = int(torch.randint(3, (1,), generator=source))
            points = (points, points.round(), (2 * points).round() / 2)[kind]
            rings.append(points.flatten().tolist())
        objects.append(rings)
    return objects


def regions(count, objects, dtype=torch.float32, seed=0):
    boxes = torch.cat(
        [
            random_boxes(count, 40, 30, generator(seed), dtype),
            torch.tensor(list(EVERY_BOX.values()), dtype=dtype),
        ]
    )
    return boxes, torch.randint(objects, (len(boxes),), generator=generator(seed))


def check(actual, expected):
    tolerance = TOLERANCES[actual.dtype]
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["bool", "uint8", "runs", "strings"])
@pytest.mark.parametrize("aligned", [False, True], ids=["indices", "aligned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_crops_match_reference(device, dtype, aligned, kind):
    masks = random_bitmaps(6)
    boxes, matches = regions(60, 6, dtype)
    expected = reference.crop_masks(masks, boxes, (7, 9), matches, aligned=aligned)
    given_masks = {
        "bool": lambda: masks.to(device),
        "uint8": lambda: (masks.to(torch.uint8) * 3).to(device),
        "runs": lambda: reference.encode_bitmaps(masks),
        "strings": lambda: [{**e, "counts": e["counts"].decode()} for e in reference.encode_bitmaps(masks)],
    }[kind]()
    actual = ops.crop_masks(given_masks, boxes.to(device), (7, 9), matches.to(device), aligned=aligned)
    check(actual, expected)
    assert 0.2 < expected[:60].mean() < 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_crops_match_reference_roi_align_kernel(device, dtype):
    masks = random_bitmaps(4, (200, 300)).to(device)
    boxes = random_boxes(40, 300, 200, generator(5), dtype).to(device)
    matches = torch.arange(40, device=device) % 4
    rois = torch.cat([matches[:, None].to(boxes), boxes], dim=1)
    expected = ops.roi_align(masks[:, None].to(boxes), rois, (28, 28))[:, 0]
    check(ops.crop_masks(masks, boxes, 28, matches), expected.cpu())


@pytest.mark.parametrize("aligned", [False, True], ids=["indices", "aligned"])
@pytest.mark.parametrize("seed", range(3))
def test_polygons_match_reference(device, seed, aligned):
    polygons = random_polygons(12, seed=seed)
    boxes, matches = regions(50, 12, torch.float64, seed)
    where = boxes.to(device), 14, SIZE, matches.to(device)
    actual = ops.rasterize_polygons(polygons, *where, aligned=aligned)
    check(actual, reference.rasterize_polygons(polygons, boxes, 14, SIZE, matches, aligned=aligned))
    bitmaps = reference.polygon_bitmaps(polygons, SIZE).to(device)
    cropped = ops.crop_masks(bitmaps, boxes.to(device), 14, matches.to(device), aligned=aligned)
    assert torch.equal(actual, cropped)


def whole_image(size):
    """A box whose cells are the pixels: every number of the crop is one pixel."""
    return torch.tensor([[0.5, 0.5, size[1] + 0.5, size[0] + 0.5]])


@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 90), st.integers(1, 60)),
    spread=st.sampled_from([0.8, 1.3, 4.0]),
    aligned=st.booleans(),
)
def test_random_polygons_match_reference(device, seed, size, spread, aligned):
    polygons = random_polygons(3, size, seed, spread)
    boxes = (whole_image(size) - 0.5).repeat(3, 1).to(device)
    bitmaps = reference.polygon_bitmaps(polygons, size)
    actual = ops.rasterize_polygons(polygons, boxes, size, size)
    assert torch.equal(actual, ops.crop_masks(bitmaps.to(device), boxes, size))
    assert torch.equal(actual, ops.crop_masks(reference.encode_bitmaps(bitmaps), boxes, size))
    boxes, matches = regions(3, 3, torch.float64, seed)
    actual = ops.rasterize_polygons(polygons, boxes.to(device), 5, size, matches.to(device), aligned=aligned)
    check(actual, reference.rasterize_polygons(polygons, boxes, 5, size, matches, aligned=aligned))


@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 150), st.integers(1, 40)),
    side=st.integers(1, 9),
    aligned=st.booleans(),
)
def test_random_crops_match_reference(device, seed, size, side, aligned):
    masks = random_bitmaps(3, size, seed)
    boxes = random_boxes(3, size[1], size[0], generator(seed), torch.float64)
    expected = reference.crop_masks(masks, boxes, side, aligned=aligned)
    check(ops.crop_masks(masks.to(device), boxes.to(device), side, aligned=aligned), expected)
    check(ops.crop_masks(reference.encode_bitmaps(masks), boxes.to(device), side, aligned=aligned), expected)


def test_by_hand(device):
    # A square over columns 1 and 2 and rows 1 and 2; RoIAlign's cells of the box are the pixels shifted by a half.
    square = [[[1.0, 1, 3, 1, 3, 3, 1, 3]]]
    assert reference.polygon_bitmaps(square, (4, 4))[0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    box = torch.tensor([[-0.5, -0.5, 3.5, 3.5]], device=device)
    expected = torch.zeros(1, 4, 4, device=device)
    expected[0, 1:3, 1:3] = 1
    assert torch.equal(ops.rasterize_polygons(square, box, 4, (4, 4)), expected)
    assert torch.equal(ops.rasterize_polygons(square, box + 0.5, 4, (4, 4), aligned=True), expected)


def test_wild_polygons_cost_bounded_time(device):
    wild = [[[-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300]], [[5.0] * 8], []]
    box = torch.tensor([[0.0, 0, 40, 30]], device=device).repeat(3, 1)
    actual = ops.rasterize_polygons(wild, box, 8, SIZE)
    assert (actual[0] == actual[0, 0, 0]).all()
    torch.testing.assert_close(actual[0, 0, 0].item(), 1.0)
    assert not actual[1:].any()


def test_empty_inputs(device):
    none, one = torch.zeros(0, 4, device=device), torch.zeros(1, 4, device=device)
    assert ops.crop_masks(torch.zeros(0, 5, 6, dtype=torch.bool, device=device), none, 7).shape == (0, 7, 7)
    assert ops.crop_masks([], none, 7).shape == (0, 7, 7)
    assert ops.rasterize_polygons([], none, (7, 8), SIZE).shape == (0, 7, 8)
    assert not ops.crop_masks(torch.zeros(1, 0, 6, dtype=torch.bool, device=device), one, 7).any()
    assert not ops.rasterize_polygons([[]], one, 7, SIZE).any()


def test_deterministic_and_independent_of_threads(device):
    masks, (boxes, matches) = random_bitmaps(5), regions(40, 5)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(ops.crop_masks(masks.to(device), boxes.to(device), 14, matches.to(device)))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    # Every other layout, and half precision.
    strided = masks.mT.contiguous().mT.to(device)
    assert torch.equal(ops.crop_masks(strided, boxes.to(device), 14, matches.to(device)), results[0])
    half = boxes[:9].half()
    widened = ops.crop_masks(masks.to(device), half.float().to(device), 14, matches[:9].to(device))
    assert torch.equal(ops.crop_masks(masks.to(device), half.to(device), 14, matches[:9].to(device)), widened)


def test_opcheck_and_compile(device):
    library = torch.ops.maskrcnn_ops
    masks, (boxes, matches) = random_bitmaps(2).to(device), regions(5, 2)
    rois = torch.cat([matches[:, None].to(boxes), boxes], dim=1).to(device)
    longs = torch.tensor([0, 3], device=device)
    torch.library.opcheck(library.crop_masks.default, (masks, rois, 3, 4, True))
    ends = torch.tensor([5, 9, 1200], device=device)
    one = torch.cat([torch.zeros(len(rois), 1, device=device), rois[:, 1:]], dim=1)
    torch.library.opcheck(library.crop_runs.default, (ends, longs, 30, 40, one, 3, 4, True))
    points = torch.rand(3, 2, dtype=torch.float64).mul(30).to(device)
    objects = torch.tensor([0, 1], device=device)
    torch.library.opcheck(
        library.rasterize_polygons.default, (points, longs, objects, 30, 40, one, 3, 4, False)
    )
    compiled = torch.compile(ops.crop_masks, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (9, 4):
        arguments = masks, boxes[:count].to(device), 6, matches[:count].to(device)
        assert torch.equal(compiled(*arguments), ops.crop_masks(*arguments))


MASKS, BOXES = torch.zeros(4, 30, 40, dtype=torch.bool), torch.zeros(4, 4)
ERRORS = [
    (
        lambda: ops.crop_masks(MASKS[0], BOXES[:1].expand(30, 4), 7),
        "crop_masks: expected masks of shape [L, H, W], got [30, 40]",
    ),
    (
        lambda: ops.crop_masks(MASKS.float(), BOXES, 7),
        "crop_masks: expected masks of dtype uint8 or bool, got float32",
    ),
    (
        lambda: ops.crop_masks(MASKS, BOXES[:, :3], 7),
        "crop_masks: expected boxes of shape [R, 4], got [4, 3]",
    ),
    (lambda: ops.crop_masks(MASKS, BOXES[:3], 7), "crop_masks: expected as many boxes as masks, got 3 and 4"),
    (
        lambda: ops.crop_masks(MASKS, BOXES, 0),
        "crop_masks: expected size between (1, 1) and (4096, 4096), got (0, 0)",
    ),
    (
        lambda: ops.crop_masks(MASKS, BOXES, 7, torch.tensor([0, 1, 4, 0])),
        "crop_masks: expected image indices rois[:, 0] in [0, 4), got 4 in row 2",
    ),
    (
        lambda: ops.crop_masks([{"size": [3, 4], "counts": b"55"}], BOXES[:1], 7),
        "crop_masks: expected counts of encoding 0 to be run lengths that add up to 12 pixels",
    ),
    (
        lambda: ops.crop_masks(
            [{"size": [3, 4], "counts": [12]}, {"size": [4, 3], "counts": [12]}], BOXES[:2], 7
        ),
        "crop_masks: expected encodings of one size, got [(3, 4), (4, 3)]",
    ),
    (
        lambda: ops.rasterize_polygons([[[1.0, 2, 3, 4]]], BOXES[:1], 7, SIZE),
        "rasterize_polygons: expected polygons of 6 or more coordinates, an even number, got 4 in object 0",
    ),
    (
        lambda: ops.rasterize_polygons([[[1.0, 2, 3, 4, float("nan"), 6]]], BOXES[:1], 7, SIZE),
        "rasterize_polygons: expected polygons of finite numbers",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[e[1][12:60] for e in ERRORS])
def test_errors(call, message):
    with pytest.raises((ValueError, RuntimeError)) as error:
        call()
    assert str(error.value).splitlines()[0] == message
