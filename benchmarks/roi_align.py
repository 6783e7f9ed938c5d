"""RoIAlign: 1000 RoIs of the stride-4 map, ratio 2 and adaptive; also against our RoIPool.

On CUDA also of several images, and against torchvision's deterministic path.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations, pooling, roi_pool, sectors
from benchmarks.harness import Target
from maskrcnn_ops import reference

_OPTIONS = (inputs.POOLED, 1 / inputs.STRIDE, inputs.SAMPLING_RATIO)


def _peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import roi_align

    return roi_align(features, rois, *_OPTIONS)


POOLING = pooling.Pooling(
    name="roi_align",
    ours=lambda features, rois: ops.roi_align(features, rois, *_OPTIONS),
    peer=_peer,
    reference=lambda features, rois: reference.roi_align(features, rois, *_OPTIONS),
    # float32: coordinates of up to 304 cells carry an error of 3e-5 cells, and weights with them.
    # Half precision: rounded once, by at most half an ulp, 2^-8 of bfloat16 and 2^-11 of float16.
    tolerances={
        ("forward", "float32"): 1e-4,
        ("backward", "float32"): 1e-4,
        ("forward", "bfloat16"): 4e-3,
        ("backward", "bfloat16"): 4e-3,
        ("forward", "float16"): 1e-3,
        ("backward", "float16"): 1e-3,
    },
    targets={
        ("cpu", "forward", "float32", "contiguous"): Target(12.0),
        ("cpu", "forward", "float32", "channels_last"): Target(25.0),
        ("cpu", "backward", "float32", "contiguous"): Target(10.0),
        ("cpu", "backward", "float32", "channels_last"): Target(15.0),
        **{
            ("cuda", "forward", *usual): Target(2.5 if "float32" in usual else 5.0, limit_at_least=0.6)
            for usual in inputs.USUAL_LAYOUT.items()
        },
        # torchvision's adds by atomics, in an order that changes from run to run.
        **{("cuda", "backward", *usual): Target(1.0) for usual in inputs.USUAL_LAYOUT.items()},
    },
    operations=lambda _, rois, outputs: operations.BILINEAR * inputs.SAMPLING_RATIO**2 * outputs,
    axis=partial(sectors.sampled, scale=1 / inputs.STRIDE, bins=inputs.POOLED, ratio=inputs.SAMPLING_RATIO),
)


@contextmanager
def _deterministic() -> Iterator[None]:
    """torchvision takes a path in PyTorch then, which it compiles; its graph must serve many backward calls."""
    import torch._functorch.config as compiled

    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        with compiled.patch(donated_buffer=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


DETERMINISTIC = dataclasses.replace(
    POOLING,
    name="roi_align_deterministic",
    targets={("cuda", "backward", "float32", "contiguous"): Target(20.0)},
    peer_mode=_deterministic,
    what=f"{POOLING.what}; torchvision's under torch.use_deterministic_algorithms(True), ours as always",
)

_ADAPTIVE = (inputs.POOLED, 1 / inputs.STRIDE, 0)


def _adaptive_peer(features: Tensor, rois: Tensor) -> Tensor:
    from torchvision.ops import roi_align

    return roi_align(features, rois, *_ADAPTIVE)


ADAPTIVE = pooling.Pooling(
    name="roi_align_adaptive",
    ours=lambda features, rois: ops.roi_align(features, rois, *_ADAPTIVE),
    peer=_adaptive_peer,
    reference=lambda features, rois: reference.roi_align(features, rois, *_ADAPTIVE),
    tolerances={("forward", "float32"): 1e-4},
    targets={
        ("cpu", "forward", "float32", "contiguous"): Target(12.0),
        ("cpu", "forward", "float32", "channels_last"): Target(30.0),
    },
    # However many samples there are, each cell under a RoI enters one sum of products in each channel.
    operations=lambda _, rois, outputs: (
        2 * operations.cells(rois[:, 1:], inputs.STRIDE) * outputs / (len(rois) * inputs.POOLED**2)
    ),
)

ROWS = [
    *pooling.rows(POOLING),
    *pooling.batched_rows(POOLING),
    *pooling.against_float32(POOLING, {("forward", "channels_last"): Target(1.3)}),
    *pooling.rows(ADAPTIVE),
    *pooling.against_each_other("roi_align_against_roi_pool", POOLING, roi_pool.POOLING),
    dataclasses.replace(
        pooling.row(DETERMINISTIC, "backward", "float32", "contiguous"), devices=("cuda",), repeats=3
    ),
]
