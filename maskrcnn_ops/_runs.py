"""COCO run-length encodings between Python's dictionaries and tensors of run ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn_ops import _host

Rle = dict[str, Any]
"""``{"size": [H, W], "counts": bytes, str or list of run lengths}``, as pycocotools has it."""


def encode(counts: Tensor, offsets: Tensor, size: tuple[int, int]) -> list[Rle]:
    """Encodings of the run lengths ``counts[offsets[d]:offsets[d + 1]]``, both int64."""
    if not counts.is_cpu:  # one copy, and so one wait
        counts, offsets = torch.cat([counts, offsets]).cpu().split([len(counts), len(offsets)])
    strings = _host.encode_runs(counts.data_ptr(), offsets.data_ptr(), len(offsets) - 1)
    return [{"size": list(size), "counts": each} for each in strings]


def decode(encodings: Sequence[Rle], op: str) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Run ends and offsets, int64 on the CPU, and the size (H, W) that all encodings share."""
    sizes = {tuple(int(side) for side in each["size"]) for each in encodings}
    if len(sizes) > 1:
        raise ValueError(f"{op}: expected encodings of one size, got {sorted(sizes)}")
    size = next(iter(sizes), (0, 0))
    if len(size) != 2:
        raise ValueError(f"{op}: expected size [H, W], got {list(size)}")
    pixels = size[0] * size[1]
    try:
        ends, offsets = _host.decode_runs(
            [_text(each["counts"], op) for each in encodings], [pixels] * len(encodings)
        )
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None
    return _longs(ends), _longs(offsets), (size[0], size[1])


def _text(counts: bytes | str | Sequence[int], op: str) -> bytes:
    if isinstance(counts, bytes):
        return counts
    if isinstance(counts, str):
        return counts.encode("latin-1", "replace")
    lengths = torch.tensor(list(counts), dtype=torch.int64)
    if lengths.dim() != 1:
        raise ValueError(f"{op}: expected counts as a string or a list of run lengths")
    offsets = torch.tensor([0, len(lengths)])
    text: bytes = _host.encode_runs(lengths.data_ptr(), offsets.data_ptr(), 1)[0]
    return text


def _longs(data: bytearray) -> Tensor:
    return torch.frombuffer(data, dtype=torch.int64) if data else torch.zeros(0, dtype=torch.int64)
