"""``maskrcnn demo``: the whole line in a few minutes."""

from __future__ import annotations

import argparse

from maskrcnn.cli.common import add_device_flags, add_parser, check_at_least, read_device

DESCRIPTION = """\
Draw shapes, train a small Mask R-CNN on them, measure it, let it find shapes in new pictures, and time
RoIAlign against RoIPool. Nothing is downloaded; two processor cores take about five minutes.

  maskrcnn demo
  maskrcnn demo --output /tmp/demo --steps 1000

Everything is written into OUTPUT, and listed at the end.
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(subparsers, "demo", "from nothing to a trained model and pictures", DESCRIPTION, run)
    parser.add_argument("--output", metavar="DIR", default="demo", help="folder of the files written")
    parser.add_argument("--steps", metavar="N", type=int, default=500, help="training steps")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of the shapes and of the training"
    )
    add_device_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from maskrcnn.demo import run_demo

    check_at_least(1, "--steps", arguments.steps)
    check_at_least(0, "--seed", arguments.seed)
    device = read_device(arguments.device)
    run_demo(
        arguments.output,
        steps=arguments.steps,
        seed=arguments.seed,
        device=device,
        progress=not arguments.quiet,
    )
    return 0
