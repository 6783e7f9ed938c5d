"""RoIWarp: 1000 RoIs of the stride-4 map; the peer's RoIAlign of the same rounded cells."""

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations, pooling
from maskrcnn_ops import reference

_OPTIONS = (inputs.POOLED, 1 / inputs.STRIDE, inputs.SAMPLING_RATIO)


def _peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import roi_align

    cells = (rois[:, 1:] / inputs.STRIDE).add(0.5).floor()  # no negative corners here
    start, end = cells.split(2, dim=1)
    rounded = torch.cat([rois[:, :1], start, torch.maximum(start, end) + 1], dim=1)
    return roi_align(features, rounded, inputs.POOLED, 1.0, inputs.SAMPLING_RATIO, True)


POOLING = pooling.Pooling(
    name="roi_warp",
    ours=lambda features, rois: ops.roi_warp(features, rois, *_OPTIONS),
    peer=_peer,
    reference=lambda features, rois: reference.roi_warp(features, rois, *_OPTIONS),
    tolerances={("forward", "float32"): 1e-4, ("backward", "float32"): 1e-4},
    targets={},
    operations=lambda _, rois, outputs: operations.BILINEAR * inputs.SAMPLING_RATIO**2 * outputs,
)

ROWS = pooling.rows(POOLING)
