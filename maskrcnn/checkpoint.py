"""Checkpoints: weights that rebuild their own model, and the state that continues a run.

A checkpoint is a folder of three files:

    model.safetensors  the weights to use (the moving average, if the run keeps one), with metadata:
                       {"maskrcnn": JSON of {model, kwargs, categories, step}}
    training.pt        optimiser and the like, for resuming; read with ``torch.load(weights_only=True)``
    config.json        the TrainingConfig

Nothing here executes code from a file: safetensors holds none, and a pickle with anything but tensors and
plain values is refused.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from maskrcnn.config import TrainingConfig
from maskrcnn.data import Category
from maskrcnn.data.coco_names import coco_labels
from maskrcnn.models.builders import build_model, without_weights
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.resnet import ResNet
from maskrcnn.models.weights import BACKBONE_KEY, METADATA_KEY, body_of, upgrade_keys

WEIGHTS, TRAINING, CONFIG = "model.safetensors", "training.pt", "config.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and says what is wrong with it."""


@dataclass(frozen=True)
class ModelDescription:
    """What builds a model: the name of one of this package's builders and its arguments, all JSON values."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in self.kwargs.items():
            if not _survives_json(value):
                raise ValueError(
                    f"ModelDescription: expected kwargs[{key!r}] to be a JSON value, got {value!r}"
                )

    def same_as(self, other: ModelDescription) -> bool:
        """Equality after a round trip through JSON, which turns tuples into lists."""
        return self.name == other.name and json.dumps(dict(self.kwargs), sort_keys=True) == json.dumps(
            dict(other.kwargs), sort_keys=True
        )

    def build(self) -> nn.Module:
        """A new model of this architecture; the weight files it once started from are not needed."""
        return build_model(self.name, **without_weights(self.name, self.kwargs))


@dataclass(frozen=True)
class Metadata:
    """What a weights file says about itself: its model, the meaning of labels, and the updates it has had.

    Label ``i + 1`` stands for ``categories[i]``.
    """

    description: ModelDescription
    categories: tuple[Category, ...]
    step: int

    @property
    def name(self) -> str:
        """Of the model's builder."""
        return self.description.name

    def build(self) -> nn.Module:
        """See :meth:`ModelDescription.build`."""
        return self.description.build()

    def to_json(self) -> str:
        """As stored in the weights file."""
        return json.dumps(
            {
                "model": self.description.name,
                "kwargs": dict(self.description.kwargs),
                "categories": [category.to_coco() for category in self.categories],
                "step": self.step,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """The inverse of :meth:`to_json`; ``ValueError``, ``KeyError`` or ``TypeError`` on anything else."""
        values = json.loads(text)
        return cls(
            ModelDescription(str(values["model"]), dict(values["kwargs"])),
            tuple(Category.from_coco(category) for category in values["categories"]),
            int(values["step"]),
        )


@dataclass(frozen=True)
class BackboneMetadata:
    """What the file of a ResNet's weights says about itself: its body, and where its blocks have their stride."""

    body: str
    stride_in_1x1: bool = False

    @property
    def name(self) -> str:
        """Of the body."""
        return self.body

    def build(self) -> nn.Module:
        """The body, with frozen norms."""
        return ResNet(self.body, norm_factory("frozen"), stride_in_1x1=self.stride_in_1x1)

    def to_json(self) -> str:
        """As stored in the weights file."""
        return json.dumps({"body": self.body, "stride_in_1x1": self.stride_in_1x1})


def write_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    metadata: Metadata,
    training: Mapping[str, Any],
    config: TrainingConfig,
) -> None:
    """Write the three files into ``folder``. ``training`` must be tensors and plain values only."""
    save_weights(folder / WEIGHTS, weights, metadata)
    torch.save(dict(training), folder / TRAINING)
    (folder / CONFIG).write_text(json.dumps(config.as_dict(), indent=2) + "\n", encoding="utf-8")


def save_weights(
    path: str | os.PathLike[str], weights: Mapping[str, Tensor], metadata: Metadata | BackboneMetadata
) -> None:
    """Write a state dict and its metadata as one .safetensors file (the format knows no strides)."""
    key = METADATA_KEY if isinstance(metadata, Metadata) else BACKBONE_KEY
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # save_file would give the file mode 600, against the user's umask.
    Path(path).write_bytes(safetensors.torch.save(tensors, metadata={key: metadata.to_json()}))


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Metadata | None]:
    """State dict and metadata of a .safetensors file; None for a file that another program wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            raw = (file.metadata() or {}).get(METADATA_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if raw is None:
        return weights, None
    try:
        return weights, Metadata.from_json(raw)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata are not those of a model ({error!r})") from error


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Tensors and plain values of a file by ``torch.save``; anything that would execute code is refused."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except Exception as error:  # an unpickler raises nearly anything on damaged bytes
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path}: refused, it holds more than tensors and plain values and could execute code"
            ) from error
        raise CheckpointError(f"{path}: not a readable checkpoint ({_first_line(error)})") from error


def read_training_state(folder: Path) -> tuple[dict[str, Any], TrainingConfig]:
    """What :func:`write_checkpoint` was given as ``training`` and ``config``."""
    state = read_pickle(folder / TRAINING)
    if not isinstance(state, dict):
        raise CheckpointError(f"{folder / TRAINING}: expected a dictionary, got {type(state).__name__}")
    try:
        return state, TrainingConfig.from_dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG}: not a readable training configuration ({error})"
        ) from error


def load_model(path: str | os.PathLike[str]) -> tuple[nn.Module, Metadata]:
    """Rebuild a trained model, on the CPU and in evaluation mode.

    Args:
        path: a checkpoint folder; a .safetensors file with this package's metadata; or a .pth file of
            torchvision's Mask R-CNN or Faster R-CNN with a ResNet FPN. Of the last the builder is found by
            the names and shapes of its weights, its norm is taken as frozen, and its categories are those of
            :func:`maskrcnn.data.coco_names.coco_labels`.

    Raises:
        CheckpointError: naming the file: missing, unreadable, without metadata, or with weights that do not
            fit.
    """
    file, weights, metadata = read_state(path)
    metadata = metadata or torchvision_metadata(file, weights)
    try:
        model = metadata.description.build()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: its model cannot be built ({error})") from error
    apply_weights(model, weights, source=f"{file} ({metadata.description.name})")
    return model.eval(), metadata


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a state dict into a model: from a checkpoint folder, a .safetensors or a .pth file.

    A .pth may hold the state dict itself or have it under "model". Raises ``CheckpointError`` as
    :func:`load_model` does.
    """
    file, weights, _ = read_state(path)
    apply_weights(model, weights, source=str(file))


