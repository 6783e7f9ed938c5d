"""YOLACT's prediction head, shared by all levels (Bolya et al., ICCV 2019, figure 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskrcnn.models.heads import MaskRCNNHeads
from maskrcnn.models.norm import NormFactory
from maskrcnn.models.proposals import flatten_level


class YOLACTHead(nn.Module):
    """3x3 convolutions, then one more each for class logits, box deltas and mask coefficients of every anchor.

    Args:
        in_channels: C of every level.
        num_anchors: A, anchors per grid cell.
        num_classes: K, the background (class 0) included.
        num_prototypes: k.
        conv_depth: number of convolutions before the three.
        norm: constructor of the normalisation after each of those; None: none.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        num_prototypes: int,
        conv_depth: int = 1,
        norm: NormFactory | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_prototypes = num_prototypes
        self.conv = MaskRCNNHeads(in_channels, (in_channels,) * conv_depth, norm=norm)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        self.mask_coefficients = nn.Conv2d(in_channels, num_anchors * num_prototypes, 3, padding=1)
        for layer in (self.cls_logits, self.bbox_pred, self.mask_coefficients):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Levels ``[N, C, H, W]`` to logits ``[N, B, K]``, deltas ``[N, B, 4]``, coefficients ``[N, B, k]``.

        B counts the anchors of all levels, one level after the other, each in (y, x, anchor) order.
        Coefficients lie in (-1, 1).
        """
        hidden = [self.conv(feature) for feature in features]

        def flat(layer: nn.Module, width: int) -> Tensor:
            return torch.cat([flatten_level(layer(each), width) for each in hidden], dim=1)

        coefficients = flat(self.mask_coefficients, self.num_prototypes).tanh()
        return flat(self.cls_logits, self.num_classes), flat(self.bbox_pred, 4), coefficients
