"""NMS against the reference, index by index, on every device and dtype; groups; hostile input; errors."""

import pytest
import torch
from cases import DTYPES, HUGE_BOXES, INF, NAN, NON_FINITE_BOXES, SPECIAL_BOXES
from hypothesis import given
from hypothesis import strategies as st
from nms_cases import (
    HOSTILE,
    generator,
    hostile_boxes,
    integer_boxes,
    overlapping_boxes,
    scores_of,
    spread_boxes,
)

import maskrcnn_ops as ops
from maskrcnn_ops import reference

TENTHS = [k / 10 for k in range(11)]


def check(device, boxes, scores, threshold, idxs=None, image_idxs=None, **options):
    """The same indices in the same order as the reference gives on the same numbers."""
    inputs = (boxes, scores) if idxs is None else (boxes, scores, idxs)
    function, oracle = (ops.nms, reference.nms) if idxs is None else (ops.batched_nms, reference.batched_nms)
    on_device = options
    if image_idxs is not None:
        options, on_device = ({**options, "image_idxs": each} for each in (image_idxs, image_idxs.to(device)))
    actual = function(*(each.to(device) for each in inputs), threshold, **on_device)
    assert actual.dtype == torch.int64
    assert actual.device.type == device
    assert actual.is_contiguous()
    assert actual.cpu().tolist() == oracle(*inputs, threshold, **options).tolist()
    return actual.cpu()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 512, 513, 1000])
