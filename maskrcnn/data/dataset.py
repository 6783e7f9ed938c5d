"""What every data set offers: the interface that training, evaluation and the loaders rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Target = dict[str, Any]
"""One image's objects: ``boxes`` float32 [L, 4] (xyxy, pixel edges), ``labels`` int64 [L] (1..K-1; 0 is the
background), ``masks`` :class:`~maskrcnn.encoded_masks.EncodedMasks` (or bitmaps, uint8 [L, H, W] of zeros and
ones), ``keypoints`` float32 [L, K, 3] (x, y, visibility: 0 not annotated, 1 hidden, 2 visible) with
``keypoint_mirror`` int64 [L, K] (the keypoint that takes each one's place in a mirrored image), ``proposals`` float32
[P, 4] (for a model that takes them), ``image_id`` int."""


class DataError(ValueError):
    """Input data that cannot be used; the message names the file and says what is wrong with it."""


@dataclass(frozen=True)
class Category:
    """A class of objects: its id in COCO files and its name.

    Attributes:
        keypoints: names of its keypoints, where it has any.
        skeleton: the pairs of keypoints that a limb joins, counted from 1 as in COCO files.
    """

    id: int
    name: str
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    def to_coco(self) -> dict[str, Any]:
        """The entry of a COCO file."""
        entry: dict[str, Any] = {"id": self.id, "name": self.name}
        if self.keypoints:
            entry |= {"keypoints": list(self.keypoints), "skeleton": [list(limb) for limb in self.skeleton]}
        return entry

    @classmethod
    def from_coco(cls, entry: Mapping[str, Any]) -> Category:
        """The inverse of :meth:`to_coco`."""
        keypoints = tuple(str(name) for name in entry.get("keypoints", ()))
        skeleton = tuple((int(first), int(second)) for first, second in entry.get("skeleton", ()))
        return cls(int(entry["id"]), str(entry["name"]), keypoints, skeleton)


class DetectionDataset(Protocol):
    """A map-style data set of images and their objects.

    ``categories`` is sorted by id, and label ``i + 1`` stands for ``categories[i]``, so ids may have gaps.
    Everything but ``image(i)`` and ``dataset[i]`` is known without opening picture files.
    """

    @property
    def categories(self) -> Sequence[Category]: ...

    @property
    def num_classes(self) -> int:
        """Number of categories plus one for the background."""

    @property
    def image_ids(self) -> Sequence[int]: ...

    @property
    def image_sizes(self) -> Sequence[tuple[int, int]]:
        """(height, width) of each image."""

    @property
    def has_objects(self) -> Sequence[bool]:
        """Whether the training target of each image holds at least one object."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """The image, uint8 [3, H, W], and its training target."""

    def image(self, index: int) -> Tensor:
        """The image alone, uint8 [3, H, W]."""

    def ground_truth(self) -> dict[str, Any]:
        """All annotations, crowd regions included, as the content of a COCO instances file."""
