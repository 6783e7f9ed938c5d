"""What a conversion does to numbers: the order of classes, and the pixels that the first convolution sees."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.convert import detectron
from maskrcnn.models.transform import IMAGENET_MEAN, IMAGENET_STD


def test_class_order() -> None:
    """Two classes and a background: theirs 1, 2, 0 (deltas and masks without 0), ours 0, 1, 2."""
    scores, deltas = torch.tensor([10.0, 20, 30]), torch.arange(1.0, 9)
    reordered = detectron.reorder("roi_heads.box_predictor.cls_score.bias", scores)
    assert reordered.tolist() == [30, 10, 20]
    reordered = detectron.reorder("roi_heads.box_predictor.bbox_pred.bias", deltas)
    assert reordered.tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    masks = detectron.reorder("roi_heads.mask_predictor.mask_fcn_logits.bias", scores[:2])
    assert masks.tolist() == [0, 10, 20]
    assert detectron.reorder("roi_heads.box_head.fc6.bias", scores) is scores


def test_pixels_by_hand() -> None:
    """A kernel of one cell that sees a red of 200: theirs (200 - 123.675) * 2 = 152.65 from channel 2; ours
    (200 / 255 - 0.485) / 0.229 * w from channel 0, so that w = 2 * 255 * 0.229 = 116.79."""
    conv = torch.zeros(1, 3, 1, 1)
    conv[0, 2] = 2
    folded, options = detectron.fold_pixels(conv, "resnet50", {})
    assert folded.flatten().tolist() == pytest.approx([116.79, 0, 0])
    ours = (200 / 255 - 0.485) / 0.229 * 116.79
    assert ours == pytest.approx((200 - 123.675) * 2)
    assert options == {}
    folded, _ = detectron.fold_pixels(conv, "resnext101_32x8d", {})  # they divide by 58.395 = 255 * 0.229
    assert folded.flatten().tolist() == pytest.approx([2, 0, 0])


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("body", ["resnet50", "resnext101_32x8d"])
def test_pixels(body: str, in_file: bool) -> None:
    """Their convolution on BGR of 255 is ours on RGB of 1; a file's own statistics come first."""
    mean, std = torch.tensor([103.53, 116.28, 123.675]), torch.ones(3)
    if body.startswith("resnext"):
        std = torch.tensor([57.375, 57.12, 58.395])
    source = {}
    if in_file:
        mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([50.0, 60, 70])
        source = {"pixel_mean": mean.reshape(3, 1, 1), "pixel_std": std.reshape(3, 1, 1)}
    conv, image = torch.randn(4, 3, 7, 7), torch.rand(1, 3, 20, 20)
    bgr = (image.flip(1) * 255 - mean[:, None, None]) / std[:, None, None]
    folded, options = detectron.fold_pixels(conv, body, source)
    assert set(options) == ({"image_mean"} if in_file else set())
    our_mean = torch.tensor(options.get("image_mean", IMAGENET_MEAN))
    normalised = (image - our_mean[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    expected = F.conv2d(bgr, conv, padding=3)  # the padding is their mean, and ours
    torch.testing.assert_close(F.conv2d(normalised, folded, padding=3), expected, rtol=1e-4, atol=1e-3)
