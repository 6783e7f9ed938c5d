"""Short trainings to compare: a variant of a model, a seed, and the figures they reach. Each is done once, and kept."""

import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment

FIGURES = ("segm/AP", "segm/AP50", "segm/AP75", "bbox/AP")
PICTURES = 200  # that a training is evaluated on
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Variant:
    """A builder and its options; `published` is the paper's mask AP on COCO at full scale, where it has the row."""

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None

    def key(self, steps: int, seed: int) -> str:
        return json.dumps([self.model, dict(self.options), steps, seed], sort_keys=True)


def train_and_evaluate(variant: Variant, steps: int, seed: int, pictures: int) -> dict[str, float]:
    """The demo's recipe on its shapes; the figures are those of pictures that no seed trains on."""
    from maskrcnn import demo
    from maskrcnn.checkpoint import ModelDescription
    from maskrcnn.evaluation import evaluate
    from maskrcnn.training import train

    training, _ = demo.datasets(steps, seed)
    validation = demo.shapes(pictures, seed=1_000_000)
    description = ModelDescription(variant.model, demo.model_options(training) | dict(variant.options))
    torch.manual_seed(seed)
    model = description.build()
    with tempfile.TemporaryDirectory() as folder:
        train(model, training, demo.recipe(steps, seed), folder, description=description, progress=False)
    metrics = evaluate(model, validation, progress=False).metrics()
    return {name: metrics[name] for name in FIGURES}


def train_missing(variants: Iterable[Variant], results: dict[str, Any], path: Path) -> None:
    """Train what ``results["runs"]`` lacks, seed after seed, and save after each run."""
    from tqdm import tqdm

    steps, seeds, variants = results["steps"], results["seeds"], list(variants)
    wanted = {variant.key(steps, seed): (variant, seed) for seed in range(seeds) for variant in variants}
    with tqdm([item for item in wanted.items() if item[0] not in results["runs"]], unit="run") as bar:
        for key, (variant, seed) in bar:
            bar.set_description(f"{variant.label}, seed {seed}")
            results["runs"][key] = train_and_evaluate(variant, steps, seed, results["pictures"])
            results["environment"] = environment.describe("cpu", None)
            save(path, results)


def runs_of(variant: Variant, results: Mapping[str, Any]) -> list[Figures]:
    """The figures of the seeds, as far as they are trained."""
    keys = [variant.key(results["steps"], seed) for seed in range(results["seeds"])]
    return [results["runs"][key] for key in keys if key in results["runs"]]


def spread(found: Sequence[Figures], name: str) -> str:
    """Mean and standard deviation of AP x 100; nothing where nothing is trained."""
    values = [100 * figures[name] for figures in found]
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def load(path: Path, scale: Mapping[str, Any], steps: int, seeds: int) -> dict[str, Any]:
    """What an earlier command left at `path`, if it was of the same `scale`; other steps and seeds stand beside it."""
    results: dict[str, Any] = {**scale, "rows": {}, "runs": {}}
    if path.exists():
        results = json.loads(path.read_text())
        differing = [name for name, value in scale.items() if results[name] != value]
        if differing:
            raise ValueError(
                f"{path}: expected results of the same {' and '.join(differing)}; it holds others"
            )
    return results | {"steps": steps, "seeds": seeds}


def save(path: Path, results: Mapping[str, Any]) -> None:
    """Write JSON so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)