def read_state(path: str | os.PathLike[str]) -> tuple[Path, Mapping[str, Tensor], Metadata | None]:
    """The file of a path, its state dict in today's names, and what it says about itself; see :func:`load_model`."""
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix == ".safetensors":
        return file, *read_weights(file)
    weights = read_pickle(file)
    if isinstance(weights, dict) and isinstance(weights.get("model"), dict):
        weights = weights["model"]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{file}: expected a state dict, a dictionary of tensors by name")
    return file, upgrade_keys(weights), None


def torchvision_metadata(file: Path, weights: Mapping[str, Tensor]) -> Metadata:
    """What a file of torchvision does not say: the builder whose parameters have its names, and its categories.

    Without normalised pyramid its norms are taken as frozen with epsilon 0, as torchvision trained them.
    """
    body = body_of(weights, "backbone.body.")
    scores = weights.get("roi_heads.box_predictor.cls_score.bias")
    if body is None or scores is None:
        raise CheckpointError(
            f"{file}: does not say what its model is, and has not the names of a torchvision R-CNN with a "
            "ResNet FPN; build the model and use load_weights"
        )
    kind, options = detector_kind(weights)
    second = "backbone.fpn.inner_blocks.0.1.weight" in weights  # the second recipe normalises its pyramid
    norm = {"norm": "batch", "norm_eps": 1e-5} if second else {"norm": "frozen", "norm_eps": 0.0}
    name = f"{kind}_{body}_fpn{'_v2' if second else ''}"
    categories = tuple(coco_labels(len(scores), options.get("num_keypoints")))
    return Metadata(ModelDescription(name, options | norm), categories, step=0)


def detector_kind(weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Which detector the names of a box predictor and branches make, ``"maskrcnn"`` or the like, and its sizes."""
    options: dict[str, Any] = {"num_classes": len(weights["roi_heads.box_predictor.cls_score.bias"])}
    kind = "mask" if any(name.startswith("roi_heads.mask_predictor.") for name in weights) else ""
    maps = weights.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
    if maps is not None:
        kind, options["num_keypoints"] = f"keypoint{kind}", len(maps)
    return f"{kind or 'faster'}rcnn", options


def apply_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """``load_state_dict`` with one clear error that lists the first few names of each kind of mismatch."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: the weights do not fit the model: {_mismatch(model, weights)}"
        ) from error


def _mismatch(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    shapes = [
        f"{name} (expected {list(expected[name].shape)}, got {list(weights[name].shape)})"
        for name in expected
        if name in weights and expected[name].shape != weights[name].shape
    ]
    kinds = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    return "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in kinds if names)


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _survives_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _first_line(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text.split('. ')[0]}"
