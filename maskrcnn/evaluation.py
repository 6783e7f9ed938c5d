"""COCO evaluation: the figures of box, mask and keypoint average precision, computed by pycocotools.

``evaluate`` runs a model over a data set; ``evaluate_results`` scores results that exist already.
pycocotools matches detections with ground truth; the figures are read from its precision and recall arrays
here, because its own summary looks for exactly 100 detections per image and answers -1 under any other limit.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params
from torch import nn
from tqdm import tqdm

from maskrcnn.data import Category, DetectionDataset, ProposedDataset, evaluation_loader
from maskrcnn.results import inference, to_results

FIELDS = {
    "bbox": "bbox",
    "segm": "segmentation",
    "keypoints": "keypoints",
}  # of annotations, by kind of overlap
IOU_50, IOU_75 = 0, 5  # places of these thresholds in COCO's 0.50, 0.55, ... 0.95


def figure_names(max_detections: Sequence[int] = (1, 10, 100), iou_type: str = "bbox") -> list[str]:
    """The names of the figures in COCO's order: 12 of boxes and masks, 10 of keypoints.

    Keypoints have no figures of small objects, and one limit on detections per image: COCO's 20.
    """
    if iou_type == "keypoints":
        return ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
    recalls = [f"AR{limit}" for limit in max_detections]
    return ["AP", "AP50", "AP75", "APs", "APm", "APl", *recalls, "ARs", "ARm", "ARl"]


@dataclass(frozen=True)
class Evaluation:
    """What a model reaches on a data set.

    ``stats["bbox"]`` and, for models with masks or keypoints, ``stats["segm"]`` and ``stats["keypoints"]`` hold
    the figures in the order of ``names`` under the same key; ``categories["bbox"][name]`` is one category's
    (AP, AP50, AP75); ``results`` is COCO's results list. A figure is -1 where COCO leaves it undefined: no
    ground truth in that range of areas.
    """

    stats: dict[str, list[float]]
    categories: dict[str, dict[str, tuple[float, float, float]]]
    results: list[dict[str, Any]]
    names: dict[str, list[str]]

    def metrics(self) -> dict[str, float]:
        """The figures under flat names, such as ``segm/AP50``: for logs."""
        return {
            f"{iou_type}/{name}": figure
            for iou_type, figures in self.stats.items()
            for name, figure in zip(self.names[iou_type], figures, strict=True)
        }

    def table(self) -> str:
        """The figures as text, one line per kind of overlap, under a line of names where these change."""
        lines: list[str] = []
        width = max(6, *(len(iou_type) for iou_type in self.stats))
        shown: list[str] = []
        for iou_type, figures in self.stats.items():
            if self.names[iou_type] != shown:
                shown = self.names[iou_type]
                lines.append(" " * width + "".join(f"{name:>7}" for name in shown))
            lines.append(f"{iou_type:<{width}}" + "".join(f"{figure:7.3f}" for figure in figures))
        return "\n".join(lines)

    def category_table(self) -> str:
        """AP, AP50 and AP75 of every category as text."""
        kinds = list(self.stats)
        width = max([8, *(len(name) for kind in kinds for name in self.categories[kind])])
        heads = [f"{kind} {figure}" for kind in kinds for figure in ("AP", "AP50", "AP75")]
        lines = [" " * width + "".join(f"{head:>11}" for head in heads)]
        for name in self.categories[kinds[0]]:
            figures = [figure for kind in kinds for figure in self.categories[kind][name]]
            lines.append(f"{name:<{width}}" + "".join(f"{figure:11.3f}" for figure in figures))
        return "\n".join(lines)


def evaluate(
    model: nn.Module,
    dataset: DetectionDataset,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    max_detections: Sequence[int] = (1, 10, 100),
    category_ids: Sequence[int] | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
    compile: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Run a detector over a data set and score its boxes, masks and keypoints.

    Args:
        model: a detector of this package; a copy of it is run, see :func:`maskrcnn.results.inference`.
        dataset: a data set of ``maskrcnn.data``; its ``ground_truth()`` counts, crowd regions included. For a model
            that takes proposals, a :class:`~maskrcnn.data.ProposedDataset`.
        device: where to run; the model is expected there. By default where its parameters are.
        batch_size: images per forward pass.
        num_workers: processes that load images.
        max_detections: COCO's three limits on detections per image, increasing. AP uses the last.
        category_ids: the category id of label i + 1 at place i, for a model trained with another list of
            categories than the data set's; detections of categories the data set lacks are then left out.
        keypoint_sigmas: see :func:`check_sigmas`.
        compile: see :func:`maskrcnn.results.inference`.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: ``max_detections`` is not three increasing numbers, ``keypoint_sigmas`` are missing, or a
            predicted label has no category; the model takes proposals and the data set has none.
    """
    proposed = dataset if isinstance(dataset, ProposedDataset) else None
    if not getattr(model, "takes_proposals", False):
        proposed = None
    elif proposed is None:
        raise ValueError("evaluate: expected a ProposedDataset, as the model takes proposals")
    num_keypoints = getattr(model, "num_keypoints", None)
    if num_keypoints is not None:
        check_sigmas(keypoint_sigmas, num_keypoints)
    limits = check_limits(max_detections)
    categories: Sequence[Category] = dataset.categories
    known = {category.id for category in categories}
    ids = [category.id for category in categories] if category_ids is None else list(category_ids)
    convention = getattr(model, "mask_convention", "continuous")
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    results: list[dict[str, Any]] = []
    found_fields: set[str] = set()
    with (
        inference(model, compile=compile) as fast,
        tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not progress) as bar,
    ):
        for places, images in evaluation_loader(dataset, batch_size, num_workers):
            given = {}
            if proposed is not None:
                given["proposals"] = [proposed.proposals(place).to(device) for place in places]
            found_in = fast([image.to(device) for image in images], **given)
            for place, image, detections in zip(places, images, found_in, strict=True):
                found_fields |= detections.keys()
                size = (image.shape[-2], image.shape[-1])
                found = to_results(detections, dataset.image_ids[place], size, ids, convention)
                results += [result for result in found if result["category_id"] in known]
            bar.update(len(places))

    ground_truth = dataset.ground_truth()
    fields = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
    kinds = [kind for kind, field in fields.items() if field in found_fields]
    matched = {kind: _match(ground_truth, results, kind, limits, keypoint_sigmas) for kind in kinds}
    return Evaluation(
        stats={kind: _figures(arrays, kind) for kind, arrays in matched.items()},
        categories={kind: _category_figures(arrays, categories) for kind, arrays in matched.items()},
        results=results,
        names={kind: figure_names(limits, kind) for kind in kinds},
    )


