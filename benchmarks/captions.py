"""What stands above a table: machine, versions, method, limits."""

from typing import Any

from benchmarks import limits
from benchmarks.plots import Results, digits

Facts = dict[str, Any]


def has_limits(results: Results) -> bool:
    facts = results["environment"]
    return facts["device"] == "cuda" or "operations_per_second" in facts


def title(results: Results) -> str:
    return "CUDA" if results["environment"]["device"] == "cuda" else "CPU"


def machine(facts: Facts) -> list[str]:
    return [
        *([f"{facts['gpu']}, CUDA {facts['cuda']}"] if facts["device"] == "cuda" else []),
        f"{facts['cpu']}, {facts['threads']} threads, SIMD level {facts['simd_level']}",
        f"torch {facts['torch']}",
        f"torchvision {facts['torchvision']}" if facts["torchvision"] else "without torchvision",
        f"maskrcnn_ops {facts['maskrcnn_ops']}" + (f" at {facts['commit']}" if facts["commit"] else ""),
    ]


def calls(results: Results) -> str:
    """How many of each side were timed."""
    timed = [len(entry["ours"]["samples"]) for entry in results["rows"] if "ours" in entry]
    return str(results["repeats"]) + " (in slow rows fewer)" * (min(timed, default=0) < results["repeats"])


def caption(results: Results) -> str:
    facts = results["environment"]
    cuda, settled = facts["device"] == "cuda", limits.SETTLED >> 20
    settling = f" An untimed call goes before each timed one where results take {settled} MiB or more." * (
        not cuda
    )
    load = f"load average {facts['load_average']} before and {facts['load_average_after']} after"
    method = (
        f"Milliseconds, medians of {calls(results)} interleaved calls with cold caches, quartiles in "
        f"brackets; the ratio is the other's median over ours, with the quartiles of the pairs' own ratios.{settling} "
        "Peak memory: the most megabytes that a call adds to its inputs, result included, ours / the other's."
    )
    if has_limits(results):
        method += (_cuda_limit if cuda else _cpu_limit)(facts)
    toy = "**Toy sizes: these times mean nothing.** " if results["quick"] else ""
    return f"{toy}{'; '.join([*machine(facts), facts['date'][:10], load])}. {method}"


def _cpu_limit(facts: Facts) -> str:
    return (
        " Limit: the least milliseconds on this machine, the larger of those for bytes and for operations, and in "
        "brackets their share of ours. Each input is read once, at "
        f"{rate(facts, 'read')}; each result is written once, at {rate(facts, 'first_touch')} where it is fresh "
        f"memory, being of {limits.FRESH >> 20} MiB or more, else at a copy's {rate(facts, 'copy')}; operations "
        "(products, sums, comparisons) run at the "
        f"{digits(facts['operations_per_second'] / 1e9)} G/s of a float32 matrix product or convolution."
    )


def _cuda_limit(facts: Facts) -> str:
    gathered = (
        " or, where a map is pooled, for the sectors of 32 bytes that the RoIs' samples read, each RoI's once, from "
        f"the L2 cache at {rate(facts, 'l2')}"
        if "l2_bytes_per_second" in facts
        else ""
    )
    return (
        " Limit: the least milliseconds on this GPU, and in brackets their share of ours: for what is read and "
        f"written, each byte once, in DRAM at a copy's {rate(facts, 'copy')}{gathered}; the longer comes first."
    )


def rate(facts: Facts, kind: str) -> str:
    return f"{digits(facts[f'{kind}_bytes_per_second'] / 1e9)} GB/s"