def test_matches_reference(device, dtype, count):
    boxes, scores = overlapping_boxes(count, dtype=dtype), scores_of(count, dtype=dtype)
    for threshold in (0.0, 0.005, 0.3, 0.5, 0.7, 0.95):
        check(device, boxes, scores, threshold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("threshold", TENTHS)
def test_ious_equal_to_the_threshold_match_reference(device, dtype, threshold):
    for seed in range(4):
        check(device, integer_boxes(600, seed, dtype), scores_of(600, seed, dtype), threshold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_neighbours_of_the_threshold_match_reference(device, dtype):
    # Pairs of nearly equal boxes far apart from the next pair: thresholds on their IoUs and one ulp beside.
    g = generator(3)
    first = torch.rand(12, 4, generator=g, dtype=dtype) * 20
    first[:, 2:] += first[:, :2] + 1
    first += 100 * torch.arange(12, dtype=dtype)[:, None]
    boxes = torch.cat([first, first + 0.5 * torch.rand(12, 4, generator=g, dtype=dtype)])
    scores = torch.arange(24, 0, -1).to(dtype)
    ious = [reference.box_iou(boxes[k : k + 1], boxes[12 + k : 13 + k]).item() for k in range(12)]
    for iou in ious:
        for threshold in (iou, iou * (1 - 1e-7), iou * (1 + 1e-7), iou - 1e-15, iou + 1e-15):
            check(device, boxes, scores, threshold)


def test_every_side_of_the_scale_matches_reference(device):
    # Sides over ten orders of magnitude, so that every level of the grid is used and few boxes share one.
    g = generator(5)
    for dtype in (torch.float32, torch.float64):
        size = 10 ** (torch.rand(700, 1, generator=g, dtype=dtype) * 10 - 5)
        corners = size * torch.randn(700, 2, generator=g, dtype=dtype)
        boxes = torch.cat(
            [corners, corners + size * (0.5 + torch.rand(700, 2, generator=g, dtype=dtype))], dim=1
        )
        for threshold in (0.0, 0.2, 0.5):
            check(device, boxes, scores_of(700, 1, dtype), threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_spread_boxes_match_reference(device, threshold):
    boxes = spread_boxes(700) - 500
    check(device, boxes, scores_of(700), threshold)
    check(device, boxes[:, [0, 1, 2, 1]], scores_of(700), threshold)  # without height
    check(device, boxes * torch.tensor([1, 0, 1, 0]) + torch.tensor([0, 3, 0, 9]), scores_of(700), threshold)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 400),
    kind=st.sampled_from([overlapping_boxes, integer_boxes, hostile_boxes]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scores_dtype=st.sampled_from(DTYPES),
    groups=st.integers(0, 5),
    threshold=st.one_of(st.floats(0, 1), st.sampled_from(TENTHS)),
)
def test_random_cases_match_reference(device, seed, count, kind, dtype, scores_dtype, groups, threshold):
    idxs = torch.randint(-2, groups - 1, (count,), generator=generator(seed)) if groups else None
    check(device, kind(count, seed, dtype), scores_of(count, seed, scores_dtype), threshold, idxs)


@pytest.mark.parametrize(
    "idxs_dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str
)
def test_groups_match_reference(device, idxs_dtype):
    idxs = torch.randint(0, 7, (900,), generator=generator(1)).to(idxs_dtype)
    check(device, overlapping_boxes(900), scores_of(900), 0.4, idxs)


def test_groups_are_integers_of_any_size(device):
    # Neighbours near the ends of int64 differ by less than a float64 can tell.
    values = torch.tensor([-(2**63), -(2**63) + 1, -1, 0, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1])
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(16, 1)
    scores, idxs = torch.arange(16, 0, -1).float(), values.repeat(2)
    kept = ops.batched_nms(boxes.to(device), scores.to(device), idxs.to(device), 0.5)
    assert kept.tolist() == list(range(8))


def test_groups_keep_their_precision(device):
    # A shift of the second group by its index would round these boxes, 0.001 wide, to nothing.
    boxes = torch.tensor([[0.0, 0, 0.001, 1], [0.0004, 0, 0.0014, 1]]).repeat(2, 1)
    idxs = torch.tensor([0, 0, 10**6, 10**6], device=device)
    scores = torch.tensor([4.0, 3, 2, 1], device=device)
    assert ops.batched_nms(boxes.to(device), scores, idxs, 0.5).tolist() == [0, 1, 2, 3]
    assert ops.batched_nms(boxes.to(device), scores, idxs, 0.4).tolist() == [0, 2]
    assert ops.batched_nms(boxes.to(device) - 5000, scores, idxs, 0.4).tolist() == [0, 1, 2, 3]


def test_groups_are_independent(device):
    boxes, scores = overlapping_boxes(3000), torch.rand(3000, generator=generator(2))
    idxs = torch.randint(-40, 40, (3000,), generator=generator(4))
    kept = ops.batched_nms(boxes.to(device), scores.to(device), idxs.to(device), 0.5).cpu()
    for group in idxs.unique():
        members = (idxs == group).nonzero()[:, 0]
        alone = ops.nms(boxes[members].to(device), scores[members].to(device), 0.5).cpu()
        assert kept[idxs[kept] == group].tolist() == members[alone].tolist()
    assert (scores[kept].diff() <= 0).all()


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 300),
    kind=st.sampled_from([overlapping_boxes, integer_boxes, hostile_boxes]),
    dtype=st.sampled_from(DTYPES),
    images=st.integers(0, 4),
    max_output=st.one_of(st.none(), st.integers(0, 400)),
    score_threshold=st.one_of(st.none(), st.floats(-1, 150), st.integers(-1, 150)),
    threshold=st.one_of(st.floats(0, 1), st.sampled_from(TENTHS)),
)
def test_images_and_limits_match_reference(
    device, seed, count, kind, dtype, images, max_output, score_threshold, threshold
):
    g = generator(seed)
    check(
        device,
        kind(count, seed, dtype),
        scores_of(count, seed, dtype),
        threshold,
        torch.randint(-2, 3, (count,), generator=g),
        torch.randint(-1, images, (count,), generator=g, dtype=torch.int32) if images else None,
        max_output=max_output,
        score_threshold=score_threshold,
    )