def evaluate_results(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str = "segm",
    max_detections: Sequence[int] = (1, 10, 100),
    keypoint_sigmas: Sequence[float] | None = None,
) -> list[float]:
    """The COCO figures of results that exist already.

    Args:
        ground_truth: a COCO instances dict (``images, annotations, categories``); it is not changed.
        results: COCO results: ``image_id, category_id, score`` and ``bbox``, ``segmentation`` or ``keypoints``. Masks
            count with their ``mask_score`` where a result has one.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
        max_detections: the three limits on detections per image, increasing. AP uses the last. For keypoints
            the limit is 20.
        keypoint_sigmas: see :func:`check_sigmas`.

    Returns:
        The figures in the order of ``figure_names``; -1 where there is no ground truth in a range of areas.

    Raises:
        ValueError: for another ``iou_type``, wrong limits, or results that do not fit the ground truth.

    Equivalent to: ``COCOeval`` with ``evaluate(), accumulate(), summarize()``, for the limits (1, 10, 100).
    """
    limits = check_limits(max_detections)
    return _figures(_match(ground_truth, results, iou_type, limits, keypoint_sigmas), iou_type)


def check_limits(max_detections: Sequence[int]) -> list[int]:
    """The limits as a list; a ``ValueError`` unless they are three increasing numbers from 1."""
    limits = list(max_detections)
    if len(limits) != 3 or limits[0] < 1 or not limits[0] < limits[1] < limits[2]:
        raise ValueError(
            f"expected max_detections of three increasing numbers such as (1, 10, 100), got {limits}"
        )
    return limits


def check_sigmas(sigmas: Sequence[float] | None, num_keypoints: int) -> np.ndarray:
    """How precisely people place each keypoint: the deviation over the root of the object's area, ``[K]``.

    Args:
        sigmas: as given; None stands for COCO's 17, those of a person.
        num_keypoints: K.

    Raises:
        ValueError: they are not K positive numbers, or not given for another number than 17.
    """
    known: np.ndarray = (
        Params("keypoints").kpt_oks_sigmas if sigmas is None else np.array(sigmas, dtype=float)
    )
    if known.shape != (num_keypoints,) or not (np.isfinite(known) & (known > 0)).all():
        raise ValueError(
            f"keypoint_sigmas: expected {num_keypoints} positive numbers, one for each keypoint (None stands "
            f"for COCO's, of {len(Params('keypoints').kpt_oks_sigmas)}), got {sigmas}"
        )
    return known


def _match(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str,
    limits: list[int],
    keypoint_sigmas: Sequence[float] | None,
) -> dict[str, np.ndarray]:
    """pycocotools' arrays: precision [T, R, K, A, M] and recall [T, K, A, M], -1 without ground truth.

    T thresholds, R recalls, K categories in order of their ids, A areas, M limits.
    """
    if iou_type not in FIELDS:
        raise ValueError(f"expected iou_type 'bbox', 'segm' or 'keypoints', got {iou_type!r}")
    with redirect_stdout(
        io.StringIO()
    ):  # pycocotools reports to stdout, where our callers print their own tables
        truth = _index(ground_truth, _truth_annotations(ground_truth, iou_type))
        found = _index(ground_truth, _result_annotations(ground_truth, results, iou_type))
        matcher = COCOeval(truth, found, iou_type)
        if iou_type == "keypoints":
            number = _number_of_keypoints(ground_truth, results)
            matcher.params.kpt_oks_sigmas = check_sigmas(keypoint_sigmas, number)
        else:
            matcher.params.maxDets = limits
        matcher.evaluate()
        matcher.accumulate()
    return {name: matcher.eval[name] for name in ("precision", "recall")}


