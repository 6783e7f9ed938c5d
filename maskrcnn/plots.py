"""Curves of a training run, from its ``metrics.jsonl``. Needs matplotlib, which only this file uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.metrics import read_metrics

FIGURES = {  # of an evaluation: label, colour, line
    "bbox/AP": ("box AP", "#d95f02", "-"),
    "bbox/AP50": ("box AP50", "#d95f02", ":"),
    "segm/AP": ("mask AP", "#1b6ca8", "-"),
    "segm/AP50": ("mask AP50", "#1b6ca8", ":"),
    "keypoints/AP": ("keypoint AP", "#2e8b57", "-"),
    "keypoints/AP50": ("keypoint AP50", "#2e8b57", ":"),
}


def plot_metrics(metrics: str | os.PathLike[str], picture: str | os.PathLike[str]) -> Path:
    """Draw losses, average precision and learning rate over the steps of a run.

    Args:
        metrics: a ``metrics.jsonl`` written by training.
        picture: the file to write; its suffix chooses the format (.png, .svg, .pdf).

    Returns:
        ``picture`` as a path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the file holds no training step, or is malformed.
    """
    plt = require_matplotlib()
    records = read_metrics(metrics)
    training = [record for record in records if "losses" in record]
    evaluations = [record for record in records if "evaluation" in record]
    if not training:
        raise ValueError(f"{os.fspath(metrics)}: expected at least one training step, found none")
    figure, axes = plt.subplots(
        1, 3 if evaluations else 2, figsize=(14 if evaluations else 10, 4.2), squeeze=False
    )
    try:
        _plot_losses(axes[0, 0], training)
        if evaluations:
            _plot_precision(axes[0, 1], evaluations)
        _plot_rate(axes[0, -1], training)
        for axis in axes[0]:
            axis.set_xlabel("step")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(picture, dpi=130)
    finally:
        plt.close(figure)
    return Path(picture)


def require_matplotlib() -> Any:
    """``matplotlib.pyplot``, drawing into files only; where it is not installed, one line says so."""
    try:
        import matplotlib
    except ImportError as error:
        message = "plots need matplotlib, which is not installed: pip install matplotlib"
        raise ImportError(message) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _column(records: list[dict[str, Any]], *keys: str) -> np.ndarray:
    """One number of every record; null (a figure that was not finite) becomes NaN, which leaves a gap."""
    values = []
    for record in records:
        value: Any = record
        for key in keys:
            value = value.get(key) if value is not None else None
        values.append(np.nan if value is None else float(value))
    return np.array(values)


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred running mean; at the ends and beside gaps over what there is."""
    kernel = np.ones(width)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    return total / np.maximum(np.convolve(known.astype(float), kernel, mode="same"), 1)


def _plot_losses(axis: Any, training: list[dict[str, Any]]) -> None:
    steps = _column(training, "step")
    width = min(max(1, len(steps) // 40) | 1, 51)
    curves = {"total": _column(training, "loss")}
    for name in training[0]["losses"]:
        curves[name.removeprefix("loss_")] = _column(training, "losses", name)
    for number, (name, values) in enumerate(curves.items()):
        colour = "black" if name == "total" else f"C{number - 1}"
        if name == "total":
            axis.plot(steps, values, color=colour, alpha=0.15, linewidth=0.8)
        axis.plot(steps, _smooth(values, width), color=colour, linewidth=1.6, label=name)
    axis.set_yscale("log")
    axis.set_ylim(top=4 * np.nanmax(curves["total"]))  # room for the legend
    axis.set_title("losses" + (f" (running mean of {width})" if width > 1 else ""))
    axis.legend(fontsize=8, frameon=False, loc="upper right", ncols=3)


def _plot_precision(axis: Any, evaluations: list[dict[str, Any]]) -> None:
    steps, highest = _column(evaluations, "step"), 0.1
    for key, (label, colour, line) in FIGURES.items():
        values = _column(evaluations, "evaluation", key)
        if not np.isfinite(values).any():
            continue
        highest = max(highest, np.nanmax(values))
        last = values[np.isfinite(values)][-1]
        axis.plot(steps, values, line, color=colour, marker="o", markersize=4, label=f"{label} {last:.3f}")
    axis.set_ylim(0, min(1.0, 1.15 * highest))
    axis.set_title("average precision (last value in the legend)")
    axis.legend(fontsize=8, frameon=False)


def _plot_rate(axis: Any, training: list[dict[str, Any]]) -> None:
    axis.plot(_column(training, "step"), _column(training, "lr"), color="#555555")
    axis.set_ylim(bottom=0)
    axis.set_title("learning rate")
