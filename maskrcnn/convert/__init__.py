"""Weights of detectron2, Detectron and torchvision as files of this package.

``read_checkpoint`` finds out what a file holds, renames and reorders it, and compares it with the model that it
is for; ``Conversion.save`` writes one .safetensors file, which says itself what it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from maskrcnn.checkpoint import (
    BackboneMetadata,
    CheckpointError,
    Metadata,
    ModelDescription,
    detector_kind,
    read_state,
    save_weights,
    torchvision_metadata,
)
from maskrcnn.convert import detectron
from maskrcnn.convert.pickles import read_arrays
from maskrcnn.data.coco_names import coco_labels
from maskrcnn.models.weights import body_of, without_classifier


@dataclass(frozen=True)
class Conversion:
    """What a file holds, for a model of this package.

    Attributes:
        source: the file.
        layout: whose names it has: ``"detectron2"``, ``"Detectron"`` or ``"torchvision"``.
        weights: those that the model has, by its names.
        metadata: of the detector, or of the backbone that it is.
        unmatched: names of the file that the model has no place for.
        missing: names of the model that the file has nothing for.
    """

    source: Path
    layout: str
    weights: Mapping[str, Tensor]
    metadata: Metadata | BackboneMetadata
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]

    def save(self, path: str | os.PathLike[str], allow_unmatched: bool = False) -> None:
        """Write the .safetensors file.

        Args:
            path: of the file.
            allow_unmatched: leave out the unmatched, and give the missing a new model's random values.

        Raises:
            CheckpointError: there are unmatched or missing names, and they are not allowed.
        """
        weights = dict(self.weights)
        if self.unmatched or self.missing:
            if not allow_unmatched:
                raise CheckpointError(
                    f"{self.source}: {len(self.unmatched)} unmatched and {len(self.missing)} missing names for "
                    f"{self.metadata.name} (--allow-unmatched converts the others)"
                )
            torch.manual_seed(0)
            fresh = self.metadata.build().state_dict()
            weights |= {name: fresh[name] for name in self.missing}
        save_weights(path, weights, self.metadata)


def read_checkpoint(path: str | os.PathLike[str], model: str | None = None) -> Conversion:
    """Find out what a file holds and for which model.

    Args:
        path: ``.pkl`` (detectron2's model zoo, Detectron's ImageNet classifiers), ``.pth`` or ``.safetensors``
            (torchvision's detectors and classifiers, detectron2's own checkpoints).
        model: the builder of the detector; by default the one that its names and shapes tell.

    Raises:
        CheckpointError: unreadable, hostile, of unknown names, or for no model of this package.
    """
    path = Path(path)
    layout, named, metadata = _recognised(_read(path), path)
    if model is not None:
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{path}: the weights of a {metadata.body}, not of a {model}")
        description = ModelDescription(model, metadata.description.kwargs)
        metadata = Metadata(description, metadata.categories, metadata.step)
    try:
        with torch.device("meta"):
            expected = metadata.build().state_dict()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its model cannot be built ({error})") from error
    return _compare(path, layout, named, metadata, expected)


# A tensor by this package's name, and its name in the file.
Named: TypeAlias = dict[str, tuple[Tensor, str]]
AnyMetadata: TypeAlias = Metadata | BackboneMetadata


def _recognised(source: Mapping[str, Tensor], path: Path) -> tuple[str, Named, AnyMetadata]:
    """Whose names these are, the tensors by this package's names, and what they make."""
    if any(map(detectron.is_detectron2, source)):
        return "detectron2", *_detectron2(source, path)
    if any(map(detectron.is_detectron, source)):
        return "Detectron", *_detectron_backbone(source, path)
    if "roi_heads.box_predictor.cls_score.bias" in source:
        return "torchvision", _same(source), torchvision_metadata(path, source)
    body = body_of(source)
    if body is not None:
        return "torchvision", _same(without_classifier(source)), BackboneMetadata(body)
    some = ", ".join(list(source)[:3])
    raise CheckpointError(f"{path}: the names of no known detector or ResNet ({some or 'no tensors'}, ...)")


def _same(weights: Mapping[str, Tensor]) -> Named:
    return {name: (value, name) for name, value in weights.items()}


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".pkl":
        weights, metadata = read_state(path)[1:]
        if metadata is not None:
            raise CheckpointError(f"{path}: is a file of this package already ({metadata.name})")
        return dict(weights)
    content = read_arrays(path)
    for key in ("model", "blobs"):  # detectron2's and Detectron's
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary of arrays, got {type(content).__name__}")
    arrays = {
        str(name): value for name, value in content.items() if isinstance(value, np.ndarray | np.generic)
    }
    return {name: _tensor(value) for name, value in arrays.items()}


