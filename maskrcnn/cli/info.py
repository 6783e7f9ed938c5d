"""``maskrcnn info``: what is installed, what can be built, what a checkpoint holds."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from maskrcnn.cli.common import add_parser, one_line

DESCRIPTION = """\
Print versions, the state of the compiled operators and the models with their numbers of parameters; for a
CHECKPOINT its model, categories and step.

  maskrcnn info
  maskrcnn info run
"""

PACKAGES = ("torch", "numpy", "pillow", "pycocotools", "safetensors", "tqdm", "matplotlib", "tensorboard")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(subparsers, "info", "versions, operators, models, checkpoints", DESCRIPTION, run)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="run folder, checkpoint or .safetensors"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print one section after the other; broken operators are part of the information, not an error."""
    if arguments.checkpoint is not None:
        _print_checkpoint(arguments.checkpoint)
        return 0
    _print_versions()
    _print_operators()
    _print_models()
    return 0


def _print_versions() -> None:
    print("versions")
    print(f"  {'python':<14}{platform.python_version()}")
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        print(f"  {package:<14}{version}")


def _print_operators() -> None:
    print("\noperators")
    try:
        from maskrcnn_ops.__main__ import report
    except ImportError as error:  # the package loads its library at once, and says why it cannot
        print(f"  {one_line(error)}")
        return
    for name, value in report()[0].items():
        print(f"  {name:<14}{value}")


def _print_models() -> None:
    import torch

    print("\nmodels (with their default classes)")
    try:
        from maskrcnn.models.builders import BUILDERS, build_model
    except ImportError as error:
        print(f"  cannot be built: {one_line(error)}")
        return
    for name in BUILDERS:
        with torch.device("meta"):
            model = build_model(name)
        count = sum(parameter.numel() for parameter in model.parameters())
        print(f"  {name:<32}{count / 1e6:6.1f} million parameters")


def _print_checkpoint(path: str) -> None:
    from maskrcnn.checkpoint import WEIGHTS, CheckpointError, read_weights
    from maskrcnn.cli.models import find_checkpoint

    place = find_checkpoint(path)
    file = place / WEIGHTS if place.is_dir() else place
    weights, metadata = read_weights(file)
    if metadata is None:
        raise CheckpointError(f"{file}: says nothing about its model")
    print(f"{'file':<12}{file}")
    print(f"{'model':<12}{metadata.description.name}")
    for key, value in metadata.description.kwargs.items():
        print(f"{'':<12}{key} = {value!r}")
    print(f"{'step':<12}{metadata.step}")
    print(
        f"{'tensors':<12}{len(weights)}, {sum(w.numel() for w in weights.values()) / 1e6:.1f} million values"
    )
    names = [f"{category.id} {category.name}" for category in metadata.categories]
    print(f"{'categories':<12}{len(names)}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}")
