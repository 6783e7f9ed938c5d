"""Proposals for detectors without an RPN, from a file of boxes that another detector found."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dataset import Category, DataError, DetectionDataset, Target


class ProposedDataset:
    """A data set whose training targets have ``proposals`` too: float32 [P, 4], xyxy, pixels of the image.

    Args:
        dataset: the images and their objects.
        proposal_file: see :func:`read_proposals`; entries of images that ``dataset`` lacks are left out, and an image
            without entries has none.

    Raises:
        FileNotFoundError, DataError: the file cannot be read, is malformed, or has no entry for any of the images.
    """

    def __init__(self, dataset: DetectionDataset, proposal_file: str | os.PathLike[str]) -> None:
        self._dataset = dataset
        self._proposals = read_proposals(proposal_file)
        if not any(image_id in self._proposals for image_id in dataset.image_ids):
            raise DataError(f"{os.fspath(proposal_file)}: has proposals for none of the data set's images")

    @property
    def categories(self) -> Sequence[Category]:
        return self._dataset.categories

    @property
    def num_classes(self) -> int:
        return self._dataset.num_classes

    @property
    def image_ids(self) -> Sequence[int]:
        return self._dataset.image_ids

    @property
    def image_sizes(self) -> Sequence[tuple[int, int]]:
        return self._dataset.image_sizes

    @property
    def has_objects(self) -> Sequence[bool]:
        return self._dataset.has_objects

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, target = self._dataset[index]
        return image, {**target, "proposals": self.proposals(index)}

    def image(self, index: int) -> Tensor:
        return self._dataset.image(index)

    def proposals(self, index: int) -> Tensor:
        """Those of image ``index``, float32 [P, 4], xyxy."""
        return self._proposals.get(self._dataset.image_ids[index], torch.zeros(0, 4))

    def ground_truth(self) -> dict[str, Any]:
        return self._dataset.ground_truth()


def read_proposals(path: str | os.PathLike[str]) -> dict[int, Tensor]:
    """Boxes float32 [P, 4] (xyxy) by image id, from a list in COCO's results format.

    Of each entry ``image_id`` and ``bbox`` (x, y, width, height) count; boxes without area are left out.
    ``results.json`` of ``maskrcnn eval`` is such a file.

    Raises:
        FileNotFoundError, DataError: the file cannot be read or is no such list.
    """
    content = _read(path)
    if not isinstance(content, list):
        raise DataError(
            f"{os.fspath(path)}: expected a list of results (image_id, bbox), got a {type(content).__name__}"
        )
    return _grouped(path, content)


def read_picture_proposals(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Boxes float32 [P, 4] (xyxy) by the name of the picture (without folders), from a COCO instances file.

    ``predictions.json`` of ``maskrcnn predict`` is such a file.

    Raises:
        FileNotFoundError, DataError: the file cannot be read or is no such file.
    """
    content = _read(path)
    try:
        names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        annotations = content["annotations"]
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{os.fspath(path)}: expected a COCO file with images (id, file_name) and annotations"
        ) from error
    if len(set(names.values())) < len(names):
        raise DataError(
            f"{os.fspath(path)}: several pictures have the same name, which tells them apart here"
        )
    boxes = _grouped(path, annotations)
    return {name: boxes.get(image_id, torch.zeros(0, 4)) for image_id, name in names.items()}


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{os.fspath(path)}: invalid JSON: {error}") from None


def _grouped(path: str | os.PathLike[str], entries: list[Any]) -> dict[int, Tensor]:
    groups: dict[int, list[list[float]]] = {}
    for number, entry in enumerate(entries):
        try:
            x, y, width, height = map(float, entry["bbox"])
            groups.setdefault(int(entry["image_id"]), []).append([x, y, x + width, y + height])
        except (TypeError, KeyError, ValueError):
            raise DataError(
                f"{os.fspath(path)}: entry {number}: expected image_id and bbox of four numbers, got {entry!r:.200}"
            ) from None
    found = {}
    for image_id, listed in groups.items():
        boxes = torch.tensor(listed, dtype=torch.float32)
        if not bool(boxes.isfinite().all()):
            raise DataError(f"{os.fspath(path)}: image {image_id}: expected finite boxes")
        found[image_id] = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    return found
