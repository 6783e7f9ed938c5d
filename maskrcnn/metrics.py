"""What a run says while it works: lines of JSON, a progress bar, and TensorBoard where asked for."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl`` as dictionaries, in order.

    A training line has ``step`` (updates done), ``loss``, ``losses`` (by name), ``lr``, ``grad_norm`` (before
    clipping), ``images_per_second``, ``seconds``, ``data_seconds`` (waiting for images); an evaluation
    line has ``step`` and ``evaluation`` (figures by name). A last line without its newline, cut off by a
    crash, is left out; any other bad line raises ``ValueError`` naming file and line.
    """
    records = []
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{os.fspath(path)}, line {number}: expected a metrics record, got {line!r}"
            ) from error
        records.append(record)
    return records


class MetricsLog:
    """Appends records to ``folder/metrics.jsonl``; opening it for step ``start`` drops what came after.

    A resumed run repeats the steps after its checkpoint and writes their lines again, so the file ends up
    with each step once, as in an unbroken run.
    """

    def __init__(self, folder: Path, start: int, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self._evaluated: set[int] = set()
        self._pending: Mapping[str, Any] | None = None
        self._truncate(start)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = _summary_writer(folder, start) if tensorboard else None

    def _truncate(self, start: int) -> None:
        kept = [r for r in read_metrics(self.path) if r["step"] <= start] if self.path.exists() else []
        temporary = self.path.with_name(".metrics.jsonl.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        self._evaluated = {record["step"] for record in kept if "evaluation" in record}

    def has_evaluation(self, step: int) -> bool:
        """Whether the figures after ``step`` updates are in the file."""
        return step in self._evaluated

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; numbers that are not finite become null, as JSON knows none.

        Values may be tensors of one element. The line is written with the next one (or by :meth:`sync` or
        :meth:`close`), when the device has them ready and nobody need wait.
        """
        self._flush()
        self._pending = record
        if "evaluation" in record:
            self._evaluated.add(record["step"])

    def _flush(self) -> None:
        if self._pending is None:
            return
        record, self._pending = _plain(self._pending), None
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _scalars(record):
                self._board.add_scalar(name, value, record["step"])

    def sync(self) -> None:
        """Put the lines on the disk: called before a checkpoint, which promises them."""
        self._flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and TensorBoard's."""
        self._flush()
        self._file.close()
        if self._board is not None:
            self._board.close()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    scalars: list[tuple[str, float]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            scalars += _scalars(value, f"{prefix}{key}/")
        elif key != "step" and isinstance(value, int | float):
            scalars.append((prefix + key, float(value)))
    return scalars


def _summary_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TrainingConfig.tensorboard: needs the tensorboard package (`pip install tensorboard`)"
        ) from error
    return SummaryWriter(os.fspath(folder / "tensorboard"), purge_step=start + 1)


def step_record(
    done: int,
    losses: Sequence[Mapping[str, float]],
    lr: float,
    grad_norm: Tensor | None,
    images: int,
    begun: float,
    waited: float,
) -> dict[str, Any]:
    """The line of one update: ``losses`` of each part, times in seconds (``begun`` by ``perf_counter``)."""
    means = {name: sum(part[name] for part in losses) / len(losses) for name in losses[0]}
    seconds = time.perf_counter() - begun
    return {
        "step": done,
        "loss": sum(means.values()),
        "losses": means,
        "lr": lr,
        "grad_norm": grad_norm,
        "images_per_second": images / seconds,
        "seconds": seconds,
        "data_seconds": waited,
    }


def progress_bar(start: int, steps: int, shown: bool) -> Any:
    """A tqdm bar over the updates of a run, resumed at ``start``."""
    return tqdm(total=steps, initial=start, desc="train", unit="step", disable=not shown, dynamic_ncols=True)


def describe(record: Mapping[str, Any]) -> str:
    """One line for the bar: losses, learning rate, images a second."""
    losses = " ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in record["losses"].items())
    return (
        f"loss {record['loss']:.3f} ({losses}) lr {record['lr']:.2e} {record['images_per_second']:.1f} img/s"
    )
