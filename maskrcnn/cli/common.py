"""What the subcommands share: the parser, flags, and errors of one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

    from maskrcnn.data import DetectionDataset


class UsageError(ValueError):
    """Arguments that cannot be used; the message is the one line that the user sees."""


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Descriptions as they are written; defaults after each flag, except where there is nothing to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == () or action.required:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that says what is wrong in one line and takes no abbreviated flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def add_parser(
    subparsers: Any, name: str, summary: str, description: str, run: Callable[[argparse.Namespace], int]
) -> Parser:
    """A subcommand's parser, with the flags that all of them have."""
    parser: Parser = subparsers.add_parser(name, help=summary, description=description)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(run=run)
    return parser


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """``--device`` and ``--quiet``."""
    parser.add_argument("--device", help="cpu, cuda or cuda:1 ...; by default cuda where there is one")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def add_compile_flag(parser: argparse.ArgumentParser) -> None:
    """``--compile``."""
    parser.add_argument(
        "--compile",
        action="store_true",
        help="let torch.compile fuse the backbone; the first pictures take minutes",
    )


def add_data_flags(parser: argparse.ArgumentParser, prefix: str = "", what: str = "pictures") -> None:
    """``--images`` and ``--annotations``, after ``prefix``."""
    parser.add_argument(f"--{prefix}images", metavar="DIR", help=f"folder of the {what}")
    parser.add_argument(f"--{prefix}annotations", metavar="FILE", help=f"COCO file (JSON) of the {what}")


def add_proposals_flag(parser: argparse.ArgumentParser, prefix: str = "", what: str = "pictures") -> None:
    """``--proposals``, after ``prefix``."""
    parser.add_argument(
        f"--{prefix}proposals",
        metavar="FILE",
        help=f"boxes of the {what} for a model without an RPN (fastrcnn_...): COCO results such as results.json of "
        "`maskrcnn eval`",
    )


def add_sigmas_flag(parser: argparse.ArgumentParser) -> None:
    """``--keypoint-sigmas``."""
    parser.add_argument(
        "--keypoint-sigmas",
        metavar="X",
        type=float,
        nargs="+",
        help="how precisely each keypoint can be placed, for its AP; COCO's 17 are known",
    )


def read_dataset(
    images: str | None, annotations: str | None, prefix: str = "", targets: Sequence[str] = ("masks",)
) -> DetectionDataset | None:
    """The data set that two flags name, or None if neither is given.

    ``targets`` are those that its annotations must have beside boxes: of ``"masks"``, ``"keypoints"``.
    """
    from maskrcnn.data import CocoDataset

    if (images is None) != (annotations is None):
        given, missing = ("images", "annotations") if annotations is None else ("annotations", "images")
        raise UsageError(f"--{prefix}{given} was given without --{prefix}{missing}")
    if images is None or annotations is None:
        if "keypoints" in targets and not prefix:
            raise UsageError("--images, --annotations: a model with keypoints needs them; shapes have none")
        return None
    wanted = {name: name in targets for name in ("masks", "keypoints")}
    return CocoDataset(images, annotations, **wanted, check_files=True)


def with_proposals(
    dataset: DetectionDataset, file: str | None, takes_proposals: bool, prefix: str = ""
) -> DetectionDataset:
    """The data set with the proposals of ``--proposals``, if the model takes any."""
    from maskrcnn.data import ProposedDataset

    check_proposals_flag(file, takes_proposals, prefix)
    return dataset if file is None else ProposedDataset(dataset, file)


def check_proposals_flag(file: str | None, takes_proposals: bool, prefix: str = "") -> None:
    """Raise a ``UsageError`` unless ``--proposals`` is there for a model that takes them, and for no other."""
    if takes_proposals and file is None:
        raise UsageError(f"--{prefix}proposals: needed, as the model has no RPN")
    if not takes_proposals and file is not None:
        raise UsageError(f"--{prefix}proposals: given, but the model proposes regions itself")


def read_device(name: str | None) -> torch.device:
    """The device of ``--device``; by default this process's GPU if there is one."""
    import torch

    from maskrcnn.distributed import default_device

    if name is None:
        return default_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device: cannot use {name!r}: {one_line(error)}") from error
    return device


def check_at_least(least: int, flag: str, value: int) -> None:
    """Raise a ``UsageError`` naming the flag if its value is too small."""
    if value < least:
        raise UsageError(f"{flag}: expected at least {least}, got {value}")


@contextmanager
def bad_input(prefix: str = "") -> Iterator[None]:
    """Within: a ``ValueError`` or ``TypeError`` is the user's, and its message the one line to show."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(f"{prefix}{error}") from error


def one_line(error: BaseException) -> str:
    """The message of an error on one line, without a backtrace that a library put into it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error).split("\nException raised from")[0]
    return " ".join(text.split()) or type(error).__name__
