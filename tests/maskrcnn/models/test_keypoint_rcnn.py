"""The keypoint branch: its loss by hand, its results, and its place beside masks."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maskrcnn
from maskrcnn.geometry import mirror_keypoints, resize_keypoints
from maskrcnn.models import losses, resnet_fpn_backbone
from maskrcnn.models.keypoints import KeypointBranch
from maskrcnn.models.transform import resize_target

K = 3
SMALL = {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_test": 30, "box_detections_per_img": 20}


def model(name: str = "keypointrcnn_tiny", **options: Any) -> maskrcnn.FasterRCNN:
    torch.manual_seed(0)
    return maskrcnn.build_model(name, **({"num_classes": 4, "num_keypoints": K} | SMALL | options))


@pytest.fixture
def people(targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The targets with a keypoint in each box's centre, one in its corner and one that is not annotated."""
    for target in targets:
        low, high = target["boxes"][:, :2], target["boxes"][:, 2:]
        places = torch.stack([(low + high) / 2, high, torch.zeros_like(low)], dim=1)
        seen = torch.tensor([2.0, 1.0, 0.0]).expand(len(low), K)
        target["keypoints"] = torch.cat([places, seen[..., None]], dim=2)
    return targets


def test_loss_by_hand() -> None:
    """Two maps of 2 x 2 cells: one certain by ln 3 (its cell has 3 of 6 parts), one without an opinion."""
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0, 1, 0] = math.log(3)
    cells, valid = torch.tensor([[2, 1, 0]]), torch.tensor([[True, True, False]])
    expected = torch.tensor((math.log(2) + math.log(4)) / 2)
    torch.testing.assert_close(losses.keypoint_loss(logits, cells, valid, 2.0), expected)


def test_only_visible_keypoints_inside_their_box_count() -> None:
    """Box (0, 0, 4, 4) on 2 x 2 cells: the edge belongs to the last cell, outside and visibility 0 to none."""
    boxes, matches = [torch.tensor([[0.0, 0, 4, 4]])], [torch.tensor([1])]
    keypoints = torch.tensor([[4.0, 4, 2], [5, 1, 2], [1, 1, 0], [1, 3, 1]])
    target = {"keypoints": torch.stack([torch.zeros(4, 3), keypoints])}
    logits = torch.zeros(1, 4, 2, 2, requires_grad=True)
    loss = KeypointBranch().loss(logits, [target], boxes, matches, torch.tensor([True]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(math.log(4)))
    assert logits.grad is not None
    gradient = logits.grad[0].flatten(1)
    assert gradient[[1, 2]].count_nonzero() == 0
    assert gradient.argmin(1)[[0, 3]].tolist() == [3, 2]


@pytest.mark.parametrize("regions", [0, 2])
def test_without_keypoints_the_loss_is_a_zero_with_gradients(regions: int) -> None:
    logits = torch.randn(regions, K, 4, 4, requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 4, 4]]).repeat(regions, 1)
    target = {"keypoints": torch.zeros(2, K, 3)}
    matches, counted = torch.zeros(regions, dtype=torch.int64), torch.ones(regions, dtype=torch.bool)
    loss = KeypointBranch().loss(logits, [target], [boxes], [matches], counted)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize("name", ["keypointrcnn_tiny", "keypointmaskrcnn_tiny"])
def test_training_and_results(name: str, images: list[Tensor], people: list[dict[str, Tensor]]) -> None:
    detector = model(name)
    before = copy.deepcopy(people)
    found = detector.train()(images, people)
    assert isinstance(found, dict)
    masks = {"loss_mask"} if "mask" in name else set()
    boxes = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert set(found) == boxes | masks | {"loss_keypoint"}
    sum(found.values()).backward()
    predictor = detector.roi_heads.keypoint_predictor
    assert predictor is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in predictor.parameters())
    assert all(torch.equal(a["keypoints"], b["keypoints"]) for a, b in zip(people, before, strict=True))

    with torch.no_grad():
        results = detector.eval()(images)
    for result, image in zip(results, images, strict=True):
        count = len(result["labels"])
        assert count > 0
        assert ("masks" in result) == bool(masks)
        assert result["keypoints"].dtype == result["keypoints_scores"].dtype == torch.float32
        assert result["keypoints"].shape == (count, K, 3)
        assert result["keypoints_scores"].shape == (count, K)
        assert (result["keypoints"][..., 2] == 1).all()
        height, width = image.shape[-2:]
        assert (result["keypoints"][..., :2] <= torch.tensor([width, height]) + 1).all()


