"""Prediction on picture files with a stand-in for the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from maskrcnn.data import Category, DataError
from maskrcnn.prediction import SUFFIXES, find_pictures, predict

CATEGORIES = [Category(3, "cat"), Category(9, "dog")]


class Quarters(nn.Module):
    """Finds the upper left quarter of any picture (score 0.8) and its lower right one (score 0.9 or 0.3)."""

    def __init__(self, masks: bool = True) -> None:
        super().__init__()
        self.mask_format = "full"
        self.masks = masks

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        height, width = images[0].shape[1:]
        boxes = [[0, 0, width / 2, height / 2], [width / 2, height / 2, width, height]] * 2
        found = {
            "boxes": torch.tensor(boxes)[:3],
            "labels": torch.tensor([1, 2, 1]),
            "scores": torch.tensor([0.8, 0.9, 0.3]),
        }
        if self.masks:
            found["masks"] = torch.ones(3, 1, 28, 28)
        return [found]


def write(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path)
    return path


def test_files_and_folders_give_overlays_and_one_coco_file(tmp_path: Path) -> None:
    write(tmp_path / "in" / "deep" / "a.png")
    write(tmp_path / "in" / "a.jpg", (64, 20))
    single = write(tmp_path / "b.png")
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    model = Quarters().train()
    prediction = predict(model, CATEGORIES, [tmp_path / "in", single], tmp_path / "out", progress=False)

    assert model.training
    assert model.mask_format == "full"
    assert [path.name for path in prediction.overlays] == ["a.jpg", "a_2.jpg", "b.jpg"]
    with Image.open(prediction.overlays[0]) as overlay:
        assert overlay.size == (13 * 64, 13 * 20)
    assert prediction.instances == 6
    assert not prediction.failures

    coco = COCO(str(prediction.json_file))
    assert [Path(image["file_name"]).name for image in coco.imgs.values()] == ["a.jpg", "a.png", "b.png"]
    assert (coco.imgs[1]["height"], coco.imgs[1]["width"]) == (20, 64)
    first, second = coco.loadAnns(coco.getAnnIds([1]))
    assert first["score"] > second["score"]
    assert (first["category_id"], first["bbox"]) == (9, [32, 10, 32, 10])
    mask = np.zeros((20, 64))
    mask[10:, 32:] = 1
    np.testing.assert_array_equal(coco.annToMask(first), mask)
    assert first["area"] == mask.sum()


def test_bad_pictures_are_told_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.png")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    prediction = predict(Quarters(), CATEGORIES, [bad, good], tmp_path / "out", progress=False)
    assert [path for path, _ in prediction.failures] == [bad]
    assert [path.name for path in prediction.overlays] == ["good.jpg"]
    assert "skipped" in capsys.readouterr().err
    content = json.loads(prediction.json_file.read_text())
    assert [image["file_name"] for image in content["images"]] == [good.as_posix()]


def test_a_model_without_masks(tmp_path: Path) -> None:
    prediction = predict(
        Quarters(masks=False), CATEGORIES, [write(tmp_path / "a.png")], tmp_path / "out", progress=False
    )
    annotations = json.loads(prediction.json_file.read_text())["annotations"]
    assert all("segmentation" not in annotation for annotation in annotations)
    assert annotations[0]["area"] == 20 * 15


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 3), (0.85, 1), (1.0, 0)])
def test_the_threshold_leaves_out_what_scores_less(tmp_path: Path, threshold: float, count: int) -> None:
    picture = write(tmp_path / "a.png")
    prediction = predict(
        Quarters(), CATEGORIES, [picture], tmp_path / "out", score_threshold=threshold, progress=False
    )
    assert prediction.instances == count
    assert prediction.overlays[0].exists()


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        find_pictures([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no pictures in this folder"):
        find_pictures([tmp_path])
    with pytest.raises(ValueError, match="score_threshold from 0 to 1, got 2"):
        predict(Quarters(), CATEGORIES, [], tmp_path, score_threshold=2)


def test_a_picture_named_twice_is_taken_once(tmp_path: Path) -> None:
    picture = write(tmp_path / "a.png")
    assert find_pictures([picture, tmp_path, picture]) == [picture]


def test_every_suffix_is_one_that_can_be_read() -> None:
    assert set(Image.registered_extensions()) >= SUFFIXES


class Corners(Quarters):
    """Also finds two keypoints of each: the corners of its box."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found = super().forward(images)[0]
        corners = torch.cat([found["boxes"].reshape(3, 2, 2), torch.ones(3, 2, 1)], dim=2)
        return [found | {"keypoints": corners, "keypoints_scores": torch.zeros(3, 2)}]


def test_keypoints_are_written_with_their_names(tmp_path: Path) -> None:
    categories = [Category(3, "cat", ("head", "tail"), ((1, 2),)), Category(9, "dog", ("head", "tail"))]
    prediction = predict(Corners(), categories, [write(tmp_path / "a.png")], tmp_path / "out", progress=False)
    content = json.loads(prediction.json_file.read_text())
    assert content["categories"][0] == {
        "id": 3,
        "name": "cat",
        "keypoints": ["head", "tail"],
        "skeleton": [[1, 2]],
    }
    best, second = content["annotations"]
    assert best["keypoints"] == [20, 15, 1, 40, 30, 1]
    assert second["keypoints"] == [0, 0, 1, 20, 15, 1]
    assert best["num_keypoints"] == 2
