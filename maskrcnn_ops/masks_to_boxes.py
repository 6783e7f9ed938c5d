"""The boxes of masks."""

import torch
from torch import Tensor

__all__ = ["masks_to_boxes"]


def masks_to_boxes(masks: Tensor) -> Tensor:
    """First and last column and row of each mask with a pixel that is not zero.

    Args:
        masks: [L, H, W], boolean, integer or floating point; NaN is not zero, -0.0 is.

    Returns:
        float32 [L, 4] (x1, y1, x2, y2), pixel *indices*, both ends included, as torchvision gives them: x2
        and y2 are one less than the pixel edges of Note [Pixel centres] in ``maskrcnn_ops.reference``. A
        mask without pixels gives zeros.

    Raises:
        RuntimeError: for another number of dimensions or a complex dtype.

    Not differentiable. Deterministic. Each mask is read once at most; no temporary of its size is made.

    Equivalent to:
        ``y, x = masks[i].nonzero(as_tuple=True); [x.min(), y.min(), x.max(), y.max()]`` for each mask.
    """
    return torch.ops.maskrcnn_ops.masks_to_boxes(masks)


@torch.library.register_fake("maskrcnn_ops::masks_to_boxes")
def _(masks: Tensor) -> Tensor:
    torch._check(
        masks.dim() == 3, lambda: f"masks_to_boxes: expected masks of shape [L, H, W], got {masks.shape}"
    )
    return masks.new_empty((masks.shape[0], 4), dtype=torch.float32)
