"""Which images the loaders give, in which order, through how many processes."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from maskrcnn.data import Category, CocoDataset, DataError, ShapesDataset, evaluation_loader, training_loader


class Plain:
    """Images filled with their index: wide ones, then tall ones; the odd ones have no objects."""

    categories = (Category(1, "thing"),)
    num_classes = 2

    def __init__(self, landscape, portrait=0):
        self.image_sizes = [(4, 6)] * landscape + [(6, 4)] * portrait
        self.image_ids = list(range(100, 100 + len(self.image_sizes)))
        self.has_objects = [i % 2 == 0 for i in range(len(self.image_sizes))]

    def __len__(self):
        return len(self.image_sizes)

    def __getitem__(self, index):
        number = int(self.has_objects[index])
        target = {
            "boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]])[:number],
            "labels": torch.ones(number, dtype=torch.int64),
            "masks": torch.zeros(number, *self.image_sizes[index], dtype=torch.uint8),
            "image_id": self.image_ids[index],
        }
        return self.image(index), target

    def image(self, index):
        image = torch.full((3, *self.image_sizes[index]), index, dtype=torch.uint8)
        image[..., 0] = 255  # shows a flip
        return image

    def ground_truth(self):
        raise NotImplementedError


def ids(loader):
    return [[target["image_id"] - 100 for target in targets] for _, targets in loader]


def flips(loader):
    return [[bool(image[0, 0, -1] == 255) for image in images] for images, _ in loader]


def test_every_epoch_visits_every_image_once():
    batches = ids(training_loader(Plain(10), 5, steps=6))
    epochs = [batches[0] + batches[1], batches[2] + batches[3], batches[4] + batches[5]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_batches_reach_into_the_next_epoch():
    batches = ids(training_loader(Plain(7), 4, steps=7))
    assert all(len(batch) == 4 for batch in batches)
    stream = list(itertools.chain.from_iterable(batches))
    assert all(sorted(stream[i : i + 7]) == list(range(7)) for i in (0, 7, 14, 21))


def test_batch_larger_than_the_data_set():
    (batch,) = ids(training_loader(Plain(3), 8, steps=1))
    assert sorted(Counter(batch).values()) == [2, 3, 3]


def test_order_is_a_function_of_the_seed():
    def batches(seed):
        return ids(training_loader(Plain(20), 4, steps=10, seed=seed))

    assert batches(3) == batches(3)
    assert batches(3) != batches(4)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("start", [0, 1, 13, 29])
def test_resumes_at_any_step(replacement, grouping, start):
    options = {"steps": 30, "seed": 5, "replacement": replacement, "aspect_ratio_grouping": grouping}
    whole = training_loader(Plain(9, 4), 4, **options)
    rest = training_loader(Plain(9, 4), 4, start_step=start, **options)
    assert len(whole) == 30
    assert len(rest) == 30 - start
    assert ids(rest) == ids(whole)[start:]
    assert flips(rest) == flips(whole)[start:]
    assert ids(whole) == ids(whole)  # a second iteration starts anew


def test_resuming_late_costs_nothing():
    loader = training_loader(Plain(5, 4), 2, start_step=10**12, steps=10**12 + 3)
    assert [len(batch) for batch in ids(loader)] == [2, 2, 2]


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_processes_share_the_global_batches(replacement, world_size):
    options = {"steps": 12, "seed": 2, "replacement": replacement}
    single = training_loader(Plain(9, 4), 6, **options)
    shares = [
        training_loader(Plain(9, 4), 6, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for view in (ids, flips):
        joined = [list(itertools.chain(*parts)) for parts in zip(*map(view, shares), strict=True)]
        assert joined == view(single)


def test_aspect_ratio_grouping():
    dataset = Plain(21, 9)
    batches = ids(training_loader(dataset, 3, steps=100))
    for batch in batches:
        assert len({i < 21 for i in batch}) == 1
    visits = Counter(itertools.chain.from_iterable(batches))
    assert set(visits.values()) == {10}  # 100 batches of 3 are 10 epochs of 30 images
    landscape = [batch[0] < 21 for batch in batches]
    assert sum(landscape) == 70
    for first in range(90):  # the kinds take turns
        assert 6 <= sum(landscape[first : first + 10]) <= 8
    ungrouped = ids(training_loader(dataset, 3, steps=100, aspect_ratio_grouping=False))
    assert any(len({i < 21 for i in batch}) == 2 for batch in ungrouped)


def test_square_images_count_as_landscape():
    dataset = Plain(4, 4)
    dataset.image_sizes[0] = (6, 6)
    batches = ids(training_loader(dataset, 4, steps=8))
    assert all(len({i < 4 for i in batch}) == 1 for batch in batches)


def test_replacement_draws_uniformly():
    visits = Counter(
        itertools.chain.from_iterable(ids(training_loader(Plain(8, 4), 4, steps=600, replacement=True)))
    )
    expected = 2400 / 12
    assert set(visits) == set(range(12))
    chi_squared = sum((count - expected) ** 2 / expected for count in visits.values())
    assert chi_squared < 35  # 11 degrees of freedom: exceeded once in 4,000 seeds
    single = ids(training_loader(Plain(40), 40, steps=1, replacement=True))[0]
    assert len(set(single)) < 40


def test_empty_images_are_kept_or_left_out():
    kept = set(itertools.chain.from_iterable(ids(training_loader(Plain(10), 5, steps=2))))
    assert kept == set(range(10))
    chosen = set(itertools.chain.from_iterable(ids(training_loader(Plain(10), 5, steps=2, keep_empty=False))))
    assert chosen == {0, 2, 4, 6, 8}


def test_flip_probability_and_consistency():
    dataset = ShapesDataset(4, 48)
    for images, targets in training_loader(dataset, 4, steps=2, flip=1.0):
        for image, target in zip(images, targets, strict=True):
            original_image, original = dataset[target["image_id"] - 1]
            assert torch.equal(image, original_image.flip(-1))
            assert torch.equal(target["masks"].decode(), original["masks"].decode().flip(-1))
    flipped = np.array(flips(training_loader(Plain(10), 10, steps=100, flip=0.3)))
    assert math.isclose(flipped.mean(), 0.3, abs_tol=0.06)
    assert (flipped.any(axis=1) & ~flipped.all(axis=1)).sum() > 80  # each image of a batch decides for itself
    assert (flipped.any(axis=0) & ~flipped.all(axis=0)).all()  # and each step anew
    assert not np.any(flips(training_loader(Plain(10), 10, steps=5, flip=0.0)))


def test_workers_change_nothing():
    dataset = ShapesDataset(10, 48)
    options = {"steps": 6, "seed": 1, "flip": 0.5}
    alone, helped = (training_loader(dataset, 3, num_workers=workers, **options) for workers in (0, 2))
    for (images, targets), (other_images, other_targets) in zip(alone, helped, strict=True):
        assert all(map(torch.equal, images, other_images))
        for target, other in zip(targets, other_targets, strict=True):
            assert target["image_id"] == other["image_id"]
            assert all(torch.equal(target[key], other[key]) for key in ("boxes", "labels"))
            assert target["masks"] == other["masks"]


class CountsThreads(Plain):
    def image(self, index):
        return torch.tensor(torch.get_num_threads())


def test_workers_use_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (_, counts), *_ = evaluation_loader(CountsThreads(2), 2, num_workers=1)
    finally:
        torch.set_num_threads(threads)
    assert [int(count) for count in counts] == [1, 1]


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(training_loader(Plain(5), 2, steps=2, num_workers=1))
    list(evaluation_loader(Plain(5), 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_loader_goes_in_order(workers):
    batches = list(evaluation_loader(Plain(4, 3), 3, workers))
    assert len(evaluation_loader(Plain(4, 3), 3)) == 3
    assert [indices for indices, _ in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    for indices, images in batches:
        assert [int(image[0, 0, 1]) for image in images] == indices


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_files_raise_their_own_error(tmp_path, workers):
    """Also out of a worker: one clear line, no worker's traceback in the message."""
    dataset = CocoDataset(tmp_path / "images", ShapesDataset(3, 32).export(tmp_path))
    (tmp_path / "images" / "000002.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"^\S*000002\.png: cannot read the image: [^\n]*$"):
        list(training_loader(dataset, 3, steps=1, num_workers=workers))
    (tmp_path / "images" / "000002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^\S*000002\.png: image file not found [^\n]*$"):
        list(evaluation_loader(dataset, 2, num_workers=workers))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"start_step": -1}, "start_step: expected an integer of at least 0, got -1"),
        ({"num_workers": -1}, "num_workers: expected an integer of at least 0, got -1"),
        ({"batch_size": 4, "world_size": 3}, "batch_size to be a multiple of world_size=3, got 4"),
        ({"batch_size": 4, "world_size": 2, "rank": 2}, "expected rank from 0 to 1, got 2"),
        ({"flip": 1.5}, "expected flip to be a probability from 0 to 1, got 1.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_loader(Plain(3), **{"batch_size": 2, "steps": 1, **arguments})


def test_nothing_to_train_on():
    dataset = Plain(3)
    dataset.has_objects = [False] * 3
    with pytest.raises(ValueError, match="has no images with objects"):
        training_loader(dataset, 2, steps=1, keep_empty=False)
    assert len(ids(training_loader(dataset, 2, steps=1))) == 1
