"""The commands of the benchmarks that need the models, at toy sizes; the ablations' statistics by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ablations, instances, presets, pretraining
from benchmarks.ablations import FPN, differences
from benchmarks.trainings import Variant
from maskrcnn import demo
from maskrcnn.models.builders import BUILDERS, build_model


def test_paired_test_by_hand() -> None:
    """Differences 1, 2, 3: deviation 1, bound 4.30 / sqrt(3) = 2.48; of 2, 2, 3: deviation 0.577, bound 1.43."""
    base = [{"x": 10.0}, {"x": 20.0}, {"x": 30.0}]
    assert differences([{"x": 11.0}, {"x": 22.0}, {"x": 33.0}], base, "x") == (2.0, False)
    mean, significant = differences([{"x": 12.0}, {"x": 22.0}, {"x": 33.0}], base, "x")
    assert mean == pytest.approx(7 / 3)
    assert significant
    assert differences([{"x": 11.0}], base[:1], "x") == (1.0, False)


def test_rows_name_presets_and_options_that_exist() -> None:
    with torch.device("meta"):
        for rows in ablations.TABLES.values():
            for variant in rows:
                BUILDERS[variant.model](num_classes=5, **variant.options)


@pytest.mark.slow
def test_interrupted_runs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    tables = {"Mask loss": [Variant("softmax", FPN, {"mask_loss": "softmax"}, 1.5), Variant("sigmoid", FPN)]}
    monkeypatch.setattr(ablations, "TABLES", tables)
    output = tmp_path / "some"
    arguments = ["--output", str(output), "--quick", "--threads", "1", "--seeds"]
    assert ablations.main([*arguments, "1"]) == 0
    first = json.loads((output / "trainings.json").read_text())["runs"]
    assert ablations.main([*arguments, "2"]) == 0
    runs = json.loads((output / "trainings.json").read_text())["runs"]
    assert len(first) == 2
    assert len(runs) == 4
    assert all(runs[key] == figures for key, figures in first.items())
    table = (output / "ablations.md").read_text()
    assert "| softmax |" in table
    assert "(not significant) | 1.5 |" in table
    assert "Toy sizes" in table
    assert (output / "ablations.png").stat().st_size > 5000


@pytest.mark.slow
def test_presets_in_figures(tmp_path: Path) -> None:
    """The multiply-adds of the tiny one's first convolution are counted by hand; a row is not measured twice."""
    output = tmp_path / "presets.json"
    quick = ["--output", str(tmp_path), "--quick", "--threads", "1"]
    arguments = [*quick, "--names"]
    assert presets.main([*arguments, "keypointmaskrcnn_tiny", "fastrcnn_tiny", "--no-training"]) == 0
    first = json.loads(output.read_text())["rows"]
    assert presets.main([*arguments, "keypointmaskrcnn_tiny", "maskrcnn_tiny", "--no-training"]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert {name: rows[name] for name in first} == first
    assert rows["maskrcnn_tiny"]["parameters"] > 12e6
    assert rows["maskrcnn_tiny"]["detections"] == rows["keypointmaskrcnn_tiny"]["detections"] == 300
    assert rows["fastrcnn_tiny"]["detections"] > 100  # of 1000 overlapping proposals
    stem = 3 * 64 * 49 * 32 * 48  # of a batch of 64 x 96
    assert 5 * stem < rows["maskrcnn_tiny"]["macs"] < 500 * stem
    assert presets.main([*arguments, "keypointmaskrcnn_tiny", "maskrcnn_tiny"]) == 0
    assert json.loads(output.read_text())["rows"] == rows
    trained = json.loads((tmp_path / "trainings.json").read_text())["runs"]
    assert [json.loads(key)[0] for key in trained] == ["maskrcnn_tiny"]
    assert "| `maskrcnn_tiny` |" in (tmp_path / "presets.md").read_text()
    with pytest.raises(SystemExit) as stopped:
        presets.main(["--output", str(tmp_path)])
    assert stopped.value.code == 2


@pytest.mark.slow
def test_memory_of_instances(tmp_path: Path) -> None:
    """Every work and count has its figure; a process that may not take enough memory says so."""
    assert (
        instances.main(["--output", str(tmp_path), "--quick", "--threads", "1", "--counts", "1", "40"]) == 0
    )
    rows = json.loads((tmp_path / "instances.json").read_text())["rows"]
    assert [(row["work"], row["count"]) for row in rows] == [
        ("evaluation", 1),
        ("evaluation", 40),
        ("training", 1),
        ("training", 40),
    ]
    assert all(row["ours"] > 0 for row in rows)
    assert "Toy sizes" in (tmp_path / "instances.md").read_text()
    assert instances.measure("evaluation", "ours", 1, instances.QUICK_SIZE, 1, 10**8) is None


def test_crops_by_hand() -> None:
    """A picture as bright as its column: around the box 40 to 60, 1.5 times as wide, the mean is that of the centre."""
    columns = torch.arange(128, dtype=torch.uint8).expand(3, 128, 128)
    target = {"boxes": torch.tensor([[40.0, 30, 60, 50]]), "labels": torch.tensor([3])}
    images, labels = pretraining.crops([(columns, target)], range(1))  # type: ignore[arg-type]
    assert images.shape == (1, 3, 64, 64)
    assert labels.tolist() == [3]
    red = (images[0, 0] * 0.229 + 0.485) * 255
    torch.testing.assert_close(red.mean(), torch.tensor(50 - 0.5), rtol=0, atol=1e-3)
    cell = 30 / 64
    torch.testing.assert_close(red[:, 0], torch.full((64,), 35 + cell / 2 - 0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", presets.TRAINED)
def test_trained_presets_take_the_options_of_the_demo(name: str) -> None:
    training, _ = demo.datasets(1, 0)
    with torch.device("meta"):
        build_model(name, **demo.model_options(training, name))