def test_early_stop_is_a_prefix(device):
    # The best 3,000 boxes are copies of 20 of them, so that prefixes of four boxes per kept box do not suffice.
    boxes = torch.cat([spread_boxes(20).repeat(150, 1), overlapping_boxes(5000)]).to(device)
    scores = torch.arange(8000, 0, -1, device=device).float()
    idxs = torch.arange(8000, device=device) // 20 % 3
    everything = ops.batched_nms(boxes, scores, idxs, 0.5)
    for limit in (1, 20, 59, 60, 61, 65, 100, 1000, len(everything), 9000):
        kept = ops.batched_nms(boxes, scores, idxs, 0.5, max_output=limit)
        assert kept.tolist() == everything[:limit].tolist()


def test_images_with_limits_are_independent(device):
    boxes, scores = overlapping_boxes(3000), torch.rand(3000, generator=generator(2))
    idxs, images = (torch.randint(-2, 4, (3000,), generator=generator(seed)) for seed in (4, 5))
    inputs = [each.to(device) for each in (boxes, scores, idxs)]
    kept = ops.batched_nms(*inputs, 0.5, image_idxs=images.to(device), max_output=20).cpu()
    for image in images.unique():
        mine = (images == image).nonzero()[:, 0]
        alone = ops.batched_nms(*(each[mine.to(device)] for each in inputs), 0.5).cpu()[:20]
        assert kept[images[kept] == image].tolist() == mine[alone].tolist()
    assert (scores[kept].diff() <= 0).all()


def test_score_threshold_is_compared_in_the_scores_dtype(device):
    # float32(0.1) is above the float64 0.1, but no float32 is above float32(0.1) and equal to it.
    boxes, idxs = spread_boxes(3).to(device), torch.zeros(3, dtype=torch.int64, device=device)
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor([0.1, 0.10001, 0.0999], dtype=dtype, device=device)
        assert ops.batched_nms(boxes, scores, idxs, 1.0, score_threshold=0.1).tolist() == [1]


def test_a_worked_example(device):
    # IoUs: of boxes 0 and 1 6/10, of 1 and 2 6/10, of 0 and 2 4/12; box 1 has the best score.
    boxes = torch.tensor([[0.0, 0, 8, 1], [2, 0, 10, 1], [4, 0, 12, 1]], device=device)
    scores = torch.tensor([0.5, 0.9, 0.7], device=device)
    assert ops.nms(boxes, scores, 0.5).tolist() == [1]
    assert ops.nms(boxes, scores, 0.7).tolist() == [1, 2, 0]
    assert ops.nms(boxes, scores.flip(0).roll(1), 0.5).tolist() == [2, 0]
    # 6/10 in float32 is above the float64 0.6, and not above itself.
    assert ops.nms(boxes, scores, 0.6).tolist() == [1]
    assert ops.nms(boxes, scores, torch.tensor(0.6).item()).tolist() == [1, 2, 0]
    assert ops.nms(boxes.double(), scores, 0.6).tolist() == [1, 2, 0]


def test_equal_scores_keep_their_order(device):
    boxes = spread_boxes(5000)
    for scores in (torch.zeros(5000), torch.tensor([0.0, -0.0]).repeat(2500), torch.full((5000,), -INF)):
        assert ops.nms(boxes.to(device), scores.to(device), 1.0).tolist() == list(range(5000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 1e-40, 1e-12, 0.3, 1.0, 1.5, INF, -INF])
def test_hostile_values_match_reference(device, dtype, threshold):
    named = {**SPECIAL_BOXES, **NON_FINITE_BOXES, **HUGE_BOXES}
    boxes = torch.tensor(list(named.values()), dtype=dtype).repeat(3, 1)
    check(device, boxes, scores_of(len(boxes), dtype=dtype), threshold)
    for count, seed in ((60, 1), (400, 2), (400, 3)):
        g = generator(seed)
        boxes = torch.tensor(HOSTILE, dtype=dtype)[torch.randint(len(HOSTILE), (count, 4), generator=g)]
        if seed == 3:
            boxes = torch.cat([boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], dim=1)
        scores = torch.tensor(HOSTILE, dtype=dtype)[torch.randint(len(HOSTILE), (count,), generator=g)]
        check(device, boxes, scores, threshold)


