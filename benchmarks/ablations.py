"""The paper's ablations at a small scale: tiny detectors on generated shapes, each with several seeds.

python -m benchmarks ablations --output FILE.json      train what FILE.json lacks, then write the table and the plot
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment

# Two-sided 95 % points of Student's t by degrees of freedom.
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
FIGURES = ("segm/AP", "segm/AP50", "segm/AP75", "bbox/AP")
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


C4, C5, FPN = "maskrcnn_tiny_c4", "maskrcnn_tiny_c5", "maskrcnn_tiny"

# The last row of a table is what the others are compared with.
TABLES: dict[str, list[Variant]] = {
    "RoI layer, stride 16 (C4)": [
        Variant("RoIPool, max", C4, {"roi_layer": "pool"}, 26.9),
        Variant("RoIWarp, max", C4, {"roi_layer": "warp_max"}, 27.2),
        Variant("RoIWarp, average", C4, {"roi_layer": "warp"}, 27.1),
        Variant("RoIAlign, max", C4, {"roi_layer": "align_max"}, 30.2),
        Variant("RoIAlign, average", C4, {}, 30.3),
    ],
    "RoI layer, stride 32 (C5)": [
        Variant("RoIPool", C5, {"roi_layer": "pool"}, 23.6),
        Variant("RoIAlign", C5, {}, 30.9),
    ],
    "Mask loss (C4)": [
        Variant("softmax over classes", C4, {"mask_loss": "softmax"}, 24.8),
        Variant("sigmoid for each class", C4, {}, 30.3),
    ],
    "Masks of classes (C4)": [
        Variant("class-agnostic", C4, {"class_agnostic_masks": True}, 29.7),
        Variant("class-specific", C4, {}, 30.3),
    ],
    "Mask branch (FPN)": [
        Variant("MLP, two hidden layers", FPN, {"mask_head": "mlp2"}, 31.5),
        Variant("MLP, three hidden layers", FPN, {"mask_head": "mlp3"}, 31.5),
        Variant("FCN", FPN, {}, 33.6),
    ],
    "Backbone feature": [
        Variant("C5, stride 32", C5, {}, None),
        Variant("C5 dilated, stride 16", "maskrcnn_tiny_dc5", {}, None),
        Variant("C4, stride 16", C4, {}, 30.3),
        Variant("FPN, strides 4 to 32", FPN, {}, 33.6),
    ],
}


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


def wanted(steps: int, seeds: int) -> dict[str, tuple[Variant, int]]:
    """The runs of all tables, each once."""
    variants = [variant for rows in TABLES.values() for variant in rows]
    return {variant.key(steps, seed): (variant, seed) for seed in range(seeds) for variant in variants}


def differences(found: Sequence[Figures], base: Sequence[Figures], name: str) -> tuple[float, bool]:
    """Mean difference of the runs of equal seeds, and whether a paired t-test at 95 % tells it from zero."""
    each = [a[name] - b[name] for a, b in zip(found, base, strict=True)]
    mean = statistics.fmean(each)
    if len(each) < 2:
        return mean, False
    bound = STUDENT.get(len(each) - 1, 2.0) * statistics.stdev(each) / len(each) ** 0.5
    return mean, abs(mean) > bound


def markdown(results: Mapping[str, Any]) -> str:
    """One table for each ablation: mean and spread over the seeds, and the difference from its last row."""
    steps, seeds, facts = results["steps"], results["seeds"], results["environment"]
    lines = [
        f"`python -m benchmarks ablations`: ResNet-18 detectors from random weights, {steps} steps of the demo's "
        f"recipe on generated shapes, {seeds} seeds (mean ± standard deviation of AP × 100, on "
        f"{results['pictures']} other pictures); the difference from a table's last row with a paired t-test at 95 %. "
        "Published: the paper's mask AP on COCO, of its full-size models. "
        f"torch {facts['torch']}, {facts['cpu']}, {facts['date'][:10]}, commit {facts['commit']}.",
    ]
    if results.get("quick"):
        lines.append("**Toy sizes: these figures mean nothing.**")
    for title, rows in TABLES.items():
        lines += [
            "",
            f"**{title}**",
            "",
            "| | mask AP | AP50 | AP75 | box AP | difference in mask AP | published |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        base = runs_of(rows[-1], results)
        for variant in rows:
            found = runs_of(variant, results)
            cells = [spread(found, name) for name in FIGURES]
            cells.append("" if variant is rows[-1] else compared(found, base))
            cells.append("" if variant.published is None else f"{variant.published:.1f}")
            lines.append(f"| {variant.label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def runs_of(variant: Variant, results: Mapping[str, Any]) -> list[Figures]:
    return [results["runs"][variant.key(results["steps"], seed)] for seed in range(results["seeds"])]


def spread(found: Sequence[Figures], name: str) -> str:
    values = [100 * figures[name] for figures in found]
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def compared(found: Sequence[Figures], base: Sequence[Figures]) -> str:
    mean, significant = differences(found, base, FIGURES[0])
    return f"{100 * mean:+.1f}" + ("" if significant else " (not significant)")


def plot(results: Mapping[str, Any], path: Path) -> None:
    """A panel for each table: bars of the means, dots for the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(8, 1.0 + 0.42 * sum(len(rows) + 1 for rows in TABLES.values())), layout="constrained"
    )
    heights = [len(rows) + 0.6 for rows in TABLES.values()]
    panels = figure.subplots(len(TABLES), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(panels, TABLES.items(), strict=True):
        for place, variant in enumerate(reversed(rows)):
            values = [100 * figures[FIGURES[0]] for figures in runs_of(variant, results)]
            axes.barh(place, statistics.fmean(values), color="tab:blue", alpha=0.35)
            axes.plot(values, [place] * len(values), "o", color="tab:blue", markersize=4)
        axes.set_yticks(range(len(rows)), [variant.label for variant in reversed(rows)], fontsize=8)
        axes.set_title(title, fontsize=9, loc="left")
    panels[-1].set_xlabel("mask AP × 100 (bars: mean; dots: seeds)")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def progress(runs: Mapping[str, tuple[Variant, int]]) -> Iterator[tuple[str, tuple[Variant, int]]]:
    from tqdm import tqdm

    with tqdm(runs.items(), unit="run") as bar:
        for key, (variant, seed) in bar:
            bar.set_description(f"{variant.label}, seed {seed}")
            yield key, (variant, seed)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ablations",
        description="Train the paper's ablations at a small scale. A run that FILE.json holds is not done again, so "
        "that an interrupted command goes on.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="of eight pictures (default: 300)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two steps, four pictures: shows that all works")
    options = parser.parse_args(arguments)
    steps, pictures = (2, 4) if options.quick else (options.steps, 200)
    for name in ("seeds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    torch.set_num_threads(options.threads)
    results = _load(options.output, {"steps": steps, "seeds": options.seeds, "pictures": pictures})
    results["quick"] = options.quick
    missing = {key: run for key, run in wanted(steps, options.seeds).items() if key not in results["runs"]}
    for key, (variant, seed) in progress(missing):
        results["runs"][key] = train_and_evaluate(variant, steps, seed, pictures)
        results["environment"] = environment.describe("cpu", None)
        save(options.output, results)
    text = markdown(results)
    options.output.with_suffix(".md").write_text(text)
    plot(results, options.output.with_suffix(".png"))
    print(text)
    return 0


def _load(path: Path, scale: dict[str, int]) -> dict[str, Any]:
    """Runs of an earlier command, if they were evaluated alike."""
    if not path.exists():
        return {**scale, "runs": {}}
    results = json.loads(path.read_text())
    if results["pictures"] != scale["pictures"]:
        raise SystemExit(f"--output {path}: expected runs evaluated on {scale['pictures']} pictures")
    return results | scale


def save(path: Path, results: Mapping[str, Any]) -> None:
    """Write JSON so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)
