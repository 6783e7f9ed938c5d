"""The command ``maskrcnn``: one file per subcommand, each a thin layer over a function of the package.

Exit status: 0 done; 1 done in part (``predict`` skipped pictures) or stopped by the run itself (a loss that
is not finite); 2 bad input, told in one line on stderr; 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

from maskrcnn.cli.common import Parser, one_line

COMMANDS = ("demo", "train", "eval", "predict", "convert", "info")

DESCRIPTION = """\
Mask R-CNN: find objects in pictures, with a box, a class and a mask each.

  maskrcnn demo                           from nothing to a trained model and pictures, in a few minutes
  maskrcnn train --images DIR --annotations FILE --output run
  maskrcnn eval run --images DIR --annotations FILE
  maskrcnn predict run photo.jpg more_photos/
  maskrcnn convert model_final.pkl OUT    weights of detectron2, Detectron and torchvision
  maskrcnn info                           versions, operators, models

`maskrcnn COMMAND --help` explains each command with examples.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; ``argv`` is ``sys.argv[1:]`` by default."""
    parser = Parser(prog="maskrcnn", description=DESCRIPTION)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        importlib.import_module(f"maskrcnn.cli.{command}").add(subparsers)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"maskrcnn {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        status = _status(error)
        if status == 0:
            raise
        if arguments.traceback:
            traceback.print_exc()
        print(f"maskrcnn {arguments.command}: error: {one_line(error)}", file=sys.stderr)
    return status


def _status(error: Exception) -> int:
    """2 for bad input, 1 for a run that came to nothing, 0 for an error of this program: it shows itself."""
    # Files that are missing or unfit, and packages that are not installed. ValueErrors about arguments arrive
    # as UsageError; any other ValueError is a fault of ours and deserves its traceback.
    if isinstance(error, OSError | ImportError) or _is_one_of(error, _BAD_INPUT):
        return 2
    return 1 if _is_one_of(error, _FAILED_RUN) else 0


# By name: importing their modules takes torch, which `maskrcnn --help` can do without.
_BAD_INPUT = (
    "maskrcnn.cli.common.UsageError",
    "maskrcnn.data.dataset.DataError",
    "maskrcnn.checkpoint.CheckpointError",
)
_FAILED_RUN = ("maskrcnn.run.NonFiniteError",)


def _is_one_of(error: Exception, names: Sequence[str]) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in type(error).__mro__)
