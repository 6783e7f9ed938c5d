"""Box, mask, MaskIoU and keypoint heads with their predictors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.models.norm import NormFactory


class TwoMLPHead(nn.Module):
    """Two fully connected layers with ReLU on the flattened pooled features.

    Args:
        in_channels: C * P * P of the pooled ``[R, C, P, P]``.
        representation_size: width of both layers.
    """

    def __init__(self, in_channels: int, representation_size: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_channels, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(x.flatten(start_dim=1)))))


def _conv_block(
    in_channels: int, out_channels: int, norm: NormFactory | None, dilation: int = 1, stride: int = 1
) -> nn.Sequential:
    """3x3 convolution of constant size, normalisation if any (the convolution then has no bias), ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=norm is None)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, *([] if norm is None else [norm(out_channels)]), nn.ReLU(inplace=True))


class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions, then fully connected layers with ReLU; "4conv1fc" has four and one.

    Args:
        input_size: (C, P, P) of the pooled features.
        conv_layers: channels of each convolution.
        fc_layers: width of each fully connected layer.
        norm: constructor of the normalisation after each convolution; None: none.
    """

    def __init__(
        self,
        input_size: tuple[int, int, int],
        conv_layers: Sequence[int],
        fc_layers: Sequence[int],
        norm: NormFactory | None = None,
    ) -> None:
        channels, height, width = input_size
        layers: list[nn.Module] = []
        for out_channels in conv_layers:
            layers.append(_conv_block(channels, out_channels, norm))
            channels = out_channels
        layers.append(nn.Flatten())
        channels *= height * width
        for out_channels in fc_layers:
            layers += [nn.Linear(channels, out_channels), nn.ReLU(inplace=True)]
            channels = out_channels
        super().__init__(*layers)


class GlobalAveragePool(nn.Module):
    """``[R, C, P, P] -> [R, C]``: the box head after a shared res5 ("C4")."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class FastRCNNPredictor(nn.Module):
    """Class logits ``[R, K]`` and box deltas ``[R, K * 4]`` or ``[R, 4]`` from a representation ``[R, C]``.

    Args:
        in_channels: C (``[R, C, 1, 1]`` is flattened).
        num_classes: K, the background (class 0) included.
        class_agnostic: one box for all classes.
    """

    def __init__(self, in_channels: int, num_classes: int, class_agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 if class_agnostic else num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)


class MaskRCNNHeads(nn.Sequential):
    """A small fully convolutional network: 3x3 convolutions, normalised or not, with ReLU at constant size.

    Args:
        in_channels: channels of the pooled features.
        layers: channels of each convolution.
        dilation: of each convolution.
        norm: constructor of the normalisation after each convolution; None: none.
    """

    def __init__(
        self,
        in_channels: int,
        layers: Sequence[int],
        dilation: int = 1,
        norm: NormFactory | None = None,
    ) -> None:
        inputs = (in_channels, *layers[:-1])
        super().__init__(*(_conv_block(i, o, norm, dilation) for i, o in zip(inputs, layers, strict=True)))


class MaskRCNNPredictor(nn.Sequential):
    """Doubles the side by a 2x2 transposed convolution, then one mask of logits per class.

    Fresh weights of the last layer are normal with a deviation of 0.001, as in detectron2, so that every pixel starts
    undecided. By torchvision's, sqrt(2 / num_classes), the loss of few classes starts far above ln 2.

    Args:
        in_channels: channels of the mask head's output.
        dim_reduced: channels between.
        num_classes: K, the background included; 1 for masks that all classes share.
    """

    conv5_mask: nn.ConvTranspose2d
    relu: nn.ReLU
    mask_fcn_logits: nn.Conv2d

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int) -> None:
        super().__init__(
            OrderedDict(
                conv5_mask=nn.ConvTranspose2d(in_channels, dim_reduced, 2, 2),
                relu=nn.ReLU(inplace=True),
                mask_fcn_logits=nn.Conv2d(dim_reduced, num_classes, 1),
            )
        )
        nn.init.kaiming_normal_(self.conv5_mask.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)
        assert self.mask_fcn_logits.bias is not None
        nn.init.zeros_(self.mask_fcn_logits.bias)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """``[R, C, M/2, M/2]`` to logits ``[R, K, M, M]``, or ``[R, 1, M, M]`` of one class per region.

        Equivalent to: ``forward(x)[torch.arange(R), labels][:, None]`` where ``labels`` (int64 ``[R]``) is
        given; the other classes' masks are then never computed.
        """
        x = self.relu(self.conv5_mask(x))
        if labels is None or self.mask_fcn_logits.out_channels == 1:
            return self.mask_fcn_logits(x)
        weight = self.mask_fcn_logits.weight[labels].flatten(1)[:, None]
        logits = torch.bmm(weight, x.flatten(2)).unflatten(2, x.shape[2:])
        bias = self.mask_fcn_logits.bias
        return logits if bias is None else logits + bias[labels][:, None, None, None]


