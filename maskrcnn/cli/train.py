"""``maskrcnn train``: a model from pictures and COCO annotations."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from maskrcnn.cli.common import (
    UsageError,
    add_data_flags,
    add_device_flags,
    add_parser,
    add_proposals_flag,
    add_sigmas_flag,
    bad_input,
    read_dataset,
    read_device,
    with_proposals,
)
from maskrcnn.cli.fields import add_flags, from_flags, name_flags
from maskrcnn.config import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from maskrcnn.checkpoint import ModelDescription
    from maskrcnn.data import DetectionDataset
    from maskrcnn.evaluation import Evaluation
    from maskrcnn.models.base import BaseDetector

DESCRIPTION = """\
Train a detector on pictures with COCO annotations, or on the built-in shapes when none are given. The same
command run again goes on from the newest checkpoint in OUTPUT, with the same result as an unbroken run.

  maskrcnn train --output shapes                                  built-in shapes, a tiny model
  maskrcnn train --model yolact_tiny --output shapes_yolact       the same with the one-stage detector
  maskrcnn train --images train --annotations instances_train.json \\
      --val-images val --val-annotations instances_val.json --output run --steps 2000 --milestones 1400 1800
  maskrcnn train --model maskrcnn_resnet50_fpn --weights coco --images ... --annotations ... --output run
  maskrcnn train --model keypointrcnn_tiny --images ... --annotations person_keypoints_train.json --output run
  maskrcnn train --model fastrcnn_tiny --proposals boxes.json --images ... --annotations ... --output run
  torchrun --nproc-per-node 8 -m maskrcnn train ...               eight GPUs; --batch-size counts all of them

Files written: OUTPUT/step_... (checkpoints, for `maskrcnn eval`, `predict` and `info`), OUTPUT/metrics.jsonl.
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(subparsers, "train", "train a model", DESCRIPTION, run)
    parser.usage = "%(prog)s --output DIR [--images DIR --annotations FILE] [flags]"
    parser.add_argument("--output", metavar="DIR", required=True, help="folder of the run")
    add_data_flags(parser, what="training pictures")
    add_proposals_flag(parser, what="training pictures")
    add_data_flags(parser, "val-", "pictures to evaluate on")
    add_proposals_flag(parser, "val-", "pictures to evaluate on")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on from a checkpoint; an error if OUTPUT holds none"
    )
    again.add_argument(
        "--fresh", action="store_true", help="start anew; an error if OUTPUT holds checkpoints"
    )
    add_sigmas_flag(parser)
    add_device_flags(parser)
    _add_model_flags(parser)
    add_flags(parser, TrainingConfig, "recipe")


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", metavar="NAME", default="maskrcnn_tiny", help="a builder; `maskrcnn info` lists them"
    )
    group.add_argument(
        "--weights",
        metavar="FILE",
        help='start from these weights: a checkpoint, or a .pth of torchvision; "coco" downloads the one that '
        "torchvision publishes; predictors for another number of classes start anew",
    )
    group.add_argument(
        "--backbone-weights",
        metavar="FILE",
        help='start from the weights of a classifying ResNet; "imagenet" and "imagenet_v2" download '
        "torchvision's",
    )
    group.add_argument(
        "--min-size",
        metavar="N",
        type=int,
        nargs="+",
        help="shorter side of resized pictures; of several one is drawn at random",
    )
    group.add_argument("--max-size", metavar="N", type=int, help="largest longer side of resized pictures")
    group.add_argument(
        "--anchor-sizes", metavar="N", type=int, nargs="+", help="side of the anchors of each level"
    )
    group.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any other option of the builder, its value as JSON: box_detections_per_img=300; repeatable",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the last evaluation."""
    from maskrcnn.data.shapes import ShapesDataset
    from maskrcnn.distributed import rank
    from maskrcnn.evaluation import check_sigmas
    from maskrcnn.output_folder import list_checkpoints
    from maskrcnn.training import train

    config = from_flags(TrainingConfig, arguments)
    device = read_device(arguments.device)
    needs = _without_memory(arguments.model)
    targets = needs.target_keys
    dataset = read_dataset(arguments.images, arguments.annotations, targets=targets)
    validation = read_dataset(arguments.val_images, arguments.val_annotations, "val-", targets=targets)
    if dataset is None:
        if validation is not None:
            raise UsageError("--val-images was given without --images and --annotations")
        dataset, validation = ShapesDataset(1000, seed=0), ShapesDataset(100, seed=1)
    dataset = with_proposals(dataset, arguments.proposals, needs.takes_proposals)
    if validation is not None:
        validation = with_proposals(validation, arguments.val_proposals, needs.takes_proposals, "val-")
    elif arguments.val_proposals is not None:
        raise UsageError("--val-proposals was given without --val-images and --val-annotations")
    if validation is not None and list(validation.categories) != list(dataset.categories):
        raise UsageError("--val-annotations: its categories are not those of --annotations")
    num_keypoints = getattr(dataset, "num_keypoints", None)
    if num_keypoints is not None and validation is not None:
        with bad_input("--keypoint-sigmas: "):
            check_sigmas(arguments.keypoint_sigmas, num_keypoints)
    model, description = build(arguments, dataset.num_classes, num_keypoints)

    if arguments.resume and not list_checkpoints(arguments.output):
        raise UsageError(f"--resume: {arguments.output} holds no checkpoint")

    last: list[Evaluation] = []
    with _recipe_errors():
        checkpoint = train(
            model,
            dataset,
            config,
            arguments.output,
            description=description,
            validation=None if validation is None else _validation(validation, last, arguments),
            resume=not arguments.fresh,
            device=device,
            progress=not arguments.quiet,
        )
    if rank() == 0:
        if last:
            print(last[-1].table())
        print(f"{checkpoint}: step {config.steps}; next: maskrcnn predict {arguments.output} PICTURES")
    return 0


