"""Weights in the naming of detectron2, Detectron and torchvision, made by a map of this file's own."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import maskrcnn
from maskrcnn import convert
from maskrcnn.checkpoint import (
    BackboneMetadata,
    CheckpointError,
    Metadata,
    ModelDescription,
    load_model,
    save_weights,
)
from maskrcnn.cli import main
from maskrcnn.cli.weights import build_with_weights
from maskrcnn.convert import detectron
from maskrcnn.models import ResNet
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.weights import conventions_of

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnext101_32x8d": (3, 4, 23, 3)}
ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
RGB_STD = np.array([58.395, 57.12, 57.375], np.float32).reshape(3, 1, 1)


def pairs(body: str, neck: str = "fpn", masks: bool = True, keypoints: bool = False) -> dict[str, str]:
    """detectron2's names of a whole model, each with ours."""
    names = {}

    def layer(theirs: str, ours: str) -> None:
        names.update({f"{theirs}.{leaf}": f"{ours}.{leaf}" for leaf in ("weight", "bias")})

    def normed(theirs: str, conv: str, norm: str) -> None:
        names[f"{theirs}.weight"] = f"{conv}.weight"
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            names[f"{theirs}.norm.{leaf}"] = f"{norm}.{leaf}"

    bottom = "backbone.bottom_up" if neck == "fpn" else "backbone"
    normed(f"{bottom}.stem.conv1", "backbone.body.conv1", "backbone.body.bn1")
    for stage, count in enumerate(BLOCKS[body], start=1):
        head = neck == "c4" and stage == 4
        theirs = f"{'roi_heads' if head else bottom}.res{stage + 1}"
        ours = f"{'roi_heads.shared_head' if head else 'backbone.body'}.layer{stage}"
        normed(f"{theirs}.0.shortcut", f"{ours}.0.downsample.0", f"{ours}.0.downsample.1")
        for block in range(count):
            for conv in (1, 2, 3):
                place = f"{ours}.{block}"
                normed(f"{theirs}.{block}.conv{conv}", f"{place}.conv{conv}", f"{place}.bn{conv}")
    for level in range(4 if neck == "fpn" else 0):
        layer(f"backbone.fpn_lateral{level + 2}", f"backbone.fpn.inner_blocks.{level}.0")
        layer(f"backbone.fpn_output{level + 2}", f"backbone.fpn.layer_blocks.{level}.0")
    layer("proposal_generator.rpn_head.conv", "rpn.head.conv.0.0")
    layer("proposal_generator.rpn_head.objectness_logits", "rpn.head.cls_logits")
    layer("proposal_generator.rpn_head.anchor_deltas", "rpn.head.bbox_pred")
    if neck != "c4":
        layer("roi_heads.box_head.fc1", "roi_heads.box_head.fc6")
        layer("roi_heads.box_head.fc2", "roi_heads.box_head.fc7")
    layer("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.cls_score")
    layer("roi_heads.box_predictor.bbox_pred", "roi_heads.box_predictor.bbox_pred")
    for number in range(4 if masks and neck != "c4" else 0):
        layer(f"roi_heads.mask_head.mask_fcn{number + 1}", f"roi_heads.mask_head.{number}.0")
    if masks:
        layer("roi_heads.mask_head.deconv", "roi_heads.mask_predictor.conv5_mask")
        layer("roi_heads.mask_head.predictor", "roi_heads.mask_predictor.mask_fcn_logits")
    for number in range(8 if keypoints else 0):
        layer(f"roi_heads.keypoint_head.conv_fcn{number + 1}", f"roi_heads.keypoint_head.{2 * number}")
    if keypoints:
        layer("roi_heads.keypoint_head.score_lowres", "roi_heads.keypoint_predictor.kps_score_lowres")
    return names


