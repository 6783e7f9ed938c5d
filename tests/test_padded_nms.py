"""NMS of padded batches against the reference; counts; classes; vmap; compilation; errors."""

import pytest
import torch
from cases import DTYPES, HUGE_BOXES, NAN, NON_FINITE_BOXES, SPECIAL_BOXES
from hypothesis import given
from hypothesis import strategies as st
from nms_cases import generator, hostile_boxes, integer_boxes, overlapping_boxes, scores_of

import maskrcnn_ops as ops
from maskrcnn_ops import reference


def batch(images, count, seed=0, dtype=torch.float32, kind=overlapping_boxes):
    return kind(images * count, seed, dtype).reshape(images, count, 4), scores_of(
        images * count, seed, dtype
    ).reshape(images, count)


def moved(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else value


def check(device, boxes, scores, threshold, max_output, **options):
    on_device = {name: moved(value, device) for name, value in options.items()}
    actual = ops.padded_nms(boxes.to(device), scores.to(device), threshold, max_output, **on_device)
    expected = reference.padded_nms(boxes, scores, threshold, max_output, **options)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.int64
        assert ours.device.type == device
        assert torch.equal(ours.cpu(), theirs)


@given(
    seed=st.integers(0, 2**31),
    images=st.integers(0, 4),
    count=st.integers(0, 150),
    kind=st.sampled_from([overlapping_boxes, integer_boxes, hostile_boxes]),
    dtype=st.sampled_from(DTYPES),
    classes=st.integers(0, 4),
    counted=st.booleans(),
    max_output=st.integers(0, 200),
    score_threshold=st.one_of(st.none(), st.floats(-1, 100)),
    threshold=st.one_of(st.floats(0, 1), st.sampled_from([k / 10 for k in range(11)])),
)
def test_random_cases_match_reference(
    device, seed, images, count, kind, dtype, classes, counted, max_output, score_threshold, threshold
):
    boxes, scores = batch(images, count, seed, dtype, kind)
    g = generator(seed)
    check(
        device,
        boxes,
        scores,
        threshold,
        max_output,
        classes=torch.randint(-1, classes, (images, count), generator=g) if classes else None,
        counts=torch.randint(-5, count + 5, (images,), generator=g, dtype=torch.int32) if counted else None,
        score_threshold=score_threshold,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_hostile_values_match_reference(device, dtype):
    named = {**SPECIAL_BOXES, **NON_FINITE_BOXES, **HUGE_BOXES}
    boxes = torch.tensor(list(named.values()), dtype=dtype).repeat(2, 1)[None].repeat(2, 1, 1)
    scores = scores_of(boxes[..., 0].numel(), dtype=dtype).view(2, -1)
    scores[1, ::5] = NAN
    for threshold in (-1.0, 0.0, 0.5, 1.0):
        check(device, boxes, scores, threshold, 50)


def test_limits_below_and_above_the_kept_boxes(device):
    # Limits on both sides of the CUDA kernel's panels: 64 places a row, four rows per 64 boxes wanted.
    boxes, scores = batch(2, 500)
    for limit in (1, 63, 64, 65, 500):
        check(device, boxes, scores, 0.6, limit, classes=torch.arange(1000).view(2, 500) % 2)


def test_a_worked_example(device):
    # As for nms: box 1 suppresses its neighbours at 0.5 and nothing at 0.7. In the second image the first box is alone.
    boxes = torch.tensor([[0.0, 0, 8, 1], [2, 0, 10, 1], [4, 0, 12, 1]], device=device).repeat(2, 1, 1)
    scores = torch.tensor([0.5, 0.9, 0.7], device=device).repeat(2, 1)
    counts = torch.tensor([3, 1], device=device)
    indices, kept = ops.padded_nms(boxes, scores, 0.5, 2, counts=counts)
    assert indices.tolist() == [[1, -1], [0, -1]]
    assert kept.tolist() == [1, 1]
    indices, kept = ops.padded_nms(boxes, scores, 0.7, 2, counts=counts)
    assert indices.tolist() == [[1, 2], [0, -1]]
    assert kept.tolist() == [2, 1]


def test_one_image_without_its_dimension(device):
    boxes, scores = (each[0].to(device) for each in batch(1, 200))
    classes = torch.arange(200, device=device) % 3
    indices, kept = ops.padded_nms(
        boxes, scores, 0.5, 40, classes=classes, counts=torch.tensor(150, device=device)
    )
    expected = reference.padded_nms(
        boxes.cpu(), scores.cpu(), 0.5, 40, classes=classes.cpu(), counts=torch.tensor(150)
    )
    assert torch.equal(indices.cpu(), expected[0])
    assert kept.shape == ()
    assert kept.item() == expected[1].item()


def test_agrees_with_batched_nms(device):
    boxes, scores = (each.to(device) for each in batch(4, 700))
    classes = torch.randint(0, 5, (4, 700), generator=generator(1)).to(device)
    indices, kept = ops.padded_nms(boxes, scores, 0.5, 700, classes=classes, score_threshold=3.0)
    for n in range(4):
        expected = ops.batched_nms(boxes[n], scores[n], classes[n], 0.5, score_threshold=3.0)
        assert indices[n, : kept[n]].tolist() == expected.tolist()
        assert (indices[n, kept[n] :] == -1).all()


@pytest.mark.parametrize("nested", [False, True])
def test_vmap_over_images_has_no_fallback(device, nested):
    boxes, scores = (each.to(device) for each in batch(6, 80))
    classes = torch.randint(0, 3, (6, 80), generator=generator(1)).to(device)
    counts = torch.tensor([80, 0, 3, 40, 79, 80], device=device)

    def run(boxes, scores, classes, counts):
        return ops.padded_nms(boxes, scores, 0.5, 30, classes=classes, counts=counts)

    expected = run(boxes, scores, classes, counts)
    torch._C._functorch._set_vmap_fallback_enabled(False)
    try:
        if nested:
            pairs = [each.unflatten(0, (2, 3)) for each in (boxes, scores, classes, counts)]
            actual = [each.flatten(0, 1) for each in torch.vmap(torch.vmap(run))(*pairs)]
        else:
            actual = torch.vmap(run, in_dims=(1, 1, 0, 0))(
                boxes.transpose(0, 1).contiguous(), scores.t(), classes, counts
            )
            shared = torch.vmap(lambda each: ops.padded_nms(boxes[0], each, 0.5, 30))(scores)
            for n in range(6):
                assert torch.equal(shared[0][n], ops.padded_nms(boxes[0], scores[n], 0.5, 30)[0])
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(True)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_opcheck(device):
    boxes, scores = (each.to(device) for each in batch(2, 30))
    classes, counts = torch.arange(60, device=device).view(2, 30) % 3, torch.tensor([30, 7], device=device)
    for arguments in ((None, None, 0.5, None, 10), (classes, counts, 0.5, 0.3, 10)):
        torch.library.opcheck(torch.ops.maskrcnn_ops.padded_nms.default, (boxes, scores, *arguments))


def test_compiles_with_dynamic_shapes(device):
    def run(boxes, scores):
        indices, kept = ops.padded_nms(boxes, scores, 0.5, 20)
        return indices.clamp(min=0) * 2, kept + 1

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for images, count in ((2, 50), (3, 80)):
        inputs = [each.to(device) for each in batch(images, count)]
        for actual, expected in zip(compiled(*inputs), run(*inputs), strict=True):
            assert torch.equal(actual, expected)


def test_strides_threads_and_repeats(device):
    boxes, scores = (each.to(device) for each in batch(5, 300))
    strided = boxes.transpose(0, 2).contiguous().transpose(0, 2), scores.t().contiguous().t()
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results += [ops.padded_nms(boxes, scores, 0.5, 60), ops.padded_nms(*strided, 0.5, 60)]
    torch.set_num_threads(threads)
    for indices, kept in results[1:]:
        assert torch.equal(indices, results[0][0])
        assert torch.equal(kept, results[0][1])


def test_empty(device):
    for images, count, most in ((0, 5, 3), (2, 0, 3), (2, 5, 0)):
        indices, kept = ops.padded_nms(
            torch.zeros(images, count, 4, device=device), torch.zeros(images, count, device=device), 0.5, most
        )
        assert indices.tolist() == [[-1] * most] * images
        assert kept.tolist() == [0] * images


BOXES, SCORES = torch.zeros(2, 4, 4), torch.zeros(2, 4)
ERRORS = [
    ((BOXES[..., :3], SCORES, 0.5, 3), {}, "expected boxes of shape [N, L, 4], got [2, 4, 3]"),
    ((BOXES, SCORES[:1], 0.5, 3), {}, "expected scores of shape [2, 4], got [1, 4]"),
    (
        (BOXES.int(), SCORES, 0.5, 3),
        {},
        "expected boxes of dtype float16, bfloat16, float32 or float64, got int32",
    ),
    ((BOXES, SCORES, NAN, 3), {}, "expected a number for iou_threshold, got nan"),
    ((BOXES, SCORES, 0.5, -2), {}, "expected max_output of 0 or more, got -2"),
    ((BOXES, SCORES, 0.5, 3), {"score_threshold": NAN}, "expected a number for score_threshold, got nan"),
    ((BOXES, SCORES, 0.5, 3), {"classes": SCORES}, "expected classes of an integer dtype, got float32"),
    ((BOXES, SCORES, 0.5, 3), {"counts": SCORES.long()}, "expected counts of shape [2], got [2, 4]"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), ERRORS, ids=[each[2][:60] for each in ERRORS])
def test_errors(device, arguments, options, message):
    with pytest.raises(RuntimeError) as error:
        ops.padded_nms(
            *(moved(each, device) for each in arguments),
            **{name: moved(each, device) for name, each in options.items()},
        )
    assert str(error.value).splitlines()[0] == f"padded_nms: {message}"
