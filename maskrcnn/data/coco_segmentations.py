"""Packs the segmentations of a COCO file, polygons and run-length encodings, and checks them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from .rle import Problem, find_bad_counts, find_bad_strings

POLYGONS, COUNTS, STRING = range(3)

# pycocotools walks a polygon's outline in steps of a fifth of a pixel; this bounds the time one edge takes.
_MAX_COORDINATE = 100_000


@dataclass(frozen=True)
class Segmentations:
    """Polygons and run-length encodings of A annotations, in four flat arrays."""

    kind: np.ndarray  # uint8 [A]: POLYGONS, COUNTS or STRING
    start: np.ndarray  # int64 [A], the annotation's first entry in ring_ends, counts or text, by its kind ...
    end: np.ndarray  # int64 [A], ... and one past its last
    ring_ends: np.ndarray  # int64, where each polygon ends in coordinates
    coordinates: np.ndarray  # float64, x and y in turn
    counts: np.ndarray  # int64, run lengths of uncompressed encodings
    text: np.ndarray  # uint8, characters of compressed encodings

    def to_coco(self, annotation: int, size: tuple[int, int]) -> Any:
        """The segmentation as it stood in the file: polygons, or ``{"size": [h, w], "counts": list or
        str}``."""
        kind, start, end = self.kind[annotation], self.start[annotation], self.end[annotation]
        if kind == POLYGONS:
            begins = [self.ring_ends[ring - 1] if ring else 0 for ring in range(start, end)]
            return [
                self.coordinates[b:e].tolist() for b, e in zip(begins, self.ring_ends[start:end], strict=True)
            ]
        if kind == COUNTS:
            return {"size": list(size), "counts": self.counts[start:end].tolist()}
        return {"size": list(size), "counts": self.text[start:end].tobytes().decode("ascii")}


class SegmentationReader:
    """Packs the segmentations of a file's annotations, one after the other.

    ``add`` raises ValueError, with what is wrong, for what can be seen in a segmentation alone; ``finish``
    finds the rest.
    """

    def __init__(self) -> None:
        self.kind = array("B")
        self.start = array("q")
        self.end = array("q")
        self.ring_ends = array("q")
        self.coordinates = array("d")
        self.counts = array("q")
        self.text = bytearray()
        self.rle_sizes = array("q")  # height and width of each annotation's encoding, -1 for polygons

    def add(self, segmentation: Any) -> None:
        if isinstance(segmentation, list) and segmentation:
            self._add_polygons(segmentation)
        elif isinstance(segmentation, dict):
            self._add_encoding(segmentation)
        elif segmentation is None or segmentation == []:
            raise ValueError("it has no segmentation; masks=False reads boxes only")
        else:
            raise ValueError(f"expected segmentation as polygons or RLE, got {brief(segmentation)}")

    def _add_polygons(self, polygons: list[Any]) -> None:
        self.kind.append(POLYGONS)
        self.start.append(len(self.ring_ends))
        for polygon in polygons:
            if not isinstance(polygon, list):
                raise ValueError(f"expected each polygon to be a list, got {brief(polygon)}")
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(
                    f"expected polygons of 6 or more coordinates, an even number, got one of {len(polygon)}"
                )
            if not extend(self.coordinates, polygon):
                raise ValueError(f"expected polygons of finite numbers, got {brief(polygon)}")
            self.ring_ends.append(len(self.coordinates))
        self.end.append(len(self.ring_ends))
        self.rle_sizes.extend((-1, -1))

    def _add_encoding(self, encoding: dict[str, Any]) -> None:
        size, counts = encoding.get("size"), encoding.get("counts")
        if not isinstance(size, list) or len(size) != 2 or not all(is_id(side) for side in size):
            raise ValueError(f"expected segmentation size to be [height, width], got {brief(size)}")
        if isinstance(counts, str):
            if not counts.isascii():
                raise ValueError("segmentation counts hold characters that no encoding has")
            self.kind.append(STRING)
            self.start.append(len(self.text))
            self.text += counts.encode("ascii")
            self.end.append(len(self.text))
        elif isinstance(counts, list):
            if not all(is_id(run) for run in counts):
                raise ValueError(f"expected segmentation counts to be integers, got {brief(counts)}")
            self.kind.append(COUNTS)
            self.start.append(len(self.counts))
            self.counts.extend(counts)
            self.end.append(len(self.counts))
        else:
            raise ValueError(f"expected segmentation counts as a list or a string, got {brief(counts)}")
        self.rle_sizes.extend(size)

    def finish(self, sizes: np.ndarray) -> tuple[Segmentations, Problem | None]:
        """The packed segmentations, and the first problem with them (of an annotation, counted from 0).

        Args:
            sizes: int64 [A, 2], (height, width) of each annotation's image.
        """
        packed = Segmentations(
            kind=np.array(self.kind, dtype=np.uint8),
            start=ints(self.start),
            end=ints(self.end),
            ring_ends=ints(self.ring_ends),
            coordinates=floats(self.coordinates),
            counts=ints(self.counts),
            text=np.frombuffer(self.text, dtype=np.uint8) if self.text else np.zeros(0, dtype=np.uint8),
        )
        problem = (
            _find_bad_coordinate(packed)
            or _find_bad_size(packed.kind, ints(self.rle_sizes).reshape(-1, 2), sizes)
            or _find_bad_runs(packed, sizes[:, 0] * sizes[:, 1])
        )
        return packed, problem


def _find_bad_coordinate(packed: Segmentations) -> Problem | None:
    bad = ~(np.abs(packed.coordinates) <= _MAX_COORDINATE)  # NaN is bad, too
    if not bad.any():
        return None
    first = int(np.argmax(bad))
    ring = np.searchsorted(packed.ring_ends, first, side="right")
    polygons = np.flatnonzero(packed.kind == POLYGONS)
    owner = int(polygons[np.searchsorted(packed.end[polygons], ring, side="right")])
    value = packed.coordinates[first]
    return owner, f"expected polygons of finite numbers within {_MAX_COORDINATE} pixels, got {value}"


def _find_bad_size(kind: np.ndarray, rle_sizes: np.ndarray, sizes: np.ndarray) -> Problem | None:
    wrong = (kind != POLYGONS) & (rle_sizes != sizes).any(1)
    if not wrong.any():
        return None
    first = int(np.argmax(wrong))
    got, expected = rle_sizes[first].tolist(), sizes[first].tolist()
    return first, f"segmentation size {got} differs from its image's {expected} (height, width)"


def _find_bad_runs(packed: Segmentations, areas: np.ndarray) -> Problem | None:
    for kind, find, data in (
        (COUNTS, find_bad_counts, packed.counts),
        (STRING, find_bad_strings, packed.text),
    ):
        chosen = np.flatnonzero(packed.kind == kind)
        problem = find(data, packed.start[chosen], packed.end[chosen], areas[chosen])
        if problem is not None:
            return int(chosen[problem[0]]), problem[1]
    return None


def is_id(value: Any) -> bool:
    """An integer that 64 bits hold (and no boolean, which Python counts among the integers)."""
    return type(value) is int and -(2**63) <= value < 2**63


def extend(numbers: array[float], values: list[Any]) -> bool:
    """Append the values; False if one of them is no number.

    Infinities and NaN get through: they are looked for later, in all numbers at once.
    """
    try:
        numbers.extend(values)
    except (TypeError, OverflowError):
        return False
    return True


def ints(numbers: array[int]) -> np.ndarray:
    """The same memory as an int64 array."""
    return np.frombuffer(numbers, dtype=np.int64) if numbers else np.zeros(0, dtype=np.int64)


def floats(numbers: array[float]) -> np.ndarray:
    """The same memory as a float64 array."""
    return np.frombuffer(numbers, dtype=np.float64) if numbers else np.zeros(0, dtype=np.float64)


def brief(value: Any) -> str:
    """A value for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
