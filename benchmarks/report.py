"""The tables and plots of a measurement, from its JSON: everything beside it, what had a target in the README."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import captions, plots, tables
from benchmarks.plots import Results, cost_lines, listed

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def for_readme(results: Results, file: str) -> str:
    """What stands there about the measurement in `file`, a path from there: short table, link to all of it, plots."""
    blocks = [
        tables.short(results),
        f"All rows: [{Path(file).with_suffix('.md').name}]({_beside(file, '.md')}).",
    ]
    title = captions.title(results)
    if any("ratio" in entry for entry in listed(results)):
        blocks.append(f"![{title}: how many times faster than torchvision]({_beside(file, '.png')})")
    if cost_lines(results):
        blocks.append(f"![{title}: time against size, beside torchvision]({_beside(file, '-cost.png')})")
    return "\n\n".join(blocks)


def _beside(file: str, ending: str) -> str:
    """The file's path with another ending, which may begin in its name."""
    return Path(file).with_suffix("").as_posix() + ending


def between_markers(text: str, inside: str) -> str:
    """The text with what stands between the markers replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected {BEGIN} and after it {END}, each once")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{inside}\n{text[text.index(END) :]}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report",
        description="Write tables (FILE.md beside FILE.json) and plots (FILE.png) of measurements.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--readme", type=Path, help=f"write the rows that have a target there between {BEGIN} and {END}"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; status 1 if FILE.md or --readme is not what the JSON says",
    )
    parser.add_argument("--no-plot", action="store_true")
    options = parser.parse_args(arguments)
    try:
        return report(options.files, options.readme, options.check, not options.no_plot)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def report(files: Sequence[Path], readme: Path | None, check: bool, draw: bool) -> int:
    measurements = {file: json.loads(file.read_text()) for file in files}
    texts = {file.with_suffix(".md"): tables.full(results) + "\n" for file, results in measurements.items()}
    if readme:
        texts[readme] = between_markers(readme.read_text(), _all_for_readme(measurements, readme))
    if check:
        stale = [str(path) for path, text in texts.items() if not path.exists() or path.read_text() != text]
        if stale:
            again = f"python -m benchmarks report {' '.join(map(str, files))}" + f" --readme {readme}" * bool(
                readme
            )
            print(f"not what the measurements say: {', '.join(stale)}; run {again}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in texts.items():
        path.write_text(text)
        print(f"wrote {path}")
    for file, results in measurements.items() if draw else ():
        if any("ratio" in entry for entry in listed(results)):
            plots.ratios(results, file.with_suffix(".png"))
        if cost_lines(results):
            plots.cost(results, file.with_name(f"{file.stem}-cost.png"))
    return 0


def _all_for_readme(measurements: dict[Path, Results], readme: Path) -> str:
    quick = [str(file) for file, results in measurements.items() if results["quick"]]
    if quick:
        raise ValueError(f"a README shows no toy sizes: {', '.join(quick)} was measured with --quick")
    return "\n\n".join(
        for_readme(results, Path(os.path.relpath(file, readme.parent)).as_posix())
        for file, results in measurements.items()
    )
