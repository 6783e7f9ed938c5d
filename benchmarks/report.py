"""Tables and plots from the JSON of a measurement; wins and losses alike."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
Results = dict[str, Any]


def milliseconds(side: dict[str, Any] | None) -> str:
    """The median, and the quartiles in brackets."""
    if side is None:
        return ""
    lower, upper = side["quartiles"]
    return f"{_digits(side['median'] * 1e3)} ({_digits(lower * 1e3)}–{_digits(upper * 1e3)})"


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:#.3g}"


def ratio(entry: dict[str, Any]) -> str:
    if "ratio" not in entry:
        return ""
    lower, upper = entry["ratio_quartiles"]
    text = f"{_digits(entry['ratio'])}× ({_digits(lower)}–{_digits(upper)})"
    return text if entry["ratio"] >= 1 else f"{text} slower"


def target(entry: dict[str, Any], quick: bool = False) -> str:
    """What was to be reached, and whether it was; toy sizes decide nothing."""
    if entry["at_least"] is None:
        return ""
    wanted = f"≥ {entry['at_least']:g}×"
    if quick or "ratio" not in entry:
        return wanted
    return f"{wanted} {'reached' if entry['ratio'] >= entry['at_least'] else 'missed'}"


def line(entry: dict[str, Any]) -> str:
    """One row for the terminal."""
    if "failed" in entry:
        return f"{entry['name']:50} FAILED: {entry['failed']}"
    peer = (
        f" | {entry['against']} {milliseconds(entry['peer'])} ms | {ratio(entry)}" if "peer" in entry else ""
    )
    return f"{entry['name']:50} {milliseconds(entry['ours'])} ms{peer}"


def caption(results: Results) -> str:
    facts = results["environment"]
    parts = [
        *([f"{facts['gpu']}, CUDA {facts['cuda']}"] if facts["device"] == "cuda" else []),
        f"{facts['cpu']}, {facts['threads']} threads, SIMD level {facts['simd_level']}",
        f"torch {facts['torch']}",
        f"torchvision {facts['torchvision']}" if facts["torchvision"] else "without torchvision",
        f"maskrcnn_ops {facts['maskrcnn_ops']}" + (f" at {facts['commit']}" if facts["commit"] else ""),
        facts["date"][:10],
        f"load average {facts['load_average']} before and {facts['load_average_after']} after",
    ]
    method = (
        f"Milliseconds, medians of {results['repeats']} interleaved calls with cold caches, quartiles in "
        "brackets; the ratio is the other's median over ours, with the quartiles of the pairs' own ratios. Peak "
        "memory: the most megabytes that a call adds to its inputs, result included, ours / the other's."
    )
    toy = "**Toy sizes: these times mean nothing.** " if results["quick"] else ""
    return f"{toy}{'; '.join(parts)}. {method}"


def table(results: Results) -> list[str]:
    """Markdown lines. On CUDA with the traffic that no implementation avoids, per second, beside a copy's."""
    facts = results["environment"]
    cuda = facts["device"] == "cuda"
    heads = ["Row", "Ours", "Other", "Ratio", "GB/s (of a copy's)" if cuda else "Target", "Peak memory"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for entry in listed(results):
        if "failed" in entry:
            cells = [f"`{entry['name']}`", f"failed: {entry['failed']}", *[""] * (len(heads) - 2)]
        else:
            other = milliseconds(entry.get("peer"))
            if other and entry["against"] != "torchvision":
                other += f" {entry['against']}"
            mark = f" [{notes(results).index(entry['note']) + 1}]" if entry["note"] else ""
            last = bandwidth(entry, facts) if cuda else target(entry, results["quick"])
            times = [milliseconds(entry["ours"]), other, ratio(entry)]
            cells = [f"`{entry['name']}`{mark}", *times, last, peak(entry)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def peak(entry: dict[str, Any]) -> str:
    """Megabytes beyond the inputs, ours and the other's."""
    found = [value for value in entry.get("peak_bytes", {}).values() if value is not None]
    return " / ".join("< 1" if value < 1e6 else _digits(value / 1e6) for value in found)


def bandwidth(entry: dict[str, Any], facts: dict[str, Any]) -> str:
    """Each input read once and the result written once, over the time."""
    achieved = entry["bytes"] / entry["ours"]["median"]
    return f"{_digits(achieved / 1e9)} ({achieved / facts['copy_bytes_per_second']:.0%})"


def notes(results: Results) -> list[str]:
    """The rows' notes, each once, in their order."""
    return list(dict.fromkeys(entry["note"] for entry in results["rows"] if entry.get("note")))


def markdown(results: Results, picture: str) -> str:
    """Everything that stands in the README about one measurement."""
    foot = [f"[{i}] {note}." for i, note in enumerate(notes(results), 1)]
    title = "CUDA" if results["environment"]["device"] == "cuda" else "CPU"
    blocks = [
        f"**{title}.** {caption(results)}",
        *(["\n".join(table(results))] if listed(results) else []),
        *foot,
    ]
    if any("ratio" in entry for entry in listed(results)):
        blocks.append(f"![{title}: how many times faster than torchvision]({picture})")
    if cost_lines(results):
        blocks.append(
            f"![{title}: time against size, beside torchvision]({cost_path(Path(picture)).as_posix()})"
        )
    return "\n\n".join(blocks)


def listed(results: Results) -> list[dict[str, Any]]:
    """The rows of the table; the others are points of the cost plot."""
    return [entry for entry in results["rows"] if entry.get("series") is None]


def cost_path(plot: Path) -> Path:
    return plot.with_name(f"{plot.stem}-cost.png")


def cost_lines(results: Results) -> dict[str, list[tuple[int, float, float | None]]]:
    """For each series (size, our milliseconds, the other's), by size."""
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for entry in results["rows"]:
        if entry.get("series") is not None and "ours" in entry:
            name, size = entry["series"]
            other = entry["peer"]["median"] * 1e3 if "peer" in entry else None
            lines.setdefault(name, []).append((size, entry["ours"]["median"] * 1e3, other))
    return {name: sorted(points) for name, points in lines.items()}


def between_markers(text: str, inside: str) -> str:
    """The text with what stands between the markers replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected {BEGIN} and after it {END}, each once")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{inside}\n{text[text.index(END) :]}"


def plot(results: Results, path: Path) -> None:
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
        axes.annotate(
            f" {_digits(entry['ratio'])}×", (max(entry["ratio"], 1), place), va="center", fontsize=7
        )
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


def plot_cost(results: Results, path: Path) -> None:
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


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report",
        description="Print the tables and draw the plots (FILE.png beside FILE.json) of measurements.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--readme", type=Path, help=f"write the tables there between {BEGIN} and {END}")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if --readme is not what the JSON says"
    )
    parser.add_argument("--no-plot", action="store_true")
    options = parser.parse_args(arguments)
    if options.check and not options.readme:
        parser.error("--check: needs --readme")
    try:
        return report(options.files, options.readme, options.check, not options.no_plot)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def report(files: Sequence[Path], readme: Path | None, check: bool, draw: bool) -> int:
    base = readme.parent if readme else Path()
    measurements = {file: json.loads(file.read_text()) for file in files}
    quick = [str(file) for file, results in measurements.items() if results["quick"]]
    if readme and quick:
        raise ValueError(f"a README shows no toy sizes: {', '.join(quick)} was measured with --quick")
    text = "\n\n".join(
        markdown(results, Path(os.path.relpath(file.with_suffix(".png"), base)).as_posix())
        for file, results in measurements.items()
    )
    if check and readme:
        if between_markers(readme.read_text(), text) == readme.read_text():
            return 0
        again = f"python -m benchmarks report {' '.join(map(str, files))} --readme {readme}"
        print(f"{readme} is not what the measurements say; run {again}", file=sys.stderr)
        return 1
    print(text)
    for file, results in measurements.items():
        if draw and any("ratio" in entry for entry in listed(results)):
            plot(results, file.with_suffix(".png"))
        if draw and cost_lines(results):
            plot_cost(results, cost_path(file.with_suffix(".png")))
    if readme:
        readme.write_text(between_markers(readme.read_text(), text))
    return 0
