"""Pasting 100 masks of 28 x 28 into boolean images of 800 x 1216."""

from functools import partial

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting, Target
from maskrcnn_ops import reference


def _prepare(convention: str, setting: Setting) -> Case:
    masks, boxes = (tensor.to(setting.device) for tensor in inputs.masks(setting.sizes))
    size = setting.sizes.image

    def ours() -> Tensor:
        return ops.paste_masks(masks, boxes, size, 0.5, convention)

    def from_reference() -> Tensor:
        return reference.paste_masks(masks, boxes, size, 0.5, convention)

    def peer() -> Tensor:
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        return paste_masks_in_image(masks, boxes, size) > 0.5

    same = convention == "integer"
    return Case(
        ours,
        peer if setting.peer else None,
        peer if setting.peer and same else from_reference,
        [masks, boxes],
        ""
        if same
        else "held to the reference: torchvision has only the integer convention, and is timed with it",
        4 * operations.cells(boxes),  # two rows, stretched, are blended and compared at every pixel of a box
    )


# The share of pixels whose probability lies so near to 0.5 that the last bit decides.
_TOLERANCE = 1e-6

ROWS = [
    Row(
        name=f"paste_masks/{convention}",
        prepare=partial(_prepare, convention),
        tolerance=_TOLERANCE,
        targets={"cpu": Target(8.0), "cuda": Target(10.0)} if convention == "integer" else {},
        what="100 masks of 28 x 28 to 800 x 1216, boolean; torchvision's paste_masks_in_image(...) > 0.5",
    )
    for convention in ("integer", "continuous")
]
