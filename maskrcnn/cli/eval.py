"""``maskrcnn eval``: COCO's figures of a trained model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from maskrcnn.cli.common import (
    add_compile_flag,
    add_data_flags,
    add_device_flags,
    add_parser,
    add_proposals_flag,
    add_sigmas_flag,
    bad_input,
    check_at_least,
    read_dataset,
    read_device,
    with_proposals,
)
from maskrcnn.cli.models import CHECKPOINT, add_checkpoint_flags, category_ids, load

DESCRIPTION = f"""\
Run a trained model over a data set and print COCO's figures for boxes, masks and keypoints: average precision
(AP, AP50, AP75; small, medium and large objects) and average recall. -1 means that there are no such objects.

{CHECKPOINT}
Without --images and --annotations the built-in shapes that `maskrcnn train` validates on are used.

  maskrcnn eval run --images val --annotations instances_val.json
  maskrcnn eval run/step_00000400 --images val --annotations instances_val.json --categories
  maskrcnn eval weights.pth --model maskrcnn_resnet50_fpn --images val2017 --annotations val2017.json

Files written: OUTPUT/figures.json (the table) and OUTPUT/results.json (detections in COCO's results format; with
a mask_score beside the score from models that judge their masks, which the AP of masks then goes by).
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(subparsers, "eval", "COCO's figures of a trained model", DESCRIPTION, run)
    add_checkpoint_flags(parser)
    add_data_flags(parser)
    add_proposals_flag(parser)
    parser.add_argument("--output", metavar="DIR", default="evaluation", help="folder of the files written")
    parser.add_argument("--batch-size", metavar="N", type=int, default=1, help="pictures per forward pass")
    parser.add_argument(
        "--num-workers", metavar="N", type=int, default=0, help="processes that load pictures"
    )
    parser.add_argument(
        "--max-detections",
        metavar="N",
        type=int,
        nargs=3,
        default=(1, 10, 100),
        help="limits on detections per picture; AP uses the last",
    )
    add_sigmas_flag(parser)
    parser.add_argument("--categories", action="store_true", help="print each category's AP too")
    add_compile_flag(parser)
    add_device_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print, write."""
    from maskrcnn.data.shapes import ShapesDataset
    from maskrcnn.evaluation import check_limits, check_sigmas, evaluate

    with bad_input("--max-detections: "):
        check_limits(arguments.max_detections)
    check_at_least(1, "--batch-size", arguments.batch_size)
    check_at_least(0, "--num-workers", arguments.num_workers)
    device = read_device(arguments.device)
    model, categories = load(arguments.checkpoint, arguments.model)
    if model.num_keypoints is not None:
        with bad_input("--keypoint-sigmas: "):
            check_sigmas(arguments.keypoint_sigmas, model.num_keypoints)
    targets = model.target_keys
    dataset = read_dataset(arguments.images, arguments.annotations, targets=targets)
    dataset = with_proposals(
        dataset or ShapesDataset(100, seed=1), arguments.proposals, model.takes_proposals
    )
    ids = category_ids(categories, dataset.categories, arguments.checkpoint)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)

    evaluation = evaluate(
        model.to(device),
        dataset,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        max_detections=arguments.max_detections,
        category_ids=ids,
        keypoint_sigmas=arguments.keypoint_sigmas,
        compile=arguments.compile,
        progress=not arguments.quiet,
    )
    print(evaluation.table())
    if arguments.categories:
        print("\n" + evaluation.category_table())
    figures = {"figures": evaluation.metrics(), "categories": evaluation.categories}
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    (output / "results.json").write_text(json.dumps(evaluation.results))
    print(f"\nwrote {output / 'figures.json'} and {output / 'results.json'}")
    return 0
