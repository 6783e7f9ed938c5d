"""The command line: what it teaches, what it refuses in one line, the way from pictures to predictions."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from maskrcnn.cli import COMMANDS, main
from maskrcnn.cli.common import Parser, UsageError
from maskrcnn.cli.fields import add_flags, field_docstrings, field_names, from_flags
from maskrcnn.config import TrainingConfig


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ---- help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = call(capsys, command, "--help")
    assert status == 0
    assert out.count(f"  maskrcnn {command}") >= 2


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom maskrcnn.cli import main\ntry:\n    main(['train', '--help'])\nfinally:\n"
    code += "    assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--batch-size N" in done.stdout


# ---- flags from a dataclass ------------------------------------------------------------------------------


def parse(*flags: str) -> TrainingConfig:
    parser = Parser()
    add_flags(parser, TrainingConfig, "recipe")
    return from_flags(TrainingConfig, parser.parse_args(flags))


def test_every_field_has_a_flag_a_help_text_and_its_default() -> None:
    assert parse() == TrainingConfig()
    assert set(field_docstrings(TrainingConfig)) == set(field_names(TrainingConfig))


def test_flags_of_every_type() -> None:
    config = parse(
        *("--steps", "50", "--lr", "1e-3", "--optimizer", "adamw", "--betas", "0.8", "0.9"),
        *("--milestones", "10", "20", "--clip-grad-norm", "5", "--replacement", "--no-decay-norm-and-bias"),
    )
    expected = dataclasses.replace(
        TrainingConfig(),
        steps=50,
        lr=1e-3,
        optimizer="adamw",
        betas=(0.8, 0.9),
        milestones=(10, 20),
        clip_grad_norm=5.0,
        replacement=True,
        decay_norm_and_bias=False,
    )
    assert config == expected
    assert parse("--clip-grad-norm", "none").clip_grad_norm is None


def test_a_value_that_the_dataclass_refuses_names_the_flag() -> None:
    with pytest.raises(UsageError, match=r"^--warmup-steps: expected an integer of at least 0, got -1"):
        parse("--warmup-steps", "-1")


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "arguments are required: COMMAND"),
        ("fly", "invalid choice: 'fly'"),
        ("train", "arguments are required: --output"),
        ("train --output out --lr fast", "--lr: invalid float value: 'fast'"),
        ("train --output out --lr -1", "--lr: expected a number above 0"),
        ("train --output out --images pictures", "--images was given without --annotations"),
        ("train --output out --val-images pictures", "--val-images was given without --val-annotations"),
        ("train --output out --images pictures --annotations no.json", "no.json"),
        ("train --output out --images pictures --annotations broken.json", "broken.json"),
        ("train --output out --model resnet", "--model resnet: model: expected one of maskrcnn_"),
        ("train --output out --option depth=3", "depth"),
        ("train --output out --option depth", "--option: expected NAME=VALUE"),
        ("train --output out --anchor-sizes 8 16", "anchor_sizes: expected 5"),
        ("train --output out --weights no.pth", "no.pth: no such checkpoint"),
        ("train --output out --weights broken.pth", "broken.pth: not a readable checkpoint"),
        ("train --output out --backbone-weights no.pth", "no.pth: no such checkpoint"),
        ("train --output out --backbone-weights broken.safetensors", "broken.safetensors: not a readable"),
        (
            "train --output out --precision float16 --device cpu",
            "--precision: expected 'float32' or 'bfloat16'",
        ),
        ("train --output out --weights a --backbone-weights b", "exclude each other"),
        ("train --output out --resume", "--resume: out holds no checkpoint"),
        ("train --output out --resume --fresh", "not allowed with argument --resume"),
        ("train --output out --device tpu9", "--device: cannot use 'tpu9'"),
        ("eval nowhere", "nowhere: no such checkpoint"),
        ("eval pictures", "pictures: no checkpoint in this folder"),
        ("eval broken.pth", "broken.pth: bare weights say nothing about their model; name it with --model"),
        ("eval broken.safetensors", "broken.safetensors: not a readable safetensors file"),
        ("eval x --max-detections 100 10 1", "--max-detections: expected"),
        ("eval x --batch-size 0", "--batch-size: expected at least 1, got 0"),
        (
            "predict nowhere broken.pth --score-threshold 2",
            "--score-threshold: expected a number from 0 to 1",
        ),
        ("predict nowhere no.png", "no.png: no such file or folder"),
        ("predict nowhere empty", "empty: no pictures in this folder"),
        ("predict nowhere pictures", "nowhere: no such checkpoint"),
        ("info nowhere", "nowhere: no such checkpoint"),
        ("demo --steps 0", "--steps: expected at least 1, got 0"),
        ("demo --output pictures", "pictures: holds files that are not a demo's"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    if arguments.startswith("demo --output"):
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for folder in ("pictures", "empty"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a.png")
    for name in ("broken.json", "broken.pth", "broken.safetensors"):
        (tmp_path / name).write_text("{nonsense")
    status, out, err = call(capsys, *arguments.split())
    assert status == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("maskrcnn")


def test_a_pickle_with_code_is_refused_without_running_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": argparse.Namespace}, tmp_path / "evil.pth")
    status, _, err = call(capsys, "train", "--output", tmp_path / "out", "--weights", tmp_path / "evil.pth")
    assert status == 2
    assert "could execute code" in err


def test_the_traceback_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "eval", "nowhere", "--traceback")
    assert status == 2
    assert "Traceback (most recent call last)" in err


@pytest.mark.parametrize(("kind", "expected"), [("NonFiniteError", 1), ("KeyboardInterrupt", 130)])
def test_a_run_that_fails_or_is_interrupted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    expected: int,
) -> None:
    from maskrcnn.run import NonFiniteError

    failure = {
        "NonFiniteError": NonFiniteError("losses are not finite"),
        "KeyboardInterrupt": KeyboardInterrupt(),
    }

    def fail(*_: object, **__: object) -> None:
        raise failure[kind]

    monkeypatch.setattr("maskrcnn.training.train", fail)
    status, _, err = call(capsys, "train", "--output", tmp_path)
    assert status == expected
    assert err in ("maskrcnn train: error: losses are not finite\n", "maskrcnn train: interrupted\n")


def test_faults_of_the_program_are_not_taken_for_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskrcnn.cli.info._print_versions", lambda: [][1])
    with pytest.raises(IndexError):
        main(["info"])


# ---- the whole way ---------------------------------------------------------------------------------------

TINY = ("--min-size", "64", "--max-size", "64", "--steps", "2", "--batch-size", "2", "--warmup-steps", "0")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from maskrcnn.data import ShapesDataset

    folder = tmp_path_factory.mktemp("shapes")
    ShapesDataset(3, 64, seed=0).export(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """The folder of a run of two steps."""
    output = tmp_path_factory.mktemp("run")
    data = ("--images", shapes / "images", "--annotations", shapes / "instances.json")
    validation = ("--val-images", shapes / "images", "--val-annotations", shapes / "instances.json")
    arguments = ("train", *data, *validation, "--output", output, *TINY, "--quiet")
    assert main([*map(str, arguments), "--anchor-sizes", "8", "16", "32", "64", "128"]) == 0
    return output


def test_training_leaves_a_checkpoint_and_metrics(trained: Path) -> None:
    assert (trained / "step_00000002" / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert {"bbox/AP", "segm/AP"} < set(lines[-1]["evaluation"])


def test_eval_prints_24_figures_and_writes_them(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--images", shapes / "images", "--annotations", shapes / "instances.json")
    status, out, _ = call(
        capsys, "eval", trained, *data, "--output", tmp_path / "eval", "--categories", "--quiet"
    )
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:1].strip()}
    assert len(rows["bbox"]) == len(rows["segm"]) == 12
    assert len(rows["star"]) == 6
    figures = json.loads((tmp_path / "eval" / "figures.json").read_text())
    assert len(figures["figures"]) == 24
    assert f"{figures['figures']['segm/AR100']:.3f}" == rows["segm"][8]
    assert isinstance(json.loads((tmp_path / "eval" / "results.json").read_text()), list)


def test_eval_refuses_other_categories(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = json.loads((shapes / "instances.json").read_text())
    other["categories"][0]["name"] = "disc"
    (tmp_path / "other.json").write_text(json.dumps(other))
    data = ("--images", shapes / "images", "--annotations", tmp_path / "other.json")
    status, _, err = call(capsys, "eval", trained, *data, "--output", tmp_path / "eval")
    assert status == 2
    assert "no category 1 'disc'" in err
    assert err.count("\n") == 1


def test_predict_skips_a_bad_picture_and_says_so_in_its_status(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_text("nonsense")
    picture = shapes / "images" / "000001.png"
    arguments = ("--output", tmp_path / "out", "--score-threshold", "0", "--quiet")
    status, out, err = call(capsys, "predict", trained, picture, tmp_path / "bad.png", *arguments)
    assert status == 1
    assert "in 1 pictures" in out
    assert "1 pictures could not be read" in err
    assert (tmp_path / "out" / "overlays" / "000001.jpg").is_file()
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["categories"][3]["name"] == "star"
    status, _, err = call(capsys, "predict", trained, picture, *arguments)
    assert (status, err) == (0, "")


def test_boxes_suffice_for_faster_rcnn(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((shapes / "instances.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    data = ("--images", shapes / "images", "--annotations", tmp_path / "boxes.json", "--quiet")
    run = ("train", *data, "--output", tmp_path / "run", *TINY[:4], "--steps", "1", "--batch-size", "1")
    status, _, err = call(capsys, *run)
    assert status == 2
    assert "segmentation" in err
    assert call(capsys, *run, "--model", "fasterrcnn_resnet18_fpn")[0] == 0
    status, out, _ = call(capsys, "eval", tmp_path / "run", *data, "--output", tmp_path / "eval")
    assert status == 0
    assert "bbox" in out
    assert "segm" not in out


def test_given_proposals_from_training_to_predictions(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ground truth's boxes, moved a little, stand for another detector's."""
    content = json.loads((shapes / "instances.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"][0] += 1
    (tmp_path / "boxes.json").write_text(json.dumps(content["annotations"]))
    (tmp_path / "pictures.json").write_text(json.dumps(content))
    data = ("--images", shapes / "images", "--annotations", shapes / "instances.json", "--quiet")
    validation = ("--val-images", shapes / "images", "--val-annotations", shapes / "instances.json")
    run = ("train", "--output", tmp_path / "run", *TINY, *data, *validation)
    proposals = ("--proposals", tmp_path / "boxes.json")

    refused = {
        ("--model", "fastrcnn_tiny"): "--proposals: needed, as the model has no RPN",
        ("--model", "fastrcnn_tiny", *proposals): "--val-proposals: needed",
        proposals: "--proposals: given, but the model proposes regions itself",
    }
    for flags, message in refused.items():
        status, _, err = call(capsys, *run, *flags)
        assert status == 2
        assert message in err
    given = (*proposals, "--val-proposals", tmp_path / "boxes.json")
    assert call(capsys, *run, "--model", "fastrcnn_tiny", *given)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]["losses"]) == {"loss_classifier", "loss_box_reg"}
    assert "bbox/AP" in lines[-1]["evaluation"]

    evaluation = ("eval", tmp_path / "run", *data, "--output", tmp_path / "eval")
    assert call(capsys, *evaluation)[0] == 2
    assert call(capsys, *evaluation, *proposals)[0] == 0
    prediction = ("predict", tmp_path / "run", shapes / "images", "--output", tmp_path / "found", "--quiet")
    assert call(capsys, *prediction, "--proposals", tmp_path / "pictures.json")[0] == 0
    content["images"].pop()
    (tmp_path / "fewer.json").write_text(json.dumps(content))
    status, _, err = call(capsys, *prediction, "--proposals", tmp_path / "fewer.json")
    assert status == 2
    assert "fewer.json lists no picture 000003.png" in err


