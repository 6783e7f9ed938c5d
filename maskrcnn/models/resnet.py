"""ResNet and ResNeXt bodies (He et al., 2015; Xie et al., 2016): the convolutional part, giving the maps of its
four stages.

Parameter names are torchvision's (``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.downsample.0`` ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from maskrcnn.models.norm import NormFactory

# depth -> (bottleneck blocks?, blocks of each stage)
LAYOUTS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
STAGE_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Body:
    """A ResNet by its numbers: layers, and for ResNeXt the groups of the 3x3 convolutions and their width."""

    depth: int
    groups: int = 1
    width_per_group: int = 64


BODIES = {
    "resnet18": Body(18),
    "resnet34": Body(34),
    "resnet50": Body(50),
    "resnet101": Body(101),
    "resnet152": Body(152),
    "resnext50_32x4d": Body(50, 32, 4),
    "resnext101_32x8d": Body(101, 32, 8),
    "resnext101_64x4d": Body(101, 64, 4),
}


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        out_channels,
        size,
        stride,
        padding=dilation * (size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int = 1, *, norm: NormFactory
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride, dilation=dilation)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3, dilation=dilation)
        self.bn2 = norm(width)
        self.downsample = _shortcut(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution, 1x1 expansion by four, and the identity.

    The 3x3 convolution carries the stride, as torchvision's weights expect; ``stride_in_1x1`` moves it to the
    reduction, as in the original network and its weights (Detectron's, MSRA's).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: int = 1,
        *,
        norm: NormFactory,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        out_channels = width * self.expansion
        inner = width * width_per_group // 64 * groups
        self.conv1 = _conv(in_channels, inner, 1, stride if stride_in_1x1 else 1)
        self.bn1 = norm(inner)
        self.conv2 = _conv(inner, inner, 3, 1 if stride_in_1x1 else stride, groups, dilation)
        self.bn2 = norm(inner)
        self.conv3 = _conv(inner, out_channels, 1)
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
    """A ResNet or ResNeXt without its classifier.

    Args:
        body: a name of :data:`BODIES`, or a :class:`Body`.
        norm: constructor of the normalisation layers.
        stride_in_1x1: see :class:`Bottleneck`.
        dilated: the last stage keeps stride 16 and dilates its 3x3 convolutions by 2 instead ("DC5").
        stages: how many of the four; 3 for "C4", whose last stage is a :class:`Res5Head`.

    Returns from ``forward``: ``{"0": [N, C0, H/4, W/4], "1": .../8, "2": .../16, "3": .../32}`` (dilated:
    .../16 twice) of as many stages; :attr:`out_channels` holds C0..C3.
    """

    def __init__(
        self,
        body: str | Body,
        norm: NormFactory,
        *,
        stride_in_1x1: bool = False,
        dilated: bool = False,
        stages: int = 4,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        strides, dilations = [1, 2, 2, 1 if dilated else 2], [1, 1, 1, 2 if dilated else 1]
        all_stages = list(zip(_stages(body, norm, stride_in_1x1), strides, dilations, strict=True))
        for number, (stage, stride, dilation) in enumerate(all_stages[:stages], start=1):
            self.add_module(f"layer{number}", stage(stride, dilation))
        self.out_channels = [stage.out_channels for stage, _, _ in all_stages[:stages]]
        _initialise(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = {}
        for level in range(len(self.out_channels)):
            x = self.get_submodule(f"layer{level + 1}")(x)
            features[str(level)] = x
        return features


class Res5Head(nn.Module):
    """The last stage of a ResNet on the features of each region: ``[R, C2, P, P] -> [R, C3, P/s, P/s]`` ("C4").

    Args:
        body, norm, stride_in_1x1: as for :class:`ResNet`; ``layer4`` keeps its name.
        stride: s; 1 as the paper has it on regions of 7 x 7, 2 as its implementations do on 14 x 14.
        width: channels of the 3x3 convolutions; by default the body's.
    """

    def __init__(
        self,
        body: str | Body,
        norm: NormFactory,
        *,
        stride_in_1x1: bool = False,
        stride: int = 1,
        width: int | None = None,
    ) -> None:
        super().__init__()
        stage = _stages(body, norm, stride_in_1x1)[3]
        if width is not None:
            stage = stage.of_width(width)
        self.layer4 = stage(stride, 1)
        self.out_channels = stage.out_channels
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x)


@dataclass(frozen=True)
class _Stage:
    """Makes one stage once its stride and dilation are known."""

    block: Callable[..., nn.Module]
    in_channels: int
    width: int
    out_channels: int
    count: int

    def of_width(self, width: int) -> _Stage:
        """The same stage with other widths; what it takes stays."""
        return replace(self, width=width, out_channels=width * self.out_channels // self.width)

    def __call__(self, stride: int, dilation: int) -> nn.Sequential:
        first = self.block(self.in_channels, self.width, stride, dilation)
        others = (self.block(self.out_channels, self.width, 1, dilation) for _ in range(self.count - 1))
        return nn.Sequential(first, *others)


def _stages(body: str | Body, norm: NormFactory, stride_in_1x1: bool) -> list[_Stage]:
    if isinstance(body, str):
        if body not in BODIES:
            raise ValueError(f"ResNet: expected body in {sorted(BODIES)}, got {body!r}")
        body = BODIES[body]
    bottleneck, blocks = LAYOUTS[body.depth]
    block: Callable[..., nn.Module] = partial(BasicBlock, norm=norm)
    if bottleneck:
        block = partial(
            Bottleneck,
            norm=norm,
            groups=body.groups,
            width_per_group=body.width_per_group,
            stride_in_1x1=stride_in_1x1,
        )
    expansion = Bottleneck.expansion if bottleneck else BasicBlock.expansion
    outputs = [width * expansion for width in STAGE_WIDTHS]
    shapes = zip([64, *outputs[:3]], STAGE_WIDTHS, outputs, blocks, strict=True)
    return [_Stage(block, *shape) for shape in shapes]


def _initialise(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, mode="fan_out", nonlinearity="relu")


def freeze_all_but(body: nn.Module, trainable_layers: int) -> None:
    """Fix all parameters but those of the last ``trainable_layers`` of conv1, layer1 ... layer4; 5: none."""
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"trainable_backbone_layers: expected 0 to 5, got {trainable_layers}")
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        trained.append("bn1")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in trained)