def test_subnormal_areas_match_reference(device):
    # Areas of a few times the smallest number, where products lose their digits.
    boxes = integer_boxes(300).clamp(max=4) * 3e-23
    for threshold in TENTHS:
        check(device, boxes, scores_of(300), threshold)


def test_nan_is_never_kept_and_suppresses_nothing(device):
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(6, 1)
    for k in range(4):
        boxes[k, k] = NAN
    scores = torch.tensor([9.0, 8, 7, 6, NAN, 1])
    for threshold in (-1.0, 0.0, 0.5, 1.0):
        assert ops.nms(boxes.to(device), scores.to(device), threshold).tolist() == [5]


def test_empty(device):
    boxes, scores, idxs = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert check(device, boxes, scores, 0.5).shape == (0,)
    assert check(device, boxes, scores, 0.5, idxs).shape == (0,)
    everything_unusable = torch.full((70, 4), NAN)
    assert check(device, everything_unusable, torch.zeros(70), 0.5).shape == (0,)


def test_strided_inputs_match_reference(device):
    boxes, scores = overlapping_boxes(400), scores_of(400)
    idxs = torch.randint(0, 3, (400,), generator=generator(7))
    kept = ops.batched_nms(
        boxes.t().contiguous().t().to(device),
        scores.repeat_interleave(2)[::2].to(device),
        torch.stack([idxs, -idxs], 1)[:, 0].to(device),
        0.5,
    )
    assert kept.tolist() == reference.batched_nms(boxes, scores, idxs, 0.5).tolist()


def test_deterministic_and_independent_of_threads(device):
    boxes, scores = overlapping_boxes(9000).to(device), scores_of(9000).to(device)
    idxs = torch.randint(0, 30, (9000,), generator=generator(1)).to(device)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append((ops.nms(boxes, scores, 0.5), ops.batched_nms(boxes, scores, idxs, 0.5)))
    torch.set_num_threads(threads)
    for single, batched in results[1:]:
        assert torch.equal(single, results[0][0])
        assert torch.equal(batched, results[0][1])


def test_inputs_that_require_grad(device):
    boxes = overlapping_boxes(50).to(device).requires_grad_()
    scores = torch.rand(50, generator=generator(0)).to(device).requires_grad_()
    kept = ops.nms(boxes, scores, 0.5)
    assert not kept.requires_grad
    (boxes[kept].sum() + scores[kept].sum()).backward()
    assert boxes.grad.sum(1).tolist() == [4.0 * (i in kept.tolist()) for i in range(50)]


def test_opcheck(device):
    boxes = overlapping_boxes(30).to(device).requires_grad_()
    scores, idxs = scores_of(30).to(device), torch.arange(30, device=device) % 3
    for groups in (None, idxs):
        torch.library.opcheck(torch.ops.maskrcnn_ops.nms.default, (boxes, scores, groups, 0.5))
    torch.library.opcheck(torch.ops.maskrcnn_ops.nms.default, (boxes, scores, idxs, 0.5, idxs, 0.1, 3))


def test_compiles_with_dynamic_shapes(device):
    def run(boxes, scores, idxs):
        kept = ops.nms(boxes, scores, 0.5)
        return boxes[kept] * 2, ops.batched_nms(boxes, scores, idxs, 0.5) + 1

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (50, 80, 0):
        inputs = (
            overlapping_boxes(count).to(device),
            scores_of(count).to(device),
            torch.arange(count).to(device) % 3,
        )
        for actual, expected in zip(compiled(*inputs), run(*inputs), strict=True):
            assert torch.equal(actual, expected)


