"""Small float64 tensors for tests whose expected numbers are worked by hand."""

from __future__ import annotations

import torch
from torch import Tensor


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int, seed: int = 0, requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


def random_boxes(count: int, extent: float, seed: int = 0) -> Tensor:
    corner, sides = random(count, 2, seed=seed) * extent, (0.1 + random(count, 2, seed=seed + 1)) * extent
    return torch.cat([corner, corner + sides], dim=1)


def assert_close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, f64(expected) if not isinstance(expected, Tensor) else expected)
