"""Normalisation layers of the backbone and the factory that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]

NORMS = ("batch", "frozen", "group", "sync")
GROUPS = 32  # group normalisation: 32 groups (Wu and He, 2018)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics and affine terms are constants.

    ``y = (x - running_mean) / sqrt(running_var + eps) * weight + bias``; the four vectors of ``num_features``
    elements are float32 buffers, so no optimizer sees them. Gradients flow to ``x`` only.

    Equivalent to: ``F.batch_norm(x, running_mean, running_var, weight, bias, training=False, eps=eps)``

    Args:
        num_features: channels C of the input ``[N, C, H, W]``.
        eps: added to the variance; 0 for weights that were published with it folded in.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A batch norm counts its batches; frozen statistics have no use for the count.
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


def norm_factory(norm: str, eps: float = 1e-5) -> NormFactory:
    """Return the constructor ``channels -> layer`` of a normalisation.

    ``"batch"``, ``"frozen"`` (:class:`FrozenBatchNorm2d`), ``"group"``, or ``"sync"``: batch norm over all
    processes of a distributed run, which trains on GPUs only.

    Raises:
        ValueError: another name.
    """
    if norm == "batch":
        return lambda channels: nn.BatchNorm2d(channels, eps=eps)
    if norm == "frozen":
        return lambda channels: FrozenBatchNorm2d(channels, eps=eps)
    if norm == "group":
        return lambda channels: nn.GroupNorm(GROUPS, channels, eps=eps)
    if norm == "sync":
        return lambda channels: nn.SyncBatchNorm(channels, eps=eps)
    raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
