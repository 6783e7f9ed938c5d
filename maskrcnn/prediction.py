"""Detect objects in picture files: overlays to look at and one COCO JSON to compute with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from tqdm import tqdm

from maskrcnn.data import Category, DataError, read_image
from maskrcnn.results import inference, to_results
from maskrcnn.visualization import draw_instances

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Prediction:
    """What ``predict`` wrote: the JSON file, an overlay of each readable picture; and what it had to skip."""

    json_file: Path
    overlays: list[Path]
    failures: list[tuple[Path, str]]
    instances: int


def find_pictures(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are given; folders searched at all levels for pictures, by suffix, in order of names.

    Raises:
        FileNotFoundError: a path does not exist.
        DataError: a folder holds no picture.
    """
    pictures: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise DataError(
                    f"{path}: no pictures in this folder (looked for {' '.join(sorted(SUFFIXES))})"
                )
            pictures += found
        elif path.exists():
            pictures.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return list(dict.fromkeys(pictures))


def predict(
    model: nn.Module,
    categories: Sequence[Category],
    paths: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    score_threshold: float = 0.5,
    proposals: Mapping[str, Tensor] | None = None,
    device: torch.device | str | None = None,
    compile: bool = False,
    progress: bool = True,
) -> Prediction:
    """Detect objects in pictures and write what was found.

    ``output/overlays/`` gets one picture per input; ``output/predictions.json`` is a COCO instances file:
    ``images`` (``file_name`` as found), ``categories``, ``annotations`` with ``bbox``, ``area``, ``score``
    and, from models with masks, ``segmentation`` as RLE, with scores of the masks ``mask_score``, with keypoints
    ``keypoints`` and ``num_keypoints``.
    Pictures that cannot be read are reported on stderr, skipped and listed in the answer; the others go on.

    Args:
        model: a detector; a copy of it is run, see :func:`maskrcnn.results.inference`.
        categories: label i + 1 means ``categories[i]``.
        paths: picture files, or folders of them.
        output: folder, made if need be.
        score_threshold: detections below it are left out.
        proposals: for a model that takes them: boxes [P, 4] by the names of the pictures, without folders, as
            :func:`maskrcnn.data.read_picture_proposals` reads them.
        device: where the model is; by default where its parameters are.
        compile: see :func:`maskrcnn.results.inference`.
        progress: show a progress bar on stderr.

    Raises:
        FileNotFoundError, DataError: a path does not exist, or a folder is without pictures.
        ValueError: ``score_threshold`` is not in [0, 1]; the model takes proposals and a picture has none.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"predict: expected score_threshold from 0 to 1, got {score_threshold}")
    pictures = find_pictures(paths)
    given = _given(model, pictures, proposals)
    output = Path(output)
    names = _overlay_names(pictures)
    (output / "overlays").mkdir(parents=True, exist_ok=True)
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    overlays: list[Path] = []
    failures: list[tuple[Path, str]] = []
    with (
        inference(model, compile=compile) as fast,
        tqdm(pictures, desc="predict", unit="image", disable=not progress) as bar,
    ):
        for path, name in zip(bar, names, strict=True):
            try:
                image = read_image(path)
            except (DataError, OSError) as error:
                failures.append((path, str(error)))
                tqdm.write(f"skipped: {error}", file=sys.stderr)
                continue
            size = (image.shape[-2], image.shape[-1])
            image_id = len(images) + 1
            images.append({"id": image_id, "file_name": path.as_posix(), "height": size[0], "width": size[1]})
            boxes = {key: [value.to(device)] for key, value in given.get(path, {}).items()}
            found = _best(fast([image.to(device)], **boxes)[0], score_threshold)
            results = _annotations(model, found, image_id, size, categories)
            annotations += results
            overlay = output / "overlays" / name
            _draw(image, found, results, categories).save(overlay, quality=92, subsampling=0)
            overlays.append(overlay)

    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    listed = [category.to_coco() for category in categories]
    json_file = output / "predictions.json"
    json_file.write_text(json.dumps({"images": images, "categories": listed, "annotations": annotations}))
    return Prediction(json_file, overlays, failures, len(annotations))


def _given(
    model: nn.Module, pictures: Sequence[Path], proposals: Mapping[str, Tensor] | None
) -> dict[Path, dict[str, Tensor]]:
    """What the model takes beside each picture."""
    if not getattr(model, "takes_proposals", False):
        return {}
    missing = [path for path in pictures if proposals is None or path.name not in proposals]
    if proposals is None or missing:
        raise ValueError(f"predict: the model takes proposals, and there are none for {missing[0].name}")
    return {path: {"proposals": proposals[path.name]} for path in pictures}


def _best(detections: dict[str, Tensor], score_threshold: float) -> dict[str, Tensor]:
    """Detections at or above the threshold, the best first."""
    order = detections["scores"].argsort(descending=True, stable=True)
    order = order[detections["scores"][order] >= score_threshold]
    return {name: values[order] for name, values in detections.items()}


def _annotations(
    model: nn.Module,
    detections: dict[str, Tensor],
    image_id: int,
    size: tuple[int, int],
    categories: Sequence[Category],
) -> list[dict[str, Any]]:
    """Results as annotations of a COCO instances file, which have an area and ``iscrowd`` too."""
    convention = getattr(model, "mask_convention", "continuous")
    results = to_results(detections, image_id, size, [category.id for category in categories], convention)
    for result in results:
        shape = result.get("segmentation")
        result["area"] = (
            result["bbox"][2] * result["bbox"][3] if shape is None else float(coco_mask.area(shape))
        )
        result["iscrowd"] = 0
        if "keypoints" in result:
            result["num_keypoints"] = len(result["keypoints"]) // 3
    return results


def _draw(
    image: Tensor,
    detections: dict[str, Tensor],
    results: list[dict[str, Any]],
    categories: Sequence[Category],
) -> Image.Image:
    masks = [result["segmentation"] for result in results] if "masks" in detections else None
    labels, scores = detections["labels"], detections["scores"]
    keypoints = detections.get("keypoints")
    return draw_instances(image, detections["boxes"], masks, labels, scores, categories, keypoints=keypoints)


def _overlay_names(pictures: Sequence[Path]) -> list[str]:
    """One name per picture: its stem, with a number where several pictures share it."""
    names: list[str] = []
    taken: set[str] = set()
    for picture in pictures:
        name, number = f"{picture.stem}.jpg", 2
        while name.lower() in taken:
            name, number = f"{picture.stem}_{number}.jpg", number + 1
        taken.add(name.lower())
        names.append(name)
    return names
