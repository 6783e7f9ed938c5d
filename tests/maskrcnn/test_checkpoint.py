"""Checkpoints: what is written, what is refused, and that it is there whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from training_toys import DESCRIPTION, ToyDataset, toy_detector

from maskrcnn.checkpoint import (
    CheckpointError,
    Metadata,
    ModelDescription,
    load_model,
    load_weights,
    read_pickle,
    read_training_state,
    read_weights,
    save_weights,
    write_checkpoint,
)
from maskrcnn.config import TrainingConfig
from maskrcnn.data import Category
from maskrcnn.output_folder import OutputFolder, list_checkpoints
from maskrcnn.training import train

CATEGORIES = (Category(1, "one"), Category(5, "two"))
CONFIG = TrainingConfig(steps=4, batch_size=2, warmup_steps=0, lr=0.01, checkpoint_every=1, keep_last=2)


def train_toy(output: Path, config: TrainingConfig = CONFIG) -> Path:
    return train(
        toy_detector(), ToyDataset(), config, output, description=DESCRIPTION, device="cpu", progress=False
    )


@pytest.fixture(scope="module")
def tiny() -> tuple[nn.Module, Metadata]:
    description = ModelDescription("maskrcnn_tiny", {"num_classes": 3, "box_detections_per_img": 7})
    return description.build(), Metadata(description, CATEGORIES, step=12)


# ---- the model that rebuilds itself ------------------------------------------------------------------


def test_folder_and_bare_file_rebuild_the_model(tmp_path: Path, tiny: tuple[nn.Module, Metadata]) -> None:
    model, metadata = tiny
    write_checkpoint(tmp_path, model.state_dict(), metadata, {"step": 12}, CONFIG)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors", "training.pt"]
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded, read = load_model(path)
        assert read == metadata
        assert not loaded.training
        assert loaded.roi_heads.detections_per_img == 7
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
    assert read_training_state(tmp_path) == ({"step": 12}, CONFIG)


def test_torchvision_state_dict_finds_its_builder(tmp_path: Path) -> None:
    from maskrcnn import fasterrcnn_resnet18_fpn

    model = fasterrcnn_resnet18_fpn(num_classes=4, norm="frozen", norm_eps=0.0)
    old = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for name, value in model.state_dict().items()
    }
    assert "rpn.head.conv.weight" in old
    for content in (old, {"model": old, "epoch": 3}):
        torch.save(content, tmp_path / "detector.pth")
        loaded, metadata = load_model(tmp_path / "detector.pth")
        assert metadata.description.name == "fasterrcnn_resnet18_fpn"
        assert metadata.categories == (Category(1, "class 1"), Category(2, "class 2"), Category(3, "class 3"))
        norms = [m for m in loaded.modules() if type(m).__name__ == "FrozenBatchNorm2d"]
        assert norms
        assert {norm.eps for norm in norms} == {0.0}
        assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())


def test_torchvision_keypoint_weights_find_their_builder(tmp_path: Path) -> None:
    from maskrcnn import keypointrcnn_resnet50_fpn

    model = keypointrcnn_resnet50_fpn(num_keypoints=5, norm="frozen", norm_eps=0.0)
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    loaded, metadata = load_model(tmp_path / "detector.pth")
    assert metadata.description.name == "keypointrcnn_resnet50_fpn"
    assert loaded.num_keypoints == 5


def test_categories_keep_their_keypoints() -> None:
    person = Category(1, "person", ("nose", "left_eye", "right_eye"), ((1, 2), (1, 3)))
    metadata = Metadata(ModelDescription("keypointrcnn_tiny", {}), (person,), step=3)
    assert Metadata.from_json(metadata.to_json()) == metadata


def test_unknown_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(toy_detector().state_dict(), tmp_path / "toy.pth")
    with pytest.raises(CheckpointError, match="does not say what its model is"):
        load_model(tmp_path / "toy.pth")
    model = toy_detector()
    nn.init.zeros_(model.classify.weight)
    load_weights(model, tmp_path / "toy.pth")
    assert torch.equal(model.classify.weight, toy_detector().classify.weight)


@pytest.mark.parametrize(
    ("start", "norm", "eps"),
    [({"weights": "a.pth"}, "frozen", 0.0), ({"weights_backbone": "a.pth"}, "frozen", 1e-5)],
)
def test_files_a_model_started_from_are_not_needed_again(
    start: dict[str, str], norm: str, eps: float
) -> None:
    model = ModelDescription("fasterrcnn_resnet18_fpn", {"num_classes": 3, **start}).build()
    layer = model.backbone.body.bn1
    assert type(layer).__name__ == "FrozenBatchNorm2d"
    assert layer.eps == eps


def test_mismatch_lists_a_few_names_of_each_kind(tmp_path: Path, tiny: tuple[nn.Module, Metadata]) -> None:
    model, metadata = tiny
    weights = dict(model.state_dict())
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(91)
    del weights["rpn.head.bbox_pred.bias"]
    weights |= {f"extra.{i}": torch.zeros(1) for i in range(5)}
    save_weights(tmp_path / "bad.safetensors", weights, metadata)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "bad.safetensors")
    text = str(error.value)
    assert "1 missing: rpn.head.bbox_pred.bias" in text
    assert "5 unexpected: extra.0, extra.1, extra.2, ..." in text
    assert "1 of another shape: roi_heads.box_predictor.cls_score.bias (expected [3], got [91])" in text
    assert "\n" not in text


def test_description_must_be_json() -> None:
    with pytest.raises(ValueError, match=r"kwargs\['norm'\]"):
        ModelDescription("maskrcnn_tiny", {"norm": nn.BatchNorm2d})
    assert ModelDescription("m", {"min_size": (1, 2)}).same_as(ModelDescription("m", {"min_size": [1, 2]}))


# ---- files that are refused --------------------------------------------------------------------------


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["HOSTILE_FOLDER"],))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path / "executed"))
    path = tmp_path / "hostile.pth"
    torch.save({"model": Hostile()}, path, _use_new_zipfile_serialization=not legacy)
    for read in (read_pickle, load_model, lambda p: load_weights(nn.Linear(1, 1), p)):
        with pytest.raises(CheckpointError, match="refused"):
            read(path)
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(CheckpointError, match="refused"):
        load_model(path)
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()  # the file was a threat indeed


def test_hostile_training_state_is_refused_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path / "executed"))
    last = train_toy(tmp_path / "run")
    torch.save({"step": Hostile()}, last / "training.pt")
    with pytest.raises(CheckpointError, match=r"training\.pt: refused"):
        train_toy(tmp_path / "run")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "training.pt", "config.json"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
def test_damaged_newest_checkpoint_is_reported(tmp_path: Path, file: str, damage: str) -> None:
    last = train_toy(tmp_path)
    if damage == "missing":
        (last / file).unlink()
    else:
        content = (last / file).read_bytes()
        (last / file).write_bytes(content[: len(content) // 2] if damage == "truncated" else b"garbage" * 9)
    with pytest.raises(CheckpointError, match="cannot resume") as error:
        train_toy(tmp_path)
    text = str(error.value)
    assert f"{last / file}: " in text
    assert "refused" not in text
    assert f"delete it to go on from {tmp_path / 'step_00000003'}" in text
    assert "\n" not in text


@pytest.mark.parametrize("metadata", [None, {"maskrcnn": "{}"}, {"maskrcnn": "no JSON"}])
def test_safetensors_of_another_program(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: (does not say|its metadata)"):
        load_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["none", "none.safetensors", "none.pth"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        load_model(tmp_path / name)


def test_builder_that_does_not_exist(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", {}, Metadata(ModelDescription("no_such_model"), CATEGORIES, 0))
    with pytest.raises(CheckpointError, match=r"cannot be built .*no_such_model"):
        load_model(tmp_path / "a.safetensors")


# ---- the folder --------------------------------------------------------------------------------------


def test_last_checkpoints_are_kept(tmp_path: Path) -> None:
    last = train_toy(tmp_path)
    assert last == tmp_path / "step_00000004"
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3, 4]
    assert sorted(os.listdir(tmp_path)) == [".lock", "metrics.jsonl", "step_00000003", "step_00000004"]
    _, metadata = read_weights(last / "model.safetensors")
    assert metadata == Metadata(DESCRIPTION, CATEGORIES, step=4)
    assert json.loads((last / "config.json").read_text())["keep_last"] == 2


def test_failed_write_leaves_no_checkpoint_and_is_cleaned(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    with OutputFolder(tmp_path) as folder, pytest.raises(OSError, match="no space"):
        folder.publish(5, fail, keep_last=1)
    assert list_checkpoints(tmp_path) == []
    (tmp_path / ".removing_step_00000001").mkdir()
    assert len(os.listdir(tmp_path)) == 3
    with OutputFolder(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]


def test_everything_is_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        events.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def watched_rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name} {Path(target).name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    with OutputFolder(tmp_path) as folder:
        for step in (1, 2):
            folder.publish(step, lambda path: (path / "file").write_bytes(b"x") and None, keep_last=1)
    temporary = ".writing_step_00000002"
    assert events[-5:] == [
        "fsync file",
        f"fsync {temporary}",
        f"rename {temporary} step_00000002",
        f"fsync {tmp_path.name}",
        "rename step_00000001 .removing_step_00000001",
    ]


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with OutputFolder(tmp_path), pytest.raises(BlockingIOError, match="another process is training"):
        train_toy(tmp_path)
    train_toy(tmp_path)


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as folder:
        folder.publish(1, lambda path: None, keep_last=1)
        with pytest.raises(FileExistsError):
            folder.publish(1, lambda path: None, keep_last=1)
