"""One step of a detector in training, and its detections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def train_step(model: nn.Module, images: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
    """One seeded forward and backward; losses and gradients must be finite."""
    torch.manual_seed(5)
    losses: dict[str, Tensor] = model.train()(images, targets)
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