@contextmanager
def _recipe_errors() -> Iterator[None]:
    """What only the training can know: a recipe that does not suit the device, the processes or the data."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(("TrainingConfig.", "training_loader:")):
            raise
        raise UsageError(name_flags(TrainingConfig, str(error))) from error


def _without_memory(name: str) -> BaseDetector:
    """A builder's model, to see what it trains on: its parameters have no values."""
    import torch

    from maskrcnn.models.builders import build_model

    with bad_input(f"--model {name}: "), torch.device("meta"):
        return build_model(name)


def build(
    arguments: argparse.Namespace, num_classes: int, num_keypoints: int | None = None
) -> tuple[nn.Module, ModelDescription]:
    """The model that the flags describe, with starting weights, and the description kept in checkpoints."""
    import torch

    from maskrcnn.cli.weights import build_with_weights

    options: dict[str, Any] = {"num_classes": num_classes}
    if num_keypoints is not None:
        options["num_keypoints"] = num_keypoints
    for name in ("max_size", "anchor_sizes"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    if arguments.min_size is not None:
        options["min_size"] = arguments.min_size[0] if len(arguments.min_size) == 1 else arguments.min_size
    options |= dict(map(_option, arguments.option))
    torch.manual_seed(arguments.seed)  # the starting weights belong to the seed too
    return build_with_weights(arguments.model, options, arguments.weights, arguments.backbone_weights)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if not (equals and name.isidentifier()):
            raise ValueError
        return name, json.loads(value)
    except ValueError as error:
        message = f'--option: expected NAME=VALUE with a JSON value such as norm="group", got {text!r}'
        raise UsageError(message) from error


def _validation(
    dataset: DetectionDataset, last: list[Evaluation], arguments: argparse.Namespace
) -> Callable[[nn.Module], Mapping[str, float]]:
    from maskrcnn.evaluation import evaluate

    def validate(model: nn.Module) -> Mapping[str, float]:
        sigmas, progress = arguments.keypoint_sigmas, not arguments.quiet
        last.append(evaluate(model, dataset, keypoint_sigmas=sigmas, progress=progress))
        return last[-1].metrics()

    return validate
