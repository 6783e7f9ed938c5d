"""Proposals from files: what is read, what is refused, and that they go where their image goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.data import (
    DataError,
    ProposedDataset,
    ShapesDataset,
    flip_horizontal,
    flip_vertical,
    read_picture_proposals,
    read_proposals,
)

ENTRIES = [
    {"image_id": 2, "bbox": [1, 2, 10, 20], "score": 0.5, "category_id": 1},
    {"image_id": 2, "bbox": [1, 2, 0, 20]},
    {"image_id": 9, "bbox": [0, 0, 5, 5]},
]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_boxes_are_grouped_by_image(tmp_path: Path) -> None:
    found = read_proposals(write(tmp_path / "boxes.json", ENTRIES))
    assert {image_id: boxes.tolist() for image_id, boxes in found.items()} == {
        2: [[1, 2, 11, 22]],  # the box without area is left out
        9: [[0, 0, 5, 5]],
    }


def test_targets_have_them(tmp_path: Path) -> None:
    dataset = ProposedDataset(ShapesDataset(3, 64), write(tmp_path / "boxes.json", ENTRIES))
    assert len(dataset) == 3
    assert dataset[0][1]["proposals"].shape == (0, 4)
    image, target = dataset[1]
    assert target["proposals"].tolist() == [[1, 2, 11, 22]]
    assert flip_horizontal(image, target)[1]["proposals"].tolist() == [[53, 2, 63, 22]]
    assert flip_vertical(image, target)[1]["proposals"].tolist() == [[1, 42, 11, 62]]


def test_pictures_are_known_by_name(tmp_path: Path) -> None:
    images = [{"id": 2, "file_name": "some/a.png"}, {"id": 3, "file_name": "b.png"}]
    content = {"images": images, "annotations": ENTRIES}
    found = read_picture_proposals(write(tmp_path / "boxes.json", content))
    assert {name: boxes.tolist() for name, boxes in found.items()} == {"a.png": [[1, 2, 11, 22]], "b.png": []}
    images[1]["file_name"] = "other/a.png"
    with pytest.raises(DataError, match="several pictures have the same name"):
        read_picture_proposals(write(tmp_path / "boxes.json", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "expected a list of results"),
        ([{"image_id": 1}], "entry 0: expected image_id and bbox"),
        ([{"image_id": 1, "bbox": [1, 2, 3]}], "entry 0: expected image_id and bbox"),
        ([{"image_id": 1, "bbox": [1, 2, 3, float("nan")]}], "image 1: expected finite boxes"),
        ([{"image_id": 7, "bbox": [1, 2, 3, 4]}], "proposals for none of the data set's images"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "boxes.json", content)
    with pytest.raises(DataError, match=message) as caught:
        ProposedDataset(ShapesDataset(3, 64), path)
    assert str(path) in str(caught.value)


def test_text_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text("[")
    with pytest.raises(DataError, match="invalid JSON"):
        read_proposals(tmp_path / "boxes.json")
    with pytest.raises(DataError, match="expected a COCO file with images"):
        read_picture_proposals(write(tmp_path / "list.json", []))


def test_float_boxes(tmp_path: Path) -> None:
    (boxes,) = read_proposals(write(tmp_path / "b.json", [{"image_id": 1, "bbox": [0.5, 1, 2, 3]}])).values()
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [[0.5, 1, 2.5, 4]]
