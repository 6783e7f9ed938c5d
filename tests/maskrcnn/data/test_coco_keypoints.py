"""Keypoints of COCO files: what is read, what is said about bad ones, and how they are mirrored."""

import warnings

import pytest
import torch

from maskrcnn.data import Category, DataError, flip_horizontal, flip_vertical

NAMES = ["nose", "left_eye", "right_eye"]
SKELETON = [[1, 2], [1, 3]]
LISTED = [4, 2, 2, 3, 1.5, 1, 0, 0, 0]


@pytest.fixture
def people(coco):
    """The small file with keypoints for every object, and none for its crowd region."""
    for category in coco["categories"]:
        category |= {"keypoints": NAMES, "skeleton": SKELETON}
    for annotation in coco["annotations"]:
        if not annotation["iscrowd"]:
            annotation["keypoints"] = LISTED
    return coco


def test_keypoints_are_read_where_asked_for(load, people):
    dataset = load(people, keypoints=True)
    assert dataset.num_keypoints == 3
    assert dataset.categories[0] == Category(3, "car", tuple(NAMES), ((1, 2), (1, 3)))
    _, target = dataset[0]
    assert target["keypoints"].dtype == torch.float32
    assert target["keypoints"].tolist() == [[[4, 2, 2], [3, 1.5, 1], [0, 0, 0]]] * 3
    assert target["keypoint_mirror"].tolist() == [[0, 2, 1]] * 3
    assert dataset[2][1]["keypoints"].shape == (0, 3, 3)
    assert dataset[2][1]["keypoint_mirror"].shape == (0, 3)

    plain = load(people)
    assert plain.num_keypoints is None
    assert "keypoints" not in plain[0][1]
    assert plain.categories[0] == Category(3, "car")


def test_ground_truth_has_them(load, people):
    truth = load(people, keypoints=True, masks=False).ground_truth()
    assert truth["annotations"][0]["keypoints"] == LISTED
    assert [annotation["num_keypoints"] for annotation in truth["annotations"]] == [2, 2, 2, 0, 2]
    assert truth["categories"][0] == {"id": 3, "name": "car", "keypoints": NAMES, "skeleton": SKELETON}
    assert Category.from_coco(truth["categories"][0]) == load(people, keypoints=True).categories[0]


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (None, "annotation 12: it has no keypoints"),
        ("here", "annotation 12: expected keypoints to be a list of numbers, got 'here'"),
        ([1, 2, "x"], "annotation 12: expected keypoints to be a list of numbers"),
        ([1, 2, 2], r"annotation 12: expected keypoints of 9 numbers .*, got 3 numbers"),
        ([*LISTED[:8], 3], r"annotation 12: .*visibility of 0, 1 or 2, got \[0.0, 0.0, 3.0\] for keypoint 3"),
        ([float("nan"), *LISTED[1:]], r"annotation 12: expected keypoints of finite x, y .*for keypoint 1"),
    ],
)
def test_bad_keypoints(load, people, keypoints, message):
    people["annotations"][1]["keypoints"] = keypoints
    with pytest.raises(DataError, match=rf"instances.json: {message}"):
        load(people, keypoints=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": None}, "expected keypoints to be a list of names, got None"),
        ({"keypoints": []}, r"expected keypoints to be a list of names, got \[\]"),
        ({"keypoints": ["nose"], "skeleton": []}, "expected 3 keypoints, the number of category 3, got 1"),
        ({"skeleton": [[1, 4]]}, r"expected skeleton of pairs of numbers 1 to 3, got \[1, 4\]"),
        ({"skeleton": [[0, 1]]}, r"expected skeleton of pairs of numbers 1 to 3, got \[0, 1\]"),
        ({"skeleton": 5}, "expected skeleton of pairs of numbers 1 to 3, got 5"),
    ],
)
def test_bad_categories(load, people, change, message):
    people["categories"][0] |= change
    with pytest.raises(DataError, match=rf"instances.json: category 90: {message}"):
        load(people, keypoints=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["head", "tail", "fin"], r"instances.json: none of \['head', 'tail', 'fin'\] begins with left_ or"),
        (["left_eye", "nose", "mouth"], r"instances.json: \['left_eye'\] have no partner; mirrored images"),
    ],
)
def test_names_that_leave_mirroring_open_are_told(load, people, names, message):
    for category in people["categories"]:
        category["keypoints"] = names
    with pytest.warns(UserWarning, match=message):
        target = load(people, keypoints=True).target(0)
    assert target["keypoint_mirror"].tolist() == [[0, 1, 2]] * 3


def test_mirroring_by_hand(load, people):
    """In an image of 6 x 8: x becomes 8 - x, y 6 - y; the eyes change places; what is not there stays at 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, target = load(people, keypoints=True)[0]
    _, flipped = flip_horizontal(image, target)
    assert flipped["keypoints"][0].tolist() == [[4, 2, 2], [0, 0, 0], [5, 1.5, 1]]
    assert target["keypoints"][0].tolist() == [[4, 2, 2], [3, 1.5, 1], [0, 0, 0]]
    _, flipped = flip_vertical(image, target)
    assert flipped["keypoints"][0].tolist() == [[4, 4, 2], [0, 0, 0], [3, 4.5, 1]]
    for flip in (flip_horizontal, flip_vertical):
        assert torch.equal(flip(*flip(image, target))[1]["keypoints"], target["keypoints"])
    turned = flip_vertical(*flip_horizontal(image, target))[1]  # half a turn: left stays left
    assert turned["keypoints"][0].tolist() == [[4, 4, 2], [5, 4.5, 1], [0, 0, 0]]


def test_mirroring_needs_to_know_the_pairs():
    target = {"boxes": torch.zeros(1, 4), "keypoints": torch.zeros(1, 2, 3)}
    with pytest.raises(ValueError, match=r"target: expected a key 'keypoint_mirror' beside 'keypoints'"):
        flip_horizontal(torch.zeros(3, 4, 4), target)
