"""Reads a COCO instances or person-keypoints file into packed arrays, and checks all of it.

Each annotation is packed as soon as it is parsed (`json_stream.py`), what can be checked on its own is
checked there; references between annotations, images and categories are checked afterwards on whole arrays.
Large files thus cost little more memory than their text.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .coco_keypoints import KeypointReader, category_keypoints
from .coco_segmentations import SegmentationReader, Segmentations, brief, extend, floats, ints, is_id
from .dataset import Category, DataError
from .json_stream import parse_object
from .rle import Problem

_OF_CATEGORY = itemgetter("id", "name")
_OF_IMAGE = itemgetter("id", "file_name", "height", "width")
_OF_ANNOTATION = itemgetter("id", "image_id", "category_id", "bbox", "area")
_MAX_SIDE = 2**24  # pixels; areas then fit into 64 bits with room to spare


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO instances file. A annotations, I images; all ids int64, annotations in file
    order."""

    path: Path
    categories: list[Category]  # sorted by id
    image_ids: np.ndarray  # [I]
    image_sizes: np.ndarray  # int64 [I, 2], (height, width)
    file_names: list[str]
    annotation_ids: np.ndarray  # [A]
    image_index: np.ndarray  # int64 [A], position of the image in image_ids
    category_index: np.ndarray  # int64 [A], position of the category in categories
    crowd: np.ndarray  # bool [A]
    area: np.ndarray  # float64 [A]
    boxes: np.ndarray  # float64 [A, 4], (x, y, width, height)
    segmentations: Segmentations | None  # None if they were not read
    keypoints: np.ndarray | None  # float32 [A, K, 3], (x, y, visibility); None if they were not read


def read_coco_file(path: Path, segmentations: bool = True, keypoints: bool = False) -> CocoFile:
    """Read and check a COCO instances file.

    Args:
        path: the JSON file.
        segmentations: read the masks; False ignores them.
        keypoints: read the keypoints, whose number all categories must share; False ignores them.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: naming the file, the annotation, image or category, and what is wrong with it.
    """
    reader = _Reader(path, segmentations, keypoints)
    handlers = {
        "images": reader.add_image,
        "annotations": reader.add_annotation,
        "categories": reader.add_category,
    }
    try:
        keys = parse_object(path.read_bytes().decode("utf-8-sig"), handlers)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: annotation file not found") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotation file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text, so not JSON: {error.reason} at byte {error.start}"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: invalid JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
            + ("" if error.doc[error.pos :].strip() else "; the file ends there: is it truncated?")
        ) from None
    except DataError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{path}: invalid JSON: {error}") from None
    for key in handlers:
        if key not in keys:
            raise DataError(
                f"{path}: missing key {key!r}; a COCO instances file has {', '.join(map(repr, handlers))}"
            )
    return reader.finish()


