"""Peak memory by the number of objects on a large picture: of its evaluation and of a training step, from annotation to
gradients.

python -m benchmarks instances --output FOLDER      measure, then write FOLDER/instances.json and FOLDER/instances.md

Each figure has a process of its own, which may take most of the memory that is free and no more: what does not fit is
told, and nothing else on the machine is ended for it.
"""

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import environment, peers
from benchmarks.end_to_end import CLASSES, detect_ours, detect_peer
from benchmarks.memory import peak_bytes
from benchmarks.presets import make_busy, rectangles, step
from benchmarks.trainings import save

SIZE, QUICK_SIZE = (3000, 4000), (60, 80)
SIDES = ("ours", "torchvision")
OUT_OF_MEMORY = ("can't allocate memory", "could not create a")  # torch's words, and oneDNN's
FREE_SHARE = 0.85  # of the free memory, for one process


def evaluation(side: str, count: int, size: tuple[int, int]) -> Callable[[], object]:
    """`count` detections of a detector with random weights, the same on both sides."""
    model = _detector(side, count, size).eval()
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    detect = (detect_ours if side == "ours" else detect_peer)(model, image, nullcontext)

    def call() -> None:
        found = int(torch.count_nonzero(detect()))
        if found != count:
            raise ValueError(f"expected {count} detections, got {found}")

    return call


def training(side: str, count: int, size: tuple[int, int]) -> Callable[[], object]:
    """A step on `count` rectangles: ours reads their run lengths, torchvision's needs bitmaps of them."""
    from pycocotools import mask as coco_mask

    from maskrcnn.encoded_masks import EncodedMasks

    model = _detector(side, count, size).train()
    generator = torch.Generator().manual_seed(0)
    image, boxes = torch.rand(3, *size, generator=generator), rectangles(count, *size, generator)
    outlines = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
    encodings = [coco_mask.frPyObjects(outline, *size)[0] for outline in outlines]

    def masks() -> EncodedMasks | Tensor:
        if side == "ours":
            return EncodedMasks.of(encodings, size)
        return torch.stack([torch.from_numpy(coco_mask.decode(encoding)) for encoding in encodings])

    def call() -> None:
        target: dict[str, Any] = {
            "boxes": boxes,
            "labels": torch.ones(count, dtype=torch.int64),
            "masks": masks(),
        }
        step(model, image, target)

    return call


def _detector(side: str, count: int, size: tuple[int, int]) -> nn.Module:
    """Finds as many objects as it may, which overlap little: they have passed the RPN's suppression."""
    import maskrcnn

    options: dict[str, Any] = {
        "num_classes": CLASSES,
        "box_detections_per_img": count,
        "box_nms_thresh": 0.99,
    }
    if size == QUICK_SIZE:
        options |= {"min_size": 64, "max_size": 96}
    torch.manual_seed(0)
    ours = maskrcnn.maskrcnn_resnet50_fpn(**options)
    make_busy(ours)
    if side == "ours":
        return ours
    theirs = peers.maskrcnn_resnet50_fpn(**options)
    theirs.load_state_dict(ours.state_dict())
    return theirs


WORKS = {"evaluation": evaluation, "training": training}


def measure(work: str, side: str, count: int, size: tuple[int, int], threads: int, limit: int) -> int | None:
    """Bytes that a call holds at most, from a process that may take `limit` bytes; None if these are too few."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(sender, work, side, count, size, threads, limit))
    process.start()
    sender.close()
    try:
        answer: int | str | None = receiver.recv()
    except EOFError:
        answer = "ended without an answer"
    process.join()
    if isinstance(answer, str):
        raise RuntimeError(f"{work} of {count} instances, {side}: {answer} (exit code {process.exitcode})")
    return answer


def _measure_here(
    sender: Connection, work: str, side: str, count: int, size: tuple[int, int], threads: int, limit: int
) -> None:
    torch.set_num_threads(threads)
    try:
        call = WORKS[work](side, count, size)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        call()
        sender.send(peak_bytes(call, cuda=False))
    except (MemoryError, RuntimeError, ValueError) as error:
        full = isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
        sender.send(None if full else f"{type(error).__name__}: {error}")


def free_bytes() -> int:
    """Memory that programs can still take without swapping (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return kilobytes * 1024


def markdown(results: Mapping[str, Any]) -> str:
    facts = results["environment"]
    limit = f"more than {results['limit'] / 1e9:.0f} GB"
    lines = [
        "`python -m benchmarks instances`: the most megabytes that a call holds beyond what was there before it. "
        f"`maskrcnn_resnet50_fpn` with random weights, a picture of {results['size'][0]} × {results['size'][1]} with "
        "so many objects. Evaluation: the picture to COCO results. Training: a step from encoded masks to gradients, "
        "activations included. "
        f"{facts['threads']} threads of {facts['cpu']}, torch {facts['torch']}, torchvision {facts['torchvision']}, "
        f"{facts['date'][:10]}, commit {facts['commit']}.",
        "",
        "| | objects | ours | torchvision | ratio |",
        "|---|---|---|---|---|",
    ]
    if results["quick"]:
        lines.insert(1, "**Toy sizes: these figures mean nothing.**")
    for row in results["rows"]:
        sides = [row[side] for side in SIDES if side in row]
        cells = [limit if found is None else f"{found / 1e6:,.0f}" for found in sides]
        known = len(sides) == 2 and None not in sides
        cells += [""] * (2 - len(sides)) + [f"{sides[1] / max(1, sides[0]):.1f}×" if known else ""]
        lines.append(f"| {row['work']} | {row['count']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks instances", description=__doc__.partition("\n\n")[0]
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 30, 100, 300], metavar="N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="toy sizes: shows that all works, measures nothing"
    )
    options = parser.parse_args(arguments)
    for name, value in (("threads", options.threads), ("counts", min(options.counts))):
        if value < 1:
            parser.error(f"--{name}: expected at least 1, got {value}")
    if not sys.platform.startswith("linux"):
        parser.error("peak memory is read from Linux's /proc, which this system lacks")
    version = peers.version()
    sides = SIDES if version else SIDES[:1]
    size = QUICK_SIZE if options.quick else SIZE
    limit = int(FREE_SHARE * free_bytes())
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = [
        {"work": work, "count": count} for work in WORKS for count in options.counts
    ]
    with tqdm(total=len(rows) * len(sides), unit="process") as bar:
        for row in rows:
            for side in sides:
                bar.set_description(f"{row['work']} of {row['count']}, {side}")
                row[side] = measure(row["work"], side, row["count"], size, options.threads, limit)
                bar.update()
    facts = environment.describe("cpu", version)
    results = {"environment": facts, "quick": options.quick, "size": size, "limit": limit, "rows": rows}
    save(options.output / "instances.json", results)
    text = markdown(results)
    (options.output / "instances.md").write_text(text)
    print(text)
    return 0
