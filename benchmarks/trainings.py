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
SAMPLED = 32  # regions of a training picture: half the demo's, for heads without a pyramid are slow
PICTURES = 200  # that a training is evaluated on
TRAININGS = "trainings.json"  # of all commands
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Variant:
    """A builder and its options; `published` is the paper's mask AP on COCO at full scale, where it has the row."""

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None


@dataclass(frozen=True)
class Trainings:
    """Those of the demo's recipe with some number of steps and seeds, kept in a file beside those of other numbers.

    Two commands may train into one file at a time: each takes over what the other has done.
    """

    path: Path
    steps: int
    seeds: int
    pictures: int

    def add_missing(self, variants: Iterable[Variant]) -> None:
        """Train what the file lacks, seed after seed, and save after each run."""
        from tqdm import tqdm

        wanted = {
            self._key(variant, seed): (variant, seed) for seed in range(self.seeds) for variant in variants
        }
        runs = self._read()["runs"]
        with tqdm([item for item in wanted.items() if item[0] not in runs], unit="run") as bar:
            for key, (variant, seed) in bar:
                if key in self._read()["runs"]:
                    continue
                bar.set_description(f"{variant.label}, seed {seed}")
                figures = train_and_evaluate(variant, self.steps, seed, self.pictures)
                runs = self._read()["runs"] | {key: figures}
                save(self.path, {"environment": environment.describe("cpu", None), "runs": runs})

    def of(self, variant: Variant) -> list[Figures]:
        """The figures of the seeds, as far as they are trained."""
        runs = self._read()["runs"]
        keys = [self._key(variant, seed) for seed in range(self.seeds)]
        return [runs[key] for key in keys if key in runs]

    def describe(self) -> str:
        """For the caption of a table."""
        facts = self._read()["environment"]
        return (
            f"{self.steps} steps of the demo's recipe on generated shapes, {self.seeds} seeds (mean ± standard "
            f"deviation of AP × 100, on {self.pictures} other pictures; torch {facts['torch']}, {facts['cpu']}, "
            f"{facts['date'][:10]}, commit {facts['commit']})"
        )

    def _key(self, variant: Variant, seed: int) -> str:
        facts = [variant.model, dict(variant.options), self.steps, seed, self.pictures]
        return json.dumps(facts, sort_keys=True)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"environment": environment.describe("cpu", None), "runs": {}}
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found


def train_and_evaluate(variant: Variant, steps: int, seed: int, pictures: int) -> dict[str, float]:
    """The demo's recipe on its shapes; the figures are those of pictures that no seed trains on."""
    from maskrcnn import demo
    from maskrcnn.checkpoint import ModelDescription
    from maskrcnn.evaluation import evaluate
    from maskrcnn.training import train

    training, _ = demo.datasets(steps, seed)
    validation = demo.shapes(pictures, seed=1_000_000)
    options = demo.model_options(training, variant.model, SAMPLED) | dict(variant.options)
    description = ModelDescription(variant.model, options)
    torch.manual_seed(seed)
    model = description.build()
    with tempfile.TemporaryDirectory() as folder:
        train(model, training, demo.recipe(steps, seed), folder, description=description, progress=False)
    metrics = evaluate(model, validation, progress=False).metrics()
    return {name: metrics[name] for name in FIGURES}


def spread(found: Sequence[Figures], name: str) -> str:
    """Mean and standard deviation of AP x 100; nothing where nothing is trained."""
    values = [100 * figures[name] for figures in found]
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def save(path: Path, results: Mapping[str, Any]) -> None:
    """Write JSON so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)
