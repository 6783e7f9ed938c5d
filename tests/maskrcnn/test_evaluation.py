"""COCO figures: the published fixture, hand-worked cases, and a model's way through `evaluate`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn.evaluation import evaluate, evaluate_results, figure_names
from maskrcnn.results import decode_mask, encode_masks, encode_roi_masks, to_results
from maskrcnn_ops import paste_masks

FIXTURE = {
    "bbox": "0.504581 0.696973 0.572982 0.585626 0.519400 0.501398 "
    "0.386813 0.593680 0.595353 0.639811 0.566421 0.564291",
    "segm": "0.319545 0.562288 0.298927 0.387374 0.310183 0.326934 "
    "0.268230 0.415449 0.416839 0.469450 0.376759 0.381472",
}


@pytest.mark.data
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_fixture_gives_the_published_figures(real_data: Path, iou_type: str) -> None:
    folder = real_data / "coco_eval"
    ground_truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{iou_type}100_results.json").read_text())
    before = copy.deepcopy(ground_truth["annotations"][:5])
    figures = evaluate_results(ground_truth, results, iou_type)
    np.testing.assert_allclose(
        figures, [float(text) for text in FIXTURE[iou_type].split()], rtol=0, atol=1e-6
    )
    assert ground_truth["annotations"][:5] == before, "the caller's ground truth was written to"


# One 100 x 100 image, two categories with a gap in their ids, one object of each:
# 20 x 20 (small), 50 x 50 (medium).
GROUND_TRUTH = {
    "images": [{"id": 7, "width": 100, "height": 100}, {"id": 8, "width": 100, "height": 100}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {
            "id": 0,  # pycocotools alone would take a match with this id for none
            "image_id": 7,
            "category_id": 3,
            "bbox": [10, 10, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]],
        },
        {
            "id": 1,
            "image_id": 7,
            "category_id": 9,
            "bbox": [40, 40, 50, 50],
            "segmentation": [[40, 40, 90, 40, 90, 90, 40, 90]],
        },
    ],
}


def result(
    category_id: int = 3, box: tuple[float, ...] = (10, 10, 20, 20), score: float = 0.9, image_id: int = 7
):
    bitmap = torch.zeros(1, 100, 100, dtype=torch.bool)
    x, y, width, height = (int(value) for value in box)
    bitmap[0, y : y + height, x : x + width] = True
    run = encode_masks(bitmap)[0]
    fields = {"image_id": image_id, "category_id": category_id, "bbox": list(box), "score": score}
    return {**fields, "segmentation": run}


def named(figures: list[float]) -> dict[str, float]:
    """The figures by name, without pycocotools' 1e-16 below a precision of 1."""
    return {name: round(figure, 12) for name, figure in zip(figure_names(), figures, strict=True)}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_perfect_results_score_one_and_absent_sizes_minus_one(iou_type: str) -> None:
    figures = named(evaluate_results(GROUND_TRUTH, [result(), result(9, (40, 40, 50, 50))], iou_type))
    assert figures.pop("APl") == figures.pop("ARl") == -1
    assert set(figures.values()) == {1.0}


def test_one_category_without_detections_counts_as_zero() -> None:
    figures = named(evaluate_results(GROUND_TRUTH, [result()], "bbox"))
    assert (figures["AP"], figures["APs"], figures["APm"]) == (0.5, 1.0, 0.0)


def test_half_overlap_passes_only_the_lowest_threshold() -> None:
    # 19 x 12 pixels of 20 x 20: IoU 0.57, so the thresholds 0.50 and 0.55 of ten pass.
    figures = named(evaluate_results(GROUND_TRUTH, [result(box=(10, 10, 19, 12))], "segm"))
    assert (figures["AP50"], figures["AP75"]) == (0.5, 0.0)
    assert figures["AP"] == pytest.approx(0.5 * 2 / 10)


def test_a_better_false_positive_halves_precision() -> None:
    wrong = result(box=(60, 60, 20, 20), score=0.95)
    assert named(evaluate_results(GROUND_TRUTH, [result(), wrong], "bbox"))["APs"] == pytest.approx(0.5)


