"""What travels between the parts of a detector: the image batch, targets and detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

# Per image: boxes float32 [L, 4] (xyxy, pixels), labels int64 [L] (1..K-1), masks uint8 or bool [L, H, W], or
# EncodedMasks, keypoints float32 [L, K, 3] (x, y, visibility: 0 for a keypoint that is not annotated), proposals [P, 4]
# for a model that takes them; other keys are ignored.
Target: TypeAlias = dict[str, Any]

# Per image: boxes float32 [D, 4], labels int64 [D], scores float32 [D]; where the model makes them masks (a tensor,
# or COCO encodings), mask_scores float32 [D], keypoints float32 [D, K, 3] (x, y, 1) and keypoints_scores [D, K].
Detection: TypeAlias = dict[str, Any]


@dataclass
class ImageList:
    """A padded batch and the sizes of the images in it.

    Attributes:
        tensors: ``[N, 3, H, W]``, zeros right of and below each image.
        image_sizes: (H, W) of each image, without padding.
        proposals: float32 ``[P, 4]`` of each image, in the batch's pixels, where they came with the images.
    """

    tensors: Tensor
    image_sizes: list[tuple[int, int]]
    proposals: list[Tensor] | None = None