def test_keypoint_loss_falls(images: list[Tensor], people: list[dict[str, Tensor]]) -> None:
    detector = model(min_size=96, max_size=160).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    history = []
    for step in range(25):
        torch.manual_seed(step % 2)
        found = detector(images, people)
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
        history.append(float(found["loss_keypoint"].detach()))
    assert sum(history[-3:]) < 0.6 * sum(history[:3]), history


def test_nothing_found(images: list[Tensor]) -> None:
    with torch.no_grad():
        result = model(box_score_thresh=1.0).eval()(images)[0]
    assert result["keypoints"].shape == (0, K, 3)
    assert result["keypoints_scores"].shape == (0, K)


def test_images_without_objects(images: list[Tensor], empty: Any) -> None:
    targets = [empty(image) | {"keypoints": torch.zeros(0, K, 3)} for image in images]
    found = model().train()(images, targets)
    assert found["loss_keypoint"].item() == 0
    found["loss_keypoint"].backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"targets\[1\]: expected a key 'keypoints', got \['boxes'"),
        ([[1, 2, 3]], r"targets\[1\]\['keypoints'\]: expected a tensor, got list"),
        (torch.zeros(1, 5, 3), r"targets\[1\]\['keypoints'\]: expected shape \[1, 3, 3\], got \[1, 5, 3\]"),
        (torch.zeros(2, 3, 3), r"expected shape \[1, 3, 3\], got \[2, 3, 3\]"),
        (torch.zeros(1, 3, 3, dtype=torch.int64), r"\['keypoints'\]: expected floats, got torch.int64"),
    ],
)
def test_bad_targets(
    images: list[Tensor], people: list[dict[str, Tensor]], change: Any, message: str
) -> None:
    del people[1]["keypoints"]
    if change is not None:
        people[1]["keypoints"] = change
    with pytest.raises((ValueError, TypeError), match=message):
        model().train()(images, people)


def test_options() -> None:
    with pytest.raises(ValueError, match=r"num_keypoints: expected at least 1, got 0"):
        model(num_keypoints=0)
    with pytest.raises(ValueError, match=r"either num_keypoints or keypoint_predictor, got both"):
        maskrcnn.KeypointRCNN(
            resnet_fpn_backbone("resnet18", 32), 2, num_keypoints=3, keypoint_predictor=nn.Identity()
        )
    with torch.device("meta"):
        big = maskrcnn.keypointmaskrcnn_resnet50_fpn(num_keypoints=5)
    assert (big.num_classes, big.num_keypoints) == (2, 5)
    assert big.roi_heads.target_keys == ["masks", "keypoints"]
    assert model().roi_heads.target_keys == ["keypoints"]


def test_keypoints_move_with_their_image() -> None:
    keypoints = torch.tensor([[[2.0, 3, 2], [0, 0, 0]]])
    resized = torch.tensor([[[4.0, 1.5, 2], [0, 0, 0]]])
    assert torch.equal(resize_keypoints(keypoints, (10, 10), (5, 20)), resized)
    target = {"boxes": torch.zeros(1, 4), "keypoints": keypoints}
    assert torch.equal(resize_target(target, (10, 10), (5, 20))["keypoints"], resized)
    assert mirror_keypoints(keypoints, 10, -1).tolist() == [[[8, 3, 2], [0, 0, 0]]]
    assert mirror_keypoints(keypoints, 10, -2).tolist() == [[[2, 7, 2], [0, 0, 0]]]
