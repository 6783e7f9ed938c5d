"""A model to train with its starting weights: random, a pretrained backbone, or a pretrained detector."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maskrcnn.cli.common import UsageError, bad_input
from maskrcnn.cli.models import find_checkpoint, norm_options

if TYPE_CHECKING:
    from torch import Tensor, nn

    from maskrcnn.checkpoint import Metadata, ModelDescription

# What depends on the number of classes or keypoints, and starts anew where that differs.
PREDICTORS = (
    ".box_predictor.",
    ".mask_predictor.mask_fcn_logits.",
    ".mask_iou_head.iou.",
    ".keypoint_predictor.",
    "head.cls_logits.",
    "semantic.",
)
# Options that weights were trained with, and that a model which starts from them keeps.
TRAINED_WITH = ("norm", "norm_eps", "geometry", "stride_in_1x1", "image_mean")
# Parts of a pretrained ResNet with frozen norms to go on training: torchvision's default.
TRAINED_LAYERS = 3


def build_with_weights(
    name: str, options: Mapping[str, Any], weights: str | None = None, backbone_weights: str | None = None
) -> tuple[nn.Module, ModelDescription]:
    """Build a model and fill in its starting weights.

    Args:
        name: a builder of this package.
        options: its keyword arguments, JSON values.
        weights: a checkpoint or a bare state dict of a whole detector, a word of
            :data:`maskrcnn.models.published.DETECTORS`, or None. Predictors for another number of classes are
            left as they are, with a line on stderr.
        backbone_weights: a state dict of a classifying ResNet, a word of
            :data:`maskrcnn.models.published.BACKBONES`, or None.

    Returns:
        The model, and the description that rebuilds it without those files.

    Raises:
        UsageError, CheckpointError, FileNotFoundError, PublishedWeightsError: unknown names, options, files;
            weights that do not fit or cannot be fetched.
    """
    from maskrcnn.checkpoint import ModelDescription, apply_weights
    from maskrcnn.models.builders import build_model
    from maskrcnn.models.published import detector_weights
    from maskrcnn.models.resnet import freeze_all_but
    from maskrcnn.models.trunks import whole_resnet
    from maskrcnn.models.weights import conventions_of, upgrade_keys, without_classifier

    if weights is not None and backbone_weights is not None:
        raise UsageError("--weights and --backbone-weights exclude each other")
    options = dict(options)
    layers = options.pop("trainable_backbone_layers", None)
    state: Mapping[str, Tensor] = {}
    if weights is not None:
        weights = str(detector_weights(weights, name))
        state, metadata = _read(weights)
        state = upgrade_keys(state)
        known = norm_options(state) if metadata is None else metadata.description.kwargs
        options = {name: known[name] for name in TRAINED_WITH if name in known} | options
    elif backbone_weights is not None:
        backbone_weights = _published_backbone(backbone_weights, name)
        state = without_classifier(_read(backbone_weights)[0])
        options = {"norm": "frozen"} | conventions_of(backbone_weights) | options
    with bad_input(f"--model {name}: "):
        model = build_model(name, **options)
        description = ModelDescription(name, options)
        body = whole_resnet(model)
        pretrained = bool(state) and options.get("norm") == "frozen"
        freeze_all_but(body, (TRAINED_LAYERS if pretrained else 5) if layers is None else layers)
    if weights is not None:
        _fill(model, state, f"--weights {weights}")
    elif backbone_weights is not None:
        apply_weights(body, state, f"--backbone-weights {backbone_weights}")
    return model, description


def _published_backbone(weights: str, name: str) -> str:
    """The file of the backbone of the builder ``name`` where ``weights`` is a word; else ``weights``."""
    import torch

    from maskrcnn.models.builders import build_model
    from maskrcnn.models.published import BACKBONES, backbone_weights
    from maskrcnn.models.weights import body_of

    if weights not in BACKBONES:
        return weights
    with bad_input(f"--model {name}: "), torch.device("meta"):
        body = body_of(build_model(name).state_dict(), "backbone.body.")
    return str(backbone_weights(weights, body or name))


def _read(path: str) -> tuple[Mapping[str, Tensor], Metadata | None]:
    """The state dict of a checkpoint, a .safetensors file or a .pth, and what a checkpoint says about it."""
    from maskrcnn.checkpoint import WEIGHTS, read_pickle, read_weights

    place = find_checkpoint(path)
    file = place / WEIGHTS if place.is_dir() else place
    if file.suffix == ".safetensors":
        return read_weights(file)
    content = read_pickle(file)
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise UsageError(f"{path}: expected a state dict, a dictionary of tensors by name")
    return state, None


def _fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state``, except predictors of other shapes than the model's."""
    from maskrcnn.checkpoint import apply_weights

    fresh = {
        key: value
        for key, value in model.state_dict().items()
        if any(name in key for name in PREDICTORS) and key in state and state[key].shape != value.shape
    }
    apply_weights(model, {**state, **fresh}, source)
    if fresh:
        print(
            f"{source}: another number of classes or keypoints; {', '.join(fresh)} start anew",
            file=sys.stderr,
        )
