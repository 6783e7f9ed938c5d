"""Proposals: from the RPN's raw maps (keep the best, decode, suppress), or given with the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models.images import ImageList, Target

MIN_SIDE = 1e-3  # pixels; proposals with a shorter side are dropped


class GivenProposals(nn.Module):
    """In the place of an RPN: the proposals that came with the images. It has no parameters and no losses."""

    def forward(
        self, images: ImageList, _features: dict[str, Tensor], _targets: list[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return proposals (float32 ``[P, 4]`` per image, clipped to it), and no losses."""
        if images.proposals is None:
            raise ValueError("proposals: expected boxes [P, 4] of each image, got None")
        pairs = zip(images.proposals, images.image_sizes, strict=True)
        return [ops.clip_boxes_to_image(boxes, size) for boxes, size in pairs], {}


def flatten_level(prediction: Tensor, width: int) -> Tensor:
    """``[N, A * width, H, W]`` to ``[N, H * W * A, width]``, (y, x, anchor); a view if channels_last."""
    return prediction.permute(0, 2, 3, 1).reshape(prediction.shape[0], -1, width)


@torch.no_grad()
def propose(
    logits: list[Tensor],
    deltas: list[Tensor],
    cells: list[Tensor],
    strides: list[tuple[int, int]],
    image_sizes: list[tuple[int, int]],
    *,
    candidates: int,
    nms_threshold: float,
    score_threshold: float,
    count: int,
    trim: bool,
) -> list[Tensor]:
    """The best boxes of all levels after suppression, for each image.

    Args:
        logits: for each level ``[N, A, H, W]`` objectness.
        deltas: for each level ``[N, A * 4, H, W]`` encoded boxes.
        cells: for each level ``[A, 4]`` cell anchors; those of the grid come from the index.
        strides: (y, x) pixels between grid cells of each level.
        image_sizes: (H, W) of each resized image, without padding; boxes are clipped to it.
        candidates: the most boxes of each level and image before suppression.
        nms_threshold: IoU of suppression; different levels never suppress each other.
        score_threshold: least objectness probability.
        count: the most boxes of each image after suppression.
        trim: read back how many there are. Otherwise nothing is, and zeros fill every image up to ``count``.

    Returns:
        float32 boxes ``[P, 4]`` per image, best first.
    """
    boxes, scores, levels, counts = ops.decode_anchors(
        _not_double(logits),
        _not_double(deltas),
        cells,
        strides,
        image_sizes,
        candidates,
        min_size=MIN_SIDE,
        score_threshold=score_threshold,
    )
    index, kept = ops.padded_nms(
        boxes, scores.sigmoid(), nms_threshold, min(count, boxes.shape[1]), classes=levels, counts=counts
    )
    chosen = boxes.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
    if not trim:
        return list(torch.where(index[..., None] >= 0, chosen, 0.0))
    return [image[:number] for image, number in zip(chosen, kept.tolist(), strict=True)]


def _not_double(maps: list[Tensor]) -> list[Tensor]:
    """Proposals are float32 also where a model computes in float64."""
    return [each.float() if each.dtype == torch.float64 else each for each in maps]
