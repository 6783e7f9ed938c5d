"""Data sets in COCO's instances and person-keypoints formats."""

from __future__ import annotations

import os
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from maskrcnn.encoded_masks import EncodedMasks

from .coco_file import CocoFile, read_coco_file
from .coco_keypoints import mirror_order
from .coco_segmentations import POLYGONS, STRING
from .dataset import Category, DataError, Target
from .images import read_image


class CocoDataset:
    """Images of a folder and their objects from a COCO instances file.

    The file is checked completely when it is read; of every annotation ``id``, ``image_id``, ``category_id``,
    ``bbox``, ``area``, unless ``masks=False`` ``segmentation`` (polygons, or RLE with counts as list or
    string), and with ``keypoints=True`` ``keypoints`` (x, y, visibility of each) are required; ``iscrowd``
    counts as 0 where it is missing. It is held in packed arrays that forked workers share.

    Training targets are the annotations of an image that are no crowd regions, with boxes clipped to the
    image. Boxes without area (also after clipping) are left out of them, with one warning that counts them.
    ``ground_truth()`` has all annotations as they are in the file.

    Args:
        images_dir: folder that the ``file_name`` entries are relative to.
        annotation_file: the JSON file.
        masks: with False segmentations are not read and targets have no ``masks``.
        keypoints: with True targets have ``keypoints``, in the file's coordinates, and categories their names
            and skeletons. Mirroring exchanges the keypoints named left_... and right_...; a warning tells of
            names that leave that open.
        check_files: look for every image file at once instead of when it is first opened.

    Raises:
        FileNotFoundError: the annotation file (or with ``check_files`` an image file) does not exist.
        DataError: naming the file, the annotation id and what is wrong. Opening an image raises it as well
            when its picture is damaged or its size (with the EXIF orientation applied) is not what the file
            says.
    """

    def __init__(
        self,
        images_dir: str | os.PathLike[str],
        annotation_file: str | os.PathLike[str],
        *,
        masks: bool = True,
        keypoints: bool = False,
        check_files: bool = False,
    ) -> None:
        self.images_dir = Path(images_dir)
        self._file = read_coco_file(Path(annotation_file), segmentations=masks, keypoints=keypoints)
        self._segmentations = self._file.segmentations
        # Annotations of image i are order[starts[i]:starts[i + 1]], in the order of the file.
        number = len(self._file.image_ids)
        self._order = np.argsort(self._file.image_index, kind="stable")
        self._starts = np.searchsorted(self._file.image_index[self._order], np.arange(number + 1))
        self._boxes = _clipped_boxes(self._file)
        degenerate = ((self._boxes[:, 2:] <= self._boxes[:, :2]).any(1)) & ~self._file.crowd
        self._trainable = ~self._file.crowd & ~degenerate
        if degenerate.any():
            first = self._file.annotation_ids[np.argmax(degenerate)]
            warnings.warn(
                f"{annotation_file}: {int(degenerate.sum())} annotations have a bbox without area inside the "
                f"image (the first is annotation {first}); they are left out of training targets",
                stacklevel=2,
            )
        source = str(annotation_file)
        self._mirrors = [mirror_order(c.keypoints, source) for c in self.categories] if keypoints else []
        if check_files:
            self._check_files()

    @property
    def categories(self) -> list[Category]:
        return self._file.categories

    @property
    def num_classes(self) -> int:
        return len(self._file.categories) + 1

    @property
    def num_keypoints(self) -> int | None:
        """K of the targets' ``keypoints``; None if they were not read."""
        return None if self._file.keypoints is None else self._file.keypoints.shape[1]

    @cached_property
    def image_ids(self) -> list[int]:
        return self._file.image_ids.tolist()

    @cached_property
    def image_sizes(self) -> list[tuple[int, int]]:
        return [(height, width) for height, width in self._file.image_sizes.tolist()]

    @cached_property
    def has_objects(self) -> list[bool]:
        counts = np.bincount(self._file.image_index[self._trainable], minlength=len(self))
        return (counts > 0).tolist()

    def __len__(self) -> int:
        return len(self._file.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.image(index), self.target(index)

    def image(self, index: int) -> Tensor:
        """Image ``index`` as uint8 [3, H, W]."""
        index = self._checked(index)
        path = self.images_dir / self._file.file_names[index]
        try:
            image = read_image(path)
        except FileNotFoundError:
            raise FileNotFoundError(self._missing(index)) from None
        expected, got = self.image_sizes[index], tuple(image.shape[1:])
        if got != expected:
            raise DataError(
                f"{self._file.path}: image {self.image_ids[index]} is listed with height and width "
                f"{list(expected)}, but {path} has {list(got)} (after its EXIF orientation)"
            )
        return image

    def target(self, index: int) -> Target:
        """The objects of image ``index``, without opening its picture."""
        index = self._checked(index)
        annotations = self._annotations(index)
        annotations = annotations[self._trainable[annotations]]
        target: Target = {
            "boxes": torch.from_numpy(self._boxes[annotations]),
            "labels": torch.from_numpy(self._file.category_index[annotations] + 1),
            "image_id": self.image_ids[index],
        }
        if self._segmentations is not None:
            size = self.image_sizes[index]
            target["masks"] = EncodedMasks.of([self._encoding(a, size) for a in annotations], size)
        if self._file.keypoints is not None:
            target["keypoints"] = torch.from_numpy(self._file.keypoints[annotations])
            mirrors = np.array(self._mirrors)[self._file.category_index[annotations]]
            target["keypoint_mirror"] = torch.from_numpy(mirrors)
        return target

    def ground_truth(self) -> dict[str, Any]:
        """The file's content as evaluation needs it, crowd regions included.

        Images have ``id``, ``file_name``, ``height``, ``width``; annotations ``id``, ``image_id``,
        ``category_id``, ``bbox``, ``area``, ``iscrowd``, (with masks) ``segmentation`` and (with keypoints)
        ``keypoints`` and ``num_keypoints``, those with a visibility above 0.
        """
        file = self._file
        images = [
            {"id": image_id, "file_name": name, "height": height, "width": width}
            for image_id, name, (height, width) in zip(
                self.image_ids, file.file_names, self.image_sizes, strict=True
            )
        ]
        annotations = [
            {
                "id": annotation_id,
                "image_id": self.image_ids[image],
                "category_id": file.categories[category].id,
                "bbox": box,
                "area": area,
                "iscrowd": crowd,
            }
            for annotation_id, image, category, box, area, crowd in zip(
                file.annotation_ids.tolist(),
                file.image_index.tolist(),
                file.category_index.tolist(),
                file.boxes.tolist(),
                file.area.tolist(),
                file.crowd.astype(int).tolist(),
                strict=True,
            )
        ]
        if self._segmentations is not None:
            for i, (annotation, image) in enumerate(zip(annotations, file.image_index.tolist(), strict=True)):
                annotation["segmentation"] = self._segmentations.to_coco(i, self.image_sizes[image])
        if file.keypoints is not None:
            labelled = (file.keypoints[..., 2] > 0).sum(1).tolist()
            for annotation, keypoints, number in zip(annotations, file.keypoints, labelled, strict=True):
                annotation["keypoints"] = keypoints.flatten().tolist()
                annotation["num_keypoints"] = number
        categories = [category.to_coco() for category in file.categories]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def _checked(self, index: int) -> int:
        """The index, which slices and negative numbers are not."""
        if not 0 <= index < len(self):
            raise IndexError(f"CocoDataset: expected an index from 0 to {len(self) - 1}, got {index}")
        return index

    def _annotations(self, index: int) -> np.ndarray:
        return self._order[self._starts[index] : self._starts[index + 1]]

    def _encoding(self, annotation: int, size: tuple[int, int]) -> dict[str, Any]:
        """Compressed run lengths of one annotation."""
        assert self._segmentations is not None
        segmentation, kind = (
            self._segmentations.to_coco(annotation, size),
            self._segmentations.kind[annotation],
        )
        if kind == STRING:
            return segmentation
        encoded = coco_mask.frPyObjects(segmentation, *size)
        return coco_mask.merge(encoded) if kind == POLYGONS else encoded

    def _check_files(self) -> None:
        missing = [
            i for i, name in enumerate(self._file.file_names) if not (self.images_dir / name).is_file()
        ]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise FileNotFoundError(self._missing(missing[0]) + more)

    def _missing(self, index: int) -> str:
        path = self.images_dir / self._file.file_names[index]
        return f"{path}: image file not found (image {self.image_ids[index]} of {self._file.path})"


def _clipped_boxes(file: CocoFile) -> np.ndarray:
    """float32 [A, 4], xyxy, clipped to each annotation's image."""
    sizes = file.image_sizes[file.image_index][:, [1, 0]]  # (width, height)
    low = np.clip(file.boxes[:, :2], 0, sizes)
    high = np.clip(file.boxes[:, :2] + file.boxes[:, 2:], 0, sizes)
    return np.concatenate([low, high], axis=1).astype(np.float32)
