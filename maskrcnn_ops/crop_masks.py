"""Training targets of a mask head: bitmaps, COCO encodings or polygons cropped to regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_ops import _runs
from maskrcnn_ops._checks import from_host, pair

__all__ = ["crop_masks", "rasterize_polygons"]


def crop_masks(
    masks: Tensor | Sequence[_runs.Rle],
    boxes: Tensor,
    size: int | Sequence[int],
    matches: Tensor | None = None,
    *,
    aligned: bool = False,
) -> Tensor:
    """Masks cropped to boxes and resampled to M x M.

    He, Gkioxari, Dollár, Girshick: Mask R-CNN (ICCV 2017), section 3, "Mask Representation".

    Args:
        masks: bitmaps uint8 or bool [L, H, W], of which what is not zero belongs to the object; or L COCO
            encodings ``{"size": [H, W], "counts": ...}`` of one size, which are not decoded.
        boxes: [R, 4] xyxy in pixels, float32 or float64; half precision is widened.
        size: M, or (rows, columns).
        matches: int64 [R], the mask of each box, 0 to L - 1 (below 2^24 for float32 boxes); by default box i
            takes mask i.
        aligned: False takes box coordinates as pixel indices, half a pixel off (torchvision's targets); True
            as Note [Pixel centres] in ``maskrcnn_ops.reference`` has them.

    Returns:
        [R, M, M] in the boxes' dtype (widened), from 0 to 1. A box with a non-finite coordinate gives zeros.

    Raises:
        ValueError, RuntimeError: for bad shapes, dtypes, devices or sizes, malformed encodings, and on the CPU
            a match outside the masks; on CUDA such a box gives zeros.

    Not differentiable. Deterministic. Nothing is read back from the GPU; encodings are copied to it, so a CUDA
    graph takes bitmaps only.

    Equivalent to:
        ``roi_align(masks[:, None].to(boxes), rois, size, aligned=aligned)[:, 0]`` with
        ``rois = [matches, boxes]`` (adaptive sampling), up to the rounding of sums.
    """
    rows, columns = pair(size, "crop_masks", "size")
    if isinstance(masks, Tensor):
        rois = _rois("crop_masks", boxes, matches, masks.shape[0] if masks.dim() else 0)
        return torch.ops.maskrcnn_ops.crop_masks(masks, rois, rows, columns, aligned)
    rois = _rois("crop_masks", boxes, matches, len(masks))
    ends, offsets, (height, width) = _runs.decode(masks, "crop_masks")
    ends, offsets = (from_host(each, rois.device, "crop_masks") for each in (ends, offsets))
    return torch.ops.maskrcnn_ops.crop_runs(ends, offsets, height, width, rois, rows, columns, aligned)


def rasterize_polygons(
    polygons: Sequence[Sequence[Sequence[float]]],
    boxes: Tensor,
    size: int | Sequence[int],
    image_size: Sequence[int],
    matches: Tensor | None = None,
    *,
    aligned: bool = False,
) -> Tensor:
    """COCO polygons cropped to boxes and resampled to M x M, without a bitmap of the image.

    The bitmap that is cropped is, to the pixel, the one of ``pycocotools.mask.frPyObjects``, merged and decoded:
    corners rounded to fifths of a pixel (Note [Polygons] in ``csrc/crop_masks/mask_sources.h``). It is only
    computed in the columns that a box samples.

    Args:
        polygons: L objects, each a list of polygons ``[x0, y0, x1, y1, ...]`` of 3 or more corners in pixels;
            an object is what any of its polygons covers. Coordinates beyond ±1e8 count as there.
        boxes, size, matches, aligned: as in :func:`crop_masks`.
        image_size: (H, W) of the image in pixels; polygons end at its border.

    Returns, raises, differentiability, determinism: as :func:`crop_masks`; a coordinate that is not finite
    raises as well.

    Equivalent to:
        ``crop_masks(bitmaps of the polygons, boxes, size, matches, aligned=aligned)``, bit for bit.
    """
    rows, columns = pair(size, "rasterize_polygons", "size")
    height, width = pair(image_size, "rasterize_polygons", "image_size")
    rois = _rois("rasterize_polygons", boxes, matches, len(polygons))
    packed = (from_host(each, rois.device, "rasterize_polygons") for each in _pack(polygons))
    return torch.ops.maskrcnn_ops.rasterize_polygons(*packed, height, width, rois, rows, columns, aligned)


def _rois(op: str, boxes: Tensor, matches: Tensor | None, objects: int) -> Tensor:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{op}: expected boxes of shape [R, 4], got {list(boxes.shape)}")
    boxes = boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes
    if matches is None:
        if len(boxes) != objects:
            raise ValueError(f"{op}: expected as many boxes as masks, got {len(boxes)} and {objects}")
        matches = torch.arange(objects, device=boxes.device)
    if matches.shape != boxes.shape[:1]:
        raise ValueError(f"{op}: expected matches of shape [{len(boxes)}], got {list(matches.shape)}")
    return torch.cat([matches[:, None].to(boxes), boxes], dim=1)


def _pack(polygons: Sequence[Sequence[Sequence[float]]]) -> tuple[Tensor, Tensor, Tensor]:
    """All corners [P, 2], where each ring begins among them, and where each object begins among the rings."""
    numbers: list[float] = []
    rings, objects = [0], [0]
    for i, each in enumerate(polygons):
        for ring in each:
            if len(ring) < 6 or len(ring) % 2:
                raise ValueError(
                    f"rasterize_polygons: expected polygons of 6 or more coordinates, an even number, got "
                    f"{len(ring)} in object {i}"
                )
            numbers.extend(ring)
            rings.append(len(numbers) // 2)
        objects.append(len(rings) - 1)
    points = torch.tensor(numbers, dtype=torch.float64).reshape(-1, 2)
    if not bool(points.isfinite().all()):
        raise ValueError("rasterize_polygons: expected polygons of finite numbers")
    return points, torch.tensor(rings), torch.tensor(objects)


@torch.library.register_fake("maskrcnn_ops::crop_masks")
def _(masks: Tensor, rois: Tensor, rows: int, columns: int, aligned: bool) -> Tensor:
    torch._check(
        masks.dim() == 3, lambda: f"crop_masks: expected masks of shape [L, H, W], got {list(masks.shape)}"
    )
    return rois.new_empty((rois.shape[0], rows, columns))


@torch.library.register_fake("maskrcnn_ops::crop_runs")
def _(
    ends: Tensor,
    offsets: Tensor,
    height: int,
    width: int,
    rois: Tensor,
    rows: int,
    columns: int,
    aligned: bool,
) -> Tensor:
    return rois.new_empty((rois.shape[0], rows, columns))


@torch.library.register_fake("maskrcnn_ops::rasterize_polygons")
def _(
    points: Tensor,
    rings: Tensor,
    objects: Tensor,
    height: int,
    width: int,
    rois: Tensor,
    rows: int,
    columns: int,
    aligned: bool,
) -> Tensor:
    return rois.new_empty((rois.shape[0], rows, columns))
