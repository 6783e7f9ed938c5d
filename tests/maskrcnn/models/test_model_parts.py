"""The detectors' parts by hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from maskrcnn.models import AnchorGenerator, losses, sampler
from maskrcnn.models.anchors import anchors_at, cell_anchors
from maskrcnn.models.heads import MaskRCNNPredictor
from maskrcnn.models.masks import mask_targets
from maskrcnn.models.matcher import BELOW, BETWEEN, Matcher, match_labels
from maskrcnn.models.proposals import flatten_level, propose
from maskrcnn.models.sampler import BalancedSampler
from maskrcnn.models.transform import GeneralizedRCNNTransform, resize_target
from maskrcnn_ops import reference


def test_cell_anchors() -> None:
    """Side 32: ratio 1/2 is 45.25 x 22.63, rounded halves 23 and 11; ratio 2 is its transpose."""
    expected = [[-23.0, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert cell_anchors((32,), (0.5, 1.0, 2.0)).tolist() == expected
    generator = AnchorGenerator((32, 64), (0.5, 1.0, 2.0))
    assert generator.sizes == ((32,), (64,))
    assert generator.num_anchors_per_location() == [3, 3]
    assert list(generator.state_dict()) == []


def test_anchors_at() -> None:
    """The same as all anchors of both levels, in the order of the flattened maps."""
    cells = [torch.tensor([[-1.0, -1, 1, 1], [-2, -1, 2, 1]]), torch.tensor([[-8.0, -8, 8, 8]])]
    grids, strides = [(2, 3), (1, 2)], [(8, 4), (16, 12)]
    anchors = anchors_at(torch.arange(14), cells, grids, strides)
    assert anchors[:2].tolist() == cells[0].tolist()
    assert anchors[(1 * 3 + 2) * 2 + 1].tolist() == [8 - 2, 8 - 1, 8 + 2, 8 + 1]
    assert anchors[13].tolist() == [12 - 8, -8, 12 + 8, 8]
    levels = zip(cells, grids, strides, strict=True)
    assert anchors.equal(torch.cat([reference.boxes.grid_anchors(*level) for level in levels]))
    assert anchors_at(torch.tensor([13, 0, 11]), cells, grids, strides).equal(anchors[[13, 0, 11]])
    assert anchors_at(torch.tensor([], dtype=torch.int64), cells, grids, strides).shape == (0, 4)


def test_proposals_start_from_the_same_anchors_as_matching() -> None:
    """Zero deltas decode to the anchors; the best of each level come first and suppress within their level."""
    cells, grid, strides = [cell_anchors((8,), (1.0,))] * 2, (3, 4), [(16, 16), (20, 20)]
    logits = [torch.arange(12.0).flip(0).view(1, 1, 3, 4) - 20 * level for level in range(2)]
    (boxes,) = propose(
        logits,
        [torch.zeros(1, 4, 3, 4)] * 2,
        cells,
        strides,
        [(1000, 1000)],
        candidates=5,
        nms_threshold=0.1,
        score_threshold=0.0,
        count=7,
        trim=True,
    )
    first, second = (anchors_at(torch.arange(5), cells[:1], [grid], [stride]) for stride in strides)
    assert boxes.equal(torch.cat([first, second])[:7].clamp(min=0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flatten_level(memory_format: torch.memory_format) -> None:
    prediction = torch.arange(2 * 6 * 3 * 5.0).view(2, 6, 3, 5).contiguous(memory_format=memory_format)
    flat = flatten_level(prediction, 2)
    assert flat.shape == (2, 3 * 5 * 3, 2)
    y, x, anchor = 2, 1, 1
    assert flat[1, (y * 5 + x) * 3 + anchor].tolist() == prediction[1, 2:4, y, x].tolist()


def test_matcher() -> None:
    """Whole, half and no overlap."""
    truth = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110], [50, 0, 60, 10]])
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],
            [0, 0, 10, 20],
            [0, 0, 10, 50],
            [104, 100, 114, 110],
            [48, 0, 58, 10],
            [52, 0, 62, 10],
        ]
    )
    # IoU with the best: 1, 1/2, 1/5, 6/14, 8/12, 8/12.
    assert Matcher(0.7, 0.3)(truth, boxes).tolist() == [0, BETWEEN, BELOW, BETWEEN, BETWEEN, BETWEEN]
    # Low quality: the third ground truth's best is a tie, both stay; the second's best is 6/14.
    low = Matcher(0.7, 0.3, allow_low_quality_matches=True)(truth, boxes)
    assert low.tolist() == [0, BETWEEN, BELOW, 1, 2, 2]
    assert match_labels(low).tolist() == [1, -1, 0, 1, 1, 1]
    assert Matcher(0.5, 0.5)(truth, boxes).tolist() == [0, 0, BELOW, BELOW, 2, 2]


def test_matcher_without_ground_truth() -> None:
    assert Matcher(0.7, 0.3, True)(torch.zeros(0, 4), torch.rand(3, 4)).tolist() == [BELOW] * 3
    assert Matcher(0.7, 0.3, True)(torch.rand(3, 4), torch.zeros(0, 4)).tolist() == []
    with pytest.raises(ValueError, match=r"Matcher: expected low_threshold <= high_threshold, got 0.5 > 0.4"):
        Matcher(0.4, 0.5)


@pytest.mark.parametrize(
    ("positives", "negatives", "chosen"),
    [(50, 50, (4, 12)), (2, 50, (2, 14)), (50, 3, (4, 3)), (0, 0, (0, 0))],
)
@pytest.mark.parametrize("waits", [False, True])
def test_sampler(
    monkeypatch: pytest.MonkeyPatch, positives: int, negatives: int, chosen: tuple[int, int], waits: bool
) -> None:
    labels = torch.tensor([1] * positives + [0] * negatives + [-1] * 20)[
        torch.randperm(positives + negatives + 20)
    ]
    monkeypatch.setattr(sampler, "waits_for", lambda _: waits)
    sample = BalancedSampler(16, 0.25)(labels)
    assert sample.positives == (4 if waits else chosen[0])
    index = sample.index[sample.filled]
    assert len(index.unique()) == len(index)
    found = labels[index]
    assert ((found == 1).sum(), (found == 0).sum()) == chosen
    assert (labels[sample.index][sample.filled][: chosen[0]] == 1).all()


@pytest.mark.parametrize("waits", [False, True])
def test_every_element_is_as_likely(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    """Of 6 positives 2, of 10 negatives 6: each in 3000 draws about 1000 and 1800 times."""
    monkeypatch.setattr(sampler, "waits_for", lambda _: waits)
    labels, counts = torch.tensor([1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0]), torch.zeros(16)
    for _ in range(3000):
        counts[BalancedSampler(8, 0.25)(labels).index] += 1
    expected = torch.where(labels == 1, 1000.0, 1800.0)
    assert ((counts - expected).abs() < 5 * 30).all()  # five standard deviations


def test_normalizer_of_one_process() -> None:
    assert losses.normalizer(7) == 7.0
    assert losses.normalizer(0) == 1.0


def test_normalizer_averages_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes with 10 elements in all divide by 2.5: the mean of their gradients is the joint one."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.fill_(10.0))
    assert float(losses.normalizer(3)) == 2.5
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.fill_(0.0))
    assert float(losses.normalizer(0)) == 0.25


def test_losses_by_hand() -> None:
    ln2 = torch.tensor(2.0).log()
    zeros = torch.zeros(4)
    torch.testing.assert_close(losses.objectness_loss(zeros, torch.tensor([0, 1, 1, 0]), 4.0), ln2)
    torch.testing.assert_close(losses.classifier_loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]), 3.0), ln2)
    torch.testing.assert_close(losses.mask_loss(torch.zeros(2, 5, 5), torch.rand(2, 5, 5), 2.0), ln2)
    # Smooth L1 with beta 1/9: 1 - 1/18 above it, 9/2 x^2 below.
    deltas = torch.tensor([[1.0, 0, 0, 0], [0, 0.1, 0, 0]])
    expected = torch.tensor((1 - 1 / 18 + 4.5 * 0.01) / 8)
    torch.testing.assert_close(losses.box_loss(deltas, torch.zeros(2, 4), 8.0), expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((400, 600), (800, 1200)),
        ((400, 1000), (533, 1333)),
        ((1600, 800), (1333, 666)),
        ((1, 5000), (1, 1333)),
    ],
)
def test_resize_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert GeneralizedRCNNTransform(800, 1333).eval().new_size(size) == expected


def test_training_draws_a_size() -> None:
    transform = GeneralizedRCNNTransform((100, 200, 300), 1000)
    torch.manual_seed(0)
    assert {transform.train().new_size((100, 100))[0] for _ in range(50)} == {100, 200, 300}
    assert transform.eval().new_size((100, 100)) == (300, 300)


def test_transform_pads_and_scales() -> None:
    transform = GeneralizedRCNNTransform(20, 1000, image_mean=(0.5,) * 3, image_std=(0.25,) * 3).eval()
    masks = torch.zeros(1, 10, 20, dtype=torch.uint8)
    masks[0, 2:5, 4:8] = 1
    targets = [
        {"boxes": torch.tensor([[4.0, 2, 8, 5]]), "masks": masks, "image_id": 3},
        {"boxes": torch.zeros(0, 4)},
    ]
    batch, (first, second) = transform([torch.ones(3, 10, 20), torch.ones(3, 40, 20)], targets)
    assert batch.image_sizes == [(20, 40), (40, 20)]
    assert batch.tensors.shape == (2, 3, 64, 64)
    assert (batch.tensors[0, :, :20, :40] == 2).all()
    assert batch.tensors[0].sum() == 2 * 3 * 20 * 40, "the padding is zero after the normalisation"
    assert first["boxes"].tolist() == [[8.0, 4, 16, 10]]
    assert first["image_id"] == 3
    assert torch.equal(first["masks"], masks.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert second["boxes"].shape == (0, 4)


def test_resized_masks_of_no_object() -> None:
    target = {"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 8, 8, dtype=torch.uint8)}
    assert resize_target(target, (8, 8), (12, 16))["masks"].shape == (0, 12, 16)


def test_mask_targets() -> None:
    """A box on the object is all ones, one beside it all zeros, one half across it half of each."""
    masks = torch.zeros(3, 40, 40, dtype=torch.uint8)
    masks[2, 10:30, 10:30] = 1
    boxes = torch.tensor([[12.0, 12, 26, 26], [31, 31, 39, 39], [20, 12, 39, 26]])
    targets: Tensor = mask_targets(masks, boxes, torch.tensor([2, 2, 2]), 7, "continuous")
    assert targets.shape == (3, 7, 7)
    assert (targets[0] == 1).all()
    assert (targets[1] == 0).all()
    assert (targets[2, :, :3] == 1).all()
    assert (targets[2, :, 5:] == 0).all()
    assert mask_targets(masks, boxes[:0], torch.zeros(0, dtype=torch.int64), 7, "integer").shape == (0, 7, 7)


def test_fresh_masks_are_undecided() -> None:
    """The loss of two classes starts at ln 2, whatever the features."""
    torch.manual_seed(0)
    logits = MaskRCNNPredictor(64, 64, 2)(5 * torch.randn(20, 64, 14, 14))
    loss = losses.mask_loss(logits[:, 1], torch.rand(20, 28, 28).round(), 20.0)
    assert abs(loss.item() - math.log(2)) < 0.02
    assert logits.std() > 1e-4


def test_selected_masks_are_those_of_all_classes() -> None:
    torch.manual_seed(0)
    predictor = MaskRCNNPredictor(6, 5, 4)
    x, labels = torch.randn(3, 6, 7, 7), torch.tensor([3, 0, 2])
    everything = predictor(x)
    assert everything.shape == (3, 4, 14, 14)
    torch.testing.assert_close(predictor(x, labels)[:, 0], everything[torch.arange(3), labels])
    assert predictor(x[:0], labels[:0]).shape == (0, 1, 14, 14)