def their_values(names: Mapping[str, str], ours: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Our weights as a ResNet of detectron2 has them: BGR of 255 undivided, background last or nowhere."""
    values = {theirs: ours[name].numpy() for theirs, name in names.items()}
    for name, value in values.items():
        if "box_predictor.cls_score" in name:
            values[name] = np.concatenate([value[1:], value[:1]])
        elif "box_predictor.bbox_pred" in name:
            values[name] = value[4:]
        elif "mask_head.predictor" in name:
            values[name] = value[1:]
        elif name.endswith("stem.conv1.weight"):
            values[name] = (value / RGB_STD)[:, ::-1]
    return values


def empty(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros of these shapes that take no memory."""
    return {name: torch.zeros(()).expand(value.shape) for name, value in shapes.items()}


def detectron2_zeros(preset: str, num_classes: int, names: Mapping[str, str]) -> dict[str, Tensor]:
    """A file of detectron2 with the shapes of one of our models and nothing in it."""
    with torch.device("meta"):
        shapes = maskrcnn.build_model(preset, num_classes=num_classes, norm="frozen").state_dict()
    assert set(names.values()) == set(shapes)
    source = empty({theirs: shapes[ours] for theirs, ours in names.items()})
    for name, rows in (("box_predictor.bbox_pred", 4), ("mask_head.predictor", 1)):
        source |= {key: value[rows:] for key, value in source.items() if name in key}
    return source


def sensible(model: maskrcnn.MaskRCNN) -> None:
    """Random weights whose activations stay small and whose scores differ."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("bn1.weight", "bn2.weight", "running_var")):
                value.uniform_(0.5, 1)
            elif name.endswith(("bn3.weight", "downsample.1.weight")):
                value.uniform_(0.2, 0.4)
            elif name.endswith(("running_mean", "bn1.bias", "cls_score.bias")):
                value.normal_(0, 0.2)
        model.roi_heads.box_predictor.cls_score.weight *= 30
        model.roi_heads.box_predictor.bbox_pred.weight *= 10


def test_a_mask_rcnn_of_detectron2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written under detectron2's names and converted, a model finds what it found before."""
    torch.manual_seed(0)
    options = {"norm": "frozen", "geometry": "detectron2", "stride_in_1x1": True}
    model = maskrcnn.maskrcnn_resnet50_fpn(num_classes=81, **options).eval()
    sensible(model)
    names = pairs("resnet50")
    source = their_values(names, model.state_dict())
    source[f"{ANCHORS}0"] = np.array(
        [[-22.6274, -11.3137, 22.6274, 11.3137], [-16, -16, 16, 16], [-11.3137, -22.6274, 11.3137, 22.6274]]
    )
    path, out = tmp_path / "model_final.pkl", tmp_path / "out.safetensors"
    path.write_bytes(pickle.dumps({"model": source, "__author__": "me"}))
    assert main(["convert", str(path), str(out)]) == 0
    path.unlink()
    printed = capsys.readouterr().out
    for text in (
        "detectron2",
        "maskrcnn_resnet50_fpn",
        "stride_in_1x1 = True",
        "80: person, bicycle",
        "wrote",
    ):
        assert text in printed

    converted, metadata = load_model(out)
    _, started = build_with_weights("maskrcnn_resnet50_fpn", {"num_classes": 3}, str(out))
    with pytest.raises(ValueError, match=r"weights: \S* needs geometry='detectron2', got 'torchvision'"):
        maskrcnn.maskrcnn_resnet50_fpn(weights=out, num_classes=81)
    assert started.kwargs == options | {
        "norm_eps": 1e-5,
        "num_classes": 3,
    }  # training goes on in its geometry
    out.unlink()
    sizes = {"num_classes": 81, "norm_eps": 1e-5}
    assert metadata.description.kwargs == options | sizes
    assert [(c.id, c.name) for c in metadata.categories][10:13] == [
        (11, "fire hydrant"),
        (13, "stop sign"),
        (14, "parking meter"),
    ]
    images = [torch.rand(3, 60, 90)]
    found = []
    for each in (model, converted):
        each.transform.min_size = (64,)
        each.roi_heads.score_thresh, each.roi_heads.detections_per_img = 0.0, 10
        with torch.no_grad():
            found.append(each(images)[0])
    assert len(found[0]["boxes"]) == 10
    assert found[0]["labels"].tolist() == found[1]["labels"].tolist()
    for key in ("boxes", "scores", "masks"):
        torch.testing.assert_close(found[1][key], found[0][key], rtol=1e-3, atol=1e-3)
    state = converted.state_dict()
    for name, value in model.state_dict().items():
        if name == "backbone.body.conv1.weight":
            torch.testing.assert_close(state[name], value)
        elif "bbox_pred" not in name and "mask_fcn_logits" not in name:
            assert torch.equal(state[name], value), name


@pytest.mark.parametrize(
    ("preset", "body", "num_classes", "branches"),
    [
        ("maskrcnn_resnet101_fpn", "resnet101", 81, {}),
        ("maskrcnn_resnext101_32x8d_fpn", "resnext101_32x8d", 81, {}),
        ("fasterrcnn_resnext101_32x8d_fpn", "resnext101_32x8d", 81, {"masks": False}),
        ("keypointrcnn_resnet50_fpn", "resnet50", 2, {"masks": False, "keypoints": True}),
        ("keypointrcnn_resnext101_32x8d_fpn", "resnext101_32x8d", 2, {"masks": False, "keypoints": True}),
        ("keypointmaskrcnn_resnet50_fpn", "resnet50", 2, {"keypoints": True}),
        ("maskrcnn_resnet50_fpn", "resnet50", 5, {}),
    ],
)
def test_the_model_zoo_on_pyramids(
    preset: str, body: str, num_classes: int, branches: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = detectron2_zeros(preset, num_classes, pairs(body, **branches))
    monkeypatch.setattr(convert, "_read", lambda path: source)
    conversion = convert.read_checkpoint("model.pkl")
    assert conversion.layout == "detectron2"
    assert conversion.unmatched == conversion.missing == ()
    assert isinstance(conversion.metadata, Metadata)
    assert conversion.metadata.name == preset
    kwargs = conversion.metadata.description.kwargs
    assert kwargs["num_classes"] == num_classes
    assert kwargs.get("stride_in_1x1", False) == (body != "resnext101_32x8d")
    assert kwargs.get("num_keypoints") == (17 if "keypoints" in branches else None)
    first = conversion.metadata.categories[0]
    assert first.name == ("class 1" if num_classes == 5 else "person")
    assert len(first.keypoints) == (17 if "keypoints" in branches else 0)


@pytest.mark.parametrize("neck", ["c4", "dc5"])
def test_one_map(neck: str) -> None:
    """C4 and DC5 by names and shapes; 15 anchors on the one map, their rows in this package's order."""
    with torch.device("meta"):
        body = ResNet("resnet50", norm_factory("frozen")).state_dict()
    channels, side = (1024, 2048)[neck == "dc5"], (14, 7)[neck == "dc5"]
    shapes: dict[str, tuple[int, ...]] = {
        "rpn.head.conv.0.0": (channels, channels, 3, 3),
        "rpn.head.cls_logits": (15, channels, 1, 1),
        "rpn.head.bbox_pred": (60, channels, 1, 1),
        "roi_heads.box_head.fc6": (1024, channels * side * side),
        "roi_heads.box_head.fc7": (1024, 1024),
        "roi_heads.box_predictor.cls_score": (81, 2048 if neck == "c4" else 1024),
        "roi_heads.box_predictor.bbox_pred": (320, 2048 if neck == "c4" else 1024),
        **{f"roi_heads.mask_head.{i}.0": (256, 256 if i else channels, 3, 3) for i in range(4)},
        "roi_heads.mask_predictor.conv5_mask": (2048 if neck == "c4" else 256, 256, 2, 2),
        "roi_heads.mask_predictor.mask_fcn_logits": (80, 256, 1, 1),
    }
    names = pairs("resnet50", neck)
    source = {}
    for theirs, ours in names.items():
        layer, _, leaf = ours.rpartition(".")
        inside = ours.removeprefix("backbone.body.").removeprefix("roi_heads.shared_head.")
        if inside in body:
            shape = tuple(body[inside].shape)
        else:
            shape = (
                shapes[layer] if leaf == "weight" else (256 if "conv5_mask" in layer else shapes[layer][0],)
            )
        source[theirs] = torch.zeros(()).expand(shape)
    source["proposal_generator.rpn_head.objectness_logits.bias"] = torch.arange(15.0)
    source["proposal_generator.rpn_head.anchor_deltas.bias"] = torch.arange(60.0)
    layout, named, metadata = convert._recognised(source, Path("model.pkl"))
    assert layout == "detectron2"
    assert metadata.name == f"maskrcnn_resnet50_{neck}"
    assert set(named) == set(names.values())
    assert named["roi_heads.mask_predictor.mask_fcn_logits.weight"][0].shape == (81, 256, 1, 1)
    assert ("roi_heads.shared_head.layer4.2.bn3.running_var" in named) == (neck == "c4")
    assert ("backbone.body.layer4.2.bn3.running_var" in named) == (neck == "dc5")
    # Theirs: three ratios of size 32, then of 64 ...; ours: five sizes of ratio 1/2, then of 1 ...
    order = [0, 3, 6, 9, 12, 1, 4, 7, 10, 13, 2, 5, 8, 11, 14]
    assert named["rpn.head.cls_logits.bias"][0].tolist() == order
    deltas = [4 * anchor + i for anchor in order for i in range(4)]
    assert named["rpn.head.bbox_pred.bias"][0].tolist() == deltas


@pytest.mark.parametrize(
    "name", ["maskrcnn_resnet50_c4", "fasterrcnn_resnet101_c4", "maskrcnn_resnet101_dc5"]
)
def test_one_map_fits_its_preset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name and shape, and detectron2's res5: stride 2 on regions of 14 x 14, aligned, adaptively sampled."""
    kind, body, neck = name.split("_")
    source = detectron2_zeros(name, 81, pairs(body, neck, masks=kind == "maskrcnn"))
    monkeypatch.setattr(convert, "_read", lambda path: source)
    conversion = convert.read_checkpoint("in.pth")
    assert conversion.metadata.name == name
    assert (conversion.unmatched, conversion.missing) == ((), ())
    with torch.device("meta"):
        model = conversion.metadata.build()
    heads, side = model.roi_heads, 14 if neck == "c4" else 7
    pool = heads.box_roi_pool
    assert (pool.output_size, pool.aligned, pool.sampling_ratio) == ((side, side), True, 0)
    assert model.rpn.anchor_generator.strides == (16,)
    assert model.rpn.post_nms_top_n[1] == 1000
    if neck == "c4":
        assert heads.shared_head.layer4[0].conv1.stride == (2, 2)
        pooled = torch.zeros(1, 1024, 14, 14, device="meta")
        assert heads.shared_head(pooled).shape == (1, 2048, 7, 7)


def test_other_anchors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would fit by their shapes. On one map the sizes follow each other: the fourth anchor has side 64."""
    wide = torch.tensor([[-45.25483, -22.62742, 45.25483, 22.62742]])
    square = torch.tensor([[-32.0, -32, 32, 32]])
    level = torch.cat([wide, square, wide[:, [1, 0, 3, 2]]])
    assert detectron.has_known_anchors({f"{ANCHORS}1": level}, pyramid=True)
    assert not detectron.has_known_anchors({f"{ANCHORS}0": level}, pyramid=True)
    assert not detectron.has_known_anchors({f"{ANCHORS}5": level}, pyramid=True)
    single = torch.cat([level / 2, level, level * 2, level * 4, level * 8])
    assert detectron.has_known_anchors({f"{ANCHORS}0": single}, pyramid=False)
    assert not detectron.has_known_anchors({f"{ANCHORS}0": single.flip(0)}, pyramid=False)

    source = detectron2_zeros("maskrcnn_resnet50_fpn", 81, pairs("resnet50")) | {f"{ANCHORS}0": level}
    monkeypatch.setattr(convert, "_read", lambda path: source)
    with pytest.raises(CheckpointError, match=r"in\.pth: its anchors are not those of sizes 32 to 512"):
        convert.read_checkpoint("in.pth")


def detectron_names(body: str) -> dict[str, str]:
    """Detectron's names of a classifier's convolutions and norms, each with ours."""
    names = {"conv1_w": "conv1.weight", "res_conv1_bn_s": "bn1.weight", "res_conv1_bn_b": "bn1.bias"}
    for stage, count in enumerate(BLOCKS[body], start=1):
        branches = [(0, "1", "downsample.0", "downsample.1")]
        branches += [
            (b, f"2{'abc'[c]}", f"conv{c + 1}", f"bn{c + 1}") for b in range(count) for c in range(3)
        ]
        for block, branch, conv, norm in branches:
            theirs, ours = f"res{stage + 1}_{block}_branch{branch}", f"layer{stage}.{block}"
            names[f"{theirs}_w"] = f"{ours}.{conv}.weight"
            names[f"{theirs}_bn_s"] = f"{ours}.{norm}.weight"
            names[f"{theirs}_bn_b"] = f"{ours}.{norm}.bias"
    return names


def test_an_imagenet_backbone_of_detectron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier and the momenta are left out, scale and shift become a norm without statistics."""
    with torch.device("meta"):
        shapes = ResNet("resnet50", norm_factory("frozen")).state_dict()
    source = empty({theirs: shapes[ours] for theirs, ours in detectron_names("resnet50").items()})
    source["conv1_w"] = torch.rand(64, 3, 7, 7)
    source["res2_0_branch1_bn_s"] = torch.full((256,), 3.0)
    left_out = ("conv1_w_momentum", "fc1000_w", "fc1000_b", "pred_w", "conv1_b", "lr", "model_iter")
    source |= {name: torch.zeros(1) for name in left_out}
    monkeypatch.setattr(convert, "_read", lambda path: source)
    conversion = convert.read_checkpoint("R-50.pkl")
    assert (conversion.layout, conversion.metadata) == ("Detectron", BackboneMetadata("resnet50", True))
    assert conversion.unmatched == conversion.missing == ()

    body = ResNet("resnet50", norm_factory("frozen"), stride_in_1x1=True)
    body.load_state_dict(conversion.weights)
    ones = torch.ones(1, 256, 1, 1)
    torch.testing.assert_close(body.layer1[0].downsample[1](ones), 3 * ones, rtol=1e-7, atol=0)
    torch.testing.assert_close(
        body.conv1.weight, source["conv1_w"].flip(1) * torch.from_numpy(RGB_STD), rtol=1e-6, atol=0
    )

    out = tmp_path / "msra50.safetensors"
    conversion.save(out)
    assert conventions_of(out) == {"stride_in_1x1": True}
    with pytest.raises(ValueError, match=r"weights_backbone: \S* needs stride_in_1x1=True, got False"):
        maskrcnn.fasterrcnn_resnet50_fpn(weights_backbone=out)
    _, description = build_with_weights("fasterrcnn_resnet50_fpn", {"num_classes": 2}, None, str(out))
    assert description.kwargs == {"norm": "frozen", "stride_in_1x1": True, "num_classes": 2}
    out.unlink()


def test_blobs_of_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "R-50.pkl"
    blobs = {"res2_0_branch2a_w": np.zeros((64, 64, 1, 1), np.float64), "model_iter": 3, "weight_order": "x"}
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, 2))
    read = convert._read(path)
    assert list(read) == ["res2_0_branch2a_w"]
    assert read["res2_0_branch2a_w"].dtype == torch.float32


