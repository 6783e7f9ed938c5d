"""Fast R-CNN, Mask Scoring R-CNN and Cascade R-CNN: what each adds, by hand, and all of them as detectors."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.checkpoint import Metadata, ModelDescription, load_model, save_weights
from maskrcnn.data import ShapesDataset
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models import losses
from maskrcnn.models.cascade import CascadeRoIHeads, CascadeStage, refine
from maskrcnn.models.heads import MaskIoUHead
from maskrcnn.models.masks import MaskBranch, mask_areas, mask_iou_targets
from maskrcnn.models.matcher import Matcher
from maskrcnn.models.sampler import BalancedSampler

SMALL = {"min_size": 64, "max_size": 96, "box_detections_per_img": 20, "box_batch_size_per_image": 64}
SMALL_RPN = {"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 30}
LOSSES = {
    "fastrcnn_tiny": {"classifier", "box_reg"},
    "msrcnn_tiny": {"classifier", "box_reg", "mask", "mask_iou", "objectness", "rpn_box_reg"},
    "cascademaskrcnn_tiny": {"mask", "objectness", "rpn_box_reg"}
    | {f"{name}_{stage}" for name in ("classifier", "box_reg") for stage in (1, 2, 3)},
}


def build(name: str, **options: Any) -> maskrcnn.FasterRCNN:
    torch.manual_seed(0)
    rpn = {} if name.startswith("fast") else SMALL_RPN
    return maskrcnn.build_model(name, **({"num_classes": 4} | SMALL | rpn | options))


def given(model: maskrcnn.FasterRCNN, images: list[Tensor]) -> dict[str, Any]:
    """Proposals for a model that takes them: a grid of boxes, some of them across the border."""
    if not model.takes_proposals:
        return {}
    corner = torch.cartesian_prod(torch.arange(0, 70, 12.0), torch.arange(0, 70, 12.0))
    return {"proposals": [torch.cat([corner, corner + 30], dim=1) for _ in images]}


# ---- all of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_reaches_every_parameter(
    name: str,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    empty: Callable[[Tensor], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With objects, and in a batch without any: the processes of one training must agree on what has a gradient, and
    on how often they exchange a count."""
    model = build(name).train()
    exchanged: list[int] = []
    normalizer = losses.normalizer
    monkeypatch.setattr(losses, "normalizer", lambda *a: exchanged.append(1) or normalizer(*a))
    calls = []
    for batch in (targets, [empty(image) for image in images]):
        model.zero_grad()
        exchanged.clear()
        found = model(images, batch, **given(model, images))
        assert isinstance(found, dict)
        assert set(found) == {f"loss_{each}" for each in LOSSES[name]}
        calls.append(len(exchanged))
        sum(found.values()).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
        for each in ("classifier", "classifier_3", "mask", "mask_iou"):
            if batch is targets and f"loss_{each}" in found:
                assert found[f"loss_{each}"] > 0
    assert calls[0] == calls[1] > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["all", "none"])
def test_detections(name: str, threshold: float, images: list[Tensor]) -> None:
    model = build(name, box_score_thresh=threshold).eval()
    with torch.no_grad():
        detections = model(images, **given(model, images))
    assert isinstance(detections, list)
    for image, found in zip(images, detections, strict=True):
        number = 0 if threshold == 1 else 20
        assert found["boxes"].shape == (number, 4)
        assert found["labels"].shape == found["scores"].shape == (number,)
        if "masks" in found:
            assert found["masks"].shape == (number, 1, *image.shape[-2:])
        if "mask_scores" in found:
            assert found["mask_scores"].shape == (number,)


