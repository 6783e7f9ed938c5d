"""From a model's detections to COCO's results format: boxes as xywh, masks as RLE strings, keypoints as flat lists.

Evaluation and prediction both end here. Masks leave the model as small M x M probabilities and become run
lengths without a full-size bitmap, whatever the picture's size and the number of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from maskrcnn.models.folding import fold_norms
from maskrcnn_ops import masks_to_rle


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Encode bitmaps as COCO run lengths.

    Args:
        masks: bool or uint8 (0 and 1) tensor [D, H, W].

    Returns:
        D dicts ``{"size": [H, W], "counts": str}``, ready for ``json.dump`` and for pycocotools.

    Raises:
        ValueError: if ``masks`` has another rank or dtype.
    """
    if masks.ndim != 3 or masks.dtype not in (torch.bool, torch.uint8):
        raise ValueError(
            f"encode_masks: expected bool or uint8 masks [D, H, W], got {masks.dtype} {list(masks.shape)}"
        )
    if masks.shape[0] == 0:
        return []
    # Run lengths go down the columns: [D, W, H] in C order is pycocotools' [H, W, D] in Fortran order.
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    runs = coco_mask.encode(columns.transpose(2, 1, 0))
    return [{"size": list(run["size"]), "counts": run["counts"].decode("ascii")} for run in runs]


def encode_roi_masks(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], convention: str = "continuous"
) -> list[dict[str, Any]]:
    """Paste mask probabilities [D, 1, M, M] at their boxes [D, 4], cut at 0.5 and encode them.

    No mask becomes full-size; ``convention`` is that of ``paste_masks``.
    """
    runs = masks_to_rle(masks, boxes, image_size, 0.5, convention)
    return [{"size": run["size"], "counts": run["counts"].decode("ascii")} for run in runs]


def decode_mask(run: dict[str, Any]) -> np.ndarray:
    """The bool bitmap [H, W] of one RLE dict."""
    bitmap: np.ndarray = coco_mask.decode(run).astype(bool)
    return bitmap


def to_results(
    detections: dict[str, Tensor],
    image_id: int,
    image_size: tuple[int, int],
    category_ids: Sequence[int],
    convention: str = "continuous",
) -> list[dict[str, Any]]:
    """One image's detections as COCO results.

    Args:
        detections: ``boxes`` [D, 4] xyxy in the image's pixels, ``labels`` [D] from 1, ``scores`` [D] and, if
            the model makes them, ``masks``: either probabilities [D, 1, M, M] or bitmaps bool [D, H, W];
            ``mask_scores`` [D]; and ``keypoints`` [D, K, 3].
        image_size: (H, W) of the image.
        category_ids: the category id of label i + 1 at place i.
        convention: how M x M probabilities are pasted.

    Returns:
        D dicts with ``image_id, category_id, bbox`` (x, y, width, height), ``score``, with masks
        ``segmentation``, with scores of the masks ``mask_score``, with keypoints ``keypoints`` (3K numbers).

    Raises:
        ValueError: if a label has no category id.
    """
    labels = detections["labels"].tolist()
    if labels and not 1 <= min(labels) <= max(labels) <= len(category_ids):
        raise ValueError(
            f"detections carry labels {min(labels)} to {max(labels)}, expected 1 to {len(category_ids)}, "
            "the number of categories"
        )
    corners = detections["boxes"].double()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    scores = detections["scores"].double().tolist()
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for label, box, score in zip(labels, boxes, scores, strict=True)
    ]
    masks = detections.get("masks")
    if masks is not None:
        if masks.dtype == torch.bool:
            runs = encode_masks(masks)
        else:
            runs = encode_roi_masks(masks, detections["boxes"], image_size, convention)
        for result, run in zip(results, runs, strict=True):
            result["segmentation"] = run
    if "mask_scores" in detections:
        for result, score in zip(results, detections["mask_scores"].double().tolist(), strict=True):
            result["mask_score"] = score
    if "keypoints" in detections:
        for result, keypoints in zip(results, detections["keypoints"].double().flatten(1), strict=True):
            result["keypoints"] = keypoints.tolist()
    return results


@contextmanager
def inference(model: nn.Module, *, compile: bool = False) -> Iterator[nn.Module]:
    """A copy of a model made for running: the same detections up to rounding, in less time.

    It is in evaluation mode and without gradients, gives masks as M x M probabilities, has its constant norms
    folded into the convolutions, and on a CPU keeps its weights (and so its maps) in channels_last, in which
    convolutions and region operators are fastest. The model itself stays as it is.

    ``compile``: let ``torch.compile`` fuse what the backbone computes. The first image, and the first of another
    size, then take a minute.
    """
    fast = fold_norms(model)
    if all(parameter.device.type == "cpu" for parameter in fast.parameters()):
        fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if hasattr(fast, "mask_format"):
        fast.mask_format = "roi"  # type: ignore[assignment]
    if compile:
        fast.get_submodule("backbone").compile()
    with torch.inference_mode():
        yield fast
