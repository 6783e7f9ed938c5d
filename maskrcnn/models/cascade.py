"""Box stages one after the other, each on the boxes of the one before: Cascade R-CNN (Cai & Vasconcelos, 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models.images import Target
from maskrcnn.models.matcher import Matcher
from maskrcnn.models.regions import SampledRegions, box_losses, sample_regions
from maskrcnn.models.roi_heads import Classified, RoIHeads

Weights = tuple[float, float, float, float]


class CascadeStage(nn.Module):
    """A box branch that works on refined boxes.

    Args:
        box_head: module ``[R, C, P, P] -> [R, F]``.
        box_predictor: module ``[R, F] -> (logits [R, K], deltas [R, 4])``.
        matcher: boxes to ground truth.
        reg_weights: of the box encoding (x, y, w, h).
        loss_weight: factor of its losses.
    """

    def __init__(
        self,
        box_head: nn.Module,
        box_predictor: nn.Module,
        matcher: Matcher,
        reg_weights: Weights,
        loss_weight: float,
    ) -> None:
        super().__init__()
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.matcher = matcher
        self.reg_weights = reg_weights
        self.loss_weight = loss_weight

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.box_predictor(self.box_head(pooled))


class CascadeRoIHeads(RoIHeads):
    """Region heads with :attr:`later_stages` after the box branch, which is the first stage.

    Every stage samples anew, among the boxes that the stage before sampled and refined and the ground truth, with a
    threshold of its own. The losses are ``loss_classifier_1``, ``loss_box_reg_1``, ``loss_classifier_2`` ... The other
    branches train on the last stage's positives.

    A detection's scores are the mean over the stages, each on its own boxes; the last stage gives the box, and the
    branches work on that.

    Attributes:
        later_stages: of :class:`CascadeStage`; empty at first.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.later_stages = nn.ModuleList()

    def _train_boxes(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        targets: list[Target],
    ) -> tuple[list[SampledRegions], Tensor, dict[str, Tensor]]:
        result: dict[str, Tensor] = {}
        for number, stage in enumerate(self._stages(), start=1):
            regions = sample_regions(proposals, targets, stage.matcher, self.sampler)
            boxes = [r.boxes for r in regions]
            pooled = self._pool(self.box_roi_pool, features, boxes, image_sizes)
            logits, deltas = stage(pooled)
            found = box_losses(logits, deltas, regions, targets, stage.reg_weights, self.smooth_l1_beta)
            result |= {f"{name}_{number}": stage.loss_weight * loss for name, loss in found.items()}
            proposals = refine(boxes, deltas, stage.reg_weights, image_sizes)
        return regions, pooled, result

    def _classify(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Classified:
        scores = []
        stages = self._stages()
        for stage in stages:
            pooled = self._pool(self.box_roi_pool, features, proposals, image_sizes)
            logits, deltas = stage(pooled)
            scores.append(logits.float().softmax(dim=-1))
            boxes, proposals = proposals, refine(proposals, deltas, stage.reg_weights, image_sizes)
        return Classified(torch.stack(scores).mean(dim=0), deltas.float(), boxes, stages[-1].reg_weights)

    def _stages(self) -> list[CascadeStage]:
        """The first stage's parts are attributes of the heads, under the names that they have without a cascade."""
        first = CascadeStage(self.box_head, self.box_predictor, self.matcher, self.bbox_reg_weights, 1.0)
        return [first, *self.later_stages]


@torch.no_grad()
def refine(
    boxes: list[Tensor], deltas: Tensor, weights: Weights, image_sizes: list[tuple[int, int]]
) -> list[Tensor]:
    """Each image's boxes ``[P, 4]`` moved by their rows of ``deltas [R, 4]`` and clipped to the image, in float32."""
    counts = [len(each) for each in boxes]
    return [
        ops.clip_boxes_to_image(ops.decode_boxes(moves, each, weights), size)
        for moves, each, size in zip(deltas.float().split(counts), boxes, image_sizes, strict=True)
    ]
