"""Loaders: which images make which batch, and the worker processes that prepare them.

Everything is computed from the step's number. A run that resumes at step 70,000 asks for batch 70,000 and
gets what an unbroken run gets; processes that train together each take their slice of the same global batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from .dataset import DataError, DetectionDataset, Target
from .transforms import ORDER, SCHEDULE, random_flip, random_generator

Batch = TypeVar("Batch")


class BatchOrder:
    """The endless sequence of global batches, each a function of (seed, step).

    Every group of images is an endless stream of its own: one shuffled epoch after the other, cut into
    batches (which may reach into the next epoch, so no image is dropped or favoured). The steps are dealt out
    evenly among the groups, in proportion to their sizes.
    """

    def __init__(self, groups: Sequence[np.ndarray], batch_size: int, seed: int, replacement: bool) -> None:
        self._groups = [group for group in groups if len(group)]
        if not 1 <= len(self._groups) <= 2:
            raise ValueError(
                f"BatchOrder: expected one or two groups that are not empty, got {len(self._groups)}"
            )
        self._batch_size = batch_size
        self._seed = seed
        self._replacement = replacement
        self._total = sum(len(group) for group in self._groups)
        self._offset = int(random_generator(seed, SCHEDULE, 0).integers(self._total))
        self._epochs: dict[int, tuple[int, np.ndarray]] = {}  # the last used epoch of each group

    def batch(self, step: int) -> list[int]:
        """Indices of the images of a step's global batch."""
        group, number = self._turn(step)
        images = self._groups[group]
        if self._replacement:
            chosen = random_generator(self._seed, ORDER, group, number).integers(
                len(images), size=self._batch_size
            )
            return images[chosen].tolist()
        places = range(number * self._batch_size, (number + 1) * self._batch_size)
        return [int(self._shuffled(group, place // len(images))[place % len(images)]) for place in places]

    def _turn(self, step: int) -> tuple[int, int]:
        """Whose turn it is: (group, number of the batch in that group's stream)."""
        share = len(self._groups[0])
        before = (step * share + self._offset) // self._total  # steps so far that were the first group's
        after = ((step + 1) * share + self._offset) // self._total
        return (0, before) if after > before else (1, step - before)

    def _shuffled(self, group: int, epoch: int) -> np.ndarray:
        cached = self._epochs.get(group)
        if cached is None or cached[0] != epoch:
            order = random_generator(self._seed, ORDER, group, epoch).permutation(self._groups[group])
            self._epochs[group] = cached = (epoch, order)
        return cached[1]


class Loader(Generic[Batch]):
    """An iterable over batches that knows its length. Each iteration starts from the beginning."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


def training_loader(
    dataset: DetectionDataset,
    batch_size: int,
    *,
    steps: int,
    seed: int = 0,
    start_step: int = 0,
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    replacement: bool = False,
    keep_empty: bool = True,
) -> Loader[tuple[list[Tensor], list[Target]]]:
    """Batches for training steps ``start_step`` to ``steps - 1``.

    The global batch of a step and its augmentation are functions of (seed, step) alone: neither
    ``start_step`` nor ``num_workers`` nor ``world_size`` changes them, and starting late costs nothing.

    Args:
        dataset: images and targets.
        batch_size: images a step in all processes together; a multiple of ``world_size``.
        steps: where the training ends.
        seed: integer from 0; decides the order and the augmentation.
        start_step: the first step to load.
        flip: probability of mirroring an image left to right.
        vertical_flip: probability of mirroring it top to bottom.
        aspect_ratio_grouping: batches hold only landscape (and square) images or only portrait ones, which
            saves padding. The two kinds take turns in proportion to their numbers.
        num_workers: forked processes that prepare batches, each on one thread; 0 prepares them in this
            process.
        rank, world_size: this process takes the slice number ``rank`` of ``world_size`` of every global
            batch.
        replacement: draw images uniformly with replacement instead of going through shuffled epochs.
        keep_empty: also load images without objects.

    Returns:
        An iterable, of length ``steps - start_step``, over (images, targets): lists of uint8 tensors
        [3, H, W] and of target dictionaries.

    Raises:
        ValueError: an argument is out of range, or no image is left to train on.
        DataError, FileNotFoundError: while iterating, from the data set.
    """
    _check_at_least(1, batch_size=batch_size, world_size=world_size)
    _check_at_least(0, seed=seed, start_step=start_step, num_workers=num_workers)
    if batch_size % world_size:
        raise ValueError(
            f"training_loader: expected batch_size to be a multiple of {world_size=}, got {batch_size}"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"training_loader: expected rank from 0 to {world_size - 1}, got {rank}")
    for name, flip_probability in (("flip", flip), ("vertical_flip", vertical_flip)):
        if not 0 <= flip_probability <= 1:
            raise ValueError(
                f"training_loader: expected {name} to be a probability from 0 to 1, got {flip_probability}"
            )
    groups = _groups(dataset, aspect_ratio_grouping, keep_empty)
    order = BatchOrder(groups, batch_size, seed, replacement)
    share = batch_size // world_size
    positions = range(rank * share, (rank + 1) * share)
    return _loader(
        _TrainingSamples(dataset, seed, flip, vertical_flip),
        _TrainingSteps(order, start_step, steps, positions),
        num_workers,
    )


def evaluation_loader(
    dataset: DetectionDataset, batch_size: int, num_workers: int = 0
) -> Loader[tuple[list[int], list[Tensor]]]:
    """All images in order, as (indices, images) with at most ``batch_size`` of them at a time.

    Images are uint8 [3, H, W]. Workers are those of :func:`training_loader`.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, num_workers=num_workers)
    batches = [
        range(first, min(first + batch_size, len(dataset))) for first in range(0, len(dataset), batch_size)
    ]
    return _loader(_EvaluationSamples(dataset), batches, num_workers)


def _groups(dataset: DetectionDataset, by_aspect_ratio: bool, keep_empty: bool) -> list[np.ndarray]:
    """Indices of the images to train on: landscape and portrait ones, or all together."""
    kept = np.arange(len(dataset))
    if not keep_empty:
        kept = kept[np.asarray(dataset.has_objects, dtype=bool)]
    if not kept.size:
        what = "has no images" if keep_empty else "has no images with objects (keep_empty=False)"
        raise ValueError(f"training_loader: the data set {what}")
    if not by_aspect_ratio:
        return [kept]
    sizes = np.asarray(dataset.image_sizes)[kept]
    portrait = sizes[:, 0] > sizes[:, 1]
    return [kept[~portrait], kept[portrait]]


class _TrainingSteps:
    """For every step, the (step, position in the global batch, image) of this process's samples."""

    def __init__(self, order: BatchOrder, start: int, stop: int, positions: range) -> None:
        self._order = order
        self._steps = range(start, stop)
        self._positions = positions

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in self._steps:
            batch = self._order.batch(step)
            yield [(step, position, batch[position]) for position in self._positions]


class _TrainingSamples(TorchDataset[Any]):
    def __init__(self, dataset: DetectionDataset, seed: int, *flips: float) -> None:
        self._dataset = dataset
        self._seed = seed
        self._flips = flips  # probabilities: left to right, top to bottom

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Target] | Exception:
        step, position, index = key
        try:
            image, target = self._dataset[index]
        except (DataError, OSError) as error:
            return error
        return random_flip(image, target, *self._flips, seed=self._seed, step=step, position=position)


class _EvaluationSamples(TorchDataset[Any]):
    def __init__(self, dataset: DetectionDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Tensor] | Exception:
        try:
            return index, self._dataset.image(index)
        except (DataError, OSError) as error:
            return error


def _collate(samples: list[Any]) -> Any:
    """Lists instead of stacked tensors, for images differ in size.

    A bad file is handed over as its exception and raised by `Loader`: raised in a worker, it would reach the
    user wrapped in the worker's traceback.
    """
    for sample in samples:
        if isinstance(sample, Exception):
            return sample
    return tuple(list(column) for column in zip(*samples, strict=True))


def _loader(samples: TorchDataset[Any], batches: Any, num_workers: int) -> Loader[Any]:
    return Loader(
        DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_collate,
            worker_init_fn=_init_worker,
            multiprocessing_context="fork" if num_workers else None,  # workers share the data set's arrays
            generator=torch.Generator(),  # leaves torch's global one alone
        )
    )


def _init_worker(worker: int) -> None:
    """One thread a worker: more oversubscribe the processor, and OpenMP's pool does not outlive a fork."""
    torch.set_num_threads(1)


def _check_at_least(low: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < low:
            raise ValueError(f"{name}: expected an integer of at least {low}, got {value}")
