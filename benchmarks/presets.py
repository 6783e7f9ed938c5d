"""Every preset in figures: its size, its cost on one picture, and for the tiny ones their AP after a short training.

python -m benchmarks presets --output FOLDER      measure what FOLDER lacks, then write the table
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import environment
from benchmarks.trainings import TRAININGS, Trainings, Variant, add_flags, counted, save, spread

HEIGHT, WIDTH = 800, 1216
OBJECTS = 8
PROPOSALS = 1000  # of a model that takes them
# The presets made for a CPU that learn from shapes: with masks, without keypoints, by proposals of their own.
TRAINED = (
    "maskrcnn_tiny",
    "maskrcnn_tiny_c4",
    "maskrcnn_tiny_c5",
    "maskrcnn_tiny_dc5",
    "yolact_tiny",
    "msrcnn_tiny",
    "cascademaskrcnn_tiny",
)


def figures(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The size and cost of one preset."""
    from maskrcnn.models.builders import build_model

    side = 64 if options.quick else HEIGHT
    torch.manual_seed(0)
    model = build_model(name, min_size=side, max_size=2 * side)
    make_busy(model)
    image, target = example(model, side)
    given = {"proposals": [target["proposals"]]} if model.takes_proposals else {}
    result: dict[str, Any] = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (detections,) = model([image], **given)
    result["macs"] = counter.get_total_flops() // 2
    result["detections"] = len(detections["boxes"])
    with torch.inference_mode():
        result["forward"] = median(lambda: model([image], **given), options.repeats)
    model.train()
    result["step"] = median(lambda: step(model, image, target), options.repeats)
    return result


def make_busy(model: nn.Module) -> None:
    """Random weights find nothing or everything, by the depth of the network. With these, boxes stay where they were
    proposed and are all likely to be of the first class, so that every picture gives as many detections as it may."""
    num_classes: Any = model.num_classes
    for name, layer in model.named_modules():
        kind = name.rpartition(".")[2]
        proposing = name.startswith("rpn.")
        if kind == "bbox_pred" or (kind in ("cls_score", "cls_logits") and not proposing):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        if kind in ("cls_score", "cls_logits") and not proposing:
            bias: Any = layer.bias
            bias.data.view(-1, num_classes)[:, 1] = 5


def example(model: nn.Module, side: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A picture of noise, and rectangles as objects with whatever the model trains on."""
    height, width = side, side * WIDTH // HEIGHT
    generator = torch.Generator().manual_seed(0)
    boxes = rectangles(OBJECTS, height, width, generator)
    target = {"boxes": boxes, "labels": torch.ones(OBJECTS, dtype=torch.int64)}
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    x1, y1, x2, y2 = boxes.T[..., None, None]
    target["masks"] = ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).to(torch.uint8)
    keypoints: Any = getattr(model, "num_keypoints", None)
    if keypoints is not None:
        centre = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, torch.full((OBJECTS, 1), 2.0)], dim=1)
        target["keypoints"] = centre[:, None].repeat(1, keypoints, 1)
    if model.takes_proposals:
        target["proposals"] = rectangles(PROPOSALS, height, width, generator)
    return torch.rand(3, height, width, generator=generator), target


def rectangles(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes [count, 4] in the picture, with sides of 0.1 to 0.5 of its."""
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.5, height * 0.5])
    extent = (0.1 + 0.4 * torch.rand(count, 2, generator=generator)) * torch.tensor([width, height])
    return torch.cat([corner, corner + extent], dim=1)


def step(model: nn.Module, image: Tensor, target: dict[str, Tensor]) -> None:
    """Losses and gradients; the weights stay, so that every step does the same."""
    losses: Mapping[str, Tensor] = model([image], [target])
    torch.stack(list(losses.values())).sum().backward()
    model.zero_grad(set_to_none=True)


def median(call: Callable[[], object], repeats: int) -> float:
    """Seconds, after one call that warms up."""
    samples = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples[1:])


def markdown(results: Mapping[str, Any], trainings: Trainings) -> str:
    """The table of all presets."""
    from maskrcnn.models.builders import BUILDERS

    facts = results["environment"]
    lines = [
        "`python -m benchmarks presets`: multiply-adds (convolutions and matrix products) and seconds for one picture "
        f"of {HEIGHT} × {WIDTH} with the given number of detections, default classes, "
        f"{counted(facts['threads'], 'thread')} of {facts['cpu']}, torch {facts['torch']}, {facts['date'][:10]}, "
        f"commit {facts['commit']}. AP, of those made for a CPU that learn from shapes: {trainings.describe()}.",
        "",
        "| preset | million parameters | GMACs | detections | forward, s | training step, s | box AP | mask AP "
        "| mask AP75 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    if results["quick"]:
        lines.insert(1, "**Toy sizes: these figures mean nothing.**")
    for name in (name for name in BUILDERS if name in results["rows"]):
        row = results["rows"][name]
        cells = [f"{row['parameters'] / 1e6:.1f}", f"{row['macs'] / 1e9:.0f}", str(row["detections"])]
        cells += [f"{row['forward']:.2f}", f"{row['step']:.2f}"]
        runs = trainings.of(Variant(name, name))
        cells += [spread(runs, figure) for figure in ("bbox/AP", "segm/AP", "segm/AP75")]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    from tqdm import tqdm

    from maskrcnn.models.builders import BUILDERS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks presets",
        description="Measure every preset, into FOLDER/presets.json, train the small ones, into "
        f"FOLDER/{TRAININGS}, and write FOLDER/presets.md. What is there is not done again.",
    )
    add_flags(parser)
    parser.add_argument("--names", nargs="+", default=list(BUILDERS), metavar="NAME", help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls (default: 3)")
    parser.add_argument("--no-training", action="store_true", help="leave the AP out")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.seeds = 1, 1
    for name in ("repeats", "seeds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    unknown = [name for name in options.names if name not in BUILDERS]
    if unknown:
        parser.error(f"--names: expected some of {', '.join(BUILDERS)}, got {', '.join(unknown)}")
    torch.set_num_threads(options.threads)
    file = options.output / "presets.json"
    results: dict[str, Any] = {"quick": options.quick, "rows": {}}
    if file.exists():
        results = json.loads(file.read_text())
        if results["quick"] != options.quick:
            parser.error(
                f"--output: {file} holds results {'with' if results['quick'] else 'without'} --quick"
            )
    for name in tqdm([name for name in options.names if name not in results["rows"]], unit="preset"):
        results["rows"][name] = figures(name, options)
        results["environment"] = environment.describe("cpu", None)
        save(file, results)
    trainings = Trainings.of_options(options)
    if not options.no_training:
        trainings.add_missing([Variant(name, name) for name in options.names if name in TRAINED])
    text = markdown(results, trainings)
    (options.output / "presets.md").write_text(text)
    print(text)
    return 0
