"""A small, valid COCO file that tests change in one place and read back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data import CocoDataset


def small_coco() -> dict[str, Any]:
    """Two images of height 6 and width 8, one of 8 and 6 without objects; masks in all three formats."""
    square = [1, 1, 4, 1, 4, 4, 1, 4]  # columns 1 to 3, rows 1 to 3
    counts = [7, 3, 3, 3, 3, 3, 26]  # the same square in an image of height 6
    common = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0}
    return {
        "info": {"year": 2020},
        "images": [
            {"id": 7, "file_name": "a.png", "height": 6, "width": 8},
            {"id": 5, "file_name": "b.png", "height": 6, "width": 8},
            {"id": 9, "file_name": "empty.png", "height": 8, "width": 6},
        ],
        "annotations": [
            {**common, "id": 11, "segmentation": [square]},
            {**common, "id": 12, "category_id": 90, "segmentation": {"size": [6, 8], "counts": counts}},
            {**common, "id": 13, "segmentation": {"size": [6, 8], "counts": "733000g0"}},
            {**common, "id": 14, "iscrowd": 1, "segmentation": {"size": [6, 8], "counts": counts}},
            {**common, "id": 15, "image_id": 5, "category_id": 17, "segmentation": [square]},
        ],
        "categories": [{"id": 90, "name": "kite"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}],
    }


@pytest.fixture
def coco() -> dict[str, Any]:
    return small_coco()


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CocoDataset]:
    """Write a COCO file and its pictures, and open it; a string is written as it is."""

    def _load(content: dict[str, Any] | str, **options: Any) -> CocoDataset:
        file = tmp_path / "instances.json"
        if isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        else:
            file.write_text(json.dumps(content), encoding="utf-8")
            for image in content.get("images", ()):
                if isinstance(image, dict) and str(image.get("file_name")).endswith(".png"):
                    pixels = np.full((6, 8, 3), 50, dtype=np.uint8)
                    if image["file_name"] == "empty.png":
                        pixels = np.full((8, 6, 3), 50, dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / str(image["file_name"]))
        return CocoDataset(tmp_path, file, **options)

    return _load