def test_masks_are_ranked_by_their_own_scores() -> None:
    """The wrong one has the better class and the worse mask: boxes lose by it, masks do not."""
    wrong = result(box=(60, 60, 20, 20), score=0.95) | {"mask_score": 0.2}
    results = [result() | {"mask_score": 0.8}, wrong]
    assert named(evaluate_results(GROUND_TRUTH, results, "bbox"))["APs"] == pytest.approx(0.5)
    assert named(evaluate_results(GROUND_TRUTH, results, "segm"))["APs"] == 1


def test_detections_on_a_crowd_region_are_not_false_positives() -> None:
    crowd = {**GROUND_TRUTH["annotations"][1], "id": 5, "category_id": 3, "iscrowd": 1}
    truth = {**GROUND_TRUTH, "annotations": [GROUND_TRUTH["annotations"][0], crowd]}
    on_crowd = result(box=(45, 45, 10, 10), score=0.99)
    assert named(evaluate_results(truth, [result(), on_crowd], "segm"))["AP"] == 1.0
    assert named(evaluate_results(GROUND_TRUTH, [result(), on_crowd], "segm"))["APs"] == 0.5


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_empty_results_are_zero_and_empty_ground_truth_is_undefined(iou_type: str) -> None:
    figures = named(evaluate_results(GROUND_TRUTH, [], iou_type))
    assert figures["AP"] == figures["AR100"] == 0.0
    for truth in ({**GROUND_TRUTH, "annotations": []}, {"images": [], "categories": [], "annotations": []}):
        results = [result()] if truth["images"] else []
        assert evaluate_results(truth, results, iou_type) == [-1.0] * 12


def test_other_limits_never_give_minus_one() -> None:
    results = [result(box=(10, 10, 20, 20), score=0.5)]
    results += [result(box=(70, 10, 5, 5), score=0.6 + 0.01 * k) for k in range(5)]
    # The right box ranks sixth of its category: within 10 it counts, within 5 it does not.
    figures = evaluate_results(GROUND_TRUTH, results, "bbox", (1, 5, 10))
    within = dict(zip(figure_names((1, 5, 10)), figures, strict=True))
    assert within["APs"] == pytest.approx(1 / 6)
    assert within["AR10"] == 0.5
    assert within["AR5"] == 0.0
    cut = evaluate_results(GROUND_TRUTH, results, "bbox", (1, 2, 5))
    assert cut[0] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iou_type": "boundary"}, "expected iou_type"),
        ({"max_detections": (1, 10)}, "three increasing numbers"),
        ({"max_detections": (10, 1, 100)}, "three increasing numbers"),
        ({"results": [{**result(), "image_id": 99}]}, "image_id 99"),
        ({"results": [{**result(), "category_id": 1}]}, "category_id 1"),
        (
            {"results": [{"image_id": 7, "category_id": 3, "score": 1.0, "bbox": [0, 0, 1, 1]}]},
            "'segmentation'",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str) -> None:
    arguments = {"ground_truth": GROUND_TRUTH, "results": [result()], "iou_type": "segm", **change}
    with pytest.raises(ValueError, match=message):
        evaluate_results(**arguments)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_results(GROUND_TRUTH, [result()], "segm")
    assert capsys.readouterr().out == ""


def test_masks_survive_encoding() -> None:
    masks = torch.rand(3, 17, 23) > 0.5
    runs = json.loads(json.dumps(encode_masks(masks)))
    assert runs[0]["size"] == [17, 23]
    assert isinstance(runs[0]["counts"], str)
    for mask, run in zip(masks, runs, strict=True):
        np.testing.assert_array_equal(decode_mask(run), mask.numpy())
    assert encode_masks(torch.zeros(0, 5, 5, dtype=torch.bool)) == []
    with pytest.raises(ValueError, match="bool or uint8"):
        encode_masks(torch.rand(1, 4, 4))


def test_roi_masks_equal_their_bitmaps() -> None:
    masks = torch.rand(5, 1, 14, 14)
    boxes = torch.tensor([[1.0, 2.0, 20.0, 30.0]]) + torch.arange(5.0)[:, None]
    runs = json.loads(json.dumps(encode_roi_masks(masks, boxes, (40, 50))))
    assert runs == encode_masks(paste_masks(masks, boxes, (40, 50)))


