"""The same training of our detector and of torchvision's: one loop, one loader, one recipe; seconds and AP."""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import environment, peers
from benchmarks.pretraining import BATCH, shapes
from benchmarks.trainings import FIGURES, counted, save, spread

MODELS = ("maskrcnn_tiny", "maskrcnn_resnet18_fpn")
SIDES = ("ours", "torchvision")
PICTURES = 200  # of shapes, to evaluate on
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """What is trained and evaluated on; shapes unless files are named."""

    files: tuple[Path, Path, Path, Path] | None
    pictures: int

    def training(self, steps: int, seed: int) -> Any:
        return self._coco(*self.files[:2]) if self.files else shapes(BATCH * steps, seed)

    def validation(self) -> Any:
        return self._coco(*self.files[2:]) if self.files else shapes(self.pictures, seed=1_000_000)

    def _coco(self, images: Path, annotations: Path) -> Any:
        from maskrcnn.data import CocoDataset

        return CocoDataset(images, annotations)


def train_and_evaluate(
    side: str, name: str, seed: int, data: Data, options: argparse.Namespace
) -> dict[str, Any]:
    """One training by the demo's recipe; its seconds are those of the training alone."""
    from maskrcnn import demo
    from maskrcnn.checkpoint import ModelDescription
    from maskrcnn.evaluation import evaluate
    from maskrcnn.training import train

    training, validation = data.training(options.steps, seed), data.validation()
    built = {
        "num_classes": training.num_classes,
        "min_size": options.min_size,
        "max_size": options.max_size,
        **({"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 20} if options.quick else {}),
    }
    torch.manual_seed(seed)
    model = build(side, name, built).to(options.device)
    recipe = replace(
        demo.recipe(options.steps, seed), evaluate_every=0, precision=options.precision, channels_last=True
    )
    with tempfile.TemporaryDirectory() as run:
        begun = time.perf_counter()
        train(
            model,
            training,
            recipe,
            run,
            description=ModelDescription(name, built),
            device=options.device,
            progress=False,
        )
        seconds = time.perf_counter() - begun
    metrics = evaluate(model.eval(), validation, progress=False).metrics()
    return {"seconds": round(seconds, 1), **{figure: metrics[figure] for figure in FIGURES}}


def build(side: str, name: str, options: Mapping[str, Any]) -> nn.Module:
    """Both from fresh weights, all layers trained."""
    import maskrcnn

    if side == "ours":
        return maskrcnn.build_model(name, **options)
    return peers.Trainable(getattr(peers, name)(**options))


def key(side: str, name: str, seed: int, options: argparse.Namespace) -> str:
    """What decides a training's figures."""
    data = [path.name for path in options.coco or ()]
    sizes = [options.steps, options.min_size, options.max_size, options.quick]
    return json.dumps([side, name, seed, options.device, options.precision, *sizes, *data])


def markdown(facts: Mapping[str, Any], runs: Sequence[Run], steps: int, quick: bool) -> str:
    seeds = len({run["seed"] for run in runs})
    where = facts.get("gpu") or f"{facts['cpu']}, {facts['threads']} threads"
    lines = [
        f"`python -m benchmarks rivals`: {steps} steps of {BATCH} pictures, {counted(seeds, 'seed')} (mean ± standard "
        f"deviation of AP × 100), from fresh weights by one loop, loader and recipe; {where}, torch {facts['torch']}, "
        f"torchvision {facts['torchvision']}, {facts['date'][:10]}, commit {facts['commit']}."
    ]
    if quick:
        lines.append("**Toy sizes: these figures mean nothing.**")
    lines += ["", "| | seconds | mask AP | AP50 | AP75 | box AP |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(run["model"] for run in runs):
        for side in SIDES:
            found = [run for run in runs if (run["model"], run["side"]) == (name, side)]
            seconds = f"{sum(run['seconds'] for run in found) / max(len(found), 1):.0f}"
            cells = [seconds, *(spread(found, figure) for figure in FIGURES)]
            lines.append(f"| `{name}`, {side} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m benchmarks rivals",
        description="Train our detectors and torchvision's by the same recipe, on generated shapes or on COCO-format "
        "data; write FOLDER/rivals.json and rivals.md. A training that is there is not done again.",
    )
    result.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    result.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    result.add_argument("--seeds", type=int, default=3)
    result.add_argument("--steps", type=int, default=400, help=f"of {BATCH} pictures (default: 400)")
    result.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    result.add_argument(
        "--min-size", type=int, default=128, help="of a picture's shorter side (default: 128)"
    )
    result.add_argument("--max-size", type=int, default=400, help="of the longer (default: 400)")
    result.add_argument(
        "--coco",
        nargs=4,
        type=Path,
        metavar=("IMAGES", "ANNOTATIONS", "VAL_IMAGES", "VAL_ANNOTATIONS"),
        help="instead of shapes",
    )
    result.add_argument(
        "--quick", action="store_true", help="toy sizes: shows that all works, measures nothing"
    )
    return result


def main(arguments: Sequence[str]) -> int:
    from tqdm import tqdm

    options = parser().parse_args(arguments)
    for name in ("seeds", "steps", "threads", "min_size", "max_size"):
        if getattr(options, name) < 1:
            parser().error(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}")
    if peers.version() is None:
        parser().error("torchvision cannot be imported, and it is the rival")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser().error("--device cuda: torch sees no GPU")
    torch.set_num_threads(options.threads)
    options.steps = 2 if options.quick else options.steps
    data = Data(tuple(options.coco) if options.coco else None, 4 if options.quick else PICTURES)
    path = options.output / "rivals.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    results["environment"] = environment.describe(options.device, peers.version())
    wanted = [(s, n, k) for k in range(options.seeds) for n in options.models for s in SIDES]
    runs = results["runs"]
    with tqdm(wanted, unit="run") as bar:
        for side, name, seed in bar:
            bar.set_description(f"{side}, {name}, seed {seed}")
            if key(side, name, seed, options) not in runs:
                found = train_and_evaluate(side, name, seed, data, options)
                runs[key(side, name, seed, options)] = {"side": side, "model": name, "seed": seed, **found}
                save(path, results)
    done = [runs[key(*each, options)] for each in wanted]
    text = markdown(results["environment"], done, options.steps, options.quick)
    (options.output / "rivals.md").write_text(text)
    print(text)
    return 0
