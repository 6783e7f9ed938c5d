"""The whole line in a few minutes: shapes, training, evaluation, prediction, and RoIAlign beside RoIPool."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

import maskrcnn_ops as ops
from maskrcnn.checkpoint import ModelDescription
from maskrcnn.config import TrainingConfig
from maskrcnn.data import ShapesDataset
from maskrcnn.evaluation import Evaluation, evaluate
from maskrcnn.models.builders import BUILDERS
from maskrcnn.models.recipes import BoxRecipe
from maskrcnn.plots import plot_metrics, require_matplotlib
from maskrcnn.prediction import predict
from maskrcnn.training import train
from maskrcnn.visualization import contact_sheet, draw_instances, to_picture

MODEL = "maskrcnn_tiny"
SIZE = 128  # side of the pictures, in pixels
MAX_OBJECTS = 5
BATCH = 8
STEPS = 500
# Small pictures with few objects need few candidates; this halves the time of an evaluation.
FEW_REGIONS = {
    "rpn_pre_nms_top_n_train": 300,
    "rpn_post_nms_top_n_train": 150,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_test": 150,
}
MARKER = "README.txt"  # lists the files; also tells that a folder is a demo's and may be written over
TITLE = "Written by `maskrcnn demo`."


def run_demo(
    output: str | os.PathLike[str],
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Train a ``maskrcnn_tiny`` on built-in shapes, measure it and leave pictures to look at.

    Args:
        output: folder of all files; made anew if an earlier demo wrote it.
        steps: of training, eight pictures each.
        seed: of the shapes and of the training.
        device: where to train and to time the operators.
        progress: show progress bars on stderr.

    Returns:
        The evaluation on pictures that were not trained on.

    Raises:
        FileExistsError: ``output`` holds files of something else.
        ImportError: matplotlib, which draws the curves, is not installed.
    """
    require_matplotlib()  # now, not after the training
    folder = _empty_folder(Path(output))
    training, validation = datasets(steps, seed)
    contact_sheet(_examples(training), columns=6, cell=2 * SIZE).save(folder / "shapes.png")
    _say(f"shapes to learn from: {folder / 'shapes.png'}")

    model, evaluation = _train(training, validation, folder, steps, seed, device, progress)
    print(evaluation.table() + "\n\n" + evaluation.category_table())
    figures = {"figures": evaluation.metrics(), "categories": evaluation.categories}
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    plot_metrics(folder / "run" / "metrics.jsonl", folder / "curves.png")

    _say("objects found in new pictures")
    pictures = _write_pictures(validation, folder / "pictures", count=12)
    prediction = predict(model, validation.categories, pictures, folder, device=device, progress=progress)
    overlays = []
    for path in prediction.overlays:
        with Image.open(path) as overlay:
            overlays.append(overlay.convert("RGB"))
    contact_sheet(overlays, columns=3, cell=512).save(folder / "overlays.png")

    _say("RoIAlign against RoIPool, 1000 regions of a map with 256 channels, 7 x 7 each, median milliseconds")
    table = _timing_table(time_pooling(device, progress=progress))
    print(table)
    (folder / "timing.txt").write_text(table + "\n")
    _list_files(folder)
    return evaluation


def shapes(count: int, seed: int) -> ShapesDataset:
    """Pictures of the demo's kind, each drawn when it is needed."""
    return ShapesDataset(count, SIZE, seed=seed, max_objects=MAX_OBJECTS)


def datasets(steps: int, seed: int) -> tuple[ShapesDataset, ShapesDataset]:
    """For training, every picture once, and for validation."""
    return shapes(BATCH * steps, seed), shapes(60, seed + 1)


def model_options(dataset: ShapesDataset, model: str = MODEL, sampled: int = 64) -> dict[str, Any]:
    """Of a tiny detector for these pictures, whose heads, if it is of two stages, train on so many regions each."""
    options = {
        "num_classes": dataset.num_classes,
        "min_size": SIZE,
        "max_size": SIZE,
        "box_detections_per_img": 50,
    }
    regions = FEW_REGIONS | {"box_batch_size_per_image": sampled}
    return options | (regions if isinstance(BUILDERS[model].boxes, BoxRecipe) else {})


