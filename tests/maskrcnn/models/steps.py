"""One step of a detector in training, and its detections."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def train_step(model: nn.Module, images: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
    """One seeded forward and backward; losses and gradients must be finite, the arguments stay as they were."""
    before = copy.deepcopy((images, targets))
    torch.manual_seed(5)
    losses: dict[str, Tensor] = model.train()(images, targets)
    assert all(torch.equal(old, new) for old, new in zip(before[0], images, strict=True))
    for old, new in zip(before[1], targets, strict=True):
        assert old.keys() == new.keys()
        kept = [torch.equal(old[key], new[key]) for key in old if isinstance(old[key], Tensor)]
        assert all(kept), "the caller's targets were changed"
    torch.stack(list(losses.values())).sum().backward()
    for name, loss in losses.items():
        assert loss.shape == ()
        assert torch.isfinite(loss), name
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient: plain DDP would wait for it"
        assert torch.isfinite(parameter.grad).all(), name
    return losses


@torch.no_grad()
def detect(model: nn.Module, images: list[Tensor]) -> list[dict[str, Any]]:
    """What the model finds in evaluation mode."""
    found = model.eval()(images)
    assert isinstance(found, list)
    return found
