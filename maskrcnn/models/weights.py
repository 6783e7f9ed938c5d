"""State dicts: reading files, and the names that torchvision's weights go by."""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.models.resnet import BODIES, LAYOUTS

StateDict = Mapping[str, Any]

# Under which a .safetensors file of this package keeps, as JSON, what it says about its detector or its backbone.
METADATA_KEY, BACKBONE_KEY = "maskrcnn", "maskrcnn_backbone"
# Options that no shape tells, with their defaults: weights are useless under others than theirs.
CONVENTIONS = {"geometry": "torchvision", "stride_in_1x1": False}

# Names of the generation before convolutions were wrapped together with their activation.
_RENAMES = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)
_MASK_FCN = re.compile(r"^(roi_heads\.mask_head)\.mask_fcn(\d+)\.(weight|bias)$")


def upgrade_keys(state_dict: StateDict) -> OrderedDict[str, Any]:
    """Rename a detector's keys of torchvision's older generation to today's; others stay. The input is
    untouched.

    ``backbone.fpn.inner_blocks.0.weight``, ``rpn.head.conv.weight``, ``roi_heads.mask_head.mask_fcn1.weight``
    become ``...inner_blocks.0.0.weight``, ``rpn.head.conv.0.0.weight``, ``roi_heads.mask_head.0.0.weight``.
    """
    result = OrderedDict((_today(key), value) for key, value in state_dict.items())
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        result._metadata = metadata  # type: ignore[attr-defined]
    return result


def _today(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    # Counted from one then, from zero now.
    return _MASK_FCN.sub(lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}", key)


def read_weights(weights: str | os.PathLike[str] | StateDict, argument: str = "weights") -> StateDict:
    """A state dict given as itself or as the path of a file, on the CPU.

    Args:
        weights: a state dict, or a ``.safetensors`` file, or a file of ``torch.save`` holding a state dict
            (directly or under ``"model"``). No pickled code is run.
        argument: its name in errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds no state dict.
    """
    if isinstance(weights, Mapping):
        return weights
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"{argument}: expected a state dict, the path of a file with one (.safetensors or .pth), or the word "
            f"of published weights (see maskrcnn.models.published), got {str(weights)!r}"
        )
    if path.suffix == ".pkl":
        raise ValueError(f"{argument}: {path} needs converting: maskrcnn convert {path} OUT.safetensors")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{argument}: expected a state dict (names to tensors) in {path}")
    return content


def conventions_of(weights: Any) -> dict[str, Any]:
    """The :data:`CONVENTIONS` other than the default that a .safetensors file of this package names."""
    if (
        weights is None
        or isinstance(weights, Mapping)
        or Path(weights).suffix != ".safetensors"
        or not Path(weights).is_file()
    ):
        return {}
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        said = file.metadata() or {}
    detector, backbone = json.loads(said.get(METADATA_KEY, "{}")), json.loads(said.get(BACKBONE_KEY, "{}"))
    options = {**detector.get("kwargs", {}), **backbone}
    return {name: options[name] for name, usual in CONVENTIONS.items() if options.get(name, usual) != usual}


def check_conventions(argument: str, weights: Any, given: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` naming ``argument`` if its file names other conventions than a model is ``given``."""
    for name, value in conventions_of(weights).items():
        if value != given[name]:
            raise ValueError(f"{argument}: {weights} needs {name}={value!r}, got {given[name]!r}")


def body_of(state_dict: StateDict, prefix: str = "") -> str | None:
    """The name of the ResNet or ResNeXt whose parameters have these names and shapes after ``prefix``.

    Told by the blocks of the third stage and the channels of the first block's 3x3 convolution. None: no such
    body in :data:`maskrcnn.models.resnet.BODIES`.
    """
    stage = f"{prefix}layer3."
    blocks = len({key[len(stage) :].split(".")[0] for key in state_dict if key.startswith(stage)})
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state_dict
    conv = state_dict.get(f"{prefix}layer1.0.conv2.weight")
    if conv is None or conv.dim() != 4 or 0 in conv.shape:
        return None
    groups = len(conv) // conv.shape[1]
    shape = (blocks, bottleneck, groups, len(conv) // groups)
    for name, body in BODIES.items():
        kind, counts = LAYOUTS[body.depth]
        if (counts[2], kind, body.groups, body.width_per_group) == shape:
            return name
    return None


def without_classifier(state_dict: StateDict) -> OrderedDict[str, Any]:
    """A classification ResNet's state dict without its last layer (``fc.*``): the body's."""
    return OrderedDict((key, value) for key, value in state_dict.items() if not key.startswith("fc."))