class _Reader:
    """Takes the parsed entries one by one; ``finish`` checks how they hang together."""

    def __init__(self, path: Path, segmentations: bool, keypoints: bool) -> None:
        self.path = path
        self.segmentations = SegmentationReader() if segmentations else None
        self.keypoints = KeypointReader() if keypoints else None
        self.categories: list[Category] = []
        self.image_ids = array("q")
        self.image_sizes = array("q")
        self.file_names: list[str] = []
        self.annotation_ids = array("q")
        self.annotation_images = array("q")
        self.annotation_categories = array("q")
        self.crowd = array("b")
        self.area = array("d")
        self.boxes = array("d")

    def fail(self, what: str) -> NoReturn:
        raise DataError(f"{self.path}: {what}")

    # -------------------------------- one entry at a time

    def add_category(self, entry: Any, position: int) -> None:
        number, name = self.values(entry, _OF_CATEGORY, "category", position)
        if not is_id(number) or not isinstance(name, str):
            self.fail(f"category {number!r}: expected an integer id and a name, got {number!r} and {name!r}")
        if self.keypoints is None:
            self.categories.append(Category(number, name))
            return
        try:
            self.categories.append(Category(number, name, *category_keypoints(entry)))
        except ValueError as wrong:
            self.fail(f"category {number}: {wrong}")

    def add_image(self, entry: Any, position: int) -> None:
        number, name, height, width = self.values(entry, _OF_IMAGE, "image", position)
        if not is_id(number):
            self.fail(f"image number {position}: expected an integer id, got {number!r}")
        if not isinstance(name, str) or not name:
            self.fail(f"image {number}: expected file_name to be a string, got {name!r}")
        for what, side in (("height", height), ("width", width)):
            if not is_id(side) or not 0 < side < _MAX_SIDE:
                self.fail(f"image {number}: expected {what} to be a positive integer, got {side!r}")
        self.image_ids.append(number)
        self.image_sizes.extend((height, width))
        self.file_names.append(name)

    def add_annotation(self, entry: Any, position: int) -> None:
        number, image, category, box, area = self.values(entry, _OF_ANNOTATION, "annotation", position)
        if not is_id(number):
            self.fail(f"annotation number {position}: expected an integer id, got {number!r}")
        if not is_id(image) or not is_id(category):
            self.fail(
                f"annotation {number}: expected image_id and category_id to be integers, "
                f"got {brief(image)} and {brief(category)}"
            )
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            self.fail(f"annotation {number}: expected iscrowd to be 0 or 1, got {brief(crowd)}")
        self.annotation_ids.append(number)
        self.annotation_images.append(image)
        self.annotation_categories.append(category)
        self.crowd.append(int(crowd))
        try:
            self.area.append(area)
        except (TypeError, OverflowError):
            self.fail(f"annotation {number}: expected area to be a finite number, got {brief(area)}")
        if not isinstance(box, list) or len(box) != 4 or not extend(self.boxes, box):
            self.fail(f"annotation {number}: expected bbox to be 4 finite numbers, got {brief(box)}")
        try:
            if self.segmentations is not None:
                self.segmentations.add(entry.get("segmentation"))
            if self.keypoints is not None:
                self.keypoints.add(entry.get("keypoints"), bool(crowd))
        except ValueError as wrong:
            self.fail(f"annotation {number}: {wrong}")

    def values(self, entry: Any, get: Callable[[Any], tuple[Any, ...]], what: str, position: int) -> Any:
        """The values of the required keys."""
        if not isinstance(entry, dict):
            self.fail(f"{what} number {position}: expected an object, got {brief(entry)}")
        try:
            return get(entry)
        except KeyError as missing:
            name = entry.get("id", f"number {position}")
            self.fail(f"{what} {name}: missing key {missing}")

    # -------------------------------- all entries together

    def finish(self) -> CocoFile:
        if not self.categories:
            self.fail("expected at least one category")
        if not self.image_ids:
            self.fail("expected at least one image")
        image_ids, annotation_ids = ints(self.image_ids), ints(self.annotation_ids)
        categories = sorted(self.categories, key=lambda category: category.id)
        category_ids = np.array([category.id for category in categories], dtype=np.int64)
        self.check_unique("category", category_ids)
        self.check_unique("image", image_ids)
        self.check_unique("annotation", annotation_ids)
        image_index = self.look_up("image", ints(self.annotation_images), image_ids)
        category_index = self.look_up("category", ints(self.annotation_categories), category_ids)
        image_sizes = ints(self.image_sizes).reshape(-1, 2)
        boxes, area = floats(self.boxes).reshape(-1, 4), floats(self.area)
        self.check_annotations(~np.isfinite(boxes).all(1), "expected bbox to be 4 finite numbers, got", boxes)
        self.check_annotations(~np.isfinite(area), "expected area to be a finite number, got", area)
        crowd = np.array(self.crowd, dtype=np.bool_)
        segmentations = keypoints = None
        if self.segmentations is not None:
            segmentations, problem = self.segmentations.finish(image_sizes[image_index])
            self.check_problem(problem)
        if self.keypoints is not None:
            keypoints, problem = self.keypoints.finish(self.number_of_keypoints(categories), crowd)
            self.check_problem(problem)
        return CocoFile(
            path=self.path,
            categories=categories,
            image_ids=image_ids,
            image_sizes=image_sizes,
            file_names=self.file_names,
            annotation_ids=annotation_ids,
            image_index=image_index,
            category_index=category_index,
            crowd=crowd,
            area=area,
            boxes=boxes,
            segmentations=segmentations,
            keypoints=keypoints,
        )

    def number_of_keypoints(self, categories: list[Category]) -> int:
        """K, which a model's heat maps have for all categories alike."""
        first, number = categories[0], len(categories[0].keypoints)
        for category in categories:
            if len(category.keypoints) != number:
                self.fail(
                    f"category {category.id}: expected {number} keypoints, the number of category {first.id}, "
                    f"got {len(category.keypoints)}"
                )
        return number

    def check_problem(self, problem: Problem | None) -> None:
        if problem is not None:
            self.fail(f"annotation {self.annotation_ids[problem[0]]}: {problem[1]}")

    def check_unique(self, what: str, ids: np.ndarray) -> None:
        ordered = np.sort(ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            self.fail(f"{what} {twice[0]}: the id comes more than once")

    def look_up(self, what: str, wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Positions in ``known`` of the ids that the annotations refer to."""
        order = np.argsort(known)
        found = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
        self.check_annotations(known[found] != wanted, f"it refers to an unknown {what},", wanted)
        return found

    def check_annotations(self, bad: np.ndarray, what: str, values: np.ndarray) -> None:
        if bad.any():
            first = int(np.argmax(bad))
            self.fail(f"annotation {self.annotation_ids[first]}: {what} {values[first].tolist()}")
