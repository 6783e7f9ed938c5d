"""Weights of Detectron and detectron2 under this package's names, and in its order of classes and channels.

Both are trained on BGR pictures of 0 to 255; detectron2 counts the background as its last class and has no box
deltas and masks for it. Here pictures are RGB of 0 to 1, and the background is class 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.models.anchors import DEFAULT_RATIOS, DEFAULT_SIZES, cell_anchors
from maskrcnn.models.transform import IMAGENET_MEAN, IMAGENET_STD

# detectron2's models of one map (C4, DC5): their proposals in evaluation, and batches that are not padded further.
ONE_MAP_OPTIONS = {"rpn_pre_nms_top_n_test": 6000, "rpn_post_nms_top_n_test": 1000, "size_divisible": 1}

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

# Detectron to detectron2: res2_0_branch2a_bn_s becomes backbone.res2.0.conv1.norm.weight.
_DETECTRON: tuple[Rule, ...] = (
    (r"^conv1_", "backbone.stem.conv1."),
    (r"^res_conv1_", "backbone.stem.conv1."),
    (r"^res(\d)_(\d+)_branch1_", r"backbone.res\1.\2.shortcut."),
    (r"^res(\d)_(\d+)_branch2([abc])_", lambda m: f"backbone.res{m[1]}.{m[2]}.conv{'_abc'.index(m[3])}."),
    (r"\.bn_(s|gamma)$", ".norm.weight"),
    (r"\.bn_(b|beta)$", ".norm.bias"),
    (r"\.bn_(rm|running_mean)$", ".norm.running_mean"),
    (r"\.bn_(riv|running_var)$", ".norm.running_var"),
    (r"\.w$", ".weight"),
    (r"\.b$", ".bias"),
)
# detectron2 to this package.
_DETECTRON2: tuple[Rule, ...] = (
    (r"^backbone\.(bottom_up\.)?(?=stem\.|res\d\.)", "backbone.body."),
    (r"^roi_heads\.(?=res5\.)", "roi_heads.shared_head."),
    (r"\.stem\.conv1\.norm\.", ".bn1."),
    (r"\.stem\.conv1\.", ".conv1."),
    (r"\.res(\d)\.", lambda m: f".layer{int(m[1]) - 1}."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^backbone\.fpn_lateral(\d)\.", lambda m: f"backbone.fpn.inner_blocks.{int(m[1]) - 2}.0."),
    (r"^backbone\.fpn_output(\d)\.", lambda m: f"backbone.fpn.layer_blocks.{int(m[1]) - 2}.0."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"\.box_head\.fc(\d)\.", lambda m: f".box_head.fc{int(m[1]) + 5}."),
    (r"\.mask_head\.mask_fcn(\d)\.", lambda m: f".mask_head.{int(m[1]) - 1}.0."),
    (r"\.mask_head\.deconv\.", ".mask_predictor.conv5_mask."),
    (r"\.mask_head\.predictor\.", ".mask_predictor.mask_fcn_logits."),
    (r"\.keypoint_head\.conv_fcn(\d)\.", lambda m: f".keypoint_head.{2 * int(m[1]) - 2}."),
    (r"\.keypoint_head\.score_lowres\.", ".keypoint_predictor.kps_score_lowres."),
)
# Of no use here: a classifier, its training, a bias that Detectron ignores too; anchors, pixel statistics.
LEFT_OUT = re.compile(
    r".*_momentum|(fc1000|pred)_[wb]|conv1_b|lr|model_iter|weight_order"
    r"|proposal_generator\.anchor_generator\..*|pixel_(mean|std)|.*\.num_batches_tracked"
)
_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
NORM_EPS = 1e-5
# BGR, of 255. Detectron's ResNets divide by nothing, its ResNeXts by the deviations of ImageNet.
PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STD = {"resnet": (1.0, 1.0, 1.0), "resnext": (57.375, 57.12, 58.395)}


def is_detectron(name: str) -> bool:
    """Whether a name is one of Detectron's classifiers."""
    return re.match(r"res\d_\d+_branch", name) is not None


def is_detectron2(name: str) -> bool:
    """Whether a name is one of detectron2's detectors."""
    return name.startswith(("proposal_generator.", "backbone.bottom_up.", "backbone.res"))


