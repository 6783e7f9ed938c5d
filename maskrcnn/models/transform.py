"""Images into the network (normalise, resize, batch) and results back (boxes, masks, keypoints in image pixels)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.geometry import resize_boxes, resize_keypoints
from maskrcnn.models.images import Detection, ImageList, Target

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MASK_FORMATS = ("full", "bool", "roi", "rle")


class GeneralizedRCNNTransform(nn.Module):
    """Normalises images, resizes them with their targets and pads them to one batch.

    The shorter side becomes ``min_size``, unless the longer would then exceed ``max_size``, which it becomes
    instead.

    Args:
        min_size: pixels; of several, training draws one per image and evaluation takes the last.
        max_size: pixels.
        image_mean, image_std: per channel, for images in [0, 1].
        size_divisible: height and width of the batch are multiples of it.
        fixed_size: (width, height) that every image gets instead.
    """

    def __init__(
        self,
        min_size: int | Sequence[int],
        max_size: int,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        self.max_size = max_size
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.size_divisible = size_divisible
        self.fixed_size = fixed_size

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> tuple[ImageList, list[Target] | None]:
        """Return the batch, and copies of the targets in its pixels (the caller's are left alone)."""
        resized, new_targets = [], []
        for i, image in enumerate(images):
            size = self.new_size((image.shape[-2], image.shape[-1]))
            resized.append(resize_image(self.normalize(image), size))
            if targets is not None:
                new_targets.append(resize_target(targets[i], (image.shape[-2], image.shape[-1]), size))
        sizes = [(image.shape[-2], image.shape[-1]) for image in resized]
        return ImageList(self.batch(resized), sizes), None if targets is None else new_targets

    def normalize(self, image: Tensor) -> Tensor:
        """Subtract the mean, divide by the deviation; uint8 is first scaled by 1/255 to float32."""
        if image.dtype == torch.uint8:
            image = image.to(torch.float32).div_(255)
        return image.sub(_per_channel(self.image_mean, image)).div_(_per_channel(self.image_std, image))

    def new_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) after the resize of an image of ``size``; draws from torch's generator in training."""
        if not self.training:
            side = self.min_size[-1]
        else:
            side = self.min_size[int(torch.empty(1).uniform_(0.0, float(len(self.min_size))).item())]
        if self.fixed_size is not None:
            return self.fixed_size[1], self.fixed_size[0]
        scale = min(side / min(size), self.max_size / max(size))
        return max(1, math.floor(size[0] * scale)), max(1, math.floor(size[1] * scale))

    def batch(self, images: list[Tensor]) -> Tensor:
        """Copy the images into the top left corners of ``[N, C, H, W]`` zeros."""
        step = self.size_divisible
        height = math.ceil(max(image.shape[-2] for image in images) / step) * step
        width = math.ceil(max(image.shape[-1] for image in images) / step) * step
        batch = images[0].new_zeros((len(images), images[0].shape[0], height, width))
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]].copy_(image)
        return batch

    def extra_repr(self) -> str:
        size = f"min_size={self.min_size}, max_size={self.max_size}"
        return f"{size}, mean={self.image_mean}, std={self.image_std}"


def _per_channel(values: Sequence[float], image: Tensor) -> Tensor:
    """``[C, 1, 1]`` beside the image. Made there: a GPU would have to wait for numbers that are copied to it."""
    return torch.stack([image.new_full((1, 1), value) for value in values])


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres at .5; ``[C, H, W]``. At the same size the image itself."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]


def resize_target(target: Target, old: tuple[int, int], new: tuple[int, int]) -> Target:
    """Boxes, masks (bitmaps: nearest neighbour) and keypoints of an image resized from ``old`` to ``new`` (H, W)."""
    result = {**target, "boxes": resize_boxes(target["boxes"].float(), old, new)}
    if "masks" in target:
        masks = target["masks"]
        result["masks"] = masks.resize(new) if isinstance(masks, EncodedMasks) else resize_bitmaps(masks, new)
    if "keypoints" in target:
        result["keypoints"] = resize_keypoints(target["keypoints"].float(), old, new)
    return result


def resize_bitmaps(masks: Tensor, new: tuple[int, int]) -> Tensor:
    """``[L, H, W]`` as uint8, nearest neighbour."""
    masks = masks.to(torch.uint8)
    if tuple(masks.shape[-2:]) == new:
        return masks
    return (
        F.interpolate(masks[None], size=new, mode="nearest")[0] if len(masks) else masks.new_zeros((0, *new))
    )


def map_back(
    detections: list[Detection],
    resized: list[tuple[int, int]],
    original: list[tuple[int, int]],
    mask_format: str,
    convention: str,
) -> list[Detection]:
    """Detections of resized images at the original sizes; masks in one of :data:`MASK_FORMATS`."""
    results = []
    for detection, old, new in zip(detections, resized, original, strict=True):
        boxes = resize_boxes(detection["boxes"], old, new)
        result = {**detection, "boxes": boxes}
        if "masks" in detection:
            result["masks"] = _placed(detection["masks"], boxes, new, mask_format, convention)
        if "keypoints" in detection:
            result["keypoints"] = resize_keypoints(detection["keypoints"], old, new)
        results.append(result)
    return results


def _placed(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], mask_format: str, convention: str
) -> Tensor | list[dict[str, Any]]:
    """M x M probabilities of boxes in an image of ``size`` (H, W)."""
    if mask_format == "roi":
        return masks
    if mask_format == "rle":
        return ops.masks_to_rle(masks, boxes, size, convention=convention)
    if mask_format == "bool":
        return ops.paste_masks(masks, boxes, size, threshold=0.5, convention=convention)
    return ops.paste_masks(masks, boxes, size, threshold=None, convention=convention)[:, None]
