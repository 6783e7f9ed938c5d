"""Reads a COCO instances file into packed arrays, and checks all of it.

Each annotation is packed as soon as it is parsed (`json_stream.py`), what can be checked on its own is checked there;
references between annotations, images and categories are checked afterwards on whole arrays. Large files thus cost
little more memory than their text.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .dataset import Category, DataError
from .json_stream import parse_object
from .rle import Problem, find_bad_counts, find_bad_strings

NO_SEGMENTATION, POLYGONS, COUNTS, STRING = range(4)

# pycocotools walks a polygon's outline in steps of a fifth of a pixel; this bounds the time and memory of one edge.
_MAX_COORDINATE = 100_000
_MAX_SIDE = 2**24


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO instances file. A annotations, I images; all ids int64, annotations in file order."""

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
    segmentations: Segmentations


@dataclass(frozen=True)
class Segmentations:
    """Polygons and run-length encodings of A annotations, in four flat arrays."""

    kind: np.ndarray  # uint8 [A]: NO_SEGMENTATION, POLYGONS, COUNTS or STRING
    start: np.ndarray  # int64 [A], the annotation's first entry in ring_ends, counts or text, by its kind ...
    end: np.ndarray  # int64 [A], ... and one past its last
    ring_ends: np.ndarray  # int64, where each polygon ends in coordinates
    coordinates: np.ndarray  # float64, x and y in turn
    counts: np.ndarray  # int64, run lengths of uncompressed encodings
    text: np.ndarray  # uint8, characters of compressed encodings

    def to_coco(self, annotation: int, size: tuple[int, int]) -> Any:
        """The segmentation as it stood in the file: polygons, or ``{"size": [h, w], "counts": list or str}``."""
        kind, start, end = self.kind[annotation], self.start[annotation], self.end[annotation]
        if kind == POLYGONS:
            begins = [self.ring_ends[ring - 1] if ring else 0 for ring in range(start, end)]
            return [self.coordinates[b:e].tolist() for b, e in zip(begins, self.ring_ends[start:end])]
        if kind == COUNTS:
            return {"size": list(size), "counts": self.counts[start:end].tolist()}
        if kind == STRING:
            return {"size": list(size), "counts": self.text[start:end].tobytes().decode("ascii")}
        raise ValueError(f"to_coco: annotation {annotation} was read without its segmentation")


def read_coco_file(path: Path, segmentations: bool = True) -> CocoFile:
    """Read and check a COCO instances file.

    Args:
        path: the JSON file.
        segmentations: read the masks; False ignores them.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: naming the file, the annotation, image or category, and what is wrong with it.
    """
    reader = _Reader(path, segmentations)
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
        cut = "; the file ends there: is it truncated?" if not error.doc[error.pos :].strip() else ""
        raise DataError(
            f"{path}: invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}{cut}"
        ) from None
    for key in handlers:
        if key not in keys:
            raise DataError(
                f"{path}: missing key {key!r}; a COCO instances file has {', '.join(map(repr, handlers))}"
            )
    return reader.finish()