class MaskMLPPredictor(nn.Module):
    """All classes' masks by one fully connected layer: the paper's MLP mask branch, Table 2 (e).

    Args:
        in_channels: C of the mask head's output ``[R, C]``.
        num_classes: K, the background included; 1 for masks that all classes share.
        side: M.
    """

    def __init__(self, in_channels: int, num_classes: int, side: int) -> None:
        super().__init__()
        self.mask_logits = nn.Linear(in_channels, num_classes * side * side)
        self.shape = (num_classes, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, C]`` to logits ``[R, K, M, M]``."""
        return self.mask_logits(x).unflatten(1, self.shape)


class MaskIoUHead(nn.Module):
    """How well each class's mask covers its object: the head of Mask Scoring R-CNN.

    3x3 convolutions with ReLU, the last of stride 2, then two fully connected layers with ReLU and one without.

    Args:
        in_channels: C of the mask branch's pooled features.
        side: P of these features.
        num_classes: K, the background included.
        layers: channels of each convolution.
        representation_size: width of the fully connected layers.
    """

    def __init__(
        self,
        in_channels: int,
        side: int,
        num_classes: int,
        layers: Sequence[int] = (256,) * 4,
        representation_size: int = 1024,
    ) -> None:
        super().__init__()
        inputs = (in_channels + 1, *layers[:-1])
        strides = (1,) * (len(layers) - 1) + (2,)
        self.convs = nn.Sequential(
            *(_conv_block(i, o, None, stride=s) for i, o, s in zip(inputs, layers, strides, strict=True))
        )
        cells = ((side + 1) // 2) ** 2
        self.fc = TwoMLPHead(layers[-1] * cells, representation_size)
        self.iou = nn.Linear(representation_size, num_classes)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Pooled ``[R, C, P, P]`` and probabilities ``[R, M, M]`` of one mask each, pooled to P by maximum, to
        IoUs ``[R, K]`` (not limited to [0, 1])."""
        masks = F.adaptive_max_pool2d(masks[:, None].to(features.dtype), features.shape[-2:])
        return self.iou(self.fc(self.convs(torch.cat([features, masks], dim=1))))


class KeypointRCNNHeads(nn.Sequential):
    """3x3 convolutions with ReLU at constant size; one flat sequence, as torchvision's names have it.

    Args:
        in_channels: channels of the pooled features.
        layers: channels of each convolution.
    """

    def __init__(self, in_channels: int, layers: Sequence[int]) -> None:
        inputs = (in_channels, *layers[:-1])
        blocks = (_conv_block(i, o, None) for i, o in zip(inputs, layers, strict=True))
        super().__init__(*(layer for block in blocks for layer in block))


class KeypointRCNNPredictor(nn.Module):
    """Doubles the side by a 4x4 transposed convolution and again bilinearly: one map of logits per keypoint.

    Args:
        in_channels: channels of the keypoint head's output.
        num_keypoints: K, at least 1.

    Raises:
        ValueError: another ``num_keypoints``.
    """

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        if num_keypoints < 1:
            raise ValueError(f"num_keypoints: expected at least 1, got {num_keypoints}")
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, num_keypoints, 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.kps_score_lowres.weight, mode="fan_out", nonlinearity="relu")
        assert self.kps_score_lowres.bias is not None
        nn.init.zeros_(self.kps_score_lowres.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, C, M/4, M/4]`` to logits ``[R, K, M, M]``."""
        x = self.kps_score_lowres(x)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
