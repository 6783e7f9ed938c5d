"""Measure the operators beside torchvision, or write the report of a measurement.

python -m benchmarks [options]                  measure, print a table, with --output write JSON
python -m benchmarks report FILE.json ...       tables and plots from JSON; --help tells more
python -m benchmarks ablations --output FOLDER  train the paper's ablations at a small scale
python -m benchmarks presets --output FOLDER    size and cost of every preset, AP of the tiny ones
python -m benchmarks rivals --output FOLDER     train ours and torchvision's by the same recipe
python -m benchmarks instances --output FOLDER  peak memory by the number of objects on a large picture
"""

import argparse
import fnmatch
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import ablations, environment, instances, limits, peers, presets, report, rivals, tables
from benchmarks.clock import Clock
from benchmarks.harness import Row, Setting, measure

STEMS = (
    "roi_align",
    "multiscale_roi_align",
    "roi_pool",
    "roi_warp",
    "ps_roi_pool",
    "nms",
    "batched_nms",
    "soft_nms",
    "box_coder",
    "decode_anchors",
    "match_boxes",
    "paste_masks",
    "masks_to_rle",
    "crop_masks",
    "keypoints",
    "end_to_end",
    "detection",
    "training_step",
    "cost",
)
COMMANDS = {
    "report": report,
    "ablations": ablations,
    "presets": presets,
    "rivals": rivals,
    "instances": instances,
}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}


def all_rows() -> list[Row]:
    return [row for stem in STEMS for row in importlib.import_module(f"benchmarks.{stem}").ROWS]


def choose(rows: Sequence[Row], pattern: str, device: str | None = None) -> list[Row]:
    """Rows whose name contains the pattern, or matches it if it has wildcards.

    With a device only those that are meant for it, and the one of exactly that name.
    """
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [
        row
        for row in rows
        if row.name == pattern
        or (fnmatch.fnmatchcase(row.name, glob) and (device is None or device in row.devices))
    ]


def progress(rows: Sequence[Row]) -> Iterator[Row]:
    """A bar on a terminal where tqdm is installed; the rows' own lines tell the rest."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from rows
        return
    with tqdm(rows, disable=None, leave=False, unit="row") as bar:
        for row in bar:
            bar.set_description(row.name)
            yield row


def run(
    rows: Sequence[Row], setting: Setting, repeats: int, peer_version: str | None, output: Path | None
) -> dict[str, Any]:
    """Measure the rows; the result is what the JSON holds, and `output` after each row what there is of it."""
    facts = environment.describe(setting.device, peer_version if setting.peer else None)
    clock = Clock(setting.device, 2**20 if setting.quick else environment.flush_bytes(setting.device))
    copy_bytes = 2**20 if setting.quick else COPY_BYTES[setting.device]
    facts["copy_bytes_per_second"] = clock.copy_bandwidth(copy_bytes, repeats)
    if clock.cuda:
        facts["l2_bytes_per_second"] = limits.l2_rate(clock, facts["gpu_cache_bytes"], repeats)
    else:
        facts |= limits.rates(clock, copy_bytes, 64 if setting.quick else 2048, repeats)
    entries: list[dict[str, Any]] = []
    results = {"environment": facts, "quick": setting.quick, "repeats": repeats, "rows": entries}
    for row in progress(rows):
        entries.append(measure(row, setting, clock, repeats))
        print(tables.line(entries[-1]), flush=True)
        facts["load_average_after"] = environment.load_average()
        if output:
            output.write_text(json.dumps(results, indent=1) + "\n")
    return results


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    result.add_argument(
        "--peer", choices=["torchvision", "none"], help="default: torchvision where it can be imported"
    )
    result.add_argument("--threads", type=int, default=2, help="CPU threads for both sides (default: 2)")
    result.add_argument(
        "--rows",
        default="",
        metavar="PATTERN",
        help="part of a row's name, or a glob; a row for another device by its whole name",
    )
    result.add_argument("--repeats", type=int, help="timed calls of each side (default: 15; quick: 2)")
    result.add_argument("--output", type=Path, metavar="FILE.json")
    result.add_argument(
        "--quick", action="store_true", help="toy sizes: shows that all works, measures nothing"
    )
    return result


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]].main(arguments[1:])
    options = parser().parse_args(arguments)
    repeats = options.repeats if options.repeats is not None else 2 if options.quick else 15
    for name, value in (("--threads", options.threads), ("--repeats", repeats)):
        if value < 1:
            parser().error(f"{name}: expected at least 1, got {value}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser().error("--device cuda: torch sees no GPU")
    rows = choose(all_rows(), options.rows, None if options.quick else options.device)
    if not rows:
        stems = dict.fromkeys(row.name.partition("/")[0] for row in all_rows())
        parser().error(f"--rows: no row matches {options.rows!r}; their names begin with {', '.join(stems)}")
    peer_version = peers.version()
    if peer_version is None and options.peer == "torchvision":
        parser().error("--peer torchvision: torchvision cannot be imported")
    if peer_version is None and options.peer is None:
        print("torchvision cannot be imported: its columns stay empty, ours are held to the reference")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    peer = peer_version is not None and options.peer != "none"
    setting = Setting(options.device, peer, options.quick)
    results = run(rows, setting, repeats, peer_version, options.output)
    failed = [entry["name"] for entry in results["rows"] if "failed" in entry]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
