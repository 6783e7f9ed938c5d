"""Run lengths and polygons beside pycocotools."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import maskrcnn_ops as ops
from maskrcnn_ops import reference


def random_bitmaps(count=20, size=(37, 53), seed=0):
    coarse = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    masks = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[:, 0] > 0.2
    masks[0], masks[1] = False, True
    masks[2] = torch.rand(size, generator=torch.Generator().manual_seed(seed)) > 0.5
    return masks


def encoded(bitmaps):
    return coco_mask.encode(np.asfortranarray(bitmaps.permute(1, 2, 0).numpy().astype(np.uint8)))


@pytest.mark.parametrize("convention", ["continuous", "integer"])
def test_masks_to_rle_equals_pycocotools(convention):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(60, 1, 7, 7, generator=generator) * 4
    masks = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear").sigmoid()
    corners = (torch.rand(60, 2, 2, generator=generator) * 1.2 - 0.1).sort(dim=1).values
    boxes = (corners * torch.tensor([500.0, 400.0])).reshape(60, 4)
    expected = encoded(ops.paste_masks(masks, boxes, (400, 500), 0.5, convention))
    assert ops.masks_to_rle(masks, boxes, (400, 500), 0.5, convention) == expected


def test_encodings_equal_pycocotools():
    masks = random_bitmaps()
    encodings = encoded(masks)
    assert reference.encode_bitmaps(masks) == encodings
    assert torch.equal(ops.rle_decode(encodings), masks)
    assert ops.rle_area(encodings).tolist() == coco_mask.area(encodings).tolist()
    for crowd in ([False] * 20, [i % 3 == 0 for i in range(20)]):
        expected = coco_mask.iou(encodings[:7], encodings, crowd)
        np.testing.assert_array_equal(ops.rle_iou(encodings[:7], encodings, crowd).numpy(), expected)
    tight = ops.masks_to_boxes(masks)
    tight[masks.flatten(1).any(1), 2:] += 1  # masks_to_boxes gives pixel indices
    assert torch.equal(ops.rle_to_boxes(encodings), tight)


def test_uncompressed_and_text_counts():
    masks = random_bitmaps(3)
    encodings = encoded(masks)
    text = [{**each, "counts": each["counts"].decode()} for each in encodings]
    assert torch.equal(ops.rle_decode(text), masks)
    assert ops.rle_area([{"size": [2, 3], "counts": [1, 2, 3]}]).tolist() == [2]
    assert ops.rle_decode([]).shape == (0, 0, 0)
    for bad in (b"", b"5", b"\xff", b"o", b"1" * 9):
        with pytest.raises(ValueError, match=r"rle_area: expected counts of encoding 0 to be run lengths"):
            ops.rle_area([{"size": [2, 3], "counts": bad}])
    with pytest.raises(ValueError, match=r"rle_area: expected counts"):
        ops.rle_area([{"size": [2, 3], "counts": [7, -1]}])


def bitmap(rings, size):
    return torch.from_numpy(
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, *size))).astype(bool)
    )


def test_polygons_equal_pycocotools():
    generator = torch.Generator().manual_seed(4)
    size = (60, 45)
    polygons = []
    for i in range(300):
        points = (torch.rand(3 + i % 9, 2, generator=generator, dtype=torch.float64) - 0.5) * 1.4 + 0.5
        points *= torch.tensor([45.0, 60.0])
        polygons.append([(points.round() if i % 3 == 0 else points).flatten().tolist()])
    expected = torch.stack([bitmap(rings, size) for rings in polygons])
    assert torch.equal(reference.polygon_bitmaps(polygons, size), expected)
    # A box whose bins are the pixels: RoIAlign of it gives each pixel averaged with its neighbours.
    boxes = torch.tensor([[-0.5, -0.5, 44.5, 59.5]]).repeat(300, 1)
    actual = ops.rasterize_polygons(polygons, boxes, size, size)
    assert torch.equal(actual, expected.float())


@pytest.mark.data
def test_real_polygons_equal_pycocotools(real_data):
    """Targets of real annotations, person for person, equal those of the decoded bitmap bit for bit."""
    file = json.loads((real_data / "coco_person" / "person_keypoints_val.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in file["images"]}
    people = [a for a in file["annotations"] if isinstance(a["segmentation"], list)][:300]
    assert len(people) > 50
    for person in people:
        size = sizes[person["image_id"]]
        x, y, w, h = person["bbox"]
        boxes = torch.tensor([[x, y, x + w, y + h], [x - 9.3, y + 4.1, x + w * 0.8, y + h * 1.1]])
        matches = torch.zeros(2, dtype=torch.int64)
        mask = bitmap(person["segmentation"], size)[None]
        expected = ops.crop_masks(mask, boxes, 28, matches)
        assert torch.equal(
            ops.rasterize_polygons([person["segmentation"]], boxes, 28, size, matches), expected
        )
        assert torch.equal(ops.crop_masks(encoded(mask), boxes, 28, matches), expected)
