"""RoIPool: 1000 RoIs of the stride-4 map."""

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations, pooling
from maskrcnn_ops import reference

_OPTIONS = (inputs.POOLED, 1 / inputs.STRIDE)


def _peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import roi_pool

    return roi_pool(features, rois.to(features.dtype), *_OPTIONS)


POOLING = pooling.Pooling(
    name="roi_pool",
    ours=lambda features, rois: ops.roi_pool(features, rois, *_OPTIONS),
    peer=_peer,
    reference=lambda features, rois: reference.roi_pool(features, rois, *_OPTIONS),
    # A maximum is exact; gradients of the same cell are added in another order, in bfloat16 rounded once.
    tolerances={
        ("forward", "float32"): 0.0,
        ("forward", "bfloat16"): 0.0,
        ("backward", "float32"): 1e-5,
        ("backward", "bfloat16"): 4e-3,
    },
    targets={
        ("forward", "contiguous"): 12.0,
        ("forward", "channels_last"): 12.0,
        ("backward", "contiguous"): 5.0,
        ("backward", "channels_last"): 5.0,
    },
    # Forward a comparison for each cell under a RoI in each channel, backward an addition for each output.
    operations=lambda direction, rois, outputs: (
        operations.cells(rois[:, 1:], inputs.STRIDE) * outputs / (len(rois) * inputs.POOLED**2)
        if direction == "forward"
        else outputs
    ),
)

ROWS = pooling.rows(POOLING)
