"""The synthetic shapes: exact masks, seeds, export."""

import itertools
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maskrcnn.data import CocoDataset, ShapesDataset, read_image
from maskrcnn.data.shapes import _visible_parts
from maskrcnn.data.shapes_drawing import CIRCLE, RECTANGLE, STAR, TRIANGLE, Shape, place_shape


def same(first, second):
    masks = (sample[1]["masks"].decode() for sample in (first, second))
    tensors = all(torch.equal(first[1][key], second[1][key]) for key in ("boxes", "labels"))
    return torch.equal(first[0], second[0]) and tensors and torch.equal(*masks)


def test_targets_are_consistent():
    dataset = ShapesDataset(30, (96, 128), seed=3)
    assert [category.name for category in dataset.categories] == ["circle", "rectangle", "triangle", "star"]
    assert dataset.num_classes == 5
    assert len(dataset) == 30
    assert dataset.image_ids == list(range(1, 31))
    seen, overlaps = set(), 0
    for i in range(len(dataset)):
        image, target = dataset[i]
        assert image.dtype == torch.uint8
        assert image.shape == (3, 96, 128)
        assert dataset.image_sizes[i] == (96, 128)
        assert torch.equal(image, dataset.image(i))
        assert target["image_id"] == i + 1
        masks, boxes = target["masks"].decode(), target["boxes"]
        assert 1 <= len(masks) == len(boxes) == len(target["labels"]) <= 8
        assert masks.int().sum(0).max() == 1  # visible parts never overlap
        for mask, box in zip(masks, boxes, strict=True):
            y, x = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        for (x0, y0, x1, y1), (u0, v0, u1, v1) in itertools.combinations(boxes.tolist(), 2):
            overlaps += min(x1, u1) > max(x0, u0) and min(y1, v1) > max(y0, v0)
        seen |= set(target["labels"].tolist())
    assert seen == {1, 2, 3, 4}
    assert overlaps > 10


def test_image_is_a_function_of_seed_and_index():
    dataset = ShapesDataset(5, 64, seed=1)
    assert same(dataset[3], dataset[3])
    assert same(dataset[3], ShapesDataset(50, 64, seed=1)[3])
    assert not same(dataset[3], dataset[4])
    assert not same(dataset[3], ShapesDataset(5, 64, seed=2)[3])


def test_every_image_has_an_object_even_the_smallest():
    dataset = ShapesDataset(300, 32, seed=0)
    assert all(dataset.has_objects)
    for i in range(len(dataset)):
        assert dataset[i][1]["masks"].decode().flatten(1).sum(1).min() >= 8


def block(rows: slice, columns: slice) -> Shape:
    inside = np.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
    return Shape(RECTANGLE, (rows, columns), inside, np.zeros(3, dtype=np.float32), (0.0, 0.0), 0.0)


def test_later_shapes_cover_earlier_ones():
    lower, upper = block(slice(0, 10), slice(0, 10)), block(slice(5, 15), slice(5, 15))
    (first, first_mask), (second, second_mask) = _visible_parts([lower, upper], 20, 20)
    assert (first, second) == (lower, upper)
    assert second_mask.sum() == 100
    assert first_mask.sum() == 75
    assert first_mask[4, 9] == 1
    assert first_mask[5, 5] == 0


def test_covered_shapes_are_left_out_and_cover_nothing():
    bottom, middle, top = (
        block(slice(0, 10), slice(0, 10)),
        block(slice(0, 10), slice(2, 12)),
        block(slice(0, 10), slice(4, 14)),
    )  # of the middle one only 20 % is visible
    visible = _visible_parts([bottom, middle, top], 20, 20)
    assert [shape for shape, _ in visible] == [bottom, top]
    assert visible[0][1].sum() == 40  # also what the middle one would have hidden


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(CIRCLE, 0.76, 0.80), (RECTANGLE, 0.3, 0.51), (TRIANGLE, 0.2, 0.33), (STAR, 0.25, 0.4)],
)
def test_areas_of_the_kinds(kind, low, high):
    """Pixels of each kind of shape against the square around its circle."""
    rng = np.random.default_rng(0)
    found = 0
    while found < 20:
        shape = place_shape(rng, 800, 800, np.zeros(3), (0.07, 0.2))
        rows, columns = shape.window
        side = rows.stop - rows.start
        cut = min(rows.start, columns.start) == 0 or max(rows.stop, columns.stop) == 800
        if shape.kind == kind and not cut:
            assert low < shape.inside.sum() / side**2 < high
            found += 1


def test_shapes_stand_out_from_the_background():
    """Against the average of the background around it, a shape's average colour differs clearly."""
    dataset = ShapesDataset(40, 96, seed=5)
    contrasts = []
    for i in range(len(dataset)):
        image, target = dataset[i]
        masks = target["masks"].decode()
        background = image[:, ~masks.any(0)].float().mean(1)
        for mask in masks:
            contrasts.append((image[:, mask].float().mean(1) - background).abs().max().item())
    assert np.quantile(contrasts, 0.05) > 40


def test_export_reloads_equal(tmp_path):
    dataset = ShapesDataset(6, (48, 80), seed=4)
    file = dataset.export(tmp_path / "shapes")
    assert file == tmp_path / "shapes" / "instances.json"
    again = CocoDataset(tmp_path / "shapes" / "images", file, check_files=True)
    assert again.categories == dataset.categories
    assert again.image_ids == dataset.image_ids
    assert again.image_sizes == dataset.image_sizes
    assert all(same(dataset[i], again[i]) for i in range(6))
    assert again.ground_truth() == dataset.ground_truth() == json.loads(file.read_text())


def test_ground_truth_describes_the_masks():
    dataset = ShapesDataset(4, 64, seed=0)
    annotations = dataset.ground_truth()["annotations"]
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
    masks = torch.cat([dataset[i][1]["masks"].decode() for i in range(4)])
    for annotation, mask in zip(annotations, masks, strict=True):
        assert np.array_equal(coco_mask.decode(annotation["segmentation"]), mask.numpy())
        assert annotation["area"] == mask.sum()


def test_exported_pictures(tmp_path):
    dataset = ShapesDataset(1, 64, seed=0)
    dataset.export(tmp_path)
    assert torch.equal(read_image(tmp_path / "images" / "000001.png"), dataset.image(0))


def test_radii():
    """A circle that is neither cut off nor covered measures twice its radius."""
    dataset = ShapesDataset(30, 100, max_objects=2, radii=(0.25, 0.25))
    sides = [
        (box[2:] - box[:2]).tolist()
        for _, target in (dataset[i] for i in range(30))
        for box, label in zip(target["boxes"], target["labels"], strict=True)
        if label == 1 and box[:2].min() > 0 and box[2:].max() < 100
    ]
    assert [50.0, 50.0] in sides
    assert max(map(max, sides)) <= 51


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images: expected an integer of at least 1, got 0"),
        ({"num_images": 1, "size": 31}, "size: expected sides of at least 32 pixels, got 31"),
        ({"num_images": 1, "size": (64, 8)}, r"size: expected sides of at least 32 pixels, got \(64, 8\)"),
        ({"num_images": 1, "seed": -1}, "seed: expected an integer from 0, got -1"),
        ({"num_images": 1, "max_objects": 1}, "max_objects: expected an integer of at least 2, got 1"),
        ({"num_images": 1, "radii": (0.3, 0.2)}, r"radii: expected two numbers .*, got \(0\.3, 0\.2\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShapesDataset(**arguments)


def test_index_out_of_range():
    with pytest.raises(IndexError, match="from 0 to 1, got 2"):
        ShapesDataset(2)[2]
