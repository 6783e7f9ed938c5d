"""Published weights by a word, from a folder in the place of the network."""

from __future__ import annotations

import enum
import hashlib
from pathlib import Path

import pytest
import torch

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.cli import main
from maskrcnn.cli.models import load
from maskrcnn.cli.weights import build_with_weights
from maskrcnn.models import ResNet, published
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.published import PublishedWeightsError
from maskrcnn.models.resnet import BODIES

SMALL = {"num_classes": 3, "box_roi_pool": ops.MultiScaleRoIAlign(["0"], 1, 2)}
CLASSES = torch.full((3,), 0.25)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that files are fetched from, with weights of two models; torch.hub's folder is another."""
    folder = tmp_path / "source"
    folder.mkdir()
    monkeypatch.setattr(published, "SOURCE", folder.as_uri() + "/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folder


def publish(
    source: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, word: str
) -> str:
    """Put a file into the source, named with its checksum, and into the tables for ResNet-18."""
    torch.save(weights, source / "weights")
    name = f"resnet18-{hashlib.sha256((source / 'weights').read_bytes()).hexdigest()[:8]}.pth"
    (source / "weights").rename(source / name)
    if word == "coco":
        monkeypatch.setitem(published.DETECTORS["coco"], "fasterrcnn_resnet18_fpn", name)
    else:
        monkeypatch.setitem(published.BACKBONES[word], "resnet18", name)
    return name


def test_a_detector_and_a_backbone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = maskrcnn.fasterrcnn_resnet18_fpn(**SMALL, norm="frozen").state_dict()
    weights["roi_heads.box_predictor.cls_score.bias"] = CLASSES
    name = publish(source, weights, monkeypatch, "coco")
    model = maskrcnn.fasterrcnn_resnet18_fpn(weights="coco", **SMALL)
    assert model.roi_heads.box_predictor.cls_score.bias.tolist() == CLASSES.tolist()
    assert model.backbone.body.bn1.eps == 0  # as for the path of the file
    assert (tmp_path / "hub" / "checkpoints" / name).exists()
    (source / name).unlink()  # the second time nothing is fetched
    maskrcnn.fasterrcnn_resnet18_fpn(weights="coco", **SMALL)

    body = ResNet("resnet18", norm_factory("batch")).state_dict()
    publish(source, {**body, "fc.weight": torch.zeros(1)}, monkeypatch, "imagenet")
    model = maskrcnn.fasterrcnn_resnet18_fpn(weights_backbone="imagenet", **SMALL)
    assert torch.equal(model.backbone.body.conv1.weight, body["conv1.weight"])
    assert not model.backbone.body.conv1.weight.requires_grad

    model, description = build_with_weights("maskrcnn_tiny", {"num_classes": 3}, None, "imagenet")
    assert torch.equal(model.backbone.body.conv1.weight, body["conv1.weight"])
    assert description.kwargs == {"norm": "frozen", "num_classes": 3}


def test_a_wrong_checksum(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = publish(source, {"conv1.weight": torch.zeros(1)}, monkeypatch, "coco")
    intact = (source / name).read_bytes()
    (source / name).write_bytes(intact[:-1])
    with pytest.raises(PublishedWeightsError, match=rf"{name}: invalid hash value"):
        maskrcnn.fasterrcnn_resnet18_fpn(weights="coco", **SMALL)
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []

    (source / name).write_bytes(intact)
    path = published.fetch(name)
    assert path.read_bytes() == intact
    path.write_bytes(b"damaged")
    with pytest.raises(
        PublishedWeightsError, match=rf"{name}: its SHA-256 begins with .* not with .* delete it"
    ):
        published.fetch(name)


def test_no_file_and_no_network(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PublishedWeightsError, match=r"cannot download file://\S*resnet18-f37072fd\.pth: "):
        maskrcnn.fasterrcnn_resnet18_fpn(weights_backbone="imagenet", **SMALL)
    monkeypatch.setattr(published, "SOURCE", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(PublishedWeightsError, match=r"cannot download http://127\.0\.0\.1:9/resnet18"):
        published.fetch("resnet18-f37072fd.pth")


def test_no_such_weights(source: Path) -> None:
    with pytest.raises(
        PublishedWeightsError, match=r'no published weights "coco" for fasterrcnn_resnet18_fpn'
    ):
        maskrcnn.fasterrcnn_resnet18_fpn(weights="coco", **SMALL)
    with pytest.raises(
        PublishedWeightsError, match=r'no published weights "imagenet_v2" for resnet18; there'
    ):
        maskrcnn.fasterrcnn_resnet18_fpn(weights_backbone="imagenet_v2", **SMALL)


def test_what_torchvision_calls_them(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = ResNet("resnet18", norm_factory("batch")).state_dict()
    name = publish(source, body, monkeypatch, "imagenet")

    class ResNet18_Weights(enum.Enum):
        IMAGENET1K_V1 = f"https://elsewhere/{name}"

        @property
        def url(self) -> str:
            return self.value

    for weights in ("IMAGENET1K_V1", ResNet18_Weights.IMAGENET1K_V1):
        model = maskrcnn.fasterrcnn_resnet18_fpn(weights_backbone=weights, **SMALL)
        assert torch.equal(model.backbone.body.conv1.weight, body["conv1.weight"])


def test_weights_that_are_none() -> None:
    with pytest.raises(TypeError, match=r"^weights: expected None, a state dict, the path .*, got 3$"):
        maskrcnn.fasterrcnn_resnet18_fpn(3)
    with pytest.raises(TypeError, match=r"^weights_backbone: expected None, .*, got True$"):
        maskrcnn.fasterrcnn_resnet18_fpn(weights_backbone=True)


def test_every_published_name_has_a_model_and_a_checksum() -> None:
    for table, known in ((published.DETECTORS, maskrcnn.models.BUILDERS), (published.BACKBONES, BODIES)):
        for files in table.values():
            assert set(files) <= set(known)
            for name in files.values():
                assert len(name.removesuffix(".pth").rpartition("-")[2]) == 8


def test_on_the_command_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = maskrcnn.fasterrcnn_resnet18_fpn(num_classes=91, norm="frozen").state_dict()
    publish(source, weights, monkeypatch, "coco")
    model, categories = load("coco", "fasterrcnn_resnet18_fpn")
    assert torch.equal(model.rpn.head.cls_logits.weight, weights["rpn.head.cls_logits.weight"])
    assert (categories[12].id, categories[12].name) == (13, "stop sign")
    trained, _ = build_with_weights("fasterrcnn_resnet18_fpn", {"num_classes": 3}, "coco")
    assert torch.equal(trained.rpn.head.cls_logits.weight, weights["rpn.head.cls_logits.weight"])
    capsys.readouterr()

    for arguments, message in (
        (["predict", "coco", "x.jpg"], "published weights of which model? Name it with --model: maskrcnn_"),
        (
            ["predict", "coco", "x.jpg", "--model", "maskrcnn_tiny"],
            'no published weights "coco" for maskrcnn_tiny',
        ),
    ):
        (tmp_path / "x.jpg").touch()
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
