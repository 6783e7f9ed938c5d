"""The reference beside torchvision, on random inputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskrcnn_ops import reference as ref

torchvision = pytest.importorskip("torchvision")
ops = torchvision.ops

pytestmark = [pytest.mark.peer, pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)]

OUTPUT_SIZES = [1, 7, (3, 5)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, dtype: torch.dtype, extent: float = 90.0, seed: int = 1) -> Tensor:
    corners = torch.rand(count, 2, generator=generator(seed), dtype=dtype) * extent - 8
    sides = torch.rand(count, 2, generator=generator(seed + 100), dtype=dtype) * extent / 2
    return torch.cat([corners, corners + sides], dim=1)


def random_rois(dtype: torch.dtype, count: int = 120) -> Tensor:
    """Boxes across every border of the map, among them a point, a line and one turned inside out."""
    boxes = random_boxes(count, dtype)
    boxes[0, 2:] = boxes[0, :2]
    boxes[1, 2] = boxes[1, 0]
    boxes[2] = boxes[2].roll(2)
    index = torch.randint(0, 2, (count, 1), generator=generator(2)).to(dtype)
    return torch.cat([index, boxes], dim=1)


def random_maps(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, 17, 23, generator=generator(3), dtype=dtype, requires_grad=True)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    # Same formula, other order of sums: a few ulp of values of magnitude 1 to 100.
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def assert_same_values_and_gradients(ours, theirs, features: Tensor) -> None:
    expected = theirs(features)
    actual = ours(features)
    assert_close(actual, expected)
    weight = torch.randn(expected.shape, generator=generator(4), dtype=expected.dtype)
    assert_close(
        torch.autograd.grad(actual, features, weight)[0], torch.autograd.grad(expected, features, weight)[0]
    )


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("output_size", OUTPUT_SIZES, ids=str)
def test_roi_align(dtype: torch.dtype, output_size, sampling_ratio: int, aligned: bool) -> None:
    rois = random_rois(dtype)
    arguments = (rois, output_size, 0.25, sampling_ratio, aligned)
    assert_same_values_and_gradients(
        lambda x: ref.roi_align(x, *arguments), lambda x: ops.roi_align(x, *arguments), random_maps(dtype)
    )


@pytest.mark.parametrize("output_size", OUTPUT_SIZES, ids=str)
def test_roi_pool(dtype: torch.dtype, output_size) -> None:
    rois = random_rois(dtype)
    rois[::3] = rois[::3].round()  # at scale 1/4, halves and whole bins are then common
    assert_same_values_and_gradients(
        lambda x: ref.roi_pool(x, rois, output_size, 0.25),
        lambda x: ops.roi_pool(x, rois, output_size, 0.25),
        random_maps(dtype),
    )


def test_roi_pool_equal_features(dtype: torch.dtype) -> None:
    coarse = random_maps(dtype).detach().round().requires_grad_()
    rois = random_rois(dtype)
    assert_same_values_and_gradients(
        lambda x: ref.roi_pool(x, rois, 3, 0.25), lambda x: ops.roi_pool(x, rois, 3, 0.25), coarse
    )


def test_pooling_modules_and_lists(dtype: torch.dtype) -> None:
    features, boxes = random_maps(dtype), [random_boxes(4, dtype), random_boxes(3, dtype, seed=7)]
    assert_close(ref.RoIAlign(4, 0.25, 2)(features, boxes), ops.RoIAlign(4, 0.25, 2)(features, boxes))
    assert_close(ref.RoIPool(4, 0.25)(features, boxes), ops.RoIPool(4, 0.25)(features, boxes))


def test_multiscale_roi_align(dtype: torch.dtype) -> None:
    maps = {
        str(k): torch.randn(2, 3, 512 >> k, 768 >> k, generator=generator(k), dtype=dtype)
        for k in range(2, 6)
    }
    boxes = [random_boxes(40, dtype, 700.0), random_boxes(30, dtype, 100.0, seed=5)]
    sizes = [(500, 768), (512, 640)]
    for names, options in ((["2", "3", "4", "5"], {}), (["3", "4"], {"canonical_scale": 112}), (["4"], {})):
        ours = ref.MultiScaleRoIAlign(names, 5, 2, **options)
        theirs = ops.MultiScaleRoIAlign(names, 5, 2, **options)
        assert_close(ours(maps, boxes, sizes), theirs(maps, boxes, sizes))


def test_assign_levels(dtype: torch.dtype) -> None:
    boxes = random_boxes(3000, dtype, 1200.0)
    boxes[:7] = torch.tensor([0.0, 0, 1, 1], dtype=dtype) * torch.tensor([[28.0 * 2**k] for k in range(7)])
    mapper = torchvision.ops.poolers.LevelMapper(2, 5)
    assert torch.equal(ref.assign_levels(boxes, 2, 5), mapper([boxes]))


@pytest.mark.parametrize("threshold", [k / 10 for k in range(11)])
def test_nms(dtype: torch.dtype, threshold: float) -> None:
    boxes, scores = random_boxes(400, dtype), torch.rand(400, generator=generator(6), dtype=dtype)
    assert torch.equal(ref.nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold))
    # Small integer boxes: the IoU often equals the threshold. Few scores: ties.
    for seed in range(5):
        corners = torch.randint(0, 16, (300, 2), generator=generator(seed))
        sides = torch.randint(0, 11, (300, 2), generator=generator(seed + 50))
        boxes = torch.cat([corners, corners + sides], dim=1).to(dtype)
        scores = torch.randint(0, 40, (300,), generator=generator(seed + 90)).to(dtype)
        assert torch.equal(ref.nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
def test_nms_infinite_coordinates(dtype: torch.dtype, threshold: float) -> None:
    boxes, scores = random_boxes(60, dtype), torch.rand(60, generator=generator(6), dtype=dtype)
    for r in range(24):
        boxes[r, r % 4] = math.inf if r % 3 else -math.inf
    scores[30], scores[31] = math.inf, -math.inf
    assert torch.equal(ref.nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold))


def test_batched_nms(dtype: torch.dtype) -> None:
    boxes = random_boxes(
        400, dtype
    ).abs()  # the coordinate trick of the peer is wrong for negative coordinates
    boxes = torch.cat(
        [torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1
    )
    scores = torch.rand(400, generator=generator(8), dtype=dtype)
    groups = torch.randint(0, 5, (400,), generator=generator(9))
    expected = torchvision.ops.boxes._batched_nms_vanilla(boxes, scores, groups, 0.3)
    assert torch.equal(ref.batched_nms(boxes, scores, groups, 0.3), expected)


@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
def test_box_functions_with_formats(dtype: torch.dtype, fmt: str) -> None:
    a, b = random_boxes(50, dtype), random_boxes(40, dtype, seed=9)
    for out_fmt in ("xyxy", "xywh", "cxcywh"):
        assert_close(ref.box_convert(a, fmt, out_fmt), ops.box_convert(a, fmt, out_fmt))
    a, b = ref.box_convert(a, "xyxy", fmt), ref.box_convert(b, "xyxy", fmt)
    assert_close(ref.box_area(a, fmt), ops.box_area(a, fmt))
    assert_close(ref.box_iou(a, b, fmt), ops.box_iou(a, b, fmt))


def test_box_functions(dtype: torch.dtype) -> None:
    a, b = random_boxes(60, dtype), random_boxes(40, dtype, seed=9)
    b[:5] = a[:5]
    b[5, 2:] = b[5, :2]
    assert_close(ref.generalized_box_iou(a, b), ops.generalized_box_iou(a, b))
    assert_close(ref.clip_boxes_to_image(a, (40, 50)), ops.clip_boxes_to_image(a, (40, 50)))
    assert torch.equal(ref.remove_small_boxes(a, 20.0), ops.remove_small_boxes(a, 20.0))


@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou"])
def test_overlap_gradients(dtype: torch.dtype, name: str) -> None:
    a, b = random_boxes(20, dtype).requires_grad_(), random_boxes(30, dtype, seed=9).requires_grad_()
    weight = torch.randn(20, 30, generator=generator(4), dtype=dtype)
    actual = torch.autograd.grad(getattr(ref, name)(a, b), (a, b), weight)
    expected = torch.autograd.grad(getattr(ops, name)(a, b), (a, b), weight)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs)


def test_masks_to_boxes(dtype: torch.dtype) -> None:
    masks = (torch.rand(30, 12, 15, generator=generator(), dtype=dtype) > 0.97).to(dtype)
    masks[4] = 0
    assert torch.equal(ref.masks_to_boxes(masks), ops.masks_to_boxes(masks))


def test_box_coder(dtype: torch.dtype) -> None:
    coder = torchvision.models.detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    proposals, targets = random_boxes(50, dtype, seed=1) + 5, random_boxes(50, dtype, seed=2)
    assert_close(ref.encode_boxes(targets, proposals, coder.weights), coder.encode_single(targets, proposals))
    deltas = torch.randn(50, 12, generator=generator(), dtype=dtype) * 10  # often beyond the clip
    assert_close(
        ref.decode_boxes(deltas, proposals, coder.weights, coder.bbox_xform_clip),
        coder.decode_single(deltas, proposals),
    )


def test_decode_grid(dtype: torch.dtype) -> None:
    generate = torchvision.models.detection.anchor_utils.AnchorGenerator(((32,),), ((0.5, 1.0, 2.0),))
    images = torchvision.models.detection.image_list.ImageList(torch.zeros(2, 3, 96, 160), [(96, 160)] * 2)
    anchors = generate(images, [torch.zeros(2, 8, 12, 10, dtype=dtype)])
    deltas = torch.randn(2, 12 * 10 * 3, 4, generator=generator(), dtype=dtype)
    boxes = ref.decode_grid(deltas, generate.cell_anchors[0], (12, 10), (8, 16))
    coder = torchvision.models.detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    for n in range(2):
        assert_close(boxes[n], coder.decode_single(deltas[n], anchors[n]))


def test_paste_masks_integer(dtype: torch.dtype) -> None:
    boxes = random_boxes(60, dtype)
    boxes[0, 2:] = boxes[0, :2]
    boxes = boxes[
        (boxes[:, 2:] > 2).all(1) & (boxes[:, 0] < 66) & (boxes[:, 1] < 56)
    ]  # the peer raises outside
    masks = torch.rand(len(boxes), 1, 14, 14, generator=generator(), dtype=dtype)
    expected = torchvision.models.detection.roi_heads.paste_masks_in_image(masks, boxes, (60, 70))[:, 0]
    assert_close(ref.paste_masks(masks, boxes, (60, 70), None, "integer"), expected)
    decided = (expected - 0.5).abs() > 1e-6
    pasted = ref.paste_masks(masks, boxes, (60, 70), 0.5, "integer")
    assert torch.equal(pasted[decided], (expected > 0.5)[decided])


def test_paste_masks_continuous_is_grid_sample(dtype: torch.dtype) -> None:
    boxes = random_boxes(30, dtype)
    masks = torch.rand(len(boxes), 14, 14, generator=generator(), dtype=dtype)
    x = (torch.arange(70, dtype=dtype) + 0.5 - boxes[:, 0:1]) / (boxes[:, 2:3] - boxes[:, 0:1]) * 2 - 1
    y = (torch.arange(60, dtype=dtype) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:4] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=3)
    expected = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    # Coordinates far outside a small box lose digits: 1e-4 of a mask cell in float32.
    torch.testing.assert_close(
        ref.paste_masks(masks, boxes, (60, 70), None),
        expected,
        rtol=0,
        atol=1e-4 if dtype == torch.float32 else 1e-12,
    )
