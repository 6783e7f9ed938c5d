"""Fast R-CNN: proposals given with images or targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from relatives_cases import SMALL, build, given
from torch import Tensor

import maskrcnn


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
    assert torch.equal(seen[0][1], torch.zeros(2, 4))  # without area: as many as in the other image


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
