"""Decoding: an RPN's five levels, from the grid index and from stored anchors, and the box head's classes."""

from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting
from maskrcnn_ops import reference

_RPN = (1.0, 1.0, 1.0, 1.0)
_HEAD = (10.0, 10.0, 5.0, 5.0)


def _peer_decode(deltas: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(weights).decode(deltas, [anchors])


def _grid(setting: Setting) -> Case:
    levels = inputs.pyramid(setting.sizes, setting.device)
    deltas = torch.cat([level.deltas[0] for level in levels])
    anchors = torch.cat([level.anchors for level in levels])
    arguments: list[tuple[Any, ...]] = [
        (level.deltas, level.cell_anchors, level.grid, (level.stride, level.stride), _RPN) for level in levels
    ]

    def peer() -> Tensor:
        return _peer_decode(deltas, anchors, _RPN)

    return Case(
        lambda: [ops.decode_grid(*level) for level in arguments],
        peer if setting.peer else None,
        peer if setting.peer else lambda: [reference.decode_grid(*level) for level in arguments],
        [deltas],
        operations=operations.DECODED * len(deltas),
    )


def _boxes(
    setting: Setting, deltas: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]
) -> Case:
    deltas, anchors = deltas.to(setting.device), anchors.to(setting.device)

    def peer() -> Tensor:
        return _peer_decode(deltas, anchors, weights)

    return Case(
        lambda: ops.decode_boxes(deltas, anchors, weights),
        peer if setting.peer else None,
        peer if setting.peer else lambda: reference.decode_boxes(deltas, anchors, weights),
        [deltas, anchors],
        operations=operations.DECODED * deltas.numel() / 4,
    )


def _stored(setting: Setting) -> Case:
    levels = inputs.pyramid(setting.sizes, "cpu")
    deltas = torch.cat([level.deltas[0] for level in levels])
    return _boxes(setting, deltas, torch.cat([level.anchors for level in levels]), _RPN)


ROWS = [
    Row(
        name="decode_grid/240,000 anchors",
        prepare=_grid,
        tolerance=1e-5,
        what="five levels, five calls of ours, anchors from the grid index; torchvision's BoxCoder.decode is "
        "given all anchors in one tensor, their generation and joining not counted",
    ),
    Row(
        name="decode_boxes/240,000 anchors",
        prepare=_stored,
        tolerance=1e-5,
        what="the same deltas, anchors stored for both; torchvision's BoxCoder.decode",
    ),
    Row(
        name="decode_boxes/1000 x 91 classes",
        prepare=lambda setting: _boxes(setting, *inputs.box_head(setting.sizes), _HEAD),
        tolerance=1e-5,
        what="the box head's deltas; torchvision's BoxCoder.decode",
    ),
]
