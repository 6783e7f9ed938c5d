"""Norms folded into convolutions: the same maps, no norm left, the model untouched."""

import pytest
import torch
from torch import nn

from maskrcnn.models.folding import CONSTANT_NORMS, fold_norms
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.resnet import ResNet


@torch.no_grad()
def unlike_identity(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, CONSTANT_NORMS):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-1, 1)
    return model


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_folded_body_gives_the_same_maps(depth, norm):
    torch.manual_seed(0)
    body = unlike_identity(ResNet(f"resnet{depth}", norm_factory(norm, eps=1e-3))).double().train()
    before = {name: value.clone() for name, value in body.state_dict().items()}
    folded = fold_norms(body)
    assert body.training
    assert not folded.training
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    assert not any(isinstance(module, CONSTANT_NORMS) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for map, expected in zip(folded(x).values(), body.eval()(x).values(), strict=True):
        torch.testing.assert_close(map, expected, rtol=1e-9, atol=1e-9)


def test_what_is_not_constant_or_does_not_follow_stays():
    body = ResNet("resnet18", norm_factory("group"))
    folded = fold_norms(body)
    assert sum(isinstance(module, nn.GroupNorm) for module in folded.modules()) == 20
    apart = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3))
    assert isinstance(fold_norms(apart)[2], nn.BatchNorm2d)
