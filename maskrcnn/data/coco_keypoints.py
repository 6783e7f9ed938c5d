"""Packs the keypoints of a COCO file and checks them; finds the keypoints that mirroring exchanges."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from .coco_segmentations import brief, extend, floats, ints, is_id
from .rle import Problem

_SIDES = {"left_": "right_", "right_": "left_"}


def category_keypoints(entry: dict[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The names of a category's keypoints, and its skeleton: pairs of keypoints, counted from 1.

    Raises:
        ValueError: saying what is wrong with either.
    """
    names, skeleton = entry.get("keypoints"), entry.get("skeleton", [])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected keypoints to be a list of names, got {brief(names)}")
    for limb in skeleton if isinstance(skeleton, list) else [skeleton]:
        pair = isinstance(limb, list) and len(limb) == 2 and all(is_id(end) for end in limb)
        if not pair or not all(1 <= end <= len(names) for end in limb):
            raise ValueError(f"expected skeleton of pairs of numbers 1 to {len(names)}, got {brief(limb)}")
    return tuple(names), tuple((first, second) for first, second in skeleton)


def mirror_order(names: Sequence[str], source: str) -> list[int]:
    """Which keypoint each one becomes in a mirrored image: left_eye becomes right_eye, nose stays nose.

    A warning that names ``source`` tells of names that leave it open: none with left_ or right_, or one
    without its partner.
    """
    order, alone = list(range(len(names))), []
    for place, name in enumerate(names):
        for side, other in _SIDES.items():
            partner = other + name.removeprefix(side)
            if name.startswith(side) and partner in names:
                order[place] = names.index(partner)
            elif name.startswith(side):
                alone.append(name)
    if alone or order == list(range(len(names))):
        what = f"{alone} have no partner" if alone else f"none of {list(names)} begins with left_ or right_"
        warnings.warn(
            f"{source}: {what}; mirrored images keep these keypoints as they are. If objects have a left and "
            "a right, name their keypoints left_... and right_..., or train without mirroring",
            stacklevel=3,
        )
    return order


class KeypointReader:
    """Packs the keypoints of a file's annotations, one after the other.

    ``add`` raises ValueError, with what is wrong, for what can be seen in one annotation alone; ``finish``
    finds the rest.
    """

    def __init__(self) -> None:
        self.numbers = array("d")
        self.lengths = array("q")  # of each annotation's list; 0 where a crowd region has none

    def add(self, keypoints: Any, crowd: bool) -> None:
        if keypoints is None and crowd:
            keypoints = []
        if keypoints is None:
            raise ValueError("it has no keypoints; keypoints=False reads the file without them")
        if not isinstance(keypoints, list) or not extend(self.numbers, keypoints):
            raise ValueError(f"expected keypoints to be a list of numbers, got {brief(keypoints)}")
        self.lengths.append(len(keypoints))

    def finish(self, number: int, crowd: np.ndarray) -> tuple[np.ndarray, Problem | None]:
        """All keypoints, float32 [A, K, 3], and the first problem with them (of an annotation, from 0).

        Args:
            number: K, of every category.
            crowd: bool [A]; such annotations may have no keypoints, and get zeros.
        """
        lengths = ints(self.lengths)
        keypoints = np.zeros((len(lengths), number, 3), dtype=np.float32)
        wrong = (lengths != 3 * number) & ~(crowd & (lengths == 0))
        if wrong.any():
            first = int(np.argmax(wrong))
            expected = f"{3 * number} numbers (x, y, visibility of {number} keypoints)"
            return keypoints, (first, f"expected keypoints of {expected}, got {lengths[first]} numbers")
        keypoints[lengths > 0] = floats(self.numbers).reshape(-1, number, 3)
        bad = ~np.isfinite(keypoints).all((1, 2)) | ~np.isin(keypoints[..., 2], (0, 1, 2)).all(1)
        if bad.any():
            first = int(np.argmax(bad))
            values = keypoints[first]
            row = int(np.argmax(~np.isfinite(values).all(1) | ~np.isin(values[:, 2], (0, 1, 2))))
            what = "expected keypoints of finite x, y and a visibility of 0, 1 or 2"
            return keypoints, (first, f"{what}, got {values[row].tolist()} for keypoint {row + 1}")
        return keypoints, None
