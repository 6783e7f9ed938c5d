"""The recipe: configuration, learning rates, optimisers, moving average."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from maskrcnn.config import TrainingConfig, changed_fields
from maskrcnn.optim import WeightAverage, build_optimizer, learning_rate, set_learning_rate


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("batch_size", True),
        ("accumulation", 3),  # batch_size 4 is no multiple
        ("seed", -1),
        ("optimizer", "adam"),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", "0.1"),
        ("momentum", 1.0),
        ("betas", (0.9,)),
        ("weight_decay", -1e-4),
        ("decay_norm_and_bias", 1),
        ("schedule", "linear"),
        ("milestones", (5, 5)),
        ("milestones", (0.5,)),
        ("gamma", 0.0),
        ("warmup_steps", -1),
        ("warmup_factor", 2.0),
        ("clip_grad_norm", 0.0),
        ("precision", "fp16"),
        ("ema_decay", 1.0),
        ("flip", 1.1),
        ("keep_last", 0),
    ],
)
def test_config_names_the_bad_field(field: str, value: object) -> None:
    named = "batch_size" if field == "accumulation" else field
    with pytest.raises(ValueError, match=rf"TrainingConfig\.{named}: expected .*, got"):
        TrainingConfig(**{field: value})  # type: ignore[arg-type]


def test_config_survives_json_and_refuses_unknown_fields() -> None:
    config = TrainingConfig(milestones=(3, 5), clip_grad_norm=10.0, betas=(0.8, 0.99))
    assert TrainingConfig.from_dict(config.as_dict()) == config
    with pytest.raises(ValueError, match=r"unknown fields.*learning_rate"):
        TrainingConfig.from_dict({"learning_rate": 1.0})


def test_changed_fields_ignores_what_leaves_the_weights_alone() -> None:
    config = TrainingConfig(steps=10)
    watched = dataclasses.replace(config, steps=20, num_workers=4, checkpoint_every=7, keep_last=9)
    assert changed_fields(config, watched) == []
    assert changed_fields(config, dataclasses.replace(config, lr=0.01)) == ["lr: 0.02 -> 0.01"]


def test_steps_matter_to_the_cosine_schedule() -> None:
    config = TrainingConfig(steps=10, schedule="cosine")
    assert changed_fields(config, dataclasses.replace(config, steps=20)) == ["steps: 10 -> 20"]


def test_step_schedule_with_warmup() -> None:
    config = TrainingConfig(lr=0.02, warmup_steps=100, warmup_factor=0.001, milestones=(560, 720), gamma=0.1)
    expected = {0: 2e-5, 50: 0.02 * 0.5005, 100: 0.02, 559: 0.02, 560: 2e-3, 719: 2e-3, 720: 2e-4, 799: 2e-4}
    assert {step: learning_rate(config, step) for step in expected} == pytest.approx(expected)


def test_cosine_schedule() -> None:
    config = TrainingConfig(steps=100, lr=0.1, final_lr=0.01, warmup_steps=0, schedule="cosine")
    values = [learning_rate(config, step) for step in (0, 50, 100)]
    assert values == pytest.approx([0.1, 0.055, 0.01])


def test_constant_schedule() -> None:
    config = TrainingConfig(lr=0.1, warmup_steps=10, warmup_factor=0.5, schedule="constant")
    assert [learning_rate(config, step) for step in (0, 5, 10, 700)] == pytest.approx([0.05, 0.075, 0.1, 0.1])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norm_and_bias_decay_is_an_option(optimizer: str) -> None:
    model = Small()
    (together,) = build_optimizer(model, TrainingConfig(optimizer=optimizer, weight_decay=0.5)).param_groups
    assert len(together["params"]) == 6
    config = TrainingConfig(optimizer=optimizer, weight_decay=0.5, decay_norm_and_bias=False)
    decayed, plain = build_optimizer(model, config).param_groups
    assert [p is model.conv.weight for p in decayed["params"]] == [True]
    assert (decayed["weight_decay"], plain["weight_decay"], len(plain["params"])) == (0.5, 0.0, 5)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="trainable parameters"):
        build_optimizer(Small().requires_grad_(False), TrainingConfig())


def test_sgd_step_is_the_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    weight = layer.weight.item()
    optimizer = build_optimizer(layer, TrainingConfig(momentum=0.9, weight_decay=0.1))
    set_learning_rate(optimizer, 0.5)
    velocity = 0.0
    for gradient in (2.0, -1.0):
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.1 * weight
        weight -= 0.5 * velocity
    assert layer.weight.item() == pytest.approx(weight, rel=1e-6)


def test_weight_average_by_hand() -> None:
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.num_batches_tracked.fill_(7)
    average.update(model, step=0)  # decay min(0.5, 1/10)
    assert average.state["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 3)
    average.update(model, step=100)
    assert average.state["weight"].item() == pytest.approx(0.5 * 2.8 + 0.5 * 3)
    assert average.state["num_batches_tracked"].item() == 7
    with average.applied(model):
        assert model.weight.item() == pytest.approx(2.9)
    assert model.weight.item() == 3.0
