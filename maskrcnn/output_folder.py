"""The folder of a run: checkpoints appear in it whole or not at all, whatever kills the process.

output/
  metrics.jsonl
  step_00000800/           a checkpoint: named by one rename, after everything in it is on the disk
  .writing_step_00001000/  a checkpoint being written; a crash leaves it, the next start deletes it
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_CHECKPOINT = re.compile(r"step_(\d{8,})")
_WRITING, _REMOVING = ".writing_", ".removing_"


def checkpoint_name(step: int) -> str:
    """Name of the folder of the checkpoint after ``step`` updates."""
    return f"step_{step:08d}"


def list_checkpoints(output: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """The finished checkpoints of a run as (step, folder), oldest first."""
    path = Path(output)
    if not path.is_dir():
        return []
    matches = [(_CHECKPOINT.fullmatch(entry.name), entry) for entry in path.iterdir()]
    return sorted((int(match[1]), entry) for match, entry in matches if match)


class OutputFolder:
    """The one writer of a run's folder, as a context manager.

    Creates the folder, locks it (the lock goes with the process, even by SIGKILL), and deletes what an
    earlier process left half-written or half-deleted. Raises ``BlockingIOError`` if another process trains
    there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = -1

    def __enter__(self) -> OutputFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise BlockingIOError(f"{self.path}: another process is training into this folder") from error
        self._clean()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def publish(self, step: int, write: Callable[[Path], None], keep_last: int) -> Path:
        """Make the checkpoint of ``step``: ``write`` fills a hidden folder, which is then renamed.

        Files and folders are on the disk (fsync) before the rename, and the rename before older checkpoints
        beyond the newest ``keep_last`` are deleted. Raises ``FileExistsError`` if the checkpoint exists.
        """
        final = self.path / checkpoint_name(step)
        if final.exists():
            raise FileExistsError(f"{final}: this checkpoint exists already")
        temporary = self.path / (_WRITING + final.name)
        temporary.mkdir()
        write(temporary)
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        temporary.rename(final)
        _sync(self.path)
        for _, old in list_checkpoints(self.path)[:-keep_last]:
            self._remove(old)
        return final

    def _remove(self, checkpoint: Path) -> None:
        hidden = checkpoint.with_name(_REMOVING + checkpoint.name)
        checkpoint.rename(hidden)  # first out of sight: a half-deleted folder must not look like a checkpoint
        shutil.rmtree(hidden)

    def _clean(self) -> None:
        for entry in self.path.iterdir():
            if entry.name.startswith((_WRITING, _REMOVING)):
                shutil.rmtree(entry)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