class _Reader:
    """Takes the parsed entries one by one; ``finish`` checks how they hang together."""

    def __init__(self, path: Path, segmentations: bool) -> None:
        self.path = path
        self.with_segmentations = segmentations
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
        self.kind = array("B")
        self.start = array("q")
        self.end = array("q")
        self.ring_ends = array("q")
        self.coordinates = array("d")
        self.counts = array("q")
        self.text = bytearray()
        self.rle_sizes = array("q")  # height and width of each annotation's encoding, -1 for polygons

    def fail(self, what: str) -> NoReturn:
        raise DataError(f"{self.path}: {what}")

    # ------------------------------------------------------------------ one entry at a time

    def add_category(self, entry: Any, position: int) -> None:
        number, name = self.values(entry, ("id", "name"), "category", position)
        if not _is_id(number) or not isinstance(name, str):
            self.fail(f"category {number!r}: expected an integer id and a name, got {number!r} and {name!r}")
        self.categories.append(Category(number, name))

    def add_image(self, entry: Any, position: int) -> None:
        number, name, height, width = self.values(
            entry, ("id", "file_name", "height", "width"), "image", position
        )
        if not _is_id(number):
            self.fail(f"image number {position}: expected an integer id, got {number!r}")
        if not isinstance(name, str) or not name:
            self.fail(f"image {number}: expected file_name to be a string, got {name!r}")
        for what, side in (("height", height), ("width", width)):
            if not _is_id(side) or not 0 < side < _MAX_SIDE:
                self.fail(f"image {number}: expected {what} to be a positive integer, got {side!r}")
        self.image_ids.append(number)
        self.image_sizes.extend((height, width))
        self.file_names.append(name)

    def add_annotation(self, entry: Any, position: int) -> None:
        keys = ("id", "image_id", "category_id", "bbox", "area")
        number, image, category, box, area = self.values(entry, keys, "annotation", position)
        if not _is_id(number):
            self.fail(f"annotation number {position}: expected an integer id, got {number!r}")
        if not _is_id(image) or not _is_id(category):
            self.fail(
                f"annotation {number}: expected integer image_id and category_id, got {image!r} and {category!r}"
            )
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            self.fail(f"annotation {number}: expected iscrowd to be 0 or 1, got {_brief(crowd)}")
        self.annotation_ids.append(number)
        self.annotation_images.append(image)
        self.annotation_categories.append(category)
        self.crowd.append(int(crowd))
        try:
            self.area.append(area)
        except (TypeError, OverflowError):
            self.fail(f"annotation {number}: expected area to be a finite number, got {_brief(area)}")
        if not isinstance(box, list) or len(box) != 4 or not _extend(self.boxes, box):
            self.fail(f"annotation {number}: expected bbox to be 4 finite numbers, got {_brief(box)}")
        if self.with_segmentations:
            self.add_segmentation(entry, number)

    def values(self, entry: Any, keys: Sequence[str], what: str, position: int) -> list[Any]:
        if not isinstance(entry, dict):
            self.fail(f"{what} number {position}: expected an object, got {_brief(entry)}")
        try:
            return [entry[key] for key in keys]
        except KeyError as missing:
            name = entry.get("id", f"number {position}")
            self.fail(f"{what} {name}: missing key {missing}")

    def add_segmentation(self, entry: dict[str, Any], number: int) -> None:
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, list) and segmentation:
            self.add_polygons(segmentation, number)
        elif isinstance(segmentation, dict):
            self.add_encoding(segmentation, number)
        elif segmentation is None or segmentation == []:
            self.fail(f"annotation {number}: it has no segmentation; masks=False reads boxes only")
        else:
            self.fail(
                f"annotation {number}: expected segmentation to be polygons or RLE, got {_brief(segmentation)}"
            )

    def add_polygons(self, polygons: list[Any], number: int) -> None:
        self.kind.append(POLYGONS)
        self.start.append(len(self.ring_ends))
        for polygon in polygons:
            if not isinstance(polygon, list):
                self.fail(f"annotation {number}: expected each polygon to be a list, got {_brief(polygon)}")
            if len(polygon) < 6 or len(polygon) % 2:
                self.fail(
                    f"annotation {number}: expected polygons of an even number of coordinates, at least 6, "
                    f"got one of {len(polygon)}"
                )
            if not _extend(self.coordinates, polygon):
                self.fail(f"annotation {number}: expected polygons of finite numbers, got {_brief(polygon)}")
            self.ring_ends.append(len(self.coordinates))
        self.end.append(len(self.ring_ends))
        self.rle_sizes.extend((-1, -1))

    def add_encoding(self, encoding: dict[str, Any], number: int) -> None:
        size, counts = encoding.get("size"), encoding.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not all(_is_id(side) for side in size):
            self.fail(
                f"annotation {number}: expected segmentation size to be [height, width], got {_brief(size)}"
            )
        if isinstance(counts, str):
            if not counts.isascii():
                self.fail(f"annotation {number}: segmentation counts hold characters that no encoding has")
            self.kind.append(STRING)
            self.start.append(len(self.text))
            self.text += counts.encode("ascii")
            self.end.append(len(self.text))
        elif isinstance(counts, list):
            self.kind.append(COUNTS)
            self.start.append(len(self.counts))
            if not all(_is_id(run) for run in counts):
                self.fail(
                    f"annotation {number}: expected segmentation counts to be integers, got {_brief(counts)}"
                )
            self.counts.extend(counts)
            self.end.append(len(self.counts))
        else:
            self.fail(
                f"annotation {number}: expected segmentation counts as a list or string, got {_brief(counts)}"
            )
        self.rle_sizes.extend(size)

    # ------------------------------------------------------------------ all entries together

    def finish(self) -> CocoFile:
        if not self.categories:
            self.fail("expected at least one category")
        if not self.image_ids:
            self.fail("expected at least one image")
        image_ids, annotation_ids = _ints(self.image_ids), _ints(self.annotation_ids)
        categories = sorted(self.categories, key=lambda category: category.id)
        category_ids = np.array([category.id for category in categories], dtype=np.int64)
        self.check_unique("category", category_ids)
        self.check_unique("image", image_ids)
        self.check_unique("annotation", annotation_ids)
        image_index = self.look_up("image", _ints(self.annotation_images), image_ids)
        category_index = self.look_up("category", _ints(self.annotation_categories), category_ids)
        image_sizes = _ints(self.image_sizes).reshape(-1, 2)
        boxes, area = _floats(self.boxes).reshape(-1, 4), _floats(self.area)
        self.check_annotations(~np.isfinite(boxes).all(1), "expected bbox to be 4 finite numbers, got", boxes)
        self.check_annotations(~np.isfinite(area), "expected area to be a finite number, got", area)
        segmentations = self.finish_segmentations(image_sizes[image_index])
        return CocoFile(
            path=self.path,
            categories=categories,
            image_ids=image_ids,
            image_sizes=image_sizes,
            file_names=self.file_names,
            annotation_ids=annotation_ids,
            image_index=image_index,
            category_index=category_index,
            crowd=np.frombuffer(self.crowd, dtype=np.bool_) if self.crowd else np.zeros(0, dtype=np.bool_),
            area=area,
            boxes=boxes,
            segmentations=segmentations,
        )

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

    def finish_segmentations(self, sizes: np.ndarray) -> Segmentations:
        """``sizes``: int64 [A, 2], (height, width) of each annotation's image."""
        if not self.with_segmentations:
            none, empty = np.zeros(len(sizes), dtype=np.int64), np.zeros(0, dtype=np.int64)
            return Segmentations(none.astype(np.uint8), none, none, empty, empty.astype(float), empty, empty)
        kind = np.frombuffer(self.kind, dtype=np.uint8) if self.kind else np.zeros(0, dtype=np.uint8)
        text = np.frombuffer(self.text, dtype=np.uint8) if self.text else np.zeros(0, dtype=np.uint8)
        start, end, counts = _ints(self.start), _ints(self.end), _ints(self.counts)
        result = Segmentations(
            kind, start, end, _ints(self.ring_ends), _floats(self.coordinates), counts, text
        )

        self.check_coordinates(result)
        rle_sizes = _ints(self.rle_sizes).reshape(-1, 2)
        wrong = (kind != POLYGONS) & (rle_sizes != sizes).any(1)
        if wrong.any():
            first = int(np.argmax(wrong))
            self.fail(
                f"annotation {self.annotation_ids[first]}: segmentation size {rle_sizes[first].tolist()} differs from "
                f"its image's {sizes[first].tolist()} (height, width)"
            )
        areas = sizes[:, 0] * sizes[:, 1]
        chosen = np.flatnonzero(kind == COUNTS)
        self.check_runs(chosen, find_bad_counts(counts, start[chosen], end[chosen], areas[chosen]))
        chosen = np.flatnonzero(kind == STRING)
        self.check_runs(chosen, find_bad_strings(text, start[chosen], end[chosen], areas[chosen]))
        return result

    def check_coordinates(self, segmentations: Segmentations) -> None:
        bad = ~(np.abs(segmentations.coordinates) <= _MAX_COORDINATE)
        if bad.any():
            first = int(np.argmax(bad))
            ring = np.searchsorted(segmentations.ring_ends, first, side="right")
            polygons = np.flatnonzero(segmentations.kind == POLYGONS)
            owner = polygons[np.searchsorted(segmentations.end[polygons], ring, side="right")]
            self.fail(
                f"annotation {self.annotation_ids[owner]}: expected polygons of finite numbers within "
                f"{_MAX_COORDINATE} pixels, got {segmentations.coordinates[first]}"
            )

    def check_runs(self, annotations: np.ndarray, problem: Problem | None) -> None:
        if problem is not None:
            self.fail(f"annotation {self.annotation_ids[annotations[problem[0]]]}: {problem[1]}")


def _is_id(value: Any) -> bool:
    """An integer that 64 bits hold (and no boolean, which Python counts among the integers)."""
    return type(value) is int and -(2**63) <= value < 2**63


def _extend(numbers: array[float], values: list[Any]) -> bool:
    """Append the values; False if one of them is no number. (Infinities and NaN are looked for later, all at once.)"""
    try:
        numbers.extend(values)
    except (TypeError, OverflowError):
        return False
    return True


def _ints(numbers: array[int]) -> np.ndarray:
    return np.frombuffer(numbers, dtype=np.int64) if numbers else np.zeros(0, dtype=np.int64)


def _floats(numbers: array[float]) -> np.ndarray:
    return np.frombuffer(numbers, dtype=np.float64) if numbers else np.zeros(0, dtype=np.float64)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
