"""Bodies: strides, dilation, names of the options. Their values are compared with torchvision's in tests/parity."""

from __future__ import annotations

import pytest
import torch

from maskrcnn.models.norm import norm_factory
from maskrcnn.models.resnet import ResNet


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_dilated_body_keeps_stride_16(stride_in_1x1: bool) -> None:
    body = ResNet("resnet50", norm_factory("frozen"), stride_in_1x1=stride_in_1x1, dilated=True).eval()
    plain = ResNet("resnet50", norm_factory("frozen"), stride_in_1x1=stride_in_1x1).eval()
    body.load_state_dict(plain.state_dict(), strict=True)  # neither option changes a weight
    x = torch.randn(1, 3, 64, 96)
    assert [list(m.shape[2:]) for m in plain(x).values()] == [[16, 24], [8, 12], [4, 6], [2, 3]]
    assert [list(m.shape[2:]) for m in body(x).values()] == [[16, 24], [8, 12], [4, 6], [4, 6]]
    strides = [block.conv1.stride for block in (plain.layer2[0], plain.layer3[0])]
    assert strides == [((2, 2) if stride_in_1x1 else (1, 1))] * 2
    assert {block.conv2.dilation for block in body.layer4} == {(2, 2)}
