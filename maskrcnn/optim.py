"""Optimisers, learning-rate schedules, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from maskrcnn.config import TrainingConfig

_NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of update number ``step`` (counted from 0): a pure function, so nothing to save.

    The schedule is multiplied by the warm-up: linear from ``warmup_factor`` at step 0 to 1 at
    ``warmup_steps``. Milestones count from the start of the run, warm-up included.
    """
    return config.lr * _warmup(config, step) * _decay(config, step)


def _warmup(config: TrainingConfig, step: int) -> float:
    if step >= config.warmup_steps:
        return 1.0
    done = step / config.warmup_steps
    return config.warmup_factor * (1 - done) + done


def _decay(config: TrainingConfig, step: int) -> float:
    if config.schedule == "step":
        return config.gamma ** sum(step >= milestone for milestone in config.milestones)
    if config.schedule == "cosine":
        end = config.final_lr / config.lr
        done = min(step / config.steps, 1.0)
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that require gradients, in the model's order.

    With ``decay_norm_and_bias=False`` the parameters of normalisation layers and all biases are a second
    group without weight decay. Raises ``ValueError`` if the model has nothing to train.
    """
    groups = parameter_groups(model, config)
    # None leaves the choice to torch, which on a CPU takes the slowest: one operation and one tensor after another.
    fused = True if all(p.device.type == "cpu" for p in model.parameters()) else None
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, object]]:
    """Trainable parameters by weight decay: one group, or two with ``decay_norm_and_bias=False``."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter, is_norm_or_bias in _trainable(model):
        (plain if is_norm_or_bias and not config.decay_norm_and_bias else decayed).append(parameter)
    if not decayed and not plain:
        raise ValueError("build_optimizer: expected a model with trainable parameters, got none")
    groups = [(decayed, config.weight_decay), (plain, 0.0)]
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters]


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter, name == "bias" or isinstance(module, _NORMALISATION)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class WeightAverage:
    """Exponential moving average of a model's parameters and floating-point buffers.

    average <- d * average + (1 - d) * weights, with d = min(decay, (1 + step) / (10 + step)), so that the
    first updates are not dominated by the random start. Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after update number ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up saved averages of the same model."""
        for name, value in self.state.items():
            value.copy_(state[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averages into the model for the time of a ``with`` block."""
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(weights)