def our_name(name: str) -> str:
    """A name of Detectron or detectron2 as this package has it; one that no rule knows stays."""
    for pattern, replacement in _DETECTRON + _DETECTRON2:
        name = re.sub(pattern, replacement, name)
    return name


def has_stride_in_1x1(body: str | None) -> bool:
    """Whether Detectron's weights of this body expect the stride in the blocks' first convolution."""
    return body in ("resnet50", "resnet101", "resnet152")


def fill_norms(weights: dict[str, Tensor]) -> None:
    """Add identity statistics where a norm has a scale and a shift only: Detectron folds the rest into them."""
    for name in [n for n in weights if re.search(r"(bn\d|downsample\.1)\.weight$", n)]:
        layer = name.removesuffix("weight")
        if f"{layer}running_mean" not in weights and f"{layer}running_var" not in weights:
            weights[f"{layer}running_mean"] = torch.zeros_like(weights[name])
            weights[f"{layer}running_var"] = torch.full_like(weights[name], 1 - NORM_EPS)


def fold_pixels(
    conv: Tensor, body: str | None, source: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Any]]:
    """The first convolution for RGB pictures normalised as here, and the options of the model it needs.

    Detectron's ``w * (255 x - mean) / std`` of BGR is ``w' * (x - mean') / std'`` of RGB with the input channels
    exchanged, ``mean' = mean / 255`` and ``w' = w * 255 std' / std``. ``std'`` is ImageNet's, the
    default here; so is ``mean'``, unless the file (``pixel_mean``) says otherwise.

    Args:
        conv: ``[64, 3, 7, 7]``.
        body: of the model.
        source: the file's tensors; ``pixel_mean`` and ``pixel_std`` are used where they are there.
    """
    kind = "resnext" if body is not None and body.startswith("resnext") else "resnet"
    mean = source.get("pixel_mean", torch.tensor(PIXEL_MEAN)).double().flatten().flip(0) / 255
    std = source.get("pixel_std", torch.tensor(PIXEL_STD[kind])).double().flatten().flip(0) / 255
    scale = torch.tensor(IMAGENET_STD, dtype=torch.float64) / std
    options: dict[str, Any] = {}
    if not torch.allclose(mean, torch.tensor(IMAGENET_MEAN, dtype=torch.float64), rtol=0, atol=1e-6):
        options["image_mean"] = mean.tolist()
    return (conv.double().flip(1) * scale[:, None, None]).to(conv.dtype), options


def reorder(name: str, value: Tensor) -> Tensor:
    """The rows of a detector's tensor in this package's order; ``name`` is this package's."""
    layer = name.rpartition(".")[0]
    if layer == "roi_heads.box_predictor.cls_score":
        return value.roll(1, 0)
    if layer == "roi_heads.box_predictor.bbox_pred":
        return torch.cat([torch.zeros_like(value[:4]), value])
    if layer == "roi_heads.mask_predictor.mask_fcn_logits":
        return torch.cat([torch.zeros_like(value[:1]), value])
    if layer == "rpn.head.cls_logits":
        return _ratio_major(value, 1)
    if layer == "rpn.head.bbox_pred":
        return _ratio_major(value, 4)
    return value


def has_known_anchors(source: Mapping[str, Tensor], pyramid: bool) -> bool:
    """Whether the anchors that a file of detectron2 may hold are those of this package's models.

    On a pyramid each level has one of the sizes, a single map all of them, one after the other.
    """
    levels = DEFAULT_SIZES if pyramid else ([size for sizes in DEFAULT_SIZES for size in sizes],)
    for level, sizes in enumerate(levels):
        known = torch.cat([cell_anchors((size,), DEFAULT_RATIOS, rounded=False) for size in sizes])
        anchors = source.get(f"{_ANCHORS}{level}", known)
        if anchors.shape != known.shape or not torch.allclose(anchors.float(), known, rtol=0, atol=1e-3):
            return False
    return f"{_ANCHORS}{len(levels)}" not in source


def _ratio_major(rows: Tensor, width: int) -> Tensor:
    """Anchors of one level: detectron2 goes through the ratios of each size, this package the other way round."""
    ratios = len(DEFAULT_RATIOS)
    if len(rows) % (ratios * width):
        return rows  # its shape will not fit, and is reported so
    return rows.unflatten(0, (-1, ratios, width)).transpose(0, 1).flatten(0, 2)