@pytest.mark.parametrize("name", LOSSES)
def test_float64(name: str, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = build(name).double()
    images = [image.double() for image in images]
    found = model.train()(images, targets, **given(model, images))
    assert isinstance(found, dict)
    sum(found.values()).backward()
    with torch.no_grad():
        assert len(model.eval()(images, **given(model, images))) == 2


@pytest.mark.parametrize("name", LOSSES)
def test_checkpoint_round_trip(name: str, tmp_path: Path, images: list[Tensor]) -> None:
    """Options that went through JSON build the same model, whose weights fit."""
    options: dict[str, Any] = {"num_classes": 4, "box_score_thresh": 0.0} | SMALL
    if "cascade" in name:
        options |= {"later_iou_thresh": [0.55], "later_reg_weights": [[20, 20, 10, 10]]}
        options["later_loss_weights"] = [0.5]
    if "ms" in name:
        options |= {"mask_iou_layers": [8, 16], "mask_iou_channels": 32}
    torch.manual_seed(0)
    model = maskrcnn.build_model(name, **options).eval()
    metadata = Metadata(ModelDescription(name, json.loads(json.dumps(options))), (), step=0)
    save_weights(tmp_path / "model.safetensors", model.state_dict(), metadata)
    again, _ = load_model(tmp_path / "model.safetensors")
    again.eval()
    with torch.no_grad():
        first, second = (each(images[:1], **given(model, images[:1]))[0] for each in (model, again))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def overfit(
    model: maskrcnn.FasterRCNN, images: list[Tensor], targets: list[dict[str, Tensor]], steps: int
) -> list[dict[str, Tensor]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 if step < 0.75 * steps else 2e-4
        found = model(images, targets, **given(model, images))
        assert isinstance(found, dict)
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
    with torch.no_grad():
        detections = model.eval()(images, **given(model, images))
    assert isinstance(detections, list)
    return detections


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_two_images_are_learnt(name: str) -> None:
    """Bright discs and dark squares: after some steps every object is found, with its class, box and mask."""
    images, targets = synthetic()
    model = build(name, norm="group", box_score_thresh=0.5)
    for found, target in zip(overfit(model, images, targets, 80), targets, strict=True):
        iou = ops.box_iou(target["boxes"], found["boxes"])
        assert iou.shape[1] >= len(target["boxes"])
        best = iou.max(dim=1)
        assert best.values.min() > 0.75
        assert torch.equal(found["labels"][best.indices], target["labels"])
        if "masks" in found:
            masks, truth = found["masks"][best.indices, 0] >= 0.5, target["masks"].bool()
            overlap = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
            assert overlap.min() > 0.75
        if "mask_scores" in found:  # the head's guess at that overlap
            guess = (found["mask_scores"] / found["scores"])[best.indices]
            torch.testing.assert_close(guess, overlap, rtol=0, atol=0.15)


def synthetic() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    y, x = torch.meshgrid(torch.arange(64.0) + 0.5, torch.arange(64.0) + 0.5, indexing="ij")
    disc = ((x - 20) ** 2 + (y - 20) ** 2 < 14**2).to(torch.uint8)
    square = ((x - 44).abs().maximum((y - 42).abs()) < 15).to(torch.uint8)
    images, targets = [], []
    for masks, labels in (([disc, square], [1, 2]), ([square.flip(1)], [2])):
        image = torch.full((3, 64, 64), 0.5)
        for mask, label in zip(masks, labels, strict=True):
            image[:, mask.bool()] = 1.0 if label == 1 else 0.0
        stacked = torch.stack(masks)
        images.append(image)
        targets.append(
            {"boxes": ops.masks_to_boxes(stacked), "labels": torch.tensor(labels), "masks": stacked}
        )
        targets[-1]["boxes"][:, 2:] += 1  # pixel edges
    return images, targets


# ---- Fast R-CNN ------------------------------------------------------------------------------------------


def test_proposals_are_resized_with_their_image(images: list[Tensor]) -> None:
    model = build("fastrcnn_tiny").eval()
    seen: list[list[Tensor]] = []
    model.roi_heads.box_roi_pool.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1]))
    proposals = [torch.tensor([[10.0, 20, 30, 40], [-5, 0, 500, 50]]), torch.zeros(0, 4)]
    with torch.no_grad():
        model(images, proposals=proposals)  # 50 x 70 becomes 64 x 89
    x, y = 89 / 70, 64 / 50
    expected = torch.tensor([[10 * x, 20 * y, 30 * x, 40 * y], [0, 0, 89, 64]])
    torch.testing.assert_close(seen[0][0], expected)
    assert seen[0][1].shape == (0, 4)