def test_exports(device):
    class Model(torch.nn.Module):
        def forward(self, boxes, scores):
            return boxes[ops.nms(boxes, scores, 0.5)]

    length = torch.export.Dim("boxes", min=2)
    inputs = overlapping_boxes(40).to(device), scores_of(40).to(device)
    exported = torch.export.export(Model(), inputs, dynamic_shapes=({0: length}, {0: length}))
    inputs = inputs[0][:25], inputs[1][:25]
    assert torch.equal(exported.module()(*inputs), Model()(*inputs))


BOXES, SCORES, IDXS = torch.zeros(4, 4), torch.zeros(4), torch.zeros(4, dtype=torch.int64)
FLOATING = "of dtype float16, bfloat16, float32 or float64"
ERRORS = [
    ((BOXES[:, :3], SCORES, 0.5), "nms: expected boxes of shape [L, 4], got [4, 3]"),
    ((BOXES[0], SCORES, 0.5), "nms: expected boxes of shape [L, 4], got [4]"),
    ((BOXES, SCORES[:3], 0.5), "nms: expected scores of shape [4], got [3]"),
    ((BOXES, SCORES[:, None], 0.5), "nms: expected scores of shape [4], got [4, 1]"),
    ((BOXES.int(), SCORES, 0.5), f"nms: expected boxes {FLOATING}, got int32"),
    ((BOXES, SCORES.long(), 0.5), f"nms: expected scores {FLOATING}, got int64"),
    ((BOXES, SCORES, NAN), "nms: expected a number for iou_threshold, got nan"),
    ((BOXES, SCORES, IDXS[:1], 0.5), "batched_nms: expected idxs of shape [4], got [1]"),
    ((BOXES, SCORES, IDXS.float(), 0.5), "batched_nms: expected idxs of an integer dtype, got float32"),
    ((BOXES, SCORES, IDXS.bool(), 0.5), "batched_nms: expected idxs of an integer dtype, got bool"),
    ((BOXES[:3], SCORES, IDXS, 0.5), "batched_nms: expected scores of shape [3], got [4]"),
]
OPTION_ERRORS = [
    ({"image_idxs": IDXS[:3]}, "batched_nms: expected image_idxs of shape [4], got [3]"),
    ({"image_idxs": SCORES}, "batched_nms: expected image_idxs of an integer dtype, got float32"),
    ({"max_output": -1}, "batched_nms: expected max_output of 0 or more, got -1"),
    ({"score_threshold": NAN}, "batched_nms: expected a number for score_threshold, got nan"),
]


@pytest.mark.parametrize(("options", "message"), OPTION_ERRORS, ids=[each[1][:60] for each in OPTION_ERRORS])
def test_errors_of_options(device, options, message):
    options = {
        name: each.to(device) if isinstance(each, torch.Tensor) else each for name, each in options.items()
    }
    with pytest.raises(RuntimeError) as error:
        ops.batched_nms(BOXES.to(device), SCORES.to(device), IDXS.to(device), 0.5, **options)
    assert str(error.value).splitlines()[0] == message


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[each[1][:60] for each in ERRORS])
def test_errors(device, arguments, message):
    function = ops.nms if len(arguments) == 3 else ops.batched_nms
    with pytest.raises((ValueError, RuntimeError)) as error:
        function(*(each.to(device) if isinstance(each, torch.Tensor) else each for each in arguments))
    assert str(error.value).splitlines()[0] == message


def test_mixed_devices(device):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    names = {"cpu": "cpu", "cuda": "cuda:0"}
    other = "cpu" if device == "cuda" else "cuda"
    message = f"nms: expected boxes and scores on one device, got {names[device]} and {names[other]}"
    with pytest.raises(RuntimeError, match=message):
        ops.nms(BOXES.to(device), SCORES.to(other), 0.5)
