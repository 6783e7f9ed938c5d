"""Augmentation, and the random numbers that decide about it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from maskrcnn.geometry import mirror_boxes, mirror_keypoints

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
    """Mirror an image [3, H, W] and its target's boxes, masks, keypoints and proposals left to right.

    Keypoints also change places as the target's ``keypoint_mirror`` says: a mirrored left hand is a right
    hand. The arguments are left as they are; other entries are passed on.

    Raises:
        ValueError: a target with ``keypoints`` lacks ``keypoint_mirror``.
    """
    return _mirror(image, target, -1)


def flip_vertical(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror an image [3, H, W] and its target top to bottom; otherwise as :func:`flip_horizontal`.

    Left and right change places here too: this mirror turns a left hand into a right hand like the other.
    """
    return _mirror(image, target, -2)


def _mirror(image: Tensor, target: Target, dim: int) -> tuple[Tensor, Target]:
    flipped = {**target, "boxes": mirror_boxes(target["boxes"], image.shape[dim], dim)}
    if "proposals" in target:
        flipped["proposals"] = mirror_boxes(target["proposals"], image.shape[dim], dim)
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(dim)
    if "keypoints" in target:
        if "keypoint_mirror" not in target:
            raise ValueError(
                "target: expected a key 'keypoint_mirror' beside 'keypoints' (int64 [L, K], the keypoint that "
                f"takes each one's place in a mirrored image), got {sorted(target)}"
            )
        order = target["keypoint_mirror"][..., None].expand_as(target["keypoints"])
        mirrored = mirror_keypoints(target["keypoints"], image.shape[dim], dim)
        flipped["keypoints"] = mirrored.gather(1, order)
    return image.flip(dim), flipped


def random_flip(
    image: Tensor,
    target: Target,
    horizontal: float,
    vertical: float = 0.0,
    *,
    seed: int,
    step: int,
    position: int,
) -> tuple[Tensor, Target]:
    """Mirror with the given probabilities; the decisions are functions of (seed, step, position in the
    batch)."""
    generator = random_generator(seed, FLIP, step, position)
    for probability, flip in ((horizontal, flip_horizontal), (vertical, flip_vertical)):
        if generator.random() < probability:
            image, target = flip(image, target)
    return image, target