def _number_of_keypoints(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> int:
    """K; a ``ValueError`` unless all annotations and results have so many."""
    listed = [*ground_truth.get("annotations", []), *results]
    counts = sorted({len(entry["keypoints"]) for entry in listed})
    if len(counts) > 1 or any(count % 3 for count in counts):
        raise ValueError(
            "expected as many keypoints (x, y, visibility of each) in all annotations and results, got lists "
            f"of {', '.join(map(str, counts))} numbers"
        )
    return counts[0] // 3 if counts else len(Params("keypoints").kpt_oks_sigmas)


def _index(ground_truth: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    images, categories = ground_truth.get("images", []), ground_truth.get("categories", [])
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _truth_annotations(ground_truth: dict[str, Any], iou_type: str) -> list[dict[str, Any]]:
    """Copies, as pycocotools writes into them; with ids from 1, as it takes a match with id 0 for none."""
    field = FIELDS[iou_type]
    sizes = {
        image["id"]: (image.get("height"), image.get("width")) for image in ground_truth.get("images", [])
    }
    copies = []
    for number, annotation in enumerate(ground_truth.get("annotations", []), start=1):
        if field not in annotation:
            raise ValueError(f"ground truth: annotation {annotation.get('id')} has no {field!r}")
        copy = {"iscrowd": 0, **annotation, "id": number}
        if "area" not in copy:
            copy["area"] = _area(copy, sizes[copy["image_id"]])
        if iou_type == "keypoints" and "num_keypoints" not in copy:
            copy["num_keypoints"] = sum(visibility > 0 for visibility in copy["keypoints"][2::3])
        copies.append(copy)
    return copies


def _area(annotation: dict[str, Any], size: tuple[int, int]) -> float:
    """The area of a mask, or of the box where there is no mask."""
    shape = annotation.get("segmentation")
    if not shape:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(shape, list) or isinstance(shape["counts"], list):
        shape = coco_mask.frPyObjects(shape, *size)
    return float(np.sum(coco_mask.area(coco_mask.merge(shape) if isinstance(shape, list) else shape)))


def _result_annotations(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str
) -> list[dict[str, Any]]:
    field = FIELDS[iou_type]
    known = {
        "image_id": {image["id"] for image in ground_truth.get("images", [])},
        "category_id": {category["id"] for category in ground_truth.get("categories", [])},
    }
    annotations = []
    for number, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "score", field) if key not in result]
        if missing:
            raise ValueError(f"results: entry {number} has no {missing[0]!r}")
        for key, ids in known.items():
            if result[key] not in ids:
                raise ValueError(
                    f"results: entry {number} has {key} {result[key]}, which the ground truth lacks"
                )
        kept = {key: result[key] for key in ("image_id", "category_id", "score", field)}
        if iou_type == "segm":
            kept["score"] = result.get("mask_score", result["score"])
        area = _compared_area(result[field], iou_type)
        annotations.append({**kept, "area": area, "iscrowd": 0, "id": number + 1})
    return annotations


def _compared_area(value: Any, iou_type: str) -> float:
    """Size classes go by the area of what is compared: the box, the mask, or the keypoints' extent."""
    if iou_type == "segm":
        return float(coco_mask.area(value))
    if iou_type == "bbox":
        return float(value[2] * value[3])
    return float(np.ptp(value[0::3]) * np.ptp(value[1::3])) if value else 0.0


def _mean(values: np.ndarray) -> float:
    """The mean over what is defined, -1 if nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def _figures(arrays: dict[str, np.ndarray], iou_type: str) -> list[float]:
    precision, recall = arrays["precision"][..., -1], arrays["recall"]
    sizes = range(1, recall.shape[2])
    if iou_type == "keypoints":
        recalls = [recall[..., 0, -1], recall[IOU_50, ..., 0, -1], recall[IOU_75, ..., 0, -1]]
    else:
        recalls = [recall[..., 0, limit] for limit in range(recall.shape[-1])]
    return [
        _mean(precision[..., 0]),
        _mean(precision[IOU_50, ..., 0]),
        _mean(precision[IOU_75, ..., 0]),
        *(_mean(precision[..., size]) for size in sizes),
        *map(_mean, recalls),
        *(_mean(recall[..., size, -1]) for size in sizes),
    ]


def _category_figures(
    arrays: dict[str, np.ndarray], categories: Sequence[Category]
) -> dict[str, tuple[float, float, float]]:
    precision = arrays["precision"][
        ..., 0, -1
    ]  # [T, R, K]; data sets list categories by id, as pycocotools does
    return {
        category.name: (
            _mean(precision[..., k]),
            _mean(precision[IOU_50, :, k]),
            _mean(precision[IOU_75, :, k]),
        )
        for k, category in enumerate(categories)
    }
