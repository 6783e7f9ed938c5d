"""YOLACT's masks (Bolya et al., ICCV 2019): prototypes of the whole image, and each object's combination of them.

An object's logits are the sum of the image's k prototypes, weighted by the object's k coefficients, which may
be negative. They are read inside the object's box only.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models.heads import MaskRCNNHeads
from maskrcnn.models.norm import NormFactory


class ProtoNet(nn.Sequential):
    """Three 3x3 convolutions, twice the resolution (bilinear), one more, then 1x1 to k prototypes; ReLU after each.

    Args:
        in_channels: C of the map.
        channels: of the convolutions between.
        count: k.
        norm: constructor of the normalisation after each 3x3 convolution; None: none.

    ``forward`` maps ``[N, C, H, W]`` to ``[N, k, 2H, 2W]``, nothing negative.
    """

    def __init__(self, in_channels: int, channels: int, count: int, norm: NormFactory | None = None) -> None:
        super().__init__(
            OrderedDict(
                before=MaskRCNNHeads(in_channels, (channels,) * 3, norm=norm),
                upsample=nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                after=MaskRCNNHeads(channels, (channels,), norm=norm),
                prototypes=nn.Conv2d(channels, count, 1),
                relu=nn.ReLU(inplace=True),
            )
        )


def assemble(prototypes: Tensor, coefficients: Tensor) -> Tensor:
    """Logits ``[D, h, w]`` of the objects with ``coefficients [D, k]`` on ``prototypes [k, h, w]``."""
    return (coefficients @ prototypes.flatten(1)).unflatten(1, prototypes.shape[1:])


def assembled_mask_loss(logits: Tensor, targets: Tensor, boxes: Tensor) -> Tensor:
    """Binary cross-entropy inside each object's box over the box's area, summed over objects.

    Args:
        logits, targets: ``[P, h, w]``, targets in [0, 1].
        boxes: ground truth ``[P, 4]`` in cells of the map; the cells count whose centre a box contains. An
            area below one cell is taken as one.
    """
    rows, columns = _inside(boxes, logits.shape[1:])
    pixels = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    sums = (pixels * rows[:, :, None] * columns[:, None]).sum(dim=(1, 2))
    return (sums / ops.box_area(boxes.float()).clamp(min=1)).sum()


def _inside(boxes: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Which rows ``[P, h]`` and columns ``[P, w]`` of a map have their centres in each box."""
    centres = [torch.arange(side, device=boxes.device) + 0.5 for side in size]
    x1, y1, x2, y2 = boxes.T[..., None]
    return (y1 <= centres[0]) & (centres[0] < y2), (x1 <= centres[1]) & (centres[1] < x2)


def semantic_loss(logits: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of what class covers each cell, summed over classes and cells.

    Args:
        logits: ``[K - 1, h, w]``, without a background.
        masks: share ``[L, h, w]`` of each cell that each object covers.
        labels: int64 ``[L]``, 1 to K - 1.
    """
    logits = logits.float()
    covered = torch.zeros_like(logits).index_add(0, labels - 1, masks.float()).clamp(max=1)
    return F.binary_cross_entropy_with_logits(logits, covered, reduction="sum")


@torch.no_grad()
def whole_masks(
    masks: Tensor | EncodedMasks, boxes: Tensor, batch_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Ground-truth masks at the prototypes' resolution: the share of each cell that is covered, ``[L, h, w]``.

    Args:
        masks: uint8 or bool ``[L, H, W]``, or encoded: those are not decoded.
        boxes: ``[L, 4]``, for their number, dtype and device.
        batch_size: (H, W) of the padded batch, pixels, which the map stands for.
        size: (h, w) of the map.
    """
    if len(boxes) == 0:
        return boxes.new_zeros((0, *size))
    height, width = batch_size
    everything = boxes.new_tensor([0, 0, width, height]).expand(len(boxes), 4)
    if isinstance(masks, EncodedMasks):
        return masks.crop(everything, size, torch.arange(len(masks), device=boxes.device), aligned=True)
    return ops.crop_masks(masks, everything, size, aligned=True)


def region_masks(logits: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Probabilities ``[D, 1, M, M]`` inside each object's box, sampled from its assembled logits.

    Args:
        logits: ``[D, h, w]``, one map for each object.
        boxes: ``[D, 4]`` in cells of the map; they get no gradient.
        side: M.
    """
    boxes = boxes.detach()
    regions = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].to(boxes), boxes], dim=1)
    return ops.roi_align(logits.float().sigmoid()[:, None], regions, side, aligned=True)
