"""The assembled detectors: training and evaluation on every kind of input."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from steps import detect, train_step
from torch import Tensor, nn

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.models import FastRCNNPredictor, MaskRCNNPredictor

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
Build = Callable[..., maskrcnn.MaskRCNN]


def test_training_losses(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    losses = train_step(tiny(), images, targets)
    assert set(losses) == LOSSES
    assert min(losses.values()) > 0


def test_seed_fixes_training(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = tiny(min_size=(48, 64, 80))
    first, again = (train_step(copy.deepcopy(model), images, targets) for _ in range(2))
    assert first == again


def test_losses_fall(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """A dozen steps on two images: the gradients point the right way."""
    model = tiny(box_batch_size_per_image=16, rpn_post_nms_top_n_train=50)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(12):
        optimizer.zero_grad()
        history.append(sum(train_step(model, images, targets).values()).item())
        optimizer.step()
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize("which", ["one empty", "all empty"])
def test_images_without_objects(
    tiny: Build,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    empty: Callable[[Tensor], dict[str, Tensor]],
    which: str,
) -> None:
    chosen = [targets[0] if which == "one empty" else empty(images[0]), empty(images[1])]
    losses = train_step(tiny(), images, chosen)
    if which == "all empty":
        assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0
        assert losses["loss_objectness"] > 0


def test_one_class(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    for target in targets:
        target["labels"].fill_(1)
    model = tiny(num_classes=2)
    train_step(model, images, targets)
    assert all((result["labels"] == 1).all() for result in detect(model, images))


def test_results(tiny: Build, images: list[Tensor]) -> None:
    for image, result in zip(images, detect(tiny(), images), strict=True):
        height, width = image.shape[-2:]
        count = len(result["scores"])
        assert 0 < count <= 20
        assert result["boxes"].shape == (count, 4)
        assert result["boxes"].dtype == result["scores"].dtype == result["masks"].dtype == torch.float32
        assert result["labels"].dtype == torch.int64
        assert result["masks"].shape == (count, 1, height, width)
        assert (result["scores"].diff() <= 0).all()
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert 1 <= result["labels"].min() <= result["labels"].max() <= 3


def test_one_image_at_a_time(tiny: Build) -> None:
    """A batch of equal sizes gives what each of its images gives alone."""
    images = list(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    model = tiny()
    for alone, together in zip([detect(model, [i])[0] for i in images], detect(model, images), strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


def test_no_detections(tiny: Build, images: list[Tensor]) -> None:
    for mask_format, tail in (("full", (1, 50, 70)), ("bool", (50, 70)), ("roi", (1, 28, 28))):
        result = detect(tiny(box_score_thresh=1.0, mask_format=mask_format), images)[0]
        assert result["boxes"].shape == (0, 4)
        assert result["masks"].shape == (0, *tail)


def test_mask_formats(tiny: Build, images: list[Tensor]) -> None:
    model = tiny()
    full = detect(model, images)
    model.mask_format = "bool"
    for a, b in zip(full, detect(model, images), strict=True):
        assert b["masks"].dtype == torch.bool
        assert torch.equal(b["masks"], a["masks"][:, 0] >= 0.5)
        assert torch.equal(a["boxes"], b["boxes"])
    model.mask_format = "roi"
    for result in detect(model, images):
        assert result["masks"].shape[1:] == (1, 28, 28)
        assert 0 <= result["masks"].min() <= result["masks"].max() <= 1
    model.mask_format = "rle"
    for a, b in zip(full, detect(model, images), strict=True):
        assert torch.equal(ops.rle_decode(b["masks"]), a["masks"][:, 0] >= 0.5)
    with pytest.raises(ValueError, match=r"mask_format: expected one of .*got 'polygons'"):
        model.mask_format = "polygons"


def test_mask_conventions_differ(tiny: Build, images: list[Tensor]) -> None:
    integer, continuous = (
        detect(tiny(mask_convention=c), images)[0]["masks"] for c in ("integer", "continuous")
    )
    assert integer.shape == continuous.shape
    assert not torch.equal(integer, continuous)
    with pytest.raises(ValueError, match=r"mask_convention: .*got 'round'"):
        tiny(mask_convention="round")


def test_uint8_equals_float(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    pixels = [(image * 255).to(torch.uint8) for image in images]
    scaled = [image.float() / 255 for image in pixels]
    model = tiny()
    for a, b in zip(detect(model, pixels), detect(model, scaled), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert train_step(copy.deepcopy(model), pixels, targets) == train_step(model, scaled, targets)


def test_evaluation_is_deterministic(tiny: Build, images: list[Tensor]) -> None:
    model = tiny(min_size=(48, 64))
    state = torch.get_rng_state()
    first, again = detect(model, images), detect(model, images)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state()), "evaluation drew random numbers"


def test_channels_last(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """The features, the RPN's losses and the box head's outputs are those of the contiguous model.

    Whole detections are not compared: a random model's scores tie, and rounding decides their order.
    """
    contiguous = tiny()
    channels_last = copy.deepcopy(contiguous).to(memory_format=torch.channels_last)
    boxes = [torch.tensor([[2.0, 3, 30, 40], [10, 5, 60, 60]])]
    outputs = []
    for model in (contiguous, channels_last):
        with torch.no_grad():
            features = model.eval().backbone(
                torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
            )
            pooled = model.roi_heads.box_roi_pool(features, boxes, [(64, 64)])
            outputs.append((features, model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))))
    assert outputs[1][0]["0"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)
    assert len(detect(channels_last, images)[0]["boxes"]) > 0
    a, b = (train_step(model, images, targets) for model in (contiguous, channels_last))
    for name in ("loss_objectness", "loss_rpn_box_reg"):
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_autocast(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_step(model, images, targets)
        results = detect(model, images)
    reference = train_step(tiny(), images, targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
    torch.testing.assert_close(losses["loss_objectness"], reference["loss_objectness"], rtol=0.05, atol=0)
    for result in results:
        assert {result[key].dtype for key in ("boxes", "scores", "masks")} == {torch.float32}
        assert torch.isfinite(result["boxes"]).all()


def test_copies(tiny: Build, images: list[Tensor]) -> None:
    model = tiny()
    expected = detect(model, images)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for a, b in zip(expected, detect(clone, images), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_new_predictors(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """Fine-tuning replaces the predictors, then trains on the new classes; the label check follows."""
    model = tiny(num_classes=2)
    heads = model.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, 4)
    heads.mask_predictor = MaskRCNNPredictor(heads.mask_predictor.conv5_mask.in_channels, 64, 4)
    train_step(model, images, targets)
    assert model.num_classes == 4


def test_foreign_mask_predictor(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """A mask predictor that always gives all classes yields the same losses and masks."""
    model = tiny()
    foreign = copy.deepcopy(model)
    foreign.roi_heads.mask_predictor = nn.Sequential(*model.roi_heads.mask_predictor.children())
    for a, b in zip(detect(model, images), detect(foreign, images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    a, b = (train_step(m, images, targets)["loss_mask"] for m in (model, foreign))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


def test_group_norm(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = tiny(norm="group")
    kinds = {type(module) for module in model.backbone.body.modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds
    train_step(model, images, targets)


@pytest.mark.parametrize(("depth", "convolutions"), [(18, 20), (34, 36), (50, 53), (101, 104)])
def test_depths(depth: int, convolutions: int) -> None:
    """Every builder gives its ResNet, five levels of 256 channels, and a mask branch where named."""
    with torch.device("meta"):
        faster = maskrcnn.build_model(f"fasterrcnn_resnet{depth}_fpn", num_classes=3)
        mask = maskrcnn.build_model(f"maskrcnn_resnet{depth}_fpn", num_classes=3)
        features = faster.backbone(torch.zeros(1, 3, 64, 96))
    expected = {"0": (16, 24), "1": (8, 12), "2": (4, 6), "3": (2, 3), "pool": (1, 2)}
    assert {name: tuple(level.shape) for name, level in features.items()} == {
        name: (1, 256, *size) for name, size in expected.items()
    }
    assert len([m for m in faster.backbone.body.modules() if isinstance(m, nn.Conv2d)]) == convolutions
    extra = set(mask.state_dict()) - set(faster.state_dict())
    assert {key.split(".")[1] for key in extra} == {"mask_head", "mask_predictor"}


def test_tiny_is_the_yardstick() -> None:
    """The architecture is a fixed contract: its size, its anchors, its options."""
    model = maskrcnn.maskrcnn_tiny(num_classes=2)
    assert sum(p.numel() for p in model.parameters()) == 12_385_691
    assert all(p.requires_grad for p in model.parameters())
    assert model.rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    assert (model.rpn.pre_nms_top_n, model.rpn.post_nms_top_n) == ((1000, 1000), (500, 500))
    assert (model.rpn.matcher.high_threshold, model.rpn.matcher.low_threshold) == (0.7, 0.3)
    assert (model.rpn.sampler.size, model.rpn.sampler.positive_fraction) == (256, 0.5)
    heads = model.roi_heads
    assert (heads.sampler.size, heads.sampler.positive_fraction) == (128, 0.25)
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.05, 0.5, 300)
    assert (model.transform.min_size, model.transform.max_size) == ((256,), 400)


def test_unknown_model() -> None:
    with pytest.raises(ValueError, match=r"model: expected one of .*maskrcnn_tiny, .*got 'yolo'"):
        maskrcnn.build_model("yolo")