def test_proposals_of_targets_are_those_of_the_call(
    images: list[Tensor], targets: list[dict[str, Tensor]]
) -> None:
    model = build("fastrcnn_tiny", norm="frozen").train()
    proposals = given(model, images)["proposals"]
    found = []
    for arguments in (
        {"targets": targets, "proposals": proposals},
        {"targets": [t | {"proposals": p} for t, p in zip(targets, proposals, strict=True)]},
    ):
        torch.manual_seed(0)
        found.append(model(images, **arguments))
    assert found[0] == found[1]


def test_bad_proposals_are_named(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = build("fastrcnn_tiny").train()
    good = given(model, images)["proposals"]
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, r"proposals: expected boxes \[P, 4\] of each image .* got None", None),
        (ValueError, r"proposals: expected one tensor per image \(2\), got 1", good[:1]),
        (ValueError, r"proposals\[1\]: expected shape \[P, 4\], got \[3, 5\]", [good[0], torch.zeros(3, 5)]),
        (
            TypeError,
            r"proposals\[0\]: expected a tensor of floats, got torch.int64",
            [good[0].long(), good[1]],
        ),
        (TypeError, r"proposals\[1\]: expected a tensor of floats, got list", [good[0], [[1, 2, 3, 4]]]),
        (
            ValueError,
            r"proposals\[1\]\[1\]: expected finite x1 < x2 and y1 < y2, got \[5.0, 5.0, 5.0, 9.0\]",
            [good[0], torch.tensor([[1.0, 1, 2, 2], [5, 5, 5, 9]])],
        ),
    ]
    for kind, message, proposals in cases:
        with pytest.raises(kind, match=message):
            model(images, targets, proposals)
    with pytest.raises(ValueError, match="proposals: expected none"):
        build("msrcnn_tiny").eval()(images, proposals=good)
    for option in ({"rpn_nms_thresh": 0.5}, {"anchor_sizes": [8, 16, 32, 64]}):
        with pytest.raises(TypeError, match="FastRCNN: expected no options of an RPN"):
            build("fastrcnn_tiny", **option)


def test_fast_rcnn_with_masks_is_a_combination(
    images: list[Tensor], targets: list[dict[str, Tensor]]
) -> None:
    from dataclasses import replace

    from maskrcnn.models.builders import TINY_MASK, fastrcnn_tiny

    class FastMaskRCNN(maskrcnn.MaskRCNN, maskrcnn.FastRCNN):
        pass

    model = replace(fastrcnn_tiny, detector=FastMaskRCNN, branches=(TINY_MASK,))(num_classes=4, **SMALL)
    found = model.train()(images, targets, given(model, images)["proposals"])
    assert set(found) == {"loss_classifier", "loss_box_reg", "loss_mask"}


