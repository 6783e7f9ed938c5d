"""Trained models for the command line: a run's folder, a checkpoint, or bare weights like torchvision's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn.cli.common import UsageError, bad_input

if TYPE_CHECKING:
    from maskrcnn.data import Category
    from maskrcnn.models.base import BaseDetector

CHECKPOINT = """\
CHECKPOINT is a folder that `maskrcnn train` wrote (its newest checkpoint is taken), one checkpoint in it
(run/step_00000800), or a .safetensors file of one or of `maskrcnn convert`. Weights of torchvision (.pth) need
--model NAME as well; the word "coco" instead of a file fetches those that torchvision publishes.
"""


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """``CHECKPOINT`` and ``--model``."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a trained model, see above")
    parser.add_argument(
        "--model", metavar="NAME", help="the builder of bare weights, such as maskrcnn_resnet50_fpn"
    )


def find_checkpoint(path: str) -> Path:
    """The checkpoint of a path: itself, or the newest one of a run's folder."""
    from maskrcnn.checkpoint import WEIGHTS
    from maskrcnn.output_folder import list_checkpoints

    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if place.is_dir() and not (place / WEIGHTS).exists():
        checkpoints = list_checkpoints(place)
        if not checkpoints:
            raise UsageError(f"{path}: no checkpoint in this folder (expected {WEIGHTS} or step_... folders)")
        return checkpoints[-1][1]
    return place


def load(path: str, model: str | None) -> tuple[BaseDetector, Sequence[Category]]:
    """A trained model in evaluation mode, and the meaning of its labels: label i + 1 is the i-th category."""
    from maskrcnn.checkpoint import load_model
    from maskrcnn.models.base import BaseDetector
    from maskrcnn.models.published import DETECTORS, detector_weights

    if model is not None:
        path = str(detector_weights(path, model))
    elif path in DETECTORS:
        known = ", ".join(DETECTORS[path])
        raise UsageError(f"{path}: published weights of which model? Name it with --model: {known}")
    place = find_checkpoint(path)
    if model is None:
        if place.suffix in (".pth", ".pt"):
            raise UsageError(f"{path}: bare weights say nothing about their model; name it with --model")
        loaded, metadata = load_model(place)
        assert isinstance(loaded, BaseDetector)
        return loaded, metadata.categories
    return _load_bare(place, model)


def _load_bare(path: Path, name: str) -> tuple[BaseDetector, Sequence[Category]]:
    from maskrcnn.checkpoint import load_weights
    from maskrcnn.data.coco_names import coco_labels
    from maskrcnn.models.builders import build_model
    from maskrcnn.models.weights import read_weights, upgrade_keys

    state = upgrade_keys(read_weights(path))
    sizes = model_sizes(state)
    if sizes is None:
        raise UsageError(
            f"{path}: not the weights of a detector of this package (neither roi_heads.box_predictor nor semantic)"
        )
    with bad_input("--model: "):
        model = build_model(name, **norm_options(state), **sizes)
    load_weights(model, path)
    model.eval()
    return model, coco_labels(**sizes)


def norm_options(state: Mapping[str, Any]) -> dict[str, Any]:
    """The normalisation that a bare detector's weights were trained with, as options of a builder.

    Batch norm counts its batches, frozen batch norm does not, group norm has no running means. torchvision's
    published detectors have frozen norms with an epsilon of zero.
    """
    if "backbone.body.bn1.num_batches_tracked" in state:
        return {"norm": "batch"}
    if "backbone.body.bn1.running_mean" in state:
        return {"norm": "frozen", "norm_eps": 0.0}
    return {"norm": "group"}


def model_sizes(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a bare detector's weights say of its classes and keypoints, as options of a builder; None for weights of
    something else."""
    from maskrcnn.checkpoint import detector_kind

    if "roi_heads.box_predictor.cls_score.bias" in state:
        return detector_kind(state)[1]
    semantic = state.get("semantic.bias")  # YOLACT's, which knows no background
    return None if semantic is None else {"num_classes": len(semantic) + 1}


def category_ids(categories: Sequence[Category], wanted: Sequence[Category], checkpoint: str) -> list[int]:
    """The category id of each of a model's labels, if the model knows every category of a data set.

    Raises:
        UsageError: the data set has a category that the model lacks, or gives its id another name.
    """
    known = {category.id: category.name for category in categories}
    for category in wanted:
        if known.get(category.id) != category.name:
            names = ", ".join(f"{id} {name}" for id, name in list(known.items())[:5])
            names += ", ..." if len(known) > 5 else ""
            raise UsageError(
                f"{checkpoint}: the model has no category {category.id} {category.name!r}, which the data "
                f"set has; it knows {names}"
            )
    return [category.id for category in categories]