@pytest.mark.parametrize("name", ["msrcnn_tiny", "cascademaskrcnn_tiny"])
def test_relatives_from_training_to_predictions(
    name: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--images", shapes / "images", "--annotations", shapes / "instances.json", "--quiet")
    few = ("rpn_post_nms_top_n_train=50", "rpn_post_nms_top_n_test=30", "box_score_thresh=0")
    options = [flag for option in few for flag in ("--option", option)]
    run = tmp_path / "run"
    assert call(capsys, "train", "--model", name, "--output", run, *TINY, *data, *options)[0] == 0
    assert call(capsys, "eval", run, *data, "--output", tmp_path / "eval")[0] == 0
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    judged = [result for result in results if "mask_score" in result]
    assert len(judged) == (len(results) if name == "msrcnn_tiny" else 0)
    assert all(result["mask_score"] <= result["score"] for result in judged)
    found = ("predict", run, shapes / "images", "--output", tmp_path / "found", "--quiet")
    assert call(capsys, *found, "--score-threshold", "0")[0] == 0
    written = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert len(written["annotations"]) > 0


def test_keypoints_from_training_to_predictions(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every shape gets two keypoints; their number goes into the model, their names into the predictions."""
    content = json.loads((shapes / "instances.json").read_text())
    for category in content["categories"]:
        category |= {"keypoints": ["left_end", "right_end"], "skeleton": [[1, 2]]}
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["keypoints"] = [x, y + height / 2, 2, x + width, y + height / 2, 1]
    (tmp_path / "ends.json").write_text(json.dumps(content))
    data = ("--images", shapes / "images", "--annotations", tmp_path / "ends.json", "--quiet")
    validation = ("--val-images", shapes / "images", "--val-annotations", tmp_path / "ends.json")
    run = ("train", "--model", "keypointrcnn_tiny", "--output", tmp_path / "run", *TINY)
    sigmas = ("--keypoint-sigmas", "0.05", "0.05")

    status, _, err = call(capsys, *run)
    assert status == 2
    assert "--images, --annotations: a model with keypoints needs them" in err
    status, _, err = call(
        capsys, *run, "--images", shapes / "images", "--annotations", shapes / "instances.json"
    )
    assert status == 2
    assert "annotation 1: it has no keypoints" in err
    status, _, err = call(capsys, *run, *data, *validation)
    assert status == 2
    assert "--keypoint-sigmas: keypoint_sigmas: expected 2 positive numbers" in err

    assert call(capsys, *run, *data, *validation, *sigmas)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "loss_keypoint" in lines[0]["losses"]
    assert {"bbox/AP", "keypoints/AP"} < set(lines[-1]["evaluation"])
    status, out, err = call(capsys, "eval", tmp_path / "run", *data, *sigmas, "--output", tmp_path / "eval")
    assert status == 0, err
    assert "keypoints" in out
    status, _, _ = call(
        capsys, "predict", tmp_path / "run", shapes / "images", "--output", tmp_path / "found", "--quiet"
    )
    assert status == 0
    written = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert written["categories"][0]["skeleton"] == [[1, 2]]


def test_info_tells_what_a_checkpoint_holds(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "info", trained)
    assert status == 0
    for text in ("maskrcnn_tiny", "anchor_sizes = [8, 16, 32, 64, 128]", "step        2", "4 star"):
        assert text in out


def test_info_tells_versions_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "info")
    assert status == 0
    for text in (torch.__version__, "operators"):
        assert text in out
    assert re.search(r"maskrcnn_resnet50_fpn +44\.5 million parameters", out)


def test_the_same_command_resumes_and_fresh_refuses(
    trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--images", shapes / "images", "--annotations", shapes / "instances.json")
    sizes = ("--anchor-sizes", "8", "16", "32", "64", "128")
    again = ("train", *data, "--output", trained, *TINY, *sizes, "--quiet")
    assert call(capsys, *again, "--resume")[0] == 0
    status, _, err = call(capsys, *again, "--fresh")
    assert status == 2
    assert "holds checkpoints already" in err
    status, _, err = call(capsys, *again, "--lr", "0.5")
    assert status == 2
    assert "lr: 0.02 -> 0.5" in err
    assert err.count("\n") == 1


def test_weights_for_other_classes_start_the_predictors_anew(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskrcnn.cli.weights import build_with_weights

    options = {"num_classes": 3, "min_size": 64}
    model, description = build_with_weights("maskrcnn_tiny", options, str(trained))
    assert description.kwargs == options
    assert "start anew" in capsys.readouterr().err
    assert model.num_classes == 3
    from maskrcnn.checkpoint import read_weights

    weights, _ = read_weights(trained / "step_00000002" / "model.safetensors")
    body = "backbone.body.layer3.0.conv1.weight"
    torch.testing.assert_close(model.state_dict()[body], weights[body])
    same, _ = build_with_weights("maskrcnn_tiny", {"num_classes": 5}, str(trained))
    for name, value in same.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_bare_weights_with_the_name_of_their_model(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskrcnn.checkpoint import read_weights

    weights, _ = read_weights(trained / "step_00000002" / "model.safetensors")
    torch.save(weights, tmp_path / "bare.pth")
    arguments = ("predict", tmp_path / "bare.pth", shapes / "images", "--output", tmp_path / "out", "--quiet")
    assert call(capsys, *arguments, "--model", "maskrcnn_tiny")[0] == 0
    listed = json.loads((tmp_path / "out" / "predictions.json").read_text())["categories"]
    assert [category["name"] for category in listed] == ["class 1", "class 2", "class 3", "class 4"]
    status, _, err = call(capsys, *arguments, "--model", "maskrcnn_resnet18_fpn")
    assert status == 2
    assert "do not fit" in err
    assert err.count("\n") == 1


def test_coco_names_stand_at_their_ids() -> None:
    from maskrcnn.data.coco_names import COCO_NAMES

    assert len(COCO_NAMES) == 90
    assert sum(map(bool, COCO_NAMES)) == 80
    for number, name in ((1, "person"), (13, "stop sign"), (62, "chair"), (72, "tv"), (90, "toothbrush")):
        assert COCO_NAMES[number - 1] == name