def test_labels_become_category_ids() -> None:
    detections = {
        "boxes": torch.tensor([[1.0, 2.0, 4.0, 8.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.5]),
    }
    expected = {"image_id": 7, "category_id": 9, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    assert to_results(detections, 7, (10, 10), [3, 9]) == [expected]
    with pytest.raises(ValueError, match="labels 2 to 2"):
        to_results(detections, 7, (10, 10), [3])


class TwoImages:
    """The data set of GROUND_TRUTH; image 8 has no objects."""

    categories = (SimpleNamespace(id=3, name="cat"), SimpleNamespace(id=9, name="dog"))
    image_ids = (7, 8)

    def __len__(self) -> int:
        return 2

    def image(self, place: int) -> torch.Tensor:
        return torch.full((3, 100, 100), place, dtype=torch.uint8)

    def ground_truth(self) -> dict:
        return GROUND_TRUTH


class Oracle(nn.Module):
    """Finds both objects of the first image, nothing in the second."""

    def __init__(self, masks: bool = True) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(1).eval()
        self.mask_format = "full"
        self.masks = masks

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        assert self.mask_format == "roi"
        return [self.detect(found=not image.any()) for image in images]

    def detect(self, found: bool) -> dict[str, torch.Tensor]:
        count = 2 if found else 0
        boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 90.0, 90.0]])
        answer = {"boxes": boxes[:count], "labels": torch.tensor([1, 2])[:count], "scores": torch.ones(count)}
        if self.masks:
            answer["masks"] = torch.ones(count, 1, 28, 28)
        return answer


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_model_is_scored_and_left_as_it_was(batch_size: int) -> None:
    model = Oracle().train()
    model.frozen.eval()
    evaluation = evaluate(model, TwoImages(), batch_size=batch_size, progress=False)
    assert model.training
    assert not model.frozen.training
    assert model.mask_format == "full"
    assert named(evaluation.stats["bbox"])["AP"] == 1.0
    assert named(evaluation.stats["segm"])["AP"] == 1.0
    assert evaluation.categories["segm"].keys() == {"cat", "dog"}
    assert evaluation.categories["segm"]["dog"] == pytest.approx((1.0, 1.0, 1.0))
    assert evaluation.metrics()["segm/AP50"] == pytest.approx(1.0)
    assert "dog" in evaluation.category_table()
    assert "AR100" in evaluation.table()
    assert {entry["image_id"] for entry in json.loads(json.dumps(evaluation.results))} == {7}


def test_the_model_is_left_as_it_was_after_an_error() -> None:
    model = Oracle()
    model.detect = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        evaluate(model, TwoImages(), progress=False)
    assert model.training
    assert model.mask_format == "full"


def test_a_model_without_masks_gets_box_figures_only() -> None:
    evaluation = evaluate(Oracle(masks=False), TwoImages(), progress=False)
    assert list(evaluation.stats) == ["bbox"]
    assert named(evaluation.stats["bbox"])["AP"] == 1.0


def test_another_list_of_categories() -> None:
    evaluation = evaluate(Oracle(), TwoImages(), category_ids=[3, 77], progress=False)
    assert named(evaluation.stats["bbox"])["AP"] == 0.5
    assert len(evaluation.results) == 1


# ---- keypoints -------------------------------------------------------------------------------------------

TRIANGLE = [10, 10, 2, 30, 10, 2, 20, 30, 1]  # three visible keypoints of the cat, 400 square pixels


def people(keypoints: list[float] = TRIANGLE) -> dict:
    """The first object of GROUND_TRUTH with keypoints; its area makes it too small for a range of its own."""
    annotation = {**GROUND_TRUTH["annotations"][0], "keypoints": keypoints}
    return {**GROUND_TRUTH, "annotations": [annotation]}


def found(keypoints: list[float], score: float = 0.9) -> dict:
    return {"image_id": 7, "category_id": 3, "score": score, "keypoints": keypoints}


def keypoint_figures(truth: dict, results: list[dict], sigmas: list[float] | None) -> dict[str, float]:
    figures = evaluate_results(truth, results, "keypoints", keypoint_sigmas=sigmas)
    names = figure_names(iou_type="keypoints")
    return {name: round(figure, 12) for name, figure in zip(names, figures, strict=True)}


