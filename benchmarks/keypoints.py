"""Keypoints of 20 people from heatmaps of 17 x 56 x 56."""

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting
from maskrcnn_ops import reference


def _prepare(setting: Setting) -> Case:
    heatmaps, boxes = (tensor.to(setting.device) for tensor in inputs.heatmaps(setting.sizes))

    def ours() -> Tensor:
        return ops.heatmaps_to_keypoints(heatmaps, boxes)[1]

    def peer() -> Tensor:
        from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

        result: Tensor = heatmaps_to_keypoints(heatmaps, boxes)[1]
        return result

    def from_reference() -> Tensor:
        return reference.heatmaps_to_keypoints(heatmaps.cpu(), boxes.cpu())[1]

    expected = peer if setting.peer else from_reference
    # Four taps along the second axis at each pixel of a box.
    count = 8 * heatmaps.shape[1] * operations.cells(boxes)
    return Case(ours, peer if setting.peer else None, expected, [heatmaps, boxes], operations=count)


ROWS = [
    Row(
        name="heatmaps_to_keypoints",
        prepare=_prepare,
        tolerance=1e-5,
        what="17 heatmaps of 56 x 56 for each of 20 boxes; compared are the scores",
    )
]