def test_parts_combine_on_one_map(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """A cascade whose masks are judged, on C4, where all heads share the pooled features."""
    from dataclasses import replace

    from maskrcnn.models.builders import maskrcnn_tiny_c4
    from maskrcnn.models.recipes import MaskIoURecipe

    class CascadeMaskScoringRCNN(maskrcnn.MaskScoringRCNN, maskrcnn.CascadeRCNN):
        pass

    preset = replace(
        maskrcnn_tiny_c4,
        detector=CascadeMaskScoringRCNN,
        branches=(*maskrcnn_tiny_c4.branches, MaskIoURecipe((8, 8), 16)),
    )
    options = {"num_classes": 4, "class_agnostic_boxes": True, "box_score_thresh": 0.0}
    model = preset(**options, **SMALL, **SMALL_RPN).train()
    found = model(images, targets)
    assert set(found) == {f"loss_{each}" for each in LOSSES["cascademaskrcnn_tiny"] | {"mask_iou"}}
    sum(found.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        assert "mask_scores" in model.eval()(images)[0]


# ---- Mask Scoring R-CNN ----------------------------------------------------------------------------------


def test_iou_targets_by_hand() -> None:
    """Boxes of 8 x 8 pixels in 4 x 4 cells, so a cell is 4 pixels."""
    masks = torch.zeros(4, 4, 4)
    masks[:3, :, :2] = 0.5  # the left half: 8 cells; the last mask is empty
    crops = torch.zeros(4, 4, 4)
    crops[0, :, :2] = 1  # the same half
    crops[1, :2] = 0.7  # the upper half: 4 cells of both, 12 of either
    crops[2, :, :2] = 1  # the same half of an object of which as much again lies outside
    crops[3, :2] = 1
    areas = torch.tensor([32.0, 32, 64, 32])
    boxes = torch.tensor([[3.0, 5, 11, 13]]).expand(4, 4)
    wanted = mask_iou_targets(masks, crops, areas, boxes)
    torch.testing.assert_close(wanted, torch.tensor([1.0, 4 / 12, 8 / 16, 0]))
    coarse = mask_iou_targets(masks[:1], crops[:1], torch.tensor([20.0]), boxes[:1])
    assert coarse.item() == 1  # cells that cover more than the object
    assert mask_iou_targets(masks[3:], torch.zeros(1, 4, 4), torch.zeros(1), boxes[:1]).item() == 0
    none = torch.zeros(0, 4, 4)
    assert mask_iou_targets(none, none, torch.zeros(0), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("encoded", [False, True])
def test_iou_targets_take_the_whole_object(encoded: bool) -> None:
    """A box over the left half of a square: a mask that fills it has half of the object, whatever the image's size."""
    bitmap = torch.zeros(2, 40, 40, dtype=torch.uint8)
    bitmap[1, 10:26, 10:26] = 1
    masks: Any = bitmap
    if encoded:
        runs = [coco_mask.encode(mask.numpy().copy(order="F")) for mask in bitmap]
        masks = EncodedMasks.of(runs, (40, 40)).resize((80, 120))
        assert masks.areas().tolist() == [0, 16 * 16 * 6]
    box = torch.tensor([[10.0, 10, 18, 26]]) * (torch.tensor([3.0, 2, 3, 2]) if encoded else 1)
    branch = MaskBranch("continuous")
    targets = [{"masks": masks}]
    wanted = branch.iou_targets(torch.ones(1, 28, 28), targets, [box], [torch.tensor([1])])
    torch.testing.assert_close(wanted, torch.tensor([0.5]))
    assert mask_areas(masks).shape == (2,)


def test_iou_targets_are_the_ious_of_pasted_masks() -> None:
    """Shapes of some 20 pixels, boxes that are 8 % off, masks that are wrong here and there."""
    generator = torch.Generator().manual_seed(0)
    dataset = ShapesDataset(15, 128, seed=3)
    branch = MaskBranch("continuous")
    wanted, pasted = [], []
    for index in range(len(dataset)):
        _, target = dataset[index]
        boxes, number = target["boxes"], len(target["boxes"])
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        boxes = boxes + 0.08 * sides * torch.randn(number, 4, generator=generator)
        boxes = ops.clip_boxes_to_image(boxes, (128, 128))
        matches = torch.arange(number)
        perfect = target["masks"].crop(boxes, 28, matches, aligned=True)
        noise = torch.randn(number, 28, 28, generator=generator)
        masks = (perfect + 1.5 * F.avg_pool2d(noise, 7, 1, 3)).clamp(0, 1)
        wanted.append(branch.iou_targets(masks, [target], [boxes], [matches]))
        full = ops.paste_masks(masks[:, None], boxes, (128, 128), threshold=0.5, convention="continuous")
        truth = target["masks"].decode()
        pasted.append((full & truth).sum((1, 2)) / (full | truth).sum((1, 2)))
    both = torch.stack([torch.cat(wanted), torch.cat(pasted)])
    assert both.shape[1] > 50
    assert (both[0] - both[1]).abs().mean() < 0.03
    assert torch.corrcoef(both)[0, 1] > 0.85


def test_mask_iou_head_is_the_papers() -> None:
    """Features and mask side by side; four convolutions, the last of stride 2; 1024, 1024, K."""
    with torch.device("meta"):
        head = maskrcnn.build_model("msrcnn_resnet50_fpn", num_classes=81).roi_heads.mask_iou_head
        assert head(torch.zeros(3, 256, 14, 14), torch.zeros(3, 28, 28)).shape == (3, 81)
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.stride[0]) for c in convs] == [(257, 1), (256, 1), (256, 1), (256, 2)]
    linear = [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)]
    assert linear == [(256 * 7 * 7, 1024), (1024, 1024), (1024, 81)]


