"""``maskrcnn convert``: other programs' weights as files of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn.cli.common import UsageError, add_parser

if TYPE_CHECKING:
    from maskrcnn.convert import Conversion

DESCRIPTION = """\
Convert weights into one .safetensors file that says itself what it is, for `maskrcnn predict`, `eval` and `train`.
IN is one of

  detectron2's model zoo (.pkl, or a .pth that it has trained): R-CNNs on ResNet and ResNeXt, with FPN, C4 or DC5,
      masks or keypoints. The model gets detectron2's conventions, and the scale and BGR order of its pixels go into
      the weights. ResNets are taken to have their stride in the first convolution of a block, as in the zoo
  an ImageNet classifier of Detectron (.pkl, such as MSRA's ResNets), for `maskrcnn train --backbone-weights`
  a detector or classifier of torchvision (.pth, .safetensors)

A pickle may hold arrays only; nothing in it is executed. The model is told by the names and shapes. A name that has
no place in the model, or that the model misses, is listed and is an error, unless allowed.

  maskrcnn convert model_final_f10217.pkl mask_rcnn.safetensors
  maskrcnn predict mask_rcnn.safetensors photo.jpg
  maskrcnn convert R-50.pkl msra50.safetensors
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(
        subparsers, "convert", "weights of detectron2, Detectron, torchvision", DESCRIPTION, run
    )
    parser.add_argument("source", metavar="IN", help="a file of weights")
    parser.add_argument("output", metavar="OUT", help="the .safetensors file to write")
    parser.add_argument("--model", metavar="NAME", help="the builder, where names and shapes tell another")
    parser.add_argument(
        "--allow-unmatched",
        action="store_true",
        help="leave out unmatched names, and fill missing ones with a new model's random values",
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert, and tell what was found."""
    from maskrcnn.convert import read_checkpoint

    if Path(arguments.output).suffix != ".safetensors":
        raise UsageError(f"OUT: expected a file name ending in .safetensors, got {arguments.output}")
    conversion = read_checkpoint(arguments.source, arguments.model)
    _print_found(conversion)
    _print_names("unmatched", conversion.unmatched)
    _print_names("missing", conversion.missing)
    conversion.save(arguments.output, arguments.allow_unmatched)
    print(f"wrote {arguments.output}")
    return 0


def _print_found(conversion: Conversion) -> None:
    from maskrcnn.checkpoint import Metadata

    metadata = conversion.metadata
    values = sum(value.numel() for value in conversion.weights.values())
    print(f"{'names of':<12}{conversion.layout}")
    print(f"{'model':<12}{metadata.name}")
    if isinstance(metadata, Metadata):
        for key, value in metadata.description.kwargs.items():
            print(f"{'':<12}{key} = {value!r}")
        names = [category.name for category in metadata.categories]
        print(f"{'categories':<12}{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    else:
        print(f"{'':<12}stride_in_1x1 = {metadata.stride_in_1x1}")
    print(f"{'tensors':<12}{len(conversion.weights)}, {values / 1e6:.1f} million values")


def _print_names(kind: str, names: Sequence[str]) -> None:
    for name in names:
        print(f"{kind:<12}{name}", file=sys.stderr)