def test_a_checkpoint_of_its_own_training(tmp_path: Path) -> None:
    """Of detectron2, by ``torch.save``: the state dict beside what continues the training."""
    path = tmp_path / "model_0000005.pth"
    torch.save({"model": {"pixel_mean": torch.ones(3, 1, 1)}, "iteration": 5, "optimizer": {}}, path)
    assert list(convert._read(path)) == ["pixel_mean"]
    out = tmp_path / "ours.safetensors"
    description = ModelDescription("maskrcnn_tiny", {"num_classes": 2})
    save_weights(out, {"a": torch.zeros(1)}, Metadata(description, (), step=0))
    with pytest.raises(CheckpointError, match=r"is a file of this package already \(maskrcnn_tiny\)"):
        convert.read_checkpoint(out)


def test_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        detector = empty(maskrcnn.maskrcnn_resnet50_fpn(norm="frozen").state_dict())
        body = empty(ResNet("resnet34", norm_factory("batch")).state_dict())
    monkeypatch.setattr(convert, "_read", lambda path: detector)
    conversion = convert.read_checkpoint("maskrcnn.pth")
    assert conversion.layout == "torchvision"
    assert conversion.unmatched == conversion.missing == ()
    assert isinstance(conversion.metadata, Metadata)
    assert conversion.metadata.description.kwargs == {"num_classes": 91, "norm": "frozen", "norm_eps": 0.0}
    assert conversion.metadata.categories[12].name == "stop sign"
    monkeypatch.setattr(convert, "_read", lambda path: body | {"fc.weight": torch.zeros(1)})
    conversion = convert.read_checkpoint("resnet34.pth")
    assert conversion.metadata == BackboneMetadata("resnet34", False)
    assert conversion.unmatched == conversion.missing == ()


