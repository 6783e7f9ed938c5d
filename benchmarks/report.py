"""Tables from the JSON of a measurement; wins and losses alike."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import limits, plots
from benchmarks.plots import Results, cost_lines, digits, listed

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def milliseconds(side: dict[str, Any] | None) -> str:
    """The median, and the quartiles in brackets."""
    if side is None:
        return ""
    lower, upper = side["quartiles"]
    return f"{digits(side['median'] * 1e3)} ({digits(lower * 1e3)}–{digits(upper * 1e3)})"


def ratio(entry: dict[str, Any]) -> str:
    if "ratio" not in entry:
        return ""
    lower, upper = entry["ratio_quartiles"]
    text = f"{digits(entry['ratio'])}× ({digits(lower)}–{digits(upper)})"
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
        "brackets; the ratio is the other's median over ours, with the quartiles of the pairs' own ratios. An untimed "
        f"call goes before each timed one where results take {limits.SETTLED >> 20} MiB or more. Peak memory: the most "
        "megabytes that a call adds to its inputs, result included, ours / the other's."
    )
    if "operations_per_second" in facts:
        method += (
            " Limit: the least milliseconds on this machine, the larger of those for bytes and for operations, and in "
            "brackets their share of ours. Each input is read once, at "
            f"{rate(facts, 'read')}; each result is written once, at {rate(facts, 'first_touch')} where it is fresh "
            f"memory, being of {limits.FRESH >> 20} MiB or more, else at a copy's {rate(facts, 'copy')}; operations "
            "(products, sums, comparisons) run at the "
            f"{digits(facts['operations_per_second'] / 1e9)} G/s of a float32 matrix product or convolution."
        )
    toy = "**Toy sizes: these times mean nothing.** " if results["quick"] else ""
    return f"{toy}{'; '.join(parts)}. {method}"


def table(results: Results) -> list[str]:
    """Markdown lines. On CUDA with the traffic that no implementation avoids, per second, beside a copy's; on the CPU
    with the limit, where its rates were measured."""
    facts = results["environment"]
    cuda, limited = facts["device"] == "cuda", "operations_per_second" in facts
    heads = ["Row", "Ours", "Other", "Ratio", "GB/s (of a copy's)" if cuda else "Target", "Peak memory"]
    heads += ["Limit"] * limited
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
            cells = [f"`{entry['name']}`{mark}", *times, last, peak(entry), *[limit(entry, facts)] * limited]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def peak(entry: dict[str, Any]) -> str:
    """Megabytes beyond the inputs, ours and the other's."""
    found = [value for value in entry.get("peak_bytes", {}).values() if value is not None]
    return " / ".join("< 1" if value < 1e6 else digits(value / 1e6) for value in found)


def limit(entry: dict[str, Any], facts: dict[str, Any]) -> str:
    """The least time and what it comes from; its share of ours."""
    found = limits.seconds(entry, facts)
    if found is None:
        return ""
    if found.operations > found.bytes:
        why = f"{digits(entry['operations'] / 1e6)} M operations"
    else:
        names = {"read": "read", "first_touch": "fresh", "copy": "written"}
        moved = limits.traffic(entry).items()
        why = ", ".join(f"{digits(size / 1e6)} MB {names[kind]}" for kind, size in moved if size >= 5000)
    least = max(found.bytes, found.operations)
    return f"{digits(least * 1e3)}: {why} ({least / entry['ours']['median']:.0%})"


def rate(facts: dict[str, Any], kind: str) -> str:
    return f"{digits(facts[f'{kind}_bytes_per_second'] / 1e9)} GB/s"


def bandwidth(entry: dict[str, Any], facts: dict[str, Any]) -> str:
    """Each input read once and the result written once, over the time."""
    achieved = entry["bytes"] / entry["ours"]["median"]
    return f"{digits(achieved / 1e9)} ({achieved / facts['copy_bytes_per_second']:.0%})"


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


def cost_path(plot: Path) -> Path:
    return plot.with_name(f"{plot.stem}-cost.png")


def between_markers(text: str, inside: str) -> str:
    """The text with what stands between the markers replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected {BEGIN} and after it {END}, each once")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{inside}\n{text[text.index(END) :]}"


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
            plots.ratios(results, file.with_suffix(".png"))
        if draw and cost_lines(results):
            plots.cost(results, cost_path(file.with_suffix(".png")))
    if readme:
        readme.write_text(between_markers(readme.read_text(), text))
    return 0
