"""`python -m maskrcnn_ops`: what is installed, whether the library loads and why not."""

import argparse
import importlib
from pathlib import Path

import torch

from maskrcnn_ops._library import load
from maskrcnn_ops.version import __version__


def report() -> tuple[dict[str, str], bool]:
    """Facts about this installation, by name, and whether the operators work."""
    facts = {"maskrcnn_ops": __version__, "torch": torch.__version__}
    try:
        _host = importlib.import_module("maskrcnn_ops._host")
    except ImportError as error:
        facts["helper module"] = f"not loaded: {error}"
    else:
        facts["built against"] = f"torch {_host.built_torch}"
        cuda = f"CUDA {_host.cuda_version} for {_host.cuda_architectures}"
        facts["kernels"] = f"CPU and {cuda}" if _host.cuda_version else "CPU only"
        facts["SIMD level"] = _host.simd_level
    try:
        load()
    except ImportError as error:
        facts["library"] = f"not loaded: {error}"
        return facts, False
    facts["library"] = "loaded"
    facts["threads"] = str(torch.get_num_threads())
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["CUDA devices"] = ", ".join(devices) or "none"
    return facts, True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m maskrcnn_ops", description=__doc__)
    parser.add_argument(
        "--cmake",
        action="store_true",
        help="print the prefix for CMake's find_package(maskrcnn_ops) and stop",
    )
    if parser.parse_args().cmake:
        print(Path(__file__).parent)
        return 0
    facts, works = report()
    for name, value in facts.items():
        print(f"{name + ':':15} {value}")
    return 0 if works else 1


if __name__ == "__main__":
    raise SystemExit(main())
