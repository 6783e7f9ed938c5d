"""The training loop in one process: what a step does, what is written, what stops it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_toys import DESCRIPTION, ToyDataset, ToyDetector, toy_detector

from maskrcnn.checkpoint import CheckpointError
from maskrcnn.config import TrainingConfig
from maskrcnn.metrics import read_metrics
from maskrcnn.optim import learning_rate
from maskrcnn.run import NonFiniteError, step_seed
from maskrcnn.training import train

CONFIG = TrainingConfig(
    steps=6, batch_size=4, lr=0.05, warmup_steps=2, checkpoint_every=2, clip_grad_norm=1.0
)
TIMES = ("seconds", "data_seconds", "images_per_second")


def run(
    output: Path, config: TrainingConfig = CONFIG, model: nn.Module | None = None, **options: Any
) -> nn.Module:
    model = toy_detector() if model is None else model
    train(
        model, ToyDataset(), config, output, description=DESCRIPTION, device="cpu", progress=False, **options
    )
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    other = b.state_dict()
    return max((value - other[name]).abs().max().item() for name, value in a.state_dict().items())


def lines_without_times(output: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(output / "metrics.jsonl")]


def test_metrics_have_a_line_for_every_step(tmp_path: Path) -> None:
    run(tmp_path)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["lr"] for record in records] == [learning_rate(CONFIG, step) for step in range(6)]
    for record in records:
        assert set(record["losses"]) == {"loss_classifier", "loss_box_reg"}
        assert record["loss"] == pytest.approx(sum(record["losses"].values()))
        assert record["grad_norm"] > 0
        assert record["images_per_second"] == pytest.approx(4 / record["seconds"])
    assert records[-1]["loss"] < records[0]["loss"]


def test_first_step_is_clipped_sgd(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, steps=1, warmup_steps=0, momentum=0.0, weight_decay=0.0, clip_grad_norm=0.01
    )
    start = toy_detector()
    trained = run(tmp_path, config)
    moved = [(a - b).flatten() for a, b in zip(start.parameters(), trained.parameters(), strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(config.lr * 0.01, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_parts_equal_the_joint_batch(tmp_path: Path, optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, lr=0.05 if optimizer == "sgd" else 1e-3)
    joint = run(tmp_path / "joint", config)
    for parts in (2, 4):
        folder = tmp_path / str(parts)
        accumulated = run(folder, dataclasses.replace(config, accumulation=parts))
        assert largest_difference(joint, accumulated) < 1e-5
        for a, b in zip(lines_without_times(tmp_path / "joint"), lines_without_times(folder), strict=True):
            assert a["losses"] == pytest.approx(b["losses"], rel=1e-4)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulation": 2},
        {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "decay_norm_and_bias": False},
        {"precision": "bfloat16"},
        {"channels_last": True},
        {"ema_decay": 0.9},
        {"replacement": True, "milestones": (3,)},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_resumed_run_is_the_unbroken_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    unbroken = run(tmp_path / "unbroken", config, toy_detector("batch", dropout=0.5))
    broken = toy_detector("batch", dropout=0.5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", config, broken, loader=interrupted_after(5))
    torch.manual_seed(77)
    resumed = run(tmp_path / "broken", config, ToyDetector("batch", dropout=0.5))
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert lines_without_times(tmp_path / "unbroken") == lines_without_times(tmp_path / "broken")
    for file in ("model.safetensors", "config.json"):
        a, b = ((tmp_path / run / "step_00000006" / file).read_bytes() for run in ("unbroken", "broken"))
        assert a == b, file


def interrupted_after(steps: int) -> Any:
    from maskrcnn.data import training_loader

    def loader(*args: Any, **kwargs: Any) -> Any:
        for step, batch in enumerate(training_loader(*args, **kwargs)):
            if step == steps:
                raise KeyboardInterrupt
            yield batch

    return loader


def test_precision_and_layout_change_little(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")
    start = toy_detector()
    for field, value in (("precision", "bfloat16"), ("channels_last", True)):
        other = run(tmp_path / field, dataclasses.replace(CONFIG, **{field: value}))
        difference, travelled = largest_difference(plain, other), largest_difference(plain, start)
        assert difference < 0.2 * travelled, field
        assert (difference > 0) == (field == "precision") or field == "channels_last"
    layout = run(tmp_path / "layout", dataclasses.replace(CONFIG, channels_last=True)).body[3].weight
    assert layout.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precisions_by_device(tmp_path: Path, device: str, precision: str) -> None:
    config = dataclasses.replace(CONFIG, precision=precision, channels_last=True, steps=20)
    options = {"description": DESCRIPTION, "device": device, "progress": False}
    if (device, precision) == ("cpu", "float16"):
        with pytest.raises(ValueError, match=r"TrainingConfig\.precision: .* on cpu, got 'float16'"):
            train(toy_detector(), ToyDataset(), config, tmp_path, **options)
        return
    train(toy_detector(), ToyDataset(), dataclasses.replace(config, steps=10), tmp_path, **options)
    train(toy_detector(), ToyDataset(), config, tmp_path, **options)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 21))
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]


def test_moving_average_is_evaluated_and_saved(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def validation(model: nn.Module) -> dict[str, float]:
        assert not model.training
        seen.append(weights(model))
        return {"bbox/AP": 0.5}

    config = dataclasses.replace(CONFIG, ema_decay=0.9)
    model = run(tmp_path, config, validation=validation)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "step_00000006" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in seen[-1].items())
    assert not torch.equal(saved["classify.weight"], model.state_dict()["classify.weight"])


def test_evaluation_is_periodic_and_logged(tmp_path: Path) -> None:
    calls: list[int] = []

    def validation(model: nn.Module) -> dict[str, float]:
        torch.rand(5)  # what an evaluation draws is no matter to the training
        calls.append(1)
        return {"segm/AP": 0.25}

    evaluated = run(tmp_path / "a", dataclasses.replace(CONFIG, evaluate_every=4), validation=validation)
    records = [r for r in read_metrics(tmp_path / "a" / "metrics.jsonl") if "evaluation" in r]
    assert records == [
        {"step": 4, "evaluation": {"segm/AP": 0.25}},
        {"step": 6, "evaluation": {"segm/AP": 0.25}},
    ]
    assert evaluated.training
    assert largest_difference(evaluated, run(tmp_path / "b")) == 0
    run(tmp_path / "a", dataclasses.replace(CONFIG, evaluate_every=4), validation=validation)
    assert len(calls) == 2  # a finished run evaluates nothing again


def test_evaluation_that_a_crash_prevented_is_made_up(tmp_path: Path) -> None:
    def crash(model: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    config = dataclasses.replace(CONFIG, evaluate_every=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, validation=crash)
    run(tmp_path, config, validation=lambda model: {"AP": 1.0})
    steps = [(r["step"], "evaluation" in r) for r in read_metrics(tmp_path / "metrics.jsonl")]
    expected = [(1, False), (2, False), (3, False), (4, False), (4, True), (5, False), (6, False), (6, True)]
    assert steps == expected


class Poisoned(ToyDetector):
    """Gives a loss that is not finite, or a gradient that is not, for the image with this id."""

    image_id, value = 107, math.nan

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]]) -> dict[str, Tensor]:
        losses = super().forward(images, targets)
        if any(target["image_id"] == self.image_id for target in targets):
            losses["loss_box_reg"] = self.spoil(losses["loss_box_reg"])
        return losses

    def spoil(self, loss: Tensor) -> Tensor:
        return loss * self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_with_the_images(tmp_path: Path, value: float) -> None:
    model = Poisoned()
    model.value = value
    with pytest.raises(NonFiniteError) as error:
        run(tmp_path, model=model)
    text = str(error.value)
    assert "107" in text
    assert f"loss_box_reg {value:g}" in text
    assert "loss_classifier" in text
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == int(text.split()[1].rstrip(":")) - 1
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


class PoisonedGradient(Poisoned):
    def spoil(self, loss: Tensor) -> Tensor:
        zero = self.classify.weight.sum() * 0
        return loss + torch.sqrt(zero) * 0  # value 0, gradient NaN


@pytest.mark.parametrize("every", [1, 6])
def test_gradient_that_is_not_finite_stops_with_the_images(tmp_path: Path, every: int) -> None:
    with pytest.raises(NonFiniteError, match=r"gradient's norm is nan; images \[.*107.*\]"):
        run(tmp_path, dataclasses.replace(CONFIG, checkpoint_every=every), PoisonedGradient())


def test_seeds_differ_by_step_part_and_rank() -> None:
    seeds = {step_seed(0, step, part, rank) for step in range(20) for part in range(3) for rank in range(3)}
    assert len(seeds) == 180
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_batch_must_divide(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size: expected a multiple of accumulation \(3\), got 4"):
        dataclasses.replace(CONFIG, accumulation=3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lr": 0.01}, "lr: 0.05 -> 0.01"),
        ({"batch_size": 2, "accumulation": 2}, "batch_size: 4 -> 2, accumulation: 1 -> 2"),
        ({"steps": 1}, "steps: 6 are done -> 1"),
    ],
)
def test_resuming_another_run_names_what_differs(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match="of another run") as error:
        run(tmp_path, dataclasses.replace(CONFIG, **changes))
    assert named in str(error.value)


def test_resuming_on_another_data_set_or_model_is_an_error(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match="data set"):
        train(
            toy_detector(),
            ToyDataset(7),
            CONFIG,
            tmp_path,
            description=DESCRIPTION,
            device="cpu",
            progress=False,
        )
    other = dataclasses.replace(DESCRIPTION, kwargs={"num_classes": 9})
    with pytest.raises(CheckpointError, match="model"):
        train(toy_detector(), ToyDataset(), CONFIG, tmp_path, description=other, device="cpu", progress=False)


def test_run_can_be_made_longer(tmp_path: Path) -> None:
    long = dataclasses.replace(CONFIG, steps=9)
    unbroken = run(tmp_path / "unbroken", long)
    run(tmp_path / "extended")
    assert largest_difference(unbroken, run(tmp_path / "extended", long)) == 0


def test_without_resume_nothing_is_overwritten(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match="holds checkpoints already"):
        run(tmp_path, resume=False)


def test_tensorboard_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert purge_step == 1

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run(tmp_path, dataclasses.replace(CONFIG, tensorboard=True))
    records = read_metrics(tmp_path / "metrics.jsonl")
    for record in records:
        assert ("losses/loss_classifier", record["losses"]["loss_classifier"], record["step"]) in written
    assert written[-1][0] == "closed"


def test_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        run(tmp_path, dataclasses.replace(CONFIG, tensorboard=True))


def test_read_metrics_drops_a_torn_line_and_names_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_progress_bar_shows_losses_rate_and_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(toy_detector(), ToyDataset(), CONFIG, tmp_path, description=DESCRIPTION, device="cpu")
    shown = capsys.readouterr().err
    for text in ("6/6", "classifier", "box_reg", "lr ", "img/s"):
        assert text in shown