def test_the_mask_is_pooled_by_its_maximum() -> None:
    head = MaskIoUHead(1, 2, 2, layers=(1,), representation_size=4)
    seen: list[Tensor] = []
    head.convs.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    mask = torch.tensor([[0.1, 0.2, 0, 0], [0.3, 0.4, 0, 0.9], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    head(torch.full((1, 1, 2, 2), 7.0), mask[None])
    assert seen[0].tolist() == [[[[7, 7], [7, 7]], torch.tensor([[0.4, 0.9], [0, 0.5]]).tolist()]]


def test_mask_scores_are_scores_times_the_own_classs_iou(images: list[Tensor]) -> None:
    model = build("msrcnn_tiny", box_score_thresh=0.0, box_detections_per_img=300).eval()
    last = model.roi_heads.mask_iou_head.iou
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([9.0, 0.25, 0.5, 7.0]))  # limited to 1
        detections = model(images)
    seen = set()
    for found in detections:
        factor = torch.tensor([0, 0.25, 0.5, 1])[found["labels"]]
        torch.testing.assert_close(found["mask_scores"], found["scores"] * factor)
        seen |= set(found["labels"].tolist())
    assert seen == {1, 2, 3}


def test_the_judge_does_not_change_the_masks(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = build("msrcnn_tiny").train()
    loss = model(images, targets)["loss_mask_iou"]
    loss.backward()
    assert all(p.grad is None for p in model.roi_heads.mask_predictor.parameters())
    assert any(p.grad.count_nonzero() > 0 for p in model.backbone.parameters())


# ---- Cascade R-CNN ---------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A predictor that says the same of every region."""

    def __init__(self, logits: list[float], deltas: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.deltas = nn.Parameter(torch.tensor(deltas))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(x), -1), self.deltas.expand(len(x), -1)


class Zeros(nn.Module):
    """Pooling that records the boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Tensor]] = []

    def forward(self, _features: Any, boxes: list[Tensor], _sizes: Any) -> Tensor:
        self.seen.append([b.clone() for b in boxes])
        return torch.zeros(sum(map(len, boxes)), 1, 1, 1)


def cascade(**options: Any) -> tuple[CascadeRoIHeads, Zeros]:
    """Two stages on boxes of 10 pixels: each moves them by 2 pixels to the right, in its own encoding."""
    pool = Zeros()
    first, second = Fixed([1.0, 2.0], [2.0, 0, 0, 0]), Fixed([3.0, 2.0], [4.0, 0, 0, 0])
    heads = CascadeRoIHeads(
        pool, nn.Identity(), first, Matcher(0.5, 0.5), BalancedSampler(100, 0.5), score_thresh=0.0, **options
    )
    heads.later_stages.append(
        CascadeStage(nn.Identity(), second, Matcher(0.6, 0.6), (20.0, 20.0, 10.0, 10.0), 0.5)
    )
    return heads, pool


def test_refinement_by_hand() -> None:
    deltas = torch.tensor([[2.0, 0, 0, 0], [0, -5.0, 0, 0], [50.0, 0, 0, 0]], dtype=torch.float64)
    boxes = [torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 20, 10, 30], [80, 0, 90, 10]])]
    refined = refine(boxes, deltas, (10.0, 10.0, 5.0, 5.0), [(40, 40), (40, 100)])
    assert refined[0].tolist() == [[2, 0, 12, 10]]
    assert refined[1].tolist() == [[0, 15, 10, 25], [100, 0, 100, 10]]  # clipped to an edge
    assert refined[0].dtype == torch.float32


def test_detections_average_the_scores_and_end_with_the_last_stages_boxes() -> None:
    heads, pool = cascade(detections_per_img=1)
    heads.eval()
    with torch.no_grad():
        (found,), _ = heads({}, [torch.tensor([[5.0, 5, 15, 15]])], [(50, 50)])
    assert [boxes[0].tolist() for boxes in pool.seen] == [[[5, 5, 15, 15]], [[7, 5, 17, 15]]]
    torch.testing.assert_close(found["boxes"], torch.tensor([[9.0, 5, 19, 15]]))
    one, two = torch.tensor([1.0, 2]).softmax(0)[1], torch.tensor([3.0, 2]).softmax(0)[1]
    torch.testing.assert_close(found["scores"], ((one + two) / 2)[None])


def test_stages_sample_refined_boxes_with_their_own_thresholds() -> None:
    """Ground truth of 10 pixels at 20; proposals 3 pixels left and right of it, IoU 7 / 13.

    The first stage takes both for positives. It moves all boxes 2 pixels to the right: one has then IoU 9 / 11, the
    other 5 / 15, the ground truth's own box 8 / 12; the second stage adds the ground truth again.
    """
    heads, pool = cascade()
    heads.train()
    proposals = [torch.tensor([[17.0, 20, 27, 30], [23, 20, 33, 30]]), torch.tensor([[0.0, 0, 10, 10]])]
    targets = [
        {"boxes": torch.tensor([[20.0, 20, 30, 30]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    _, found = heads({}, proposals, [(50, 50), (50, 50)], targets)
    left = [boxes[0][:, 0].tolist() for boxes in pool.seen]
    assert left == [[17, 23, 20], [19, 25, 22, 20]]
    assert [boxes[1][:, 0].tolist() for boxes in pool.seen] == [[0], [2]]
    # Labels: three positives and a negative; then three positives (0.82, 0.67, 1) and two negatives.
    first = torch.nn.functional.cross_entropy(torch.tensor([[1.0, 2]] * 4), torch.tensor([1, 1, 1, 0]))
    second = torch.nn.functional.cross_entropy(torch.tensor([[3.0, 2]] * 5), torch.tensor([1, 0, 1, 1, 0]))
    torch.testing.assert_close(found["loss_classifier_1"], first)
    torch.testing.assert_close(found["loss_classifier_2"], 0.5 * second)
    # Boxes: what is missing to 20, in tenths of the width and the stage's weight, less what was said.
    errors = [10 * 0.3 - 2, -10 * 0.3 - 2, 0 - 2], [20 * 0.1 - 4, -20 * 0.2 - 4, 0 - 4]
    for number, (missing, count, weight) in enumerate(zip(errors, (4, 5), (1, 0.5), strict=True), start=1):
        expected = weight * sum(abs(e) - 1 / 18 for e in missing) / count
        assert found[f"loss_box_reg_{number}"].item() == pytest.approx(expected, rel=1e-4)


def test_no_gradient_passes_between_stages() -> None:
    heads, _ = cascade()
    heads.train()
    targets = [{"boxes": torch.tensor([[20.0, 20, 30, 30]]), "labels": torch.tensor([1])}]
    _, found = heads({}, [torch.tensor([[17.0, 20, 27, 30]])], [(50, 50)], targets)
    (found["loss_classifier_2"] + found["loss_box_reg_2"]).backward()
    assert heads.box_predictor.deltas.grad is None


def test_cascades_presets_and_refusals() -> None:
    with torch.device("meta"):
        for name in ("cascadercnn_resnet50_fpn", "cascademaskrcnn_resnet50_fpn"):
            heads = maskrcnn.build_model(name).roi_heads
            stages = [heads, *heads.later_stages]
            assert [s.matcher.high_threshold for s in stages] == [0.5, 0.6, 0.7]
            weights = [heads.bbox_reg_weights, *(s.reg_weights for s in heads.later_stages)]
            assert weights == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
            assert [s.loss_weight for s in heads.later_stages] == [0.5, 0.25]
            assert [s.box_predictor.bbox_pred.out_features for s in stages] == [4] * 3
        backbone = copy.copy(maskrcnn.build_model("fasterrcnn_resnet18_fpn").backbone)
        assert maskrcnn.CascadeMaskRCNN(backbone, 5).num_classes == 5
        assert maskrcnn.MaskScoringRCNN(backbone, 5).num_classes == 5
        with pytest.raises(ValueError, match=r"class_agnostic_boxes=True\), got 91 boxes"):
            maskrcnn.build_model("cascadercnn_resnet50_fpn", class_agnostic_boxes=False)
        with pytest.raises(ValueError, match="of one length, got 1, 2 and 2"):
            maskrcnn.build_model("cascadercnn_resnet50_fpn", later_iou_thresh=[0.6])
