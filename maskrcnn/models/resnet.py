"""ResNet bodies (He et al., 2015): the convolutional part, giving the maps of its four stages.

The bottleneck carries its stride in the 3x3 convolution, as the weights in circulation expect. Parameter
names are torchvision's (``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.downsample.0`` ...).
"""

from __future__ import annotations

from torch import Tensor, nn

from maskrcnn.models.norm import NormFactory

# depth -> (bottleneck blocks?, blocks of each stage)
LAYOUTS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}
STAGE_WIDTHS = (64, 128, 256, 512)


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = norm(width)
        self.downsample = _shortcut(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution (with the stride), 1x1 expansion by four, and the identity."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, norm: NormFactory) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = norm(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = norm(width)
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: NormFactory) -> nn.Sequential | None:
    """The projection of a block that changes size or width; None where the identity fits."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), norm(out_channels))


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Args:
        depth: 18, 34, 50 or 101.
        norm: constructor of the normalisation layers.

    Returns from ``forward``: ``{"0": [N, C0, H/4, W/4], "1": .../8, "2": .../16, "3": .../32}``;
    :attr:`out_channels` holds C0..C3.
    """

    def __init__(self, depth: int, norm: NormFactory) -> None:
        super().__init__()
        if depth not in LAYOUTS:
            raise ValueError(f"ResNet: expected depth in {sorted(LAYOUTS)}, got {depth}")
        bottleneck, blocks = LAYOUTS[depth]
        block = Bottleneck if bottleneck else BasicBlock
        self.out_channels = [width * block.expansion for width in STAGE_WIDTHS]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = (64, *self.out_channels[:3])
        self.layer1 = _stage(block, inputs[0], 64, blocks[0], 1, norm)
        self.layer2 = _stage(block, inputs[1], 128, blocks[1], 2, norm)
        self.layer3 = _stage(block, inputs[2], 256, blocks[2], 2, norm)
        self.layer4 = _stage(block, inputs[3], 512, blocks[3], 2, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = {}
        for name, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = stage(x)
            features[str(name)] = x
        return features


def _stage(
    block: type[BasicBlock | Bottleneck],
    in_channels: int,
    width: int,
    count: int,
    stride: int,
    norm: NormFactory,
) -> nn.Sequential:
    out_channels = width * block.expansion
    first = block(in_channels, width, stride, norm)
    return nn.Sequential(first, *(block(out_channels, width, 1, norm) for _ in range(count - 1)))


def freeze_all_but(body: nn.Module, trainable_layers: int) -> None:
    """Fix all parameters but those of the last ``trainable_layers`` of conv1, layer1 ... layer4; 5: none."""
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"trainable_backbone_layers: expected 0 to 5, got {trainable_layers}")
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in trained)
