"""The command that trains torchvision's detectors by our loop, at toy sizes."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import peers, rivals

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("name", rivals.MODELS)
def test_both_sides_have_the_same_parameters(name: str) -> None:
    with torch.device("meta"):
        ours = rivals.build("ours", name, {"num_classes": 3})
        theirs = rivals.build("torchvision", name, {"num_classes": 3})
    assert isinstance(theirs, peers.Trainable)
    state = {key: value.shape for key, value in ours.state_dict().items()}
    assert state == {key: value.shape for key, value in theirs.model.state_dict().items()}
    trained = [key for key, parameter in ours.named_parameters() if parameter.requires_grad]
    assert trained == [key for key, parameter in theirs.model.named_parameters() if parameter.requires_grad]


@pytest.mark.slow
def test_a_toy_run_goes_on(tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path), "--quick", "--models", "maskrcnn_tiny", "--seeds"]
    assert rivals.main([*arguments, "1"]) == 0
    first = json.loads((tmp_path / "rivals.json").read_text())["runs"]
    assert {run["side"] for run in first.values()} == {"ours", "torchvision"}
    assert all(run["seconds"] > 0 for run in first.values())
    assert rivals.main([*arguments, "2"]) == 0
    runs = json.loads((tmp_path / "rivals.json").read_text())["runs"]
    assert len(runs) == 4
    assert all(runs[key] == run for key, run in first.items())
    assert "| `maskrcnn_tiny`, torchvision |" in (tmp_path / "rivals.md").read_text()
