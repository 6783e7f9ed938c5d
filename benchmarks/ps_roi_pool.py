"""Position-sensitive RoIAlign and RoIPool: R-FCN's 21 score maps for each of 7 x 7 bins, at stride 16."""

from functools import partial

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations, pooling
from benchmarks.harness import Target
from maskrcnn_ops import reference

_POOL = (inputs.POOLED, 1 / inputs.SENSITIVE_STRIDE)
_ALIGN = (*_POOL, inputs.SAMPLING_RATIO)


def _align_peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import ps_roi_align

    return ps_roi_align(features, rois, *_ALIGN)


def _pool_peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import ps_roi_pool

    return ps_roi_pool(features, rois, *_POOL)


# As RoIAlign's.
_TOLERANCES = {
    ("forward", "float32"): 1e-4,
    ("backward", "float32"): 1e-4,
    ("forward", "bfloat16"): 4e-3,
    ("backward", "bfloat16"): 4e-3,
}
# One pass over the map and vectors of sixteen channels, on two threads, against one number at a time on one.
_TARGETS = {
    ("cpu", direction, "float32", layout): Target(5.0)
    for direction in ("forward", "backward")
    for layout in inputs.LAYOUTS
}

_pooling = partial(
    pooling.Pooling,
    tolerances=_TOLERANCES,
    targets=_TARGETS,
    features=inputs.sensitive_map,
    rois=inputs.inner_rois,
    gradient=inputs.sensitive_gradient,
    what="1000 RoIs, 21 * 49 x 50 x 76 map of stride 16, 7 x 7",
)
ALIGN = _pooling(
    name="ps_roi_align",
    ours=lambda features, rois: ops.ps_roi_align(features, rois, *_ALIGN),
    peer=_align_peer,
    reference=lambda features, rois: reference.ps_roi_align(features, rois, *_ALIGN),
    operations=lambda _, rois, outputs: operations.BILINEAR * inputs.SAMPLING_RATIO**2 * outputs,
)
POOL = _pooling(
    name="ps_roi_pool",
    ours=lambda features, rois: ops.ps_roi_pool(features, rois, *_POOL),
    peer=_pool_peer,
    reference=lambda features, rois: reference.ps_roi_pool(features, rois, *_POOL),
    # An addition for each cell under a RoI and output channel.
    operations=lambda _, rois, outputs: (
        operations.cells(rois[:, 1:], inputs.SENSITIVE_STRIDE) * outputs / (len(rois) * inputs.POOLED**2)
    ),
)

ROWS = [*pooling.rows(ALIGN), *pooling.rows(POOL)]
