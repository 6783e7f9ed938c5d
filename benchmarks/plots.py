"""The pictures of a measurement: ratios as bars, cost against size as lines."""

from pathlib import Path
from typing import Any

Results = dict[str, Any]


def digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:#.3g}"


def listed(results: Results) -> list[dict[str, Any]]:
    """The rows of the table; the others are points of the cost plot."""
    return [entry for entry in results["rows"] if entry.get("series") is None]


def cost_lines(results: Results) -> dict[str, list[tuple[int, float, float | None]]]:
    """For each series (size, our milliseconds, the other's), by size."""
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for entry in results["rows"]:
        if entry.get("series") is not None and "ours" in entry:
            name, size = entry["series"]
            other = entry["peer"]["median"] * 1e3 if "peer" in entry else None
            lines.setdefault(name, []).append((size, entry["ours"]["median"] * 1e3, other))
    return {name: sorted(points) for name, points in lines.items()}


def ratios(results: Results, path: Path) -> None:
    """Horizontal bars of the ratios on a logarithmic axis; ticks where a target was set."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the plot needs matplotlib: pip install matplotlib, or give --no-plot") from error
    entries = [entry for entry in listed(results) if "ratio" in entry][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(entries)), layout="constrained")
    axes = figure.add_subplot()
    values = [entry["ratio"] for entry in entries]
    places = range(len(entries))
    colours = ["tab:blue" if value >= 1 else "tab:red" for value in values]
    # A bar on a logarithmic axis starts at 1, where both take the same time.
    axes.barh(places, [value - 1 for value in values], left=1, color=colours)
    for place, entry in zip(places, entries, strict=True):
        axes.annotate(f" {digits(entry['ratio'])}×", (max(entry["ratio"], 1), place), va="center", fontsize=7)
        if entry["at_least"] is not None:
            axes.plot([entry["at_least"]] * 2, [place - 0.45, place + 0.45], color="black", linewidth=1.5)
    names = [
        entry["name"] if entry["against"] == "torchvision" else f"{entry['name']} *" for entry in entries
    ]
    axes.set_yticks(places, names, fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.margins(x=0.12, y=0.01)
    axes.axvline(1, color="black", linewidth=0.8)
    label = "times faster than torchvision (* than what the table names); black ticks: targets; red: slower"
    figure.supxlabel(label, fontsize=8)
    if results["quick"]:
        axes.set_title("toy sizes: these times mean nothing")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def cost(results: Results, path: Path) -> None:
    """Milliseconds against size, both logarithmic: ours drawn through, torchvision's dashed."""
    from matplotlib.figure import Figure

    lines = cost_lines(results)
    families = sorted({name.split(",")[0] for name in lines})
    figure = Figure(figsize=(4.5 * len(families), 3.6), layout="constrained")
    for axes, family in zip(figure.subplots(1, len(families), squeeze=False)[0], families, strict=True):
        for name, points in lines.items():
            if name.split(",")[0] != family:
                continue
            sizes, ours, others = zip(*points, strict=True)
            (line,) = axes.plot(sizes, ours, marker="o", markersize=3, label=name.split(", ", 1)[1])
            if None not in others:
                axes.plot(sizes, others, linestyle="--", marker="o", markersize=3, color=line.get_color())
        axes.set(xscale="log", yscale="log", title=family, xlabel="size", ylabel="ms (dashed: torchvision)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    if results["quick"]:
        figure.suptitle("toy sizes: these times mean nothing")
    figure.savefig(path, dpi=120, metadata={"Software": None})
