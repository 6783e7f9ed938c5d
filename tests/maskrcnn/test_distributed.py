"""Two gloo processes under torchrun do what one process does on the joint batch."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_toys import DESCRIPTION, ToyDataset, ToyDetector, toy_detector
from training_worker import small_detector

from maskrcnn import distributed
from maskrcnn.checkpoint import CheckpointError
from maskrcnn.config import TrainingConfig
from maskrcnn.data import ShapesDataset
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.metrics import read_metrics
from maskrcnn.run import NonFiniteError
from maskrcnn.training import train

WORKER = Path(__file__).with_name("training_worker.py")
CONFIG = TrainingConfig(
    steps=4, batch_size=4, lr=0.01, warmup_steps=2, clip_grad_norm=1.0, checkpoint_every=2, ema_decay=0.9
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def train_small(output: Path, config: TrainingConfig, launcher: list[str]) -> None:
    """``samples`` exceeds the anchors of an image (256), so nothing depends on how random choices fall."""
    options = {"config": config.as_dict(), "samples": 1200, "ballast": 0}
    command = [sys.executable, *launcher, os.fspath(WORKER), os.fspath(output), json.dumps(options)]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joint_batch(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_small(one, CONFIG, [])
    train_small(two, dataclasses.replace(CONFIG, steps=2), TORCHRUN)
    train_small(two, CONFIG, TORCHRUN)  # goes on from step 2
    records = [read_metrics(output / "metrics.jsonl") for output in (one, two)]
    assert [r["step"] for r in records[1]] == [1, 2, 3, 4]
    for a, b in zip(*records, strict=True):
        assert len(a["losses"]) == 5
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    weights = [load_file(output / "step_00000004" / "model.safetensors") for output in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


class PoisonedDetector(ToyDetector):
    def forward(self, images: list[torch.Tensor], targets: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        losses = super().forward(images, targets)
        if any(target["image_id"] == 103 for target in targets):
            losses["loss_box_reg"] = losses["loss_box_reg"] * torch.nan
        return losses


def process(rank: int, port: int, folder: Path) -> None:
    """One of two processes: trains toys, and writes what it saw for the test to read."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    seen: dict[str, Any] = {}
    with distributed.process_group(torch.device("cpu")):
        seen["world"] = [distributed.rank(), distributed.world_size()]
        seen["mean"] = distributed.mean_across_processes(torch.tensor([1.0 + rank, 5.0])).tolist()
        seen["gathered"] = distributed.gather_objects({"rank": rank})
        for accumulation in (1, 2):
            config = dataclasses.replace(CONFIG, accumulation=accumulation, evaluate_every=2)
            model = toy_detector()
            toy_train(model, config, folder / f"parts{accumulation}", lambda model: {"AP": 0.5})
            seen[f"weights{accumulation}"] = torch.cat([p.flatten() for p in model.parameters()]).tolist()
        seen["empty"] = train_on_mostly_empty_images(folder / "empty")
        for name, steps, detector in (("other", 9, ToyDetector()), ("poisoned", 4, PoisonedDetector())):
            config = dataclasses.replace(CONFIG, steps=steps, schedule="constant")
            output = folder / ("parts1" if name == "other" else name)
            try:
                toy_train(detector, config, output)
            except (CheckpointError, NonFiniteError) as error:
                seen[name] = f"{type(error).__name__}: {error}"
    seen["left"] = not distributed.is_initialized()
    seen["threads"] = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    (folder / f"rank{rank}.json").write_text(json.dumps(seen))


class MostlyEmpty(ShapesDataset):
    """Only the first image has objects, so one of two processes trains on empty images alone."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        image, target = super().__getitem__(index)
        if index > 0:
            target = {k: v[:0] if isinstance(v, torch.Tensor) else v for k, v in target.items()}
            target["masks"] = EncodedMasks.of([], (image.shape[-2], image.shape[-1]))
        return image, target


def train_on_mostly_empty_images(output: Path) -> list[str]:
    """Every process must reach all parameters, whatever its images hold. Returns those that did not move."""
    torch.manual_seed(0)
    model = small_detector(samples=16)
    before = {name: value.clone() for name, value in model.named_parameters()}
    config = dataclasses.replace(CONFIG, steps=3, accumulation=2)
    dataset = MostlyEmpty(4, size=64)
    train(model, dataset, config, output, description=DESCRIPTION, device="cpu", progress=False)
    return [name for name, value in model.named_parameters() if torch.equal(value, before[name])]


def toy_train(model: torch.nn.Module, config: TrainingConfig, output: Path, validation: Any = None) -> None:
    options: dict[str, Any] = {"device": "cpu", "progress": False, "validation": validation}
    train(model, ToyDataset(), config, output, description=DESCRIPTION, **options)


@pytest.mark.slow
def test_toys_in_two_processes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=process, args=(rank, port, tmp_path)) for rank in range(2)]
    for worker in processes:
        worker.start()
    for worker in processes:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]

    for rank in range(2):
        assert seen[rank]["world"] == [rank, 2]
        assert seen[rank]["mean"] == [1.5, 5.0]
        assert seen[rank]["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert seen[rank]["left"]
        assert not [name for name in seen[rank]["threads"] if "gloo" in name], (
            "they could abort the process at its end"
        )
        assert seen[rank]["empty"] == []
        assert "CheckpointError: cannot resume" in seen[rank]["other"]
        assert "NonFiniteError: step" in seen[rank]["poisoned"]
        assert "103" in seen[rank]["poisoned"]
        assert "loss_box_reg nan" in seen[rank]["poisoned"]
    assert seen[0]["poisoned"] == seen[1]["poisoned"]
    assert seen[0]["poisoned"].count("rank") == 1  # only the one that has the image
    assert [path.name for path in (tmp_path / "poisoned").glob("step_*")] == []

    alone = toy_detector()
    toy_train(alone, CONFIG, tmp_path / "alone")
    joint = torch.cat([p.flatten() for p in alone.parameters()])
    for accumulation in (1, 2):
        weights = [torch.tensor(seen[rank][f"weights{accumulation}"]) for rank in range(2)]
        assert torch.equal(weights[0], weights[1])
        torch.testing.assert_close(weights[0], joint, rtol=1e-4, atol=1e-6)
        records = read_metrics(tmp_path / f"parts{accumulation}" / "metrics.jsonl")
        assert [(r["step"], "evaluation" in r) for r in records] == [
            (1, False),
            (2, False),
            (2, True),
            (3, False),
            (4, False),
            (4, True),
        ]


def test_one_process_outside_torchrun() -> None:
    with distributed.process_group(torch.device("cpu")):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
    value = torch.tensor(2.0)
    assert distributed.mean_across_processes(value) is value
    assert distributed.gather_objects(3) == [3]
    assert distributed.default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_resuming_with_another_number_of_processes_is_an_error(tmp_path: Path) -> None:
    toy_train(toy_detector(), CONFIG, tmp_path)
    state = torch.load(tmp_path / "step_00000004" / "training.pt", weights_only=True)
    torch.save({**state, "world_size": 2}, tmp_path / "step_00000004" / "training.pt")
    with pytest.raises(CheckpointError, match="processes: 2 -> 1"):
        toy_train(toy_detector(), CONFIG, tmp_path)