def test_unmatched_names_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = detectron2_zeros("maskrcnn_resnet50_fpn", 81, pairs("resnet50"))
    del source["roi_heads.mask_head.mask_fcn2.bias"]
    source["roi_heads.mask_iou_head.fc.weight"] = torch.zeros(2)
    source["backbone.fpn_output3.weight"] = torch.zeros(256, 256, 1, 1)
    monkeypatch.setattr(convert, "_read", lambda path: source)
    out = tmp_path / "out.safetensors"
    assert main(["convert", "in.pkl", str(out)]) == 2
    assert not out.exists()
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split()[1] for line in lines if line.startswith("unmatched")) == [
        "backbone.fpn_output3.weight",
        "roi_heads.mask_iou_head.fc.weight",
    ]
    missing = ["backbone.fpn.layer_blocks.1.0.weight", "roi_heads.mask_head.1.0.bias"]
    assert sorted(line.split()[1] for line in lines if line.startswith("missing")) == missing
    assert lines[-1] == (
        "maskrcnn convert: error: in.pkl: 2 unmatched and 2 missing names for maskrcnn_resnet50_fpn "
        "(--allow-unmatched converts the others)"
    )
    # Another model, told by its name, lacks the masks.
    assert main(["convert", "in.pkl", str(out), "--model", "fasterrcnn_resnet50_fpn"]) == 2
    assert "roi_heads.mask_head.deconv.weight" in capsys.readouterr().err


