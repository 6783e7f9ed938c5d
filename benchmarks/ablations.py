"""The paper's ablations at a small scale: tiny detectors on generated shapes, each with several seeds.

python -m benchmarks ablations --output FOLDER      train what FOLDER lacks, then write the table and the plot
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.trainings import FIGURES, TRAININGS, Figures, Trainings, Variant, add_flags, spread

# Two-sided 95 % points of Student's t by degrees of freedom.
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}

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


def differences(found: Sequence[Figures], base: Sequence[Figures], name: str) -> tuple[float, bool]:
    """Mean difference of the runs of equal seeds, and whether a paired t-test at 95 % tells it from zero."""
    each = [a[name] - b[name] for a, b in zip(found, base, strict=True)]
    mean = statistics.fmean(each)
    if len(each) < 2:
        return mean, False
    bound = STUDENT.get(len(each) - 1, 2.0) * statistics.stdev(each) / len(each) ** 0.5
    return mean, abs(mean) > bound


def markdown(trainings: Trainings, quick: bool) -> str:
    """One table for each ablation: mean and spread over the seeds, and the difference from its last row."""
    lines = [
        f"`python -m benchmarks ablations`: {trainings.describe()}; "
        "the difference from a table's last row with a paired t-test at 95 %. "
        "Published: the paper's mask AP on COCO, of its full-size models.",
    ]
    if quick:
        lines.append("**Toy sizes: these figures mean nothing.**")
    for title, rows in TABLES.items():
        lines += [
            "",
            f"**{title}**",
            "",
            "| | mask AP | AP50 | AP75 | box AP | difference in mask AP | published |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        base = trainings.of(rows[-1])
        for variant in rows:
            found = trainings.of(variant)
            cells = [spread(found, name) for name in FIGURES]
            cells.append("" if variant is rows[-1] else compared(found, base))
            cells.append("" if variant.published is None else f"{variant.published:.1f}")
            lines.append(f"| {variant.label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def compared(found: Sequence[Figures], base: Sequence[Figures]) -> str:
    mean, significant = differences(found, base, FIGURES[0])
    return f"{100 * mean:+.1f}" + ("" if significant else " (not significant)")


def plot(trainings: Trainings, path: Path) -> None:
    """A panel for each table: bars of the means, dots for the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(8, 1.0 + 0.42 * sum(len(rows) + 1 for rows in TABLES.values())), layout="constrained"
    )
    heights = [len(rows) + 0.6 for rows in TABLES.values()]
    panels = figure.subplots(len(TABLES), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(panels, TABLES.items(), strict=True):
        for place, variant in enumerate(reversed(rows)):
            values = [100 * figures[FIGURES[0]] for figures in trainings.of(variant)]
            axes.barh(place, statistics.fmean(values), color="tab:blue", alpha=0.35)
            axes.plot(values, [place] * len(values), "o", color="tab:blue", markersize=4)
        axes.set_yticks(range(len(rows)), [variant.label for variant in reversed(rows)], fontsize=8)
        axes.set_title(title, fontsize=9, loc="left")
    panels[-1].set_xlabel("mask AP × 100 (bars: mean; dots: seeds)")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ablations",
        description=f"Train the paper's ablations at a small scale, into FOLDER/{TRAININGS}; then write "
        "FOLDER/ablations.md and .png. A training that is there is not done again, so that an interrupted command goes "
        "on.",
    )
    add_flags(parser)
    options = parser.parse_args(arguments)
    for name in ("seeds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    torch.set_num_threads(options.threads)
    trainings = Trainings.of_options(options)
    trainings.add_missing([variant for rows in TABLES.values() for variant in rows])
    text = markdown(trainings, options.quick)
    (options.output / "ablations.md").write_text(text)
    plot(trainings, options.output / "ablations.png")
    print(text)
    return 0
