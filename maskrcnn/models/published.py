"""Published weights by a word: torchvision's COCO detectors and ImageNet classifiers.

Nothing is downloaded unless one of the words, or a member of torchvision's enumerations of weights, stands where
weights are expected. A file is kept in torch.hub's folder (``$TORCH_HOME/hub/checkpoints``), as torchvision keeps
it, and checked whenever it is used: its name holds the beginning of its SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

SOURCE = "https://download.pytorch.org/models/"
DETECTORS = {
    "coco": {
        "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        "maskrcnn_resnet50_fpn_v2": "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        "fasterrcnn_resnet50_fpn_v2": "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        "keypointrcnn_resnet50_fpn": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
    }
}
# "imagenet": the simple recipe, from which detectors are commonly started; "imagenet_v2": the longer one.
BACKBONES = {
    "imagenet": {
        "resnet18": "resnet18-f37072fd.pth",
        "resnet34": "resnet34-b627a593.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "resnet101": "resnet101-63fe2227.pth",
        "resnet152": "resnet152-394f9c45.pth",
        "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
        "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
        "resnext101_64x4d": "resnext101_64x4d-173b62eb.pth",
    },
    "imagenet_v2": {
        "resnet50": "resnet50-11ad3fa6.pth",
        "resnet101": "resnet101-cd907fc2.pth",
        "resnet152": "resnet152-f82ba261.pth",
        "resnext50_32x4d": "resnext50_32x4d-1a0047aa.pth",
        "resnext101_32x8d": "resnext101_32x8d-110c445d.pth",
    },
}
# What torchvision calls them.
TORCHVISION_WORDS = {"COCO_V1": "coco", "IMAGENET1K_V1": "imagenet", "IMAGENET1K_V2": "imagenet_v2"}


class PublishedWeightsError(OSError):
    """Published weights that do not exist, cannot be fetched, or are not what was published."""


def detector_weights(weights: Any, model: str) -> Any:
    """What ``weights`` of the builder ``model`` stand for: published ones as their file, others as they are."""
    return _resolve("weights", DETECTORS, weights, model)


def backbone_weights(weights: Any, body: str) -> Any:
    """What ``weights_backbone`` of the ResNet ``body`` stand for, as :func:`detector_weights`."""
    return _resolve("weights_backbone", BACKBONES, weights, body)


def _resolve(argument: str, table: dict[str, dict[str, str]], weights: Any, model: str) -> Any:
    if isinstance(url := getattr(weights, "url", None), str):  # a member of torchvision's enumerations
        return fetch(url.rpartition("/")[2])
    if isinstance(weights, str):
        word = TORCHVISION_WORDS.get(weights, weights)
        return _file(table, word, model) if word in table else weights
    if weights is None or isinstance(weights, os.PathLike | Mapping):
        return weights
    raise TypeError(
        f"{argument}: expected None, a state dict, the path of a file with one, the word of published weights or "
        f"a member of torchvision's enumerations of weights, got {weights!r}"
    )


def _file(table: dict[str, dict[str, str]], word: str, model: str) -> Path:
    if model not in table[word]:
        raise PublishedWeightsError(
            f'no published weights "{word}" for {model}; there are some for {", ".join(table[word])}'
        )
    return fetch(table[word][model])


def fetch(name: str) -> Path:
    """The published file of this name in torch.hub's folder, downloaded if it is not there yet.

    Raises:
        PublishedWeightsError: no network, no such file at the source, or a wrong checksum.
    """
    match = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    assert match is not None, name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        _check(path, match[1])
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(SOURCE + name, str(path), hash_prefix=match[1])
    except (URLError, TimeoutError, ConnectionError) as error:
        raise PublishedWeightsError(f"cannot download {SOURCE}{name}: {error}") from error
    except RuntimeError as error:  # the checksum; nothing is left behind
        raise PublishedWeightsError(f"{SOURCE}{name}: {error}") from error
    return path


def _check(path: Path, digest: str) -> None:
    with path.open("rb") as file:
        # hashlib.file_digest came with Python 3.11.
        sha256 = hashlib.sha256()
        while block := file.read(1 << 20):
            sha256.update(block)
    if not sha256.hexdigest().startswith(digest):
        raise PublishedWeightsError(
            f"{path}: its SHA-256 begins with {sha256.hexdigest()[: len(digest)]}, not with {digest}: "
            "a damaged or a different file; delete it to download it again"
        )
