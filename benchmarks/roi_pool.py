"""RoIPool: 1000 RoIs of the stride-4 map, on CUDA also of several images."""

from functools import partial

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations, pooling, sectors
from benchmarks.harness import Target
from maskrcnn_ops import reference

_OPTIONS = (inputs.POOLED, 1 / inputs.STRIDE)


def _peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import roi_pool

    return roi_pool(features, rois, *_OPTIONS)


POOLING = pooling.Pooling(
    name="roi_pool",
    ours=lambda features, rois: ops.roi_pool(features, rois, *_OPTIONS),
    peer=_peer,
    reference=lambda features, rois: reference.roi_pool(features, rois, *_OPTIONS),
    # A maximum is exact; gradients of the same cell are added in another order, in half precision rounded once.
    tolerances={
        ("forward", "float32"): 0.0,
        ("forward", "bfloat16"): 0.0,
        ("forward", "float16"): 0.0,
        ("backward", "float32"): 1e-5,
        ("backward", "bfloat16"): 4e-3,
        ("backward", "float16"): 1e-3,
    },
    targets={
        **{("cpu", "forward", "float32", layout): Target(12.0) for layout in inputs.LAYOUTS},
        **{("cpu", "backward", "float32", layout): Target(5.0) for layout in inputs.LAYOUTS},
        **{
            ("cuda", direction, *usual): Target(2.0)
            for direction in ("forward", "backward")
            for usual in inputs.USUAL_LAYOUT.items()
        },
    },
    # Forward a comparison for each cell under a RoI in each channel, backward an addition for each output.
    operations=lambda direction, rois, outputs: (
        operations.cells(rois[:, 1:], inputs.STRIDE) * outputs / (len(rois) * inputs.POOLED**2)
        if direction == "forward"
        else outputs
    ),
    axis=partial(sectors.covered, scale=1 / inputs.STRIDE),
)

ROWS = [*pooling.rows(POOLING), *pooling.batched_rows(POOLING)]
