"""RoIAlign: 1000 RoIs of the stride-4 map, ratio 2 and adaptive; also against our RoIPool."""

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations, pooling, roi_pool
from maskrcnn_ops import reference

_OPTIONS = (inputs.POOLED, 1 / inputs.STRIDE, inputs.SAMPLING_RATIO)


def _peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import roi_align

    return roi_align(features, rois.to(features.dtype), *_OPTIONS)


POOLING = pooling.Pooling(
    name="roi_align",
    ours=lambda features, rois: ops.roi_align(features, rois, *_OPTIONS),
    peer=_peer,
    reference=lambda features, rois: reference.roi_align(features, rois, *_OPTIONS),
    # float32: coordinates of up to 304 cells carry an error of 3e-5 cells, and weights with them.
    # bfloat16: rounded once, by at most half an ulp, 2^-8.
    tolerances={
        ("forward", "float32"): 1e-4,
        ("backward", "float32"): 1e-4,
        ("forward", "bfloat16"): 4e-3,
        ("backward", "bfloat16"): 4e-3,
    },
    targets={
        ("forward", "contiguous"): 12.0,
        ("forward", "channels_last"): 25.0,
        ("backward", "contiguous"): 10.0,
        ("backward", "channels_last"): 15.0,
    },
    operations=lambda _, rois, outputs: operations.BILINEAR * inputs.SAMPLING_RATIO**2 * outputs,
)

_ADAPTIVE = (inputs.POOLED, 1 / inputs.STRIDE, 0)


def _adaptive_peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import roi_align

    return roi_align(features, rois.to(features.dtype), *_ADAPTIVE)


ADAPTIVE = pooling.Pooling(
    name="roi_align_adaptive",
    ours=lambda features, rois: ops.roi_align(features, rois, *_ADAPTIVE),
    peer=_adaptive_peer,
    reference=lambda features, rois: reference.roi_align(features, rois, *_ADAPTIVE),
    tolerances={("forward", "float32"): 1e-4},
    targets={("forward", "contiguous"): 12.0, ("forward", "channels_last"): 30.0},
    # However many samples there are, each cell under a RoI enters one sum of products in each channel.
    operations=lambda _, rois, outputs: (
        2 * operations.cells(rois[:, 1:], inputs.STRIDE) * outputs / (len(rois) * inputs.POOLED**2)
    ),
)

ROWS = [
    *pooling.rows(POOLING),
    *pooling.against_float32(POOLING, {("forward", "channels_last"): 1.3}),
    *pooling.rows(ADAPTIVE),
    *pooling.against_each_other("roi_align_against_roi_pool", POOLING, roi_pool.POOLING),
]
