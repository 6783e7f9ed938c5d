"""Region proposal network (Ren et al., 2015)."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models import losses
from maskrcnn.models.anchors import AnchorGenerator, anchors_at
from maskrcnn.models.images import ImageList, Target
from maskrcnn.models.matcher import Matcher, match_labels
from maskrcnn.models.proposals import flatten_level, propose
from maskrcnn.models.sampler import BalancedSampler
from maskrcnn.models.waiting import waits_for

# Cell anchors, grid size and stride of every level.
AnchorGrids: TypeAlias = tuple[list[Tensor], list[tuple[int, int]], list[tuple[int, int]]]


class RPNHead(nn.Module):
    """A 3x3 convolution shared by all levels, then 1x1 objectness and box deltas.

    Args:
        in_channels: channels of every level.
        num_anchors: anchors per grid cell.
        conv_depth: number of 3x3 convolutions.

    ``forward`` maps the levels' ``[N, C, H, W]`` to two lists: logits ``[N, A, H, W]``, deltas ``[N, A * 4,
    H, W]``.
    """

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(in_channels, in_channels, 3, padding=1), nn.ReLU(inplace=True))
                for _ in range(conv_depth)
            )
        )
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.conv(feature) for feature in features]
        return [self.cls_logits(h) for h in hidden], [self.bbox_pred(h) for h in hidden]


class RegionProposalNetwork(nn.Module):
    """Scores and refines anchors; gives proposals, and in training the two RPN losses.

    Args:
        anchor_generator: the anchor shapes of every level.
        head: module with the interface of :class:`RPNHead`.
        matcher: anchors to ground truth.
        sampler: choice of anchors for the losses.
        pre_nms_top_n: candidates kept per level before suppression, (training, evaluation).
        post_nms_top_n: proposals kept per image, (training, evaluation).
        nms_thresh: IoU of suppression, within a level.
        score_thresh: least objectness probability of a proposal.
        smooth_l1_beta: of the box loss, see :func:`~maskrcnn.models.losses.box_loss`.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        matcher: Matcher,
        sampler: BalancedSampler,
        pre_nms_top_n: tuple[int, int],
        post_nms_top_n: tuple[int, int],
        nms_thresh: float,
        score_thresh: float = 0.0,
        smooth_l1_beta: float = losses.SMOOTH_L1_BETA,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.matcher = matcher
        self.sampler = sampler
        self.pre_nms_top_n = pre_nms_top_n
        self.post_nms_top_n = post_nms_top_n
        self.nms_thresh = nms_thresh
        self.score_thresh = score_thresh
        self.smooth_l1_beta = smooth_l1_beta

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return proposals (float32 ``[P, 4]`` per image, pixels of the batch) and, in training, losses.

        On a GPU nothing is read back: boxes of zeros take the place of missing ones.
        """
        maps = list(features.values())
        logit_maps, delta_maps = self.head(maps)
        height, width = images.tensors.shape[-2:]
        grids = [(level.shape[-2], level.shape[-1]) for level in maps]
        strides = self.anchor_generator.grid_strides((height, width), grids)
        cells = self.anchor_generator.cells(len(maps), maps[0].device)
        evaluation = 0 if self.training else 1
        proposals = propose(
            logit_maps,
            delta_maps,
            cells,
            strides,
            images.image_sizes,
            candidates=self.pre_nms_top_n[evaluation],
            nms_threshold=self.nms_thresh,
            score_threshold=self.score_thresh,
            count=self.post_nms_top_n[evaluation],
            trim=not waits_for(maps[0]),
        )
        if not self.training:
            return proposals, {}
        if targets is None:
            raise ValueError("targets: expected one dictionary per image in training, got None")
        logits = torch.cat([flatten_level(level, 1).squeeze(-1) for level in logit_maps], dim=1)
        deltas = torch.cat([flatten_level(level, 4) for level in delta_maps], dim=1)
        return proposals, self._losses(logits, deltas, (cells, grids, strides), targets)

    def _losses(
        self, logits: Tensor, deltas: Tensor, anchors: AnchorGrids, targets: list[Target]
    ) -> dict[str, Tensor]:
        """Objectness and box loss over the sampled anchors; ``logits [N, B]``, ``deltas [N, B, 4]``."""
        parts = [
            self._sampled(logits[i], deltas[i], anchors, target["boxes"]) for i, target in enumerate(targets)
        ]
        scores, labels, filled, moves, encoded, matched = map(torch.cat, zip(*parts, strict=True))
        count = losses.normalizer(filled.sum(), logits.device)
        return {
            "loss_objectness": losses.objectness_loss(scores, labels, count, filled),
            "loss_rpn_box_reg": losses.box_loss(moves, encoded, count, self.smooth_l1_beta, matched),
        }

    def _sampled(
        self, logits: Tensor, deltas: Tensor, anchors: AnchorGrids, boxes: Tensor
    ) -> tuple[Tensor, ...]:
        """What the losses take of one image: logits, labels and which of them count ``[S]``; then deltas and what they
        should be ``[P, 4]``, and which of them count ``[P]``."""
        matches = self.matcher.match_anchors(boxes, *anchors)
        sample = self.sampler(match_labels(matches))
        found = matches[sample.index]
        own = slice(sample.positives if len(boxes) else 0)
        index, truth = sample.index[own], boxes[found[own].clamp(min=0)]
        encoded = ops.encode_boxes(truth, anchors_at(index, *anchors))
        matched = sample.filled[own] & (found[own] >= 0)
        return logits[sample.index], found >= 0, sample.filled, deltas[index], encoded, matched
