"""Cascade R-CNN: refinement from stage to stage, by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maskrcnn
from maskrcnn.models.cascade import CascadeRoIHeads, CascadeStage, refine
from maskrcnn.models.matcher import Matcher
from maskrcnn.models.sampler import BalancedSampler


class Fixed(nn.Module):
    """A predictor that says the same of every region."""

    def __init__(self, logits: list[float], deltas: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.deltas = nn.Parameter(torch.tensor(deltas))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(x), -1), self.deltas.expand(len(x), -1)


class Zeros(nn.Module):
    """Pooling that records the boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Tensor]] = []

    def forward(self, _features: Any, boxes: list[Tensor], _sizes: Any) -> Tensor:
        self.seen.append([b.clone() for b in boxes])
        return torch.zeros(sum(map(len, boxes)), 1, 1, 1)


def cascade(**options: Any) -> tuple[CascadeRoIHeads, Zeros]:
    """Two stages on boxes of 10 pixels: each moves them by 2 pixels to the right, in its own encoding."""
    pool = Zeros()
    first, second = Fixed([1.0, 2.0], [2.0, 0, 0, 0]), Fixed([3.0, 2.0], [4.0, 0, 0, 0])
    heads = CascadeRoIHeads(
        pool, nn.Identity(), first, Matcher(0.5, 0.5), BalancedSampler(100, 0.5), score_thresh=0.0, **options
    )
    heads.later_stages.append(
        CascadeStage(nn.Identity(), second, Matcher(0.6, 0.6), (20.0, 20.0, 10.0, 10.0), 0.5)
    )
    return heads, pool


def test_refinement_by_hand() -> None:
    deltas = torch.tensor([[2.0, 0, 0, 0], [0, -5.0, 0, 0], [50.0, 0, 0, 0]], dtype=torch.float64)
    boxes = [torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 20, 10, 30], [80, 0, 90, 10]])]
    refined = refine(boxes, deltas, (10.0, 10.0, 5.0, 5.0), [(40, 40), (40, 100)])
    assert refined[0].tolist() == [[2, 0, 12, 10]]
    assert refined[1].tolist() == [[0, 15, 10, 25], [100, 0, 100, 10]]  # clipped to an edge
    assert refined[0].dtype == torch.float32


def test_detections_average_the_scores_and_end_with_the_last_stages_boxes() -> None:
    heads, pool = cascade(detections_per_img=1)
    heads.eval()
    with torch.no_grad():
        (found,), _ = heads({}, [torch.tensor([[5.0, 5, 15, 15]])], [(50, 50)])
    assert [boxes[0].tolist() for boxes in pool.seen] == [[[5, 5, 15, 15]], [[7, 5, 17, 15]]]
    torch.testing.assert_close(found["boxes"], torch.tensor([[9.0, 5, 19, 15]]))
    one, two = torch.tensor([1.0, 2]).softmax(0)[1], torch.tensor([3.0, 2]).softmax(0)[1]
    torch.testing.assert_close(found["scores"], ((one + two) / 2)[None])


def test_stages_sample_refined_boxes_with_their_own_thresholds() -> None:
    """Ground truth of 10 pixels at 20; proposals 3 pixels left and right of it, IoU 7 / 13.

    The first stage takes both for positives. It moves all boxes 2 pixels to the right: one has then IoU 9 / 11, the
    other 5 / 15, the ground truth's own box 8 / 12; the second stage adds the ground truth again.
    """
    heads, pool = cascade()
    heads.train()
    proposals = [torch.tensor([[17.0, 20, 27, 30], [23, 20, 33, 30]]), torch.tensor([[0.0, 0, 10, 10]])]
    targets = [
        {"boxes": torch.tensor([[20.0, 20, 30, 30]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    _, found = heads({}, proposals, [(50, 50), (50, 50)], targets)
    left = [sorted(boxes[0][:, 0].tolist()) for boxes in pool.seen]
    assert left == [[17, 20, 23], [19, 20, 22, 25]]
    assert [boxes[1][:, 0].tolist() for boxes in pool.seen] == [[0], [2]]
    # Labels: three positives and a negative; then three positives (0.82, 0.67, 1) and two negatives.
    first = torch.nn.functional.cross_entropy(torch.tensor([[1.0, 2]] * 4), torch.tensor([1, 1, 1, 0]))
    second = torch.nn.functional.cross_entropy(torch.tensor([[3.0, 2]] * 5), torch.tensor([1, 0, 1, 1, 0]))
    torch.testing.assert_close(found["loss_classifier_1"], first)
    torch.testing.assert_close(found["loss_classifier_2"], 0.5 * second)
    # Boxes: what is missing to 20, in tenths of the width and the stage's weight, less what was said.
    errors = [10 * 0.3 - 2, -10 * 0.3 - 2, 0 - 2], [20 * 0.1 - 4, -20 * 0.2 - 4, 0 - 4]
    for number, (missing, count, weight) in enumerate(zip(errors, (4, 5), (1, 0.5), strict=True), start=1):
        expected = weight * sum(abs(e) - 1 / 18 for e in missing) / count
        assert found[f"loss_box_reg_{number}"].item() == pytest.approx(expected, rel=1e-4)


def test_no_gradient_passes_between_stages() -> None:
    heads, _ = cascade()
    heads.train()
    targets = [{"boxes": torch.tensor([[20.0, 20, 30, 30]]), "labels": torch.tensor([1])}]
    _, found = heads({}, [torch.tensor([[17.0, 20, 27, 30]])], [(50, 50)], targets)
    (found["loss_classifier_2"] + found["loss_box_reg_2"]).backward()
    assert heads.box_predictor.deltas.grad is None


def test_cascades_presets_and_refusals() -> None:
    with torch.device("meta"):
        for name in ("cascadercnn_resnet50_fpn", "cascademaskrcnn_resnet50_fpn"):
            heads = maskrcnn.build_model(name).roi_heads
            stages = [heads, *heads.later_stages]
            assert [s.matcher.high_threshold for s in stages] == [0.5, 0.6, 0.7]
            weights = [heads.bbox_reg_weights, *(s.reg_weights for s in heads.later_stages)]
            assert weights == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
            assert [s.loss_weight for s in heads.later_stages] == [0.5, 0.25]
            assert [s.box_predictor.bbox_pred.out_features for s in stages] == [4] * 3
        backbone = copy.copy(maskrcnn.build_model("fasterrcnn_resnet18_fpn").backbone)
        assert maskrcnn.CascadeMaskRCNN(backbone, 5).num_classes == 5
        assert maskrcnn.MaskScoringRCNN(backbone, 5).num_classes == 5
        with pytest.raises(ValueError, match=r"class_agnostic_boxes=True\), got 91 boxes"):
            maskrcnn.build_model("cascadercnn_resnet50_fpn", class_agnostic_boxes=False)
        with pytest.raises(ValueError, match="of one length, got 1, 2 and 2"):
            maskrcnn.build_model("cascadercnn_resnet50_fpn", later_iou_thresh=[0.6])
