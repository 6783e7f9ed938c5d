"""Augmentation, and the random numbers that decide about it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .dataset import Target

# What a random number is for; keeps the streams of one seed apart.
ORDER, SCHEDULE, FLIP, SHAPES = range(4)


def random_generator(seed: int, purpose: int, first: int, second: int = 0) -> np.random.Generator:
    """A generator that is a function of its four arguments alone, all of them integers from 0.

    Nothing random depends on what was drawn before, so a run resumes at any step without saved state.
    """
    if seed < 0:
        raise ValueError(f"seed: expected an integer from 0, got {seed}")
    return np.random.default_rng([seed, purpose, first, second])


def flip_horizontal(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror an image [3, H, W] and its target's boxes and masks left to right.

    Boxes are pixel edges, so x becomes W - x. The arguments are left as they are; entries other than
    ``boxes`` and ``masks`` are passed on.
    """
    width = image.shape[-1]
    flipped = dict(target)
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = width - target["boxes"][:, [2, 0]]
    flipped["boxes"] = boxes
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(-1)
    return image.flip(-1), flipped


def random_flip(
    image: Tensor, target: Target, probability: float, *, seed: int, step: int, position: int
) -> tuple[Tensor, Target]:
    """Mirror with the given probability; the decision is a function of (seed, step, position in the
    batch)."""
    if random_generator(seed, FLIP, step, position).random() < probability:
        return flip_horizontal(image, target)
    return image, target
