"""What the operators on boxes share: coordinate dtypes, and the end of differentiation."""

from typing import Any, NoReturn

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
_FULL = (torch.float32, torch.float64)


def widen(tensor: Tensor) -> Tensor:
    """Half precision as float32; every other dtype as it is."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def same_coordinates(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both widened, and float32 beside float64 as float64; other dtypes are for the operator to refuse."""
    a, b = widen(a), widen(b)
    if a.dtype != b.dtype and a.dtype in _FULL and b.dtype in _FULL:
        return a.double(), b.double()
    return a, b


def no_second_derivative(*operators: str, suffix: str = "_backward") -> None:
    """Make differentiating a backward operator an error instead of a gradient that is silently missing."""
    for name in operators:

        def refuse(ctx: Any, *grads: Tensor, name: str = name) -> NoReturn:
            raise RuntimeError(f"{name}: expected to be differentiated once, got a second derivative")

        torch.library.register_autograd(f"maskrcnn_ops::{name}{suffix}", refuse)