def _tensor(value: Any) -> Tensor:
    floats = np.issubdtype(value.dtype, np.floating)
    return torch.from_numpy(np.array(value, dtype=np.float32 if floats else value.dtype.newbyteorder("=")))


def _detectron2(source: Mapping[str, Tensor], path: Path) -> tuple[Named, Metadata]:
    named = _renamed(source)
    weights = {name: value for name, (value, _) in named.items()}
    body = body_of(weights, "backbone.body.")
    if body is None or "roi_heads.box_predictor.cls_score.bias" not in weights:
        raise CheckpointError(f"{path}: of detectron2, but not an R-CNN on a ResNet or ResNeXt")
    options = _fit_body(named, "backbone.body.", body, source)
    kind, sizes = detector_kind(weights)
    neck = "dc5"
    if any(name.startswith("backbone.fpn.") for name in weights):
        neck = "fpn"
    elif any(name.startswith("roi_heads.shared_head.") for name in weights):
        neck = "c4"
    if not detectron.has_known_anchors(source, pyramid=neck == "fpn"):
        raise CheckpointError(
            f"{path}: its anchors are not those of sizes 32 to 512 with ratios 1/2, 1 and 2; others cannot be converted"
        )
    if neck != "fpn":
        options |= detectron.ONE_MAP_OPTIONS
    if neck == "c4":
        options["res5_stride"] = 2  # on regions of 14 x 14
    kwargs = {**sizes, "norm": "frozen", "norm_eps": detectron.NORM_EPS, "geometry": "detectron2", **options}
    named = {name: (detectron.reorder(name, value), old) for name, (value, old) in named.items()}
    categories = tuple(coco_labels(sizes["num_classes"], sizes.get("num_keypoints")))
    return named, Metadata(ModelDescription(f"{kind}_{body}_{neck}", kwargs), categories, step=0)


def _detectron_backbone(source: Mapping[str, Tensor], path: Path) -> tuple[Named, BackboneMetadata]:
    named = {name.removeprefix("backbone.body."): entry for name, entry in _renamed(source).items()}
    body = body_of({name: value for name, (value, _) in named.items()})
    if body is None:
        raise CheckpointError(f"{path}: of Detectron, but not a ResNet or ResNeXt of this package")
    options = _fit_body(named, "", body, source)
    return named, BackboneMetadata(body, options.get("stride_in_1x1", False))


def _renamed(source: Mapping[str, Tensor]) -> Named:
    kept = {name: value for name, value in source.items() if not detectron.LEFT_OUT.fullmatch(name)}
    return {detectron.our_name(name): (value, name) for name, value in kept.items()}


def _fit_body(named: Named, prefix: str, body: str, source: Mapping[str, Tensor]) -> dict[str, Any]:
    """Complete the norms and refit the first convolution of a ResNet; the options of the model that it needs."""
    values = {name: value for name, (value, _) in named.items()}
    detectron.fill_norms(values)
    options: dict[str, Any] = {}
    conv = f"{prefix}conv1.weight"
    if conv in values and values[conv].shape[1:2] == (3,):  # else its shape is reported
        values[conv], options = detectron.fold_pixels(values[conv], body, source)
    named.update({name: (value, named.get(name, (value, name))[1]) for name, value in values.items()})
    return options | ({"stride_in_1x1": True} if detectron.has_stride_in_1x1(body) else {})


def _compare(
    path: Path,
    layout: str,
    named: Named,
    metadata: AnyMetadata,
    expected: Mapping[str, Tensor],
) -> Conversion:
    weights, unmatched = {}, []
    for name, (value, old) in named.items():
        if name.endswith(".num_batches_tracked"):  # batch norm's count; nothing depends on it
            if name in expected:
                weights[name] = value
        elif name not in expected:
            unmatched.append(old)
        elif value.shape != expected[name].shape:
            unmatched.append(f"{old} (expected {list(expected[name].shape)}, got {list(value.shape)})")
        else:
            weights[name] = value
    counts = ".num_batches_tracked"
    missing = tuple(name for name in expected if name not in weights and not name.endswith(counts))
    return Conversion(path, layout, weights, metadata, tuple(unmatched), missing)
