"""Training killed by SIGKILL again and again ends with the weights of an unbroken run, bit for bit.

``MASKRCNN_KILLS=20 pytest -rP tests/maskrcnn/test_resume.py`` kills 20 times and prints where they landed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maskrcnn.config import TrainingConfig
from maskrcnn.metrics import read_metrics
from maskrcnn.output_folder import list_checkpoints

KILLS = int(os.environ.get("MASKRCNN_KILLS", "4"))
WORKER = Path(__file__).with_name("training_worker.py")
CONFIG = TrainingConfig(
    steps=4 * KILLS + 8,  # more than the lives between kills can do
    batch_size=2,
    accumulation=2,
    lr=0.01,
    warmup_steps=4,
    milestones=(2 * KILLS,),
    clip_grad_norm=10.0,
    checkpoint_every=3,  # with 2 of 7 images a step, checkpoints lie within epochs
    ema_decay=0.99,
)
# What each kill waits for: a file that appears in a checkpoint being written, or (None) a random step.
AIMS = ("model.safetensors", None, "training.pt", None, "", None, "config.json", None)
TIMES = ("seconds", "data_seconds", "images_per_second")


@pytest.mark.slow
def test_killed_training_ends_like_an_unbroken_run(tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert start(unbroken).wait(timeout=600) == 0
    rng = random.Random(0)
    landed = []
    for number in range(KILLS):
        landed.append(live_and_die(killed, rng, AIMS[number % len(AIMS)]))
        print(f"kill {number + 1:2d}: {landed[-1]}; newest checkpoint {newest_step(killed)}")
    inside = sum(place.startswith("inside") for place in landed)
    print(f"{inside} of {KILLS} kills landed inside the writing of a checkpoint")
    assert inside >= KILLS // 4
    assert start(killed).wait(timeout=600) == 0

    assert final_state(killed).keys() == final_state(unbroken).keys()
    for name, value in final_state(unbroken).items():
        assert torch.equal(value, final_state(killed)[name]), name
    assert lines_without_times(killed) == lines_without_times(unbroken)
    assert [record["step"] for record in lines_without_times(killed)] == list(range(1, CONFIG.steps + 1))
    assert sorted(os.listdir(killed)) == sorted(os.listdir(unbroken))


def start(output: Path) -> subprocess.Popen[bytes]:
    options = {"config": CONFIG.as_dict(), "samples": 24, "ballast": 5_000_000}
    return subprocess.Popen([sys.executable, os.fspath(WORKER), os.fspath(output), json.dumps(options)])


def live_and_die(output: Path, rng: random.Random, aim: str | None) -> str:
    """Start a process, kill it at a random moment; returns where that was, by what it left in the folder."""
    old = metrics_inode(output)
    process = start(output)
    try:
        # It replaces metrics.jsonl after it has cleaned up what the killed process before it left.
        wait_until(process, lambda: metrics_inode(output) not in (None, old))
        if aim is not None:
            wait_until(process, lambda: bool(hidden(output, f".writing_*/{aim}")))
            time.sleep(rng.uniform(0, 0.03))
        else:
            goal = lines(output) + rng.randrange(1, 5)
            wait_until(process, lambda: lines(output) >= goal)
            time.sleep(rng.uniform(0, 0.2))
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    for folder in hidden(output, ".writing_*"):
        files = {file.name: file.stat().st_size for file in folder.iterdir()}
        return f"inside the writing of {folder.name}, which holds {files}"
    if hidden(output, ".removing_*"):
        return "in the deletion of an old checkpoint"
    return f"in training, after the line of step {lines(output)}"


def wait_until(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.0005)


def metrics_inode(output: Path) -> int | None:
    path = output / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def hidden(output: Path, pattern: str) -> list[Path]:
    return list(output.glob(pattern))


def newest_step(output: Path) -> int:
    return max((step for step, _ in list_checkpoints(output)), default=0)


def lines(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def final_state(output: Path) -> dict[str, torch.Tensor]:
    """Averaged weights, weights and momenta of the last checkpoint."""
    folder = output / f"step_{CONFIG.steps:08d}"
    state = torch.load(folder / "training.pt", weights_only=True)
    momenta = state["optimizer"]["state"]
    return {
        **load_file(folder / "model.safetensors"),
        **{f"raw {name}": value for name, value in state["weights"].items()},
        **{f"momentum {index}": entry["momentum_buffer"] for index, entry in momenta.items()},
    }


def lines_without_times(output: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(output / "metrics.jsonl")]
