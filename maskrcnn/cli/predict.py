"""``maskrcnn predict``: objects in picture files."""

from __future__ import annotations

import argparse
import sys

from maskrcnn.cli.common import (
    UsageError,
    add_compile_flag,
    add_device_flags,
    add_parser,
    check_proposals_flag,
    read_device,
)
from maskrcnn.cli.models import CHECKPOINT, add_checkpoint_flags, load

DESCRIPTION = f"""\
Find objects in pictures and in all pictures of folders. Each picture gets an overlay with masks, boxes,
keypoints, labels and scores; one COCO JSON file lists everything that was found, with masks as RLE.

{CHECKPOINT}
  maskrcnn predict run photo.jpg
  maskrcnn predict run holiday/ portraits/ --score-threshold 0.7 --output found
  maskrcnn predict weights.pth --model maskrcnn_resnet50_fpn photo.jpg
  maskrcnn predict coco --model maskrcnn_resnet50_fpn photo.jpg         torchvision's weights, downloaded once

Files written: OUTPUT/overlays/*.jpg and OUTPUT/predictions.json. A picture that cannot be read is reported
and skipped; the others go on, and the exit status is 1 at the end.
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(subparsers, "predict", "objects in picture files and folders", DESCRIPTION, run)
    add_checkpoint_flags(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="picture, or folder of pictures")
    parser.add_argument("--output", metavar="DIR", default="predictions", help="folder of the files written")
    parser.add_argument(
        "--score-threshold", metavar="X", type=float, default=0.5, help="leave out objects that score less"
    )
    parser.add_argument(
        "--proposals",
        metavar="FILE",
        help="boxes for a model without an RPN (fastrcnn_...): a COCO file of the same pictures, such as "
        "predictions.json of another model with --score-threshold 0",
    )
    add_compile_flag(parser)
    add_device_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict and tell what was written."""
    from maskrcnn.data import read_picture_proposals
    from maskrcnn.prediction import find_pictures, predict

    if not 0 <= arguments.score_threshold <= 1:
        raise UsageError(f"--score-threshold: expected a number from 0 to 1, got {arguments.score_threshold}")
    pictures = find_pictures(arguments.paths)
    device = read_device(arguments.device)
    model, categories = load(arguments.checkpoint, arguments.model)
    check_proposals_flag(arguments.proposals, model.takes_proposals)
    proposals = None if arguments.proposals is None else read_picture_proposals(arguments.proposals)
    missing = [path.name for path in pictures if proposals is not None and path.name not in proposals]
    if missing:
        raise UsageError(f"--proposals: {arguments.proposals} lists no picture {missing[0]}")
    prediction = predict(
        model.to(device),
        categories,
        pictures,
        arguments.output,
        score_threshold=arguments.score_threshold,
        proposals=proposals,
        compile=arguments.compile,
        progress=not arguments.quiet,
    )
    print(f"{prediction.instances} objects in {len(prediction.overlays)} pictures")
    print(
        f"wrote {prediction.json_file} and {len(prediction.overlays)} overlays in {arguments.output}/overlays"
    )
    if prediction.failures:
        print(f"maskrcnn predict: {len(prediction.failures)} pictures could not be read", file=sys.stderr)
        return 1
    return 0
