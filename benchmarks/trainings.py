"""Short trainings to compare: a variant of a model, a seed, and the figures they reach. Each is done once, and kept."""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.pretraining import BATCH, pretrained_resnet, shapes
from benchmarks.pretraining import STEPS as PRETRAINING_STEPS

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
    """Those with some number of steps and seeds, kept in a file beside those of other numbers.

    Two commands may train into one file at a time: each takes over what the other has done. Who changes the recipe
    removes the file.
    """

    path: Path
    steps: int
    seeds: int
    pictures: int = PICTURES
    pretraining: int = PRETRAINING_STEPS

    @classmethod
    def of_options(cls, options: argparse.Namespace) -> "Trainings":
        """With the flags that :func:`add_flags` adds."""
        path = options.output / TRAININGS
        if options.quick:
            return cls(path, 2, options.seeds, pictures=4, pretraining=2)
        return cls(path, options.steps, options.seeds)

    def add_missing(self, variants: Iterable[Variant]) -> None:
        """Train what the file lacks, seed after seed, and save after each run."""
        from tqdm import tqdm

        variants = list(variants)
        wanted = {self._key(each, seed): (each, seed) for seed in range(self.seeds) for each in variants}
        runs = self._read()["runs"]
        with tqdm([item for item in wanted.items() if item[0] not in runs], unit="run") as bar:
            for key, (variant, seed) in bar:
                if key in self._read()["runs"]:
                    continue
                bar.set_description(f"{variant.label}, seed {seed}")
                figures = self.train_and_evaluate(variant, seed)
                runs = self._read()["runs"] | {key: figures}
                save(self.path, {"environment": environment.describe("cpu", None), "runs": runs})

    def train_and_evaluate(self, variant: Variant, seed: int) -> dict[str, float]:
        """The demo's recipe from a pretrained ResNet; the figures are those of pictures that no seed trains on."""
        from maskrcnn import demo
        from maskrcnn.checkpoint import ModelDescription
        from maskrcnn.evaluation import evaluate
        from maskrcnn.training import train

        training, validation = shapes(BATCH * self.steps, seed), shapes(self.pictures, seed=1_000_000)
        options = demo.model_options(training, variant.model, SAMPLED) | dict(variant.options)
        description = ModelDescription(variant.model, options)
        weights = pretrained_resnet(self.path.parent, self.pretraining)
        torch.manual_seed(seed)
        model = description.build()
        body: Any = model.get_submodule("backbone.body")
        body.load_state_dict({name: weights[name] for name in body.state_dict()})  # of C4 three stages
        recipe = replace(demo.recipe(self.steps, seed), evaluate_every=0)
        with tempfile.TemporaryDirectory() as run:
            train(model, training, recipe, run, description=description, progress=False)
        metrics = evaluate(model, validation, progress=False).metrics()
        return {name: metrics[name] for name in FIGURES}

    def of(self, variant: Variant) -> list[Figures]:
        """The figures of the seeds, as far as they are trained."""
        runs = self._read()["runs"]
        keys = [self._key(variant, seed) for seed in range(self.seeds)]
        return [runs[key] for key in keys if key in runs]

    def describe(self) -> str:
        """For the caption of a table."""
        facts = self._read()["environment"]
        return (
            "ResNet-18 that has learnt to classify crops, all layers trained for "
            f"{self.steps} steps of eight generated pictures of large shapes, {counted(self.seeds, 'seed')} (mean ± "
            f"standard deviation of AP × 100, on {self.pictures} other pictures; torch {facts['torch']}, "
            f"{facts['cpu']}, {facts['date'][:10]}, commit {facts['commit']})"
        )

    def _key(self, variant: Variant, seed: int) -> str:
        facts = [variant.model, dict(variant.options), self.pretraining, self.steps, seed, self.pictures]
        return json.dumps(facts, sort_keys=True)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"environment": environment.describe("cpu", None), "runs": {}}
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What commands that train have in common."""
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3, help="of the trainings (default: 3)")
    parser.add_argument(
        "--steps", type=int, default=150, help="of a training, of eight pictures (default: 150)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="toy sizes: shows that all works, measures nothing"
    )


def counted(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