def recipe(steps: int, seed: int) -> TrainingConfig:
    """A short training from random weights."""
    return TrainingConfig(
        steps=steps,
        batch_size=BATCH,
        seed=seed,
        optimizer="adamw",  # at so few steps far ahead of SGD: three times its AP after 400
        lr=0.002,
        weight_decay=0.01,
        warmup_steps=min(50, steps),
        schedule="cosine",
        clip_grad_norm=10.0,
        evaluate_every=-(-steps // 4),  # rounded up, so that the last one comes at the end
        checkpoint_every=0,
    )


def _train(
    training: ShapesDataset,
    validation: ShapesDataset,
    folder: Path,
    steps: int,
    seed: int,
    device: torch.device | str,
    progress: bool,
) -> tuple[nn.Module, Evaluation]:
    """A trained model and its last evaluation."""
    config = recipe(steps, seed)
    description = ModelDescription(MODEL, model_options(training))
    torch.manual_seed(seed)
    model = description.build()
    evaluations: list[Evaluation] = []

    def validate(candidate: nn.Module) -> Mapping[str, float]:
        evaluations.append(evaluate(candidate, validation, progress=progress))
        return evaluations[-1].metrics()

    _say(f"training a maskrcnn_tiny for {steps} steps of {config.batch_size} pictures")
    train(
        model,
        training,
        config,
        folder / "run",
        description=description,
        validation=validate,
        device=device,
        progress=progress,
    )
    return model, evaluations[-1]


def _examples(dataset: ShapesDataset, count: int = 12) -> list[Image.Image]:
    """Rows of six pictures, each followed by the same six with their objects drawn in."""
    pictures: list[Image.Image] = []
    for start in range(0, count, 6):
        samples = [dataset[place] for place in range(start, start + 6)]
        pictures += [to_picture(image) for image, _ in samples]
        pictures += [
            draw_instances(
                image,
                target["boxes"],
                target["masks"].decode(),
                target["labels"],
                None,
                dataset.categories,
                smallest_side=2 * SIZE,
            )
            for image, target in samples
        ]
    return pictures


def _write_pictures(dataset: ShapesDataset, folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = []
    for place in range(count):
        paths.append(folder / f"shapes_{place:02}.png")
        to_picture(dataset.image(place)).save(paths[-1])
    return paths


def time_pooling(
    device: torch.device | str = "cpu", repeats: int = 9, progress: bool = True
) -> dict[tuple[str, str], float]:
    """Median milliseconds of RoIAlign and RoIPool, forward and backward, in turns.

    The case is a stride-4 map of an 800 x 1216 picture with 256 channels, and 1000 regions with sides up to
    0.3 of the picture.
    """
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1000, 2, generator=generator) * torch.tensor([1216.0, 800.0]) * 0.7
    sides = torch.rand(1000, 2, generator=generator) * torch.tensor([1216.0, 800.0]) * 0.3
    regions = torch.cat([torch.zeros(1000, 1), corners, corners + sides], dim=1).to(device)
    features = torch.randn(1, 256, 200, 304, generator=generator).to(device).requires_grad_()
    operators: dict[str, Callable[[], Tensor]] = {
        "RoIAlign": lambda: ops.roi_align(features, regions, 7, 0.25, sampling_ratio=2, aligned=True),
        "RoIPool": lambda: ops.roi_pool(features, regions, 7, 0.25),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for turn in tqdm(range(repeats + 1), desc="time", unit="turn", disable=not progress):
        for name, pool in operators.items():
            output, forward = _milliseconds(pool)
            backward = _milliseconds(partial(_backward, output, features, torch.ones_like(output)))[1]
            if turn > 0:  # the first warms up
                times.setdefault((name, "forward"), []).append(forward)
                times.setdefault((name, "backward"), []).append(backward)
    return {key: statistics.median(values) for key, values in times.items()}


def _backward(output: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
    return torch.autograd.grad(output, features, gradient)[0]


def _milliseconds(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    output = function()
    if output.is_cuda:
        torch.cuda.synchronize(output.device)
    return output, 1000 * (time.perf_counter() - start)


def _timing_table(times: Mapping[tuple[str, str], float]) -> str:
    lines = [f"{'':<10}{'forward':>10}{'backward':>10}"]
    for name in ("RoIAlign", "RoIPool"):
        lines.append(f"{name:<10}{times[name, 'forward']:10.1f}{times[name, 'backward']:10.1f}")
    return "\n".join(lines)


def _empty_folder(folder: Path) -> Path:
    """A new folder, in the place of an earlier demo's if there is one."""
    marker = folder / MARKER
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not marker.is_file() or not marker.read_text().startswith(TITLE):
            raise FileExistsError(
                f"{folder}: holds files that are not a demo's; choose another output folder"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(TITLE + "\n")
    return folder


def _list_files(folder: Path) -> None:
    meanings = {
        "shapes.png": "some of the training pictures, without and with their objects",
        "curves.png": "losses, average precision and learning rate over the steps",
        "figures.json": "COCO's figures of the trained model",
        "overlays.png": "all overlays on one sheet",
        "overlays/": "what the model finds in new pictures",
        "pictures/": "those pictures",
        "predictions.json": "the same objects as COCO JSON, masks as RLE",
        "timing.txt": "RoIAlign against RoIPool",
        "run/": "checkpoint and metrics.jsonl: for `maskrcnn predict`, `eval` and `info`",
    }
    width = max(len(os.path.join(folder, name)) for name in meanings)
    lines = [f"  {os.path.join(folder, name):<{width}}  {meaning}" for name, meaning in meanings.items()]
    missing = [name for name in meanings if not (folder / name).exists()]
    assert not missing, f"the demo did not write {missing}"
    _say("files")
    print("\n".join(lines))
    (folder / MARKER).write_text("\n".join([TITLE, "", *lines, ""]))


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
