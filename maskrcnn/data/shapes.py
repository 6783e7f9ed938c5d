"""A data set of drawn shapes that needs no files: for demonstrations, tests and first experiments."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from maskrcnn.encoded_masks import EncodedMasks

from .dataset import Category, Target
from .shapes_drawing import Shape, add_grain, draw_background, draw_shape, place_shape
from .transforms import SHAPES, random_generator

_NAMES = ("circle", "rectangle", "triangle", "star")
_MIN_SIDE = 32  # pixels; below, shapes are blots
_MIN_VISIBLE = 0.3  # of a shape's pixels, for it to be drawn at all
_MIN_PIXELS = 8


class ShapesDataset:
    """Overlapping circles, rectangles, triangles and stars on textured backgrounds, with exact masks.

    A picture has a background of smooth blobs, stripes or a chequerboard in two colours, crossed by a few
    thin strokes that belong to no object. On it lie 2 to 8 shapes of any orientation, some of them cut off by
    the border. Later shapes cover earlier ones; a
    mask is the visible part. Shapes of which less than 30 % would be visible are not drawn. Each shape has a
    colour that stands out from the background's average, a brightness gradient and sometimes stripes; colour
    says nothing about the class. Grain lies over everything.

    Image i is a function of (seed, size, i): data sets with different seeds make training and validation
    sets, and a longer data set begins with a shorter one's images. Image ids are 1, 2, ...

    Args:
        num_images: length of the data set.
        size: (height, width) of all images, or the side of square ones; at least 32 pixels.
        seed: integer from 0.
        max_objects: at most so many shapes are laid on a picture.
        radii: the least and the largest radius of a shape, over the picture's shorter side.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        num_images: int,
        size: int | tuple[int, int] = 192,
        seed: int = 0,
        *,
        max_objects: int = 8,
        radii: tuple[float, float] = (0.07, 0.2),
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        if num_images < 1:
            raise ValueError(f"num_images: expected an integer of at least 1, got {num_images}")
        if min(height, width) < _MIN_SIDE:
            raise ValueError(f"size: expected sides of at least {_MIN_SIDE} pixels, got {size}")
        if seed < 0:
            raise ValueError(f"seed: expected an integer from 0, got {seed}")
        if max_objects < 2:
            raise ValueError(f"max_objects: expected an integer of at least 2, got {max_objects}")
        self.seed = seed
        if not 0 < radii[0] <= radii[1] <= 0.5:
            raise ValueError(f"radii: expected two numbers above 0 to 0.5, the lesser first, got {radii}")
        self.max_objects = max_objects
        self.radii = radii
        self.categories = [Category(i, name) for i, name in enumerate(_NAMES, start=1)]
        self.image_ids = list(range(1, num_images + 1))
        self.image_sizes = [(height, width)] * num_images
        self.has_objects = [True] * num_images  # the topmost shape is always visible

    @property
    def num_classes(self) -> int:
        return len(self.categories) + 1

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        scene = self._render(index)
        target: Target = {
            "boxes": torch.from_numpy(_mask_boxes(scene.masks).astype(np.float32)),
            "labels": torch.from_numpy(scene.labels),
            "masks": EncodedMasks.of(_encode(scene.masks), self.image_sizes[index]),
            "image_id": self.image_ids[index],
        }
        return torch.from_numpy(scene.pixels), target

    def image(self, index: int) -> Tensor:
        """Image ``index`` as uint8 [3, H, W]."""
        return torch.from_numpy(self._render(index).pixels)

    def ground_truth(self) -> dict[str, Any]:
        """Annotations of all images in COCO's format, masks as compressed run lengths."""
        return self._ground_truth

    def export(self, folder: str | os.PathLike[str]) -> Path:
        """Write the data set in COCO's format: ``images/000001.png`` ... and ``instances.json``.

        ``CocoDataset(folder / "images", folder / "instances.json")`` reads back equal images and targets.

        Returns:
            The path of ``instances.json``.
        """
        folder = Path(folder)
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        for index, image_id in enumerate(self.image_ids):
            Image.fromarray(self._render(index).pixels.transpose(1, 2, 0)).save(images / _file_name(image_id))
        annotation_file = folder / "instances.json"
        annotation_file.write_text(json.dumps(self.ground_truth()), encoding="utf-8")
        return annotation_file

    @cached_property
    def _ground_truth(self) -> dict[str, Any]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, (image_id, (height, width)) in enumerate(
            zip(self.image_ids, self.image_sizes, strict=True)
        ):
            images.append(
                {"id": image_id, "file_name": _file_name(image_id), "height": height, "width": width}
            )
            scene = self._render(index)
            for mask, encoding, label, box in zip(
                scene.masks,
                _encode(scene.masks),
                scene.labels.tolist(),
                _mask_boxes(scene.masks).tolist(),
                strict=True,
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": label,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {**encoding, "counts": encoding["counts"].decode("ascii")},
                    }
                )
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def _render(self, index: int) -> _Scene:
        if not 0 <= index < len(self):
            raise IndexError(f"ShapesDataset: expected an index from 0 to {len(self) - 1}, got {index}")
        height, width = self.image_sizes[index]
        rng = random_generator(self.seed, SHAPES, index)
        canvas = draw_background(rng, height, width)
        background = canvas[:, ::8, ::8].mean(axis=(1, 2))
        number = int(rng.integers(2, self.max_objects + 1))
        shapes = [place_shape(rng, height, width, background, self.radii) for _ in range(number)]
        visible = _visible_parts(shapes, height, width)
        for shape, _ in visible:
            draw_shape(rng, canvas, shape)
        add_grain(rng, canvas)
        pixels = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
        masks = np.stack([mask for _, mask in visible])
        return _Scene(pixels, masks, np.array([shape.kind + 1 for shape, _ in visible], dtype=np.int64))


class _Scene(NamedTuple):
    pixels: np.ndarray  # uint8 [3, H, W]
    masks: np.ndarray  # uint8 [L, H, W]
    labels: np.ndarray  # int64 [L]


def _visible_parts(shapes: list[Shape], height: int, width: int) -> list[tuple[Shape, np.ndarray]]:
    """The shapes to draw, lowest first, each with the mask (uint8 [H, W]) of what later ones leave of it.

    From the top down: a shape that is almost covered is left out, and then covers nothing itself.
    """
    free = np.ones((height, width), dtype=bool)
    visible = []
    for shape in reversed(shapes):
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[shape.window] = shape.inside & free[shape.window]
        pixels = int(mask[shape.window].sum())
        if pixels >= max(_MIN_PIXELS, _MIN_VISIBLE * int(shape.inside.sum())):
            free[shape.window] &= ~shape.inside
            visible.append((shape, mask))
    return visible[::-1]


def _mask_boxes(masks: np.ndarray) -> np.ndarray:
    """int64 [L, 4], the tight boxes (xyxy, pixel edges) of masks that are not empty."""
    spans = []
    for axis in (1, 2):  # which columns, then which rows, have a pixel
        occupied: np.ndarray = np.any(masks, axis=axis, keepdims=False)
        spans += [occupied.argmax(axis=1), occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)]
    x0, x1, y0, y1 = spans
    return np.stack([x0, y0, x1, y1], axis=1)


def _encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """Compressed run lengths of masks, uint8 [L, H, W]."""
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))


def _file_name(image_id: int) -> str:
    return f"{image_id:06d}.png"
