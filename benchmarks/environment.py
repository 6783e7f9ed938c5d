"""Where and with what was measured, without names of machines or folders."""

import datetime
import os
import platform
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import maskrcnn_ops

ROOT = Path(__file__).resolve().parents[1]


def describe(device: str, torchvision: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "cpu": cpu_model(),
        "logical_cores": os.cpu_count(),
        "last_level_cache_bytes": last_level_cache(),
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision,
        "maskrcnn_ops": maskrcnn_ops.__version__,
        "commit": commit(),
        "simd_level": import_module("maskrcnn_ops._host").simd_level,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "gpu_cache_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
        }
    return facts


def load_average() -> float | None:
    """Of the last minute; a loaded machine makes the times worthless and the ratios doubtful."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def last_level_cache() -> int:
    """Bytes of the largest cache of the first core; 64 MiB where the system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [
        path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=64 * 2**20)


def flush_bytes(device: str) -> int:
    """What to write to empty the last cache: twice its size; on CUDA more, to outlast the enqueueing."""
    if device == "cuda":
        return 8 * max(torch.cuda.get_device_properties(0).L2_cache_size, 32 * 2**20)
    return 2 * last_level_cache()


def commit() -> str | None:
    """The sources' commit, with a + where files differ from it; None outside a clone."""
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
