"""Feature pyramid network (Lin et al., 2016), and the backbones that end in one or in a single map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.models.norm import NormFactory
from maskrcnn.models.resnet import ResNet


class FeaturePyramidNetwork(nn.Module):
    """Laterals (1x1), top-down sums (nearest neighbour), output convolutions (3x3), a subsampled last level.

    Args:
        in_channels_list: channels of the input maps, finest first.
        out_channels: channels of every output map.
        norm: constructor of the normalisation after each convolution; None: none, and biases instead.
        extra_level: give ``"pool"`` as well.

    ``forward`` takes ``{name: [N, C, H, W]}``, finest first, and returns the same names and sizes with
    ``out_channels`` channels, and ``"pool"``: the coarsest output with every second row and column.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        norm: NormFactory | None = None,
        *,
        extra_level: bool = True,
    ) -> None:
        super().__init__()
        self.extra_level = extra_level

        def conv(channels: int, size: int) -> nn.Sequential:
            # A Sequential even of one: the parameter names in circulation are inner_blocks.0.0.weight and so on.
            layer = nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=norm is None)
            return nn.Sequential(layer) if norm is None else nn.Sequential(layer, norm(out_channels))

        self.inner_blocks = nn.ModuleList(conv(channels, 1) for channels in in_channels_list)
        self.layer_blocks = nn.ModuleList(conv(out_channels, 3) for _ in in_channels_list)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        maps = list(features.values())
        if len(maps) != len(self.inner_blocks):
            raise ValueError(f"fpn: expected {len(self.inner_blocks)} feature maps, got {len(maps)}")
        top = self.inner_blocks[-1](maps[-1])
        outputs = [self.layer_blocks[-1](top)]
        for level in reversed(range(len(maps) - 1)):
            lateral = self.inner_blocks[level](maps[level])
            top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            outputs.append(self.layer_blocks[level](top))
        result = dict(zip(features, reversed(outputs), strict=True))
        if self.extra_level:
            result["pool"] = outputs[0][:, :, ::2, ::2]
        return result


class CoarsePyramid(FeaturePyramidNetwork):
    """A pyramid from the second map on, with two coarser levels in the place of the subsampled one.

    Of a ResNet's four maps it makes P3 to P7, strides 8 to 128: P6 and P7 by 3x3 convolutions of stride 2,
    from P5 and P6 (YOLACT, Bolya et al., 2019). The levels are called ``"1"`` to ``"3"``, ``"p6"``, ``"p7"``.

    Args:
        in_channels_list: channels of all input maps, finest first; the first is left out.
        out_channels, norm: see :class:`FeaturePyramidNetwork`; the coarse levels are not normalised.
    """

    def __init__(
        self, in_channels_list: list[int], out_channels: int, norm: NormFactory | None = None
    ) -> None:
        super().__init__(in_channels_list[1:], out_channels, norm, extra_level=False)
        self.p6 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for layer in (self.p6, self.p7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        result = super().forward(dict(list(features.items())[1:]))
        result["p6"] = self.p6(list(result.values())[-1])
        result["p7"] = self.p7(result["p6"])
        return result


class BackboneWithFPN(nn.Module):
    """A body that returns named maps, followed by a pyramid.

    Args:
        body: module giving ``{name: [N, C, H, W]}``.
        fpn: module that maps this dictionary to the pyramid's.
        out_channels: channels of every pyramid level; the detectors read it.
    """

    def __init__(self, body: nn.Module, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


class BackboneWithOneMap(nn.Module):
    """The last map of a body alone.

    Args:
        body: module giving ``{name: [N, C, H, W]}``, finest first, with ``out_channels``, one number per map.

    ``forward`` returns this one map under its name in the body.
    """

    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body = body
        self.out_channels = body.out_channels[-1]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        name, last = list(self.body(x).items())[-1]
        return {name: last}