def test_keypoint_similarity_by_hand() -> None:
    """One of three keypoints is off by d: its part is exp(-d² / (2 · area · (2 sigma)²)), here a half.

    The similarity is (1 + 1 + 1/2) / 3 = 0.833: a match at the seven thresholds 0.5, 0.55, ... 0.8 of ten.
    """
    sigma = 0.1
    off = float(np.sqrt(np.log(2) * 2 * 400 * (2 * sigma) ** 2))
    shifted = [10, 10, 1, 30 + off, 10, 1, 20, 30, 1]
    figures = keypoint_figures(people(), [found(shifted)], [sigma] * 3)
    assert (figures["AP"], figures["AP50"], figures["AP75"]) == (0.7, 1.0, 1.0)
    assert (figures["AR"], figures["AR50"], figures["AR75"]) == (0.7, 1.0, 1.0)
    assert (figures["APm"], figures["APl"]) == (-1.0, -1.0)


def test_objects_without_visible_keypoints_do_not_count() -> None:
    figures = keypoint_figures(people([0] * 9), [found(TRIANGLE)], [0.1] * 3)
    assert set(figures.values()) == {-1.0}


def test_keypoints_ask_for_their_sigmas() -> None:
    with pytest.raises(ValueError, match=r"keypoint_sigmas: expected 3 positive numbers, .*, got None"):
        evaluate_results(people(), [found(TRIANGLE)], "keypoints")
    with pytest.raises(ValueError, match=r"keypoint_sigmas: expected 3 positive numbers, .*, got \[0.1, 0"):
        evaluate_results(people(), [found(TRIANGLE)], "keypoints", keypoint_sigmas=[0.1, 0, 0.1])
    with pytest.raises(ValueError, match=r"as many keypoints .* got lists of 6, 9 numbers"):
        evaluate_results(people(), [found(TRIANGLE[:6])], "keypoints", keypoint_sigmas=[0.1] * 3)
    with pytest.raises(ValueError, match=r"ground truth: annotation 0 has no 'keypoints'"):
        evaluate_results(GROUND_TRUTH, [], "keypoints")
    pairs = TRIANGLE[:6] + [0] * 45
    assert keypoint_figures(people(pairs), [found(pairs)], None)["AP"] == 1.0  # COCO's 17


class KeypointOracle(Oracle):
    """Also gives the three keypoints of the first image's objects."""

    num_keypoints = 3

    def detect(self, found: bool) -> dict[str, torch.Tensor]:
        answer = super().detect(found)
        keypoints = torch.tensor(TRIANGLE, dtype=torch.float32).reshape(1, 3, 3)
        return answer | {"keypoints": keypoints.repeat(len(answer["labels"]), 1, 1)}


class ThreeKeypoints(TwoImages):
    def ground_truth(self) -> dict:
        annotations = [{**a, "keypoints": TRIANGLE} for a in GROUND_TRUTH["annotations"]]
        return {**GROUND_TRUTH, "annotations": annotations}


def test_a_model_with_keypoints_gets_their_figures_too() -> None:
    evaluation = evaluate(KeypointOracle(), ThreeKeypoints(), keypoint_sigmas=[0.1] * 3, progress=False)
    assert list(evaluation.stats) == ["bbox", "segm", "keypoints"]
    assert len(evaluation.metrics()) == 12 + 12 + 10
    assert evaluation.metrics()["keypoints/AP"] == pytest.approx(1.0)
    assert evaluation.results[0]["keypoints"] == [10, 10, 2, 30, 10, 2, 20, 30, 1]
    lines = evaluation.table().split("\n")
    assert [line.split()[0] for line in lines] == ["AP", "bbox", "segm", "AP", "keypoints"]
    assert len({len(line) for line in lines[:3]}) == 1
    assert "keypoints AP75" in evaluation.category_table()
    json.dumps(evaluation.results)
    with pytest.raises(ValueError, match="keypoint_sigmas: expected 3"):
        evaluate(KeypointOracle(), ThreeKeypoints(), progress=False)