def test_unmatched_names_are_left_out_if_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = empty(ResNet("resnet18", norm_factory("frozen")).state_dict())
    del source["layer1.0.conv1.weight"]
    source["stranger"] = torch.zeros(1)
    monkeypatch.setattr(convert, "_read", lambda path: source)
    out = tmp_path / "out.safetensors"
    assert main(["convert", "in.pth", str(out), "--allow-unmatched"]) == 0
    assert "unmatched   stranger" in capsys.readouterr().err
    weights = maskrcnn.models.weights.read_weights(out)
    assert set(weights) == set(source) - {"stranger"} | {"layer1.0.conv1.weight"}
    assert weights["layer1.0.conv1.weight"].abs().sum() > 0
    out.unlink()


def test_files_that_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "in.pkl", tmp_path / "out.safetensors"
    for content, message in (
        (pickle.dumps([1, 2]), "expected a dictionary of arrays, got list"),
        (pickle.dumps({"a": np.zeros(1)}), r"the names of no known detector or ResNet (a, ...)"),
        (pickle.dumps({"proposal_generator.x": np.zeros(1)}), "of detectron2, but not an R-CNN"),
        (pickle.dumps({"res2_0_branch1_w": np.zeros(1)}), "of Detectron, but not a ResNet"),
        (b"cos\nsystem\n(S'touch executed'\ntR.", "refused, a pickle of weights holds arrays only"),
        (b"", "not a readable pickle"),
    ):
        path.write_bytes(content)
        assert main(["convert", str(path), str(out)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert main(["convert", str(path), "out.pth"]) == 2
    assert "expected a file name ending in .safetensors" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no such file"):
        convert.read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="needs converting: maskrcnn convert"):
        maskrcnn.fasterrcnn_resnet18_fpn(weights=path)
