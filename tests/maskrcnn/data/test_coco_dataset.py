"""COCO files: what is read from good ones, and what is said about bad ones."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from maskrcnn.data import Category, CocoDataset, DataError

SQUARE = torch.zeros(6, 8, dtype=torch.uint8)
SQUARE[1:4, 1:4] = 1


def test_reads_categories_with_gaps_and_all_mask_formats(load, coco):
    dataset = load(coco)
    assert dataset.categories == [Category(3, "car"), Category(17, "cat"), Category(90, "kite")]
    assert dataset.num_classes == 4
    assert dataset.image_ids == [7, 5, 9]
    assert dataset.image_sizes == [(6, 8), (6, 8), (8, 6)]
    assert dataset.has_objects == [True, True, False]
    image, target = dataset[0]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 6, 8)
    assert target["image_id"] == 7
    assert target["labels"].tolist() == [1, 3, 1]  # the crowd region is left out
    assert target["labels"].dtype == torch.int64
    assert target["boxes"].tolist() == [[1, 1, 4, 4]] * 3
    assert target["boxes"].dtype == torch.float32
    assert torch.equal(target["masks"].decode(), SQUARE.expand(3, 6, 8).bool())
    assert dataset[1][1]["labels"].tolist() == [2]


def test_image_without_objects(load, coco):
    image, target = load(coco)[2]
    assert image.shape == (3, 8, 6)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["labels"].dtype == torch.int64
    assert target["masks"].shape == (0, 8, 6)
    assert target["masks"].decode().shape == (0, 8, 6)


def test_polygons_of_one_object_are_united(load, coco):
    coco["annotations"][0]["segmentation"].append([5, 4, 8, 4, 8, 6, 5, 6])
    expected = SQUARE.clone()
    expected[4:6, 5:8] = 1
    assert torch.equal(load(coco)[0][1]["masks"].decode()[0], expected.bool())


def test_boxes_are_clipped_and_those_without_area_left_out(load, coco):
    boxes = ([-2, -1, 4, 3], [6, 4, 9, 9], [3, 3, 0, 2], [3, 3, 2, -1], [20, 20, 3, 3])
    coco["annotations"] = [
        {**coco["annotations"][0], "id": i, "bbox": box} for i, box in enumerate(boxes, start=40)
    ] + [{**coco["annotations"][3], "bbox": [0, 0, 0, 0]}]  # no object anyway
    with pytest.warns(UserWarning, match=r"instances\.json: 3 annotations .*\(the first is annotation 42"):
        dataset = load(coco)
    target = dataset[0][1]
    assert target["boxes"].tolist() == [[0, 0, 2, 2], [6, 4, 8, 6]]
    assert target["masks"].shape == (2, 6, 8)
    assert target["labels"].shape == (2,)
    assert len(dataset.ground_truth()["annotations"]) == 6


def test_image_whose_objects_are_all_left_out_has_none(load, coco):
    coco["annotations"] = [coco["annotations"][3]]
    dataset = load(coco)
    assert dataset.has_objects == [False, False, False]
    assert dataset[0][1]["masks"].shape == (0, 6, 8)


def test_ground_truth_is_what_the_file_says(load, coco, tmp_path):
    ground_truth = load(coco).ground_truth()
    assert ground_truth["images"] == coco["images"]
    assert ground_truth["annotations"] == coco["annotations"]
    assert ground_truth["categories"] == sorted(coco["categories"], key=lambda category: category["id"])
    (tmp_path / "again.json").write_text(json.dumps(ground_truth))
    assert CocoDataset(tmp_path, tmp_path / "again.json").ground_truth() == ground_truth


def test_missing_iscrowd_is_no_crowd(load, coco):
    del coco["annotations"][0]["iscrowd"]
    dataset = load(coco)
    assert dataset[0][1]["labels"].shape == (3,)
    assert dataset.ground_truth()["annotations"][0]["iscrowd"] == 0


def test_without_masks(load, coco):
    del coco["annotations"][0]["segmentation"]
    dataset = load(coco, masks=False)
    assert dataset[0][1].keys() == {"boxes", "labels", "image_id"}
    assert "segmentation" not in dataset.ground_truth()["annotations"][0]


def test_no_annotations_at_all(load, coco):
    coco["annotations"] = []
    dataset = load(coco)
    assert dataset.has_objects == [False] * 3
    assert dataset.ground_truth()["annotations"] == []


def test_order_of_members_byte_order_mark_and_foreign_members(load, coco):
    parts = {key: coco[key] for key in ("annotations", "categories", "images")} | {"licenses": [{"x": [[]]}]}
    load(coco)  # writes the pictures
    dataset = load("\ufeff \n" + json.dumps(parts, indent=2).replace("[]", "[ ]") + "\n")
    assert dataset[0][1]["masks"].shape == (3, 6, 8)


@pytest.mark.parametrize("index", [-1, 3])
def test_index_out_of_range(load, coco, index):
    with pytest.raises(IndexError, match=f"from 0 to 2, got {index}"):
        load(coco)[index]


# -------------------------------- bad files

BIG = 2**70
BAD_ANNOTATIONS = {
    "unknown image": ({"image_id": 8}, "it refers to an unknown image, 8"),
    "unknown category": ({"category_id": 4}, "it refers to an unknown category, 4"),
    "image id is text": (
        {"image_id": "7"},
        "expected image_id and category_id to be integers, got '7' and 3",
    ),
    "bbox of three": ({"bbox": [1, 1, 3]}, r"expected bbox to be 4 finite numbers, got \[1, 1, 3\]"),
    "bbox is null": ({"bbox": None}, "expected bbox to be 4 finite numbers, got None"),
    "bbox with text": ({"bbox": [1, 1, "3", 3]}, "expected bbox to be 4 finite numbers"),
    "bbox with NaN": ({"bbox": [1, 1, float("nan"), 3]}, "expected bbox to be 4 finite numbers, got .*nan"),
    "bbox infinite": ({"bbox": [1, 1, float("inf"), 3]}, "expected bbox to be 4 finite numbers, got .*inf"),
    "bbox too long": ({"bbox": [1, 1, 10**400, 3]}, "expected bbox to be 4 finite numbers"),
    "area is text": ({"area": "9"}, "expected area to be a finite number, got '9'"),
    "area is NaN": ({"area": float("nan")}, "expected area to be a finite number, got nan"),
    "crowd is 2": ({"iscrowd": 2}, "expected iscrowd to be 0 or 1, got 2"),
    "crowd is a list": ({"iscrowd": []}, r"expected iscrowd to be 0 or 1, got \[\]"),
    "no polygon": ({"segmentation": []}, "it has no segmentation; masks=False"),
    "null": ({"segmentation": None}, "it has no segmentation; masks=False"),
    "text": ({"segmentation": "733"}, "expected segmentation as polygons or RLE, got '733'"),
    "flat polygon": ({"segmentation": [1, 1, 4, 1, 4, 4]}, "expected each polygon to be a list, got 1"),
    "polygon of 4": ({"segmentation": [[1, 1, 4, 4]]}, "polygons of 6 or more coordinates.* got one of 4"),
    "polygon of 7": ({"segmentation": [[1] * 7]}, "6 or more coordinates, an even number, got one of 7"),
    "polygon with null": ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "polygons of finite numbers"),
    "polygon with NaN": ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "finite numbers .* got nan"),
    "polygon far away": ({"segmentation": [[1, 2, 3, 4, 5, 1e30]]}, "within 100000 pixels, got 1e[+]30"),
    "RLE without size": ({"segmentation": {"counts": [48]}}, "size to be .height, width., got None"),
    "RLE size of three": (
        {"segmentation": {"size": [6, 8, 1], "counts": [48]}},
        "size to be .height, width.",
    ),
    "RLE without counts": ({"segmentation": {"size": [6, 8]}}, "counts as a list or a string, got None"),
    "RLE of other size": (
        {"segmentation": {"size": [8, 6], "counts": [48]}},
        r"segmentation size \[8, 6\] differs from its image's \[6, 8\] \(height, width\)",
    ),
    "runs too short": (
        {"segmentation": {"size": [6, 8], "counts": [40, 7]}},
        "runs add up to 47 pixels, .* 48",
    ),
    "runs too long": (
        {"segmentation": {"size": [6, 8], "counts": [40, 9]}},
        "runs add up to 49 pixels, .* 48",
    ),
    "runs overflow": ({"segmentation": {"size": [6, 8], "counts": [2**62] * 4 + [48]}}, "add up to 18446"),
    "negative run": ({"segmentation": {"size": [6, 8], "counts": [50, -2]}}, "run of negative length -2"),
    "no runs": ({"segmentation": {"size": [6, 8], "counts": []}}, "segmentation counts are empty"),
    "run is no integer": ({"segmentation": {"size": [6, 8], "counts": [47.5, 0.5]}}, "counts to be integers"),
    "run is too large": ({"segmentation": {"size": [6, 8], "counts": [BIG]}}, "counts to be integers"),
    "string too short": (
        {"segmentation": {"size": [6, 8], "counts": "733000f0"}},
        "runs add up to 47 pixels",
    ),
    "string cut": ({"segmentation": {"size": [6, 8], "counts": "733000g"}}, "end in the middle of a number"),
    "string empty": ({"segmentation": {"size": [6, 8], "counts": ""}}, "segmentation counts are empty"),
    "string with !": ({"segmentation": {"size": [6, 8], "counts": "733!00g0"}}, "counts hold '!'"),
    "string with é": (
        {"segmentation": {"size": [6, 8], "counts": "733é"}},
        "characters that no encoding has",
    ),
    "string overlong": ({"segmentation": {"size": [6, 8], "counts": "o" * 20 + "0"}}, "more than 35 bits"),
    "string negative": ({"segmentation": {"size": [6, 8], "counts": "733J"}}, "run of negative length"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotation(load, coco, case):
    changes, message = BAD_ANNOTATIONS[case]
    coco["annotations"][2].update(changes)
    with pytest.raises(DataError, match=rf"instances\.json: annotation 13: .*{message}"):
        load(coco)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "area", "segmentation"])
def test_annotation_without_a_key(load, coco, key):
    del coco["annotations"][4][key]
    message = "it has no segmentation" if key == "segmentation" else f"missing key '{key}'"
    with pytest.raises(DataError, match=rf"instances\.json: annotation 15: {message}"):
        load(coco)


def _change(where, **changes):
    def change(coco):
        coco[where][1].update(changes)

    return change


def _remove(where, key):
    return lambda coco: coco[where][1].pop(key)


def _replace(where, value):
    return lambda coco: coco.update({where: value})


BAD_FILES = {
    "no id": (_remove("annotations", "id"), "annotation number 1: missing key 'id'"),
    "id is text": (_change("annotations", id="x"), "annotation number 1: expected an integer id, got 'x'"),
    "id is huge": (_change("annotations", id=BIG), "annotation number 1: expected an integer id"),
    "annotation twice": (_change("annotations", id=11), "annotation 11: the id comes more than once"),
    "annotation is a list": (
        _replace("annotations", [[1]]),
        r"annotation number 0: expected an object, got \[1",
    ),
    "image twice": (_change("images", id=7), "image 7: the id comes more than once"),
    "category twice": (_change("categories", id=90), "category 90: the id comes more than once"),
    "image without width": (_remove("images", "width"), "image 5: missing key 'width'"),
    "image without height": (_remove("images", "height"), "image 5: missing key 'height'"),
    "image without name": (_remove("images", "file_name"), "image 5: missing key 'file_name'"),
    "image with name 3": (
        _change("images", file_name=3),
        "image 5: expected file_name to be a string, got 3",
    ),
    "image id is null": (_change("images", id=None), "image number 1: expected an integer id, got None"),
    "width is 0": (_change("images", width=0), "image 5: expected width to be a positive integer, got 0"),
    "height is text": (_change("images", height="6"), "image 5: expected height .* got '6'"),
    "category without name": (_remove("categories", "name"), "category 3: missing key 'name'"),
    "category id is text": (
        _change("categories", id="3"),
        "expected an integer id and a name, got '3' and 'car'",
    ),
    "no category": (_replace("categories", []), "expected at least one category"),
    "no image": (_replace("images", []), "expected at least one image"),
    "annotations is null": (_replace("annotations", None), r"invalid JSON .* Expecting '\['"),
    "missing images": (lambda coco: coco.pop("images"), "missing key 'images'"),
    "missing annotations": (lambda coco: coco.pop("annotations"), "missing key 'annotations'"),
    "missing categories": (lambda coco: coco.pop("categories"), "missing key 'categories'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file(load, coco, case):
    change, message = BAD_FILES[case]
    change(coco)
    with pytest.raises(DataError, match=rf"instances\.json: .*{message}"):
        load(coco)


def test_every_truncation_is_reported(load, coco):
    text = json.dumps(coco)
    for length in range(0, len(text), 7):
        with pytest.raises(DataError, match=r"instances\.json: invalid JSON at line 1, column \d+"):
            load(text[:length])


BAD_JSON = {
    "not an object": ("[1, 2]", "Expecting '{'"),
    "cut in an array": ('{"licenses": [1', "Expecting ',' delimiter; the file ends there"),
    "missing comma": ('{"images": [] "annotations": []}', "line 1, column 15: Expecting ','"),
    "in an array": ('{"categories": [{"id": 1, "name": "a"} {}]}', "column 40: Expecting ',' delimiter"),
    "trailing comma": ('{"licenses": [], }', "Expecting property name"),
    "no colon": ('{"images" []}', "Expecting ':'"),
    "more after the end": ('{"images": []} {', "Extra data"),
    "twice": ('{"images": [], "images": []}', "The key 'images' comes twice"),
    "deep": ('{"info": ' + "[" * 100_000, "nested too deeply"),
    "huge integer": ('{"info": ' + "1" * 5000 + "}", "invalid JSON|missing key"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(load, case):
    text, message = BAD_JSON[case]
    with pytest.raises(DataError, match=rf"instances\.json: .*({message})"):
        load(text)


def test_not_utf8(tmp_path):
    file = tmp_path / "instances.json"
    file.write_bytes(b'{"info": "\xff"}')
    with pytest.raises(DataError, match=r"instances\.json: not UTF-8 text"):
        CocoDataset(tmp_path, file)


def test_missing_annotation_file_and_a_folder_in_its_place(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: annotation file not found"):
        CocoDataset(tmp_path, tmp_path / "none.json")
    with pytest.raises(DataError, match=r"cannot read the annotation file: Is a directory"):
        CocoDataset(tmp_path, tmp_path)


# -------------------------------- pictures


def test_missing_picture_is_reported_when_opened_or_early(load, coco, tmp_path):
    dataset = load(coco, check_files=True)
    (tmp_path / "b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"b\.png: image file not found \(image 5 of .*instances\.json"
    ):
        dataset[1]
    with pytest.raises(FileNotFoundError, match=r"b\.png: image file not found \(image 5 of"):
        CocoDataset(tmp_path, tmp_path / "instances.json", check_files=True)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png: .* \(and 1 more\)"):
        CocoDataset(tmp_path, tmp_path / "instances.json", check_files=True)


def test_picture_of_another_size(load, coco):
    coco["images"][2]["height"], coco["images"][2]["width"] = 6, 8
    with pytest.raises(DataError, match=r"image 9 is listed .* \[6, 8\], but .*empty\.png has \[8, 6\]"):
        load(coco)[2]


def test_size_is_compared_after_the_exif_rotation(load, coco, tmp_path):
    dataset = load(coco)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.new("RGB", (6, 8)).save(tmp_path / "a.png", exif=exif)
    assert dataset[0][0].shape == (3, 6, 8)
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png", exif=exif)
    with pytest.raises(DataError, match=r"\[6, 8\], but .* has \[8, 6\] \(after its EXIF orientation\)"):
        dataset[0]


def test_damaged_picture(load, coco, tmp_path):
    dataset = load(coco)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: cannot read the image"):
        dataset[0]


# -------------------------------- real data, large data


@pytest.mark.data
@pytest.mark.parametrize(
    ("images", "file", "num_images", "num_annotations", "most"),
    [
        ("nuclei/images", "nuclei/instances_train.json", 340, 10_281, 151),
        ("nuclei/images", "nuclei/instances_val.json", 60, 1_818, 131),
        ("coco_person/images", "coco_person/person_keypoints_train.json", 200, 477, None),
        ("coco_person/images", "coco_person/person_keypoints_val.json", 50, 117, None),
    ],
)
def test_real_data_loads_completely(real_data, images, file, num_images, num_annotations, most):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = CocoDataset(real_data / images, real_data / file, check_files=True)
    raw = json.loads((real_data / file).read_text())
    assert len(dataset) == num_images
    assert len(raw["annotations"]) == num_annotations
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
    kept = [{key: annotation[key] for key in keys} for annotation in raw["annotations"]]
    assert dataset.ground_truth()["annotations"] == kept

    objects = []
    for i in range(len(dataset)):
        image, target = dataset[i]
        assert image.shape[1:] == dataset.image_sizes[i] == target["masks"].size
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
        assert target["masks"].decode().flatten(1).any(1).all()
        objects.append(len(target["labels"]))
    assert sum(objects) == sum(not annotation["iscrowd"] for annotation in kept)
    if most is not None:
        assert max(objects) == most


@pytest.mark.data
def test_masks_equal_those_of_pycocotools(real_data, capsys):
    file = real_data / "coco_person" / "person_keypoints_val.json"
    dataset, peer = CocoDataset(real_data / "coco_person" / "images", file), COCO(file)
    for i, image_id in enumerate(dataset.image_ids):
        annotations = [a for a in peer.loadAnns(peer.getAnnIds(image_id)) if not a["iscrowd"]]
        masks = np.stack([peer.annToMask(annotation) for annotation in annotations])
        assert np.array_equal(dataset.target(i)["masks"].decode().numpy(), masks)


@pytest.mark.data
def test_real_category_ids_have_gaps(real_data):
    dataset = CocoDataset(real_data, real_data / "coco_eval" / "instances_val2014_100.json")
    assert len(dataset) == 100
    assert dataset.num_classes == 81
    assert (dataset.categories[11].id, dataset.categories[-1].id) == (13, 90)  # COCO has no category 12
    labels = torch.cat([dataset.target(i)["labels"] for i in range(len(dataset))])
    ids = [dataset.categories[label - 1].id for label in labels.tolist()]
    raw = [a for a in dataset.ground_truth()["annotations"] if not a["iscrowd"]]
    assert sorted(ids) == sorted(annotation["category_id"] for annotation in raw)


LOAD_AND_MEASURE = """
import resource, sys
from maskrcnn.data import CocoDataset
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
dataset = CocoDataset(".", sys.argv[1])
print((peak() - before) * 1024, len(dataset), sum(dataset.has_objects))
"""


def test_twentieth_of_the_largest_file_in_a_twentieth_of_its_memory(tmp_path):
    """118,000 images and 860,000 annotations may take 4 GB: here a twentieth of them."""
    images, annotations = 5_900, 43_000
    polygons = np.random.default_rng(0).uniform(0, 480, (100, 60)).round(2).tolist()
    texts = [json.dumps([polygon]) for polygon in polygons]
    texts[0] = json.dumps({"size": [480, 640], "counts": [1000, *[5, 475] * 100, 480 * 640 - 49_000]})
    size = {"height": 480, "width": 640, "coco_url": "http://images.example.org/train/000000391895.jpg"}
    with (tmp_path / "big.json").open("w") as file:
        file.write('{"images": ')
        json.dump([{"id": i, "file_name": f"{i:012d}.jpg", **size} for i in range(images)], file)
        file.write(', "categories": [{"id": 1, "name": "thing"}], "annotations": [')
        file.write(
            ", ".join(
                f'{{"id": {i}, "image_id": {i // 8}, "category_id": 1, "bbox": [10.25, 20.5, 30.75, 40.0], '
                f'"area": 1.5, "iscrowd": {int(i % 100 == 0)}, "segmentation": {texts[i % 100]}}}'
                for i in range(annotations)
            )
        )
        file.write("]}")
    assert (tmp_path / "big.json").stat().st_size > 20e6  # COCO's has 450 MB
    command = [sys.executable, "-c", LOAD_AND_MEASURE, str(tmp_path / "big.json")]
    root = Path(__file__).resolve().parents[3]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    peak, length, with_objects = map(float, output.split())
    assert (length, with_objects) == (images, annotations // 8)
    assert peak < 4e9 / 20
