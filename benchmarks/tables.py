"""Markdown tables from the JSON of a measurement; wins and losses alike."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import limits
from benchmarks.captions import calls, caption, has_limits, machine, title
from benchmarks.plots import Results, digits, listed

Entry = dict[str, Any]
Cell = Callable[[Entry, Results], str]


def milliseconds(side: Entry | None, quartiles: bool = True) -> str:
    """The median, and the quartiles in brackets."""
    if side is None:
        return ""
    lower, upper = side["quartiles"]
    return digits(side["median"] * 1e3) + (
        f" ({digits(lower * 1e3)}–{digits(upper * 1e3)})" if quartiles else ""
    )


def ratio(entry: Entry, quartiles: bool = True) -> str:
    if "ratio" not in entry:
        return ""
    lower, upper = entry["ratio_quartiles"]
    text = f"{digits(entry['ratio'])}×" + (f" ({digits(lower)}–{digits(upper)})" if quartiles else "")
    return text if entry["ratio"] >= 1 else f"{text} slower"


def line(entry: Entry) -> str:
    """One row for the terminal."""
    if "failed" in entry:
        return f"{entry['name']:50} FAILED: {entry['failed']}"
    peer = (
        f" | {entry['against']} {milliseconds(entry['peer'])} ms | {ratio(entry)}" if "peer" in entry else ""
    )
    return f"{entry['name']:50} {milliseconds(entry['ours'])} ms{peer}"


def target(entry: Entry, results: Results) -> str:
    """What was to be reached, and whether it was; toy sizes decide nothing."""

    def verdict(good: bool | None) -> str:
        return "" if results["quick"] or good is None else " reached" if good else " missed"

    if (least := entry["at_least"]) is None:
        return ""
    parts = [f"≥ {least:.3g}×{verdict(entry['ratio'] >= least if 'ratio' in entry else None)}"]
    share, used = limits.share(entry, results["environment"]), memory(entry)
    if (least := entry.get("limit_at_least")) is not None and share is not None:
        parts.append(f"≥ {least:.0%} of the limit ({share:.0%}){verdict(share >= least)}")
    if (most := entry.get("memory_at_most")) is not None and used is not None:
        parts.append(f"≤ {most:.3g} of the memory ({used:.2g}){verdict(used <= most)}")
    return "; ".join(parts)


def memory(entry: Entry) -> float | None:
    """Our peak memory over the other's."""
    peaks = entry.get("peak_bytes", {})
    ours, other = peaks.get("ours"), peaks.get("peer")
    return ours / other if ours and other else None


def peak(entry: Entry) -> str:
    """Megabytes beyond the inputs, ours and the other's."""
    found = [value for value in entry.get("peak_bytes", {}).values() if value is not None]
    return " / ".join("< 1" if value < 1e6 else digits(value / 1e6) for value in found)


def limit(entry: Entry, facts: Entry) -> str:
    """The least time and what it comes from; its share of ours; on CUDA the other floor, too."""
    found = limits.floors(entry, facts)
    if not found:
        return ""
    bound = max(found, key=lambda name: found[name])
    why = {
        "DRAM": lambda: "DRAM",
        "L2": lambda: f"L2 {digits(entry['gathered_bytes'] / 1e6)} MB",
        "bytes": lambda: _moved(entry),
        "operations": lambda: f"{digits(entry['operations'] / 1e6)} M operations",
    }[bound]()
    text = f"{digits(found[bound] * 1e3)}: {why} ({found[bound] / entry['ours']['median']:.0%})"
    others = {name: least for name, least in found.items() if name != bound and name in ("DRAM", "L2")}
    return text + "".join(f"; {name} {digits(least * 1e3)}" for name, least in others.items())


def _moved(entry: Entry) -> str:
    names = {"read": "read", "first_touch": "fresh", "copy": "written"}
    moved = limits.traffic(entry).items()
    return ", ".join(f"{digits(size / 1e6)} MB {names[kind]}" for kind, size in moved if size >= 5000)


def _name(entry: Entry, results: Results) -> str:
    mark = f" [{notes(results).index(entry['note']) + 1}]" if entry.get("note") else ""
    return f"`{entry['name']}`{mark}"


def _ours(entry: Entry, quartiles: bool = True) -> str:
    rate = f", {digits(entry['images'] / entry['ours']['median'])} images/s" if entry.get("images") else ""
    return milliseconds(entry["ours"], quartiles) + rate


def _other(entry: Entry, quartiles: bool = True) -> str:
    other = milliseconds(entry.get("peer"), quartiles)
    if other and entry.get("images"):
        other += f", {digits(entry['images'] / entry['peer']['median'])} images/s"
    return f"{other} {entry['against']}" if other and entry["against"] != "torchvision" else other


FULL: dict[str, Cell] = {
    "Row": _name,
    "Ours": lambda entry, _: _ours(entry),
    "Other": lambda entry, _: _other(entry),
    "Ratio": lambda entry, _: ratio(entry),
    "Target": target,
    "Peak memory": lambda entry, _: peak(entry),
    "Limit": lambda entry, results: limit(entry, results["environment"]),
}
SHORT: dict[str, Cell] = {
    "Row": lambda entry, _: f"`{entry['name']}`",
    "Ours": lambda entry, _: _ours(entry, False),
    "Other": lambda entry, _: _other(entry, False),
    "Ratio": lambda entry, _: ratio(entry, False),
    "Target": target,
}


def table(results: Results, entries: Sequence[Entry], columns: dict[str, Cell]) -> str:
    """Markdown; a row that failed says why in place of its figures."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for entry in entries:
        if "failed" in entry:
            cells = [f"`{entry['name']}`", f"failed: {entry['failed']}", *[""] * (len(columns) - 2)]
        else:
            cells = [cell(entry, results) for cell in columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def full(results: Results) -> str:
    """All that was measured: caption, every row, notes."""
    foot = [f"[{i}] {note}." for i, note in enumerate(notes(results), 1)]
    entries = listed(results)
    columns = {name: cell for name, cell in FULL.items() if name != "Limit" or has_limits(results)}
    blocks = [f"**{title(results)}.** {caption(results)}"]
    return "\n\n".join([*blocks, *([table(results, entries, columns)] if entries else []), *foot])


def short(results: Results) -> str:
    """The rows that have a target."""
    entries = [entry for entry in listed(results) if entry["at_least"] is not None]
    facts = results["environment"]
    text = (
        f"**{title(results)}.** {'; '.join(machine(facts))}; {facts['date'][:10]}. Milliseconds, medians of "
        f"{calls(results)} calls of each side in turn, with cold caches; the ratio is the other's time over ours."
    )
    return "\n\n".join([text, *([table(results, entries, SHORT)] if entries else [])])


def notes(results: Results) -> list[str]:
    """The rows' notes, each once, in their order."""
    return list(dict.fromkeys(entry["note"] for entry in results["rows"] if entry.get("note")))
