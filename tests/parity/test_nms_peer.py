"""NMS beside torchvision's CPU kernel: the same indices in the same order."""

import pytest
import torch
from nms_cases import HOSTILE

import maskrcnn_ops as ops

torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.peer

DTYPES = [torch.float32, torch.float64]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def boxes_in_a_picture(count, dtype, seed):
    g = generator(seed)
    corners = (
        torch.rand(count, 2, generator=g, dtype=dtype) * torch.tensor([1216.0, 800.0], dtype=dtype) - 100
    )
    sides = torch.rand(count, 2, generator=g, dtype=dtype) * torch.tensor([365.0, 240.0], dtype=dtype)
    return torch.cat([corners, corners + sides], dim=1)


def integer_boxes(count, dtype, seed):
    g = generator(seed)
    corners, sides = (torch.randint(0, high, (count, 2), generator=g) for high in (30, 11))
    return torch.cat([corners, corners + sides], dim=1).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threshold", [k / 10 for k in range(11)])
def test_nms(dtype, threshold):
    for seed in range(6):
        for count in (20, 300, 1000):
            ties = torch.randint(0, count // 3, (count,), generator=generator(seed)).to(dtype)
            for boxes in (boxes_in_a_picture(count, dtype, seed), integer_boxes(count, dtype, seed)):
                for scores in (ties, torch.randn(count, generator=generator(seed), dtype=dtype)):
                    expected = torchvision.ops.nms(boxes, scores, threshold)
                    assert torch.equal(ops.nms(boxes, scores, threshold), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.1, 0.5, 1.0, 1.5])
def test_nms_of_hostile_boxes(dtype, threshold):
    pool = [value for value in HOSTILE if value == value]  # torchvision keeps NaN, and we do not
    for seed in range(20):
        g = generator(seed)
        boxes = torch.tensor(pool, dtype=dtype)[torch.randint(len(pool), (300, 4), generator=g)]
        if seed % 2:
            boxes = torch.cat([boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], dim=1)
        scores = torch.tensor(pool, dtype=dtype)[torch.randint(len(pool), (300,), generator=g)]
        assert torch.equal(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_batched_nms(dtype, threshold):
    boxes = boxes_in_a_picture(2000, dtype, 1)
    scores = torch.randperm(2000, generator=generator(2)).to(
        dtype
    )  # no ties: torchvision's order of them is open
    idxs = torch.randint(-5, 5, (2000,), generator=generator(3))
    expected = torchvision.ops.boxes._batched_nms_vanilla(boxes, scores, idxs, threshold)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, threshold), expected)


def test_many_boxes():
    # Enough of them to be decided by districts, few and many of which overlap.
    for extent, threshold in ((5500.0, 0.2), (2000.0, 0.2)):
        g = generator(1)
        corners = torch.rand(41000, 2, generator=g) * extent
        boxes = torch.cat([corners, corners + 16 + 48 * torch.rand(41000, 2, generator=g)], dim=1)
        scores = torch.rand(41000, generator=g)
        expected = torchvision.ops.nms(boxes, scores, threshold)
        threads = torch.get_num_threads()
        for number in (1, 2):
            torch.set_num_threads(number)
            assert torch.equal(ops.nms(boxes, scores, threshold), expected)
        torch.set_num_threads(threads)


@pytest.mark.parametrize("max_output", [1, 50, 100])
def test_selection_of_detections(max_output):
    # What torchvision's box head does with each image's scores, threshold, classes and limit.
    boxes = boxes_in_a_picture(3000, torch.float32, 4)
    scores = torch.randperm(3000, generator=generator(5)).float() / 3000
    idxs, images = (torch.randint(0, high, (3000,), generator=generator(high)) for high in (9, 4))
    kept = ops.batched_nms(
        boxes, scores, idxs, 0.5, image_idxs=images, max_output=max_output, score_threshold=0.05
    )
    for image in range(4):
        mine = ((images == image) & (scores > 0.05)).nonzero()[:, 0]
        alone = torchvision.ops.boxes._batched_nms_vanilla(boxes[mine], scores[mine], idxs[mine], 0.5)[
            :max_output
        ]
        assert kept[images[kept] == image].tolist() == mine[alone].tolist()
