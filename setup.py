"""Drives CMakeLists.txt, the one build definition. pyproject.toml declares the rest.

Environment: MASKRCNN_OPS_CUDA = auto | 1 | 0, TORCH_CUDA_ARCH_LIST, MAX_JOBS, CMAKE_ARGS,
MASKRCNN_OPS_TORCH_DIR (the torch package to compile against, if it is not the one of this interpreter).
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_torch() -> Path | None:
    """The torch package to compile against, found without importing it.

    pip's isolated builds run the target environment's own interpreter with its site-packages hidden, so the
    folder is looked up through sysconfig as well. With none at all (uv, `python -m build`), setup_requires brings
    the newest one, which the stable ABI makes right.
    """
    chosen = os.environ.get("MASKRCNN_OPS_TORCH_DIR")
    if chosen:
        return Path(chosen)
    spec = importlib.util.find_spec("torch")
    if spec and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    for base in (sys.prefix, os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX")):
        if base:
            torch = Path(sysconfig.get_path("platlib", vars={"base": base, "platbase": base})) / "torch"
            if (torch / "include/torch/headeronly/version.h").is_file():
                return torch
    return None


def wants_cuda(torch: Path) -> str:
    """CMake's ON or OFF for MASKRCNN_OPS_CUDA: `auto` means nvcc is there and torch was built for CUDA."""
    wish = os.environ.get("MASKRCNN_OPS_CUDA", "auto").lower()
    if wish in ("1", "on", "true"):
        return "ON"
    if wish in ("0", "off", "false"):
        return "OFF"
    if wish != "auto":
        sys.exit(f"MASKRCNN_OPS_CUDA: expected auto, 1 or 0, got {wish!r}")
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    torch_cuda = re.search(r"^cuda[^=]*= *'", (torch / "version.py").read_text(), re.MULTILINE)
    return "ON" if nvcc and torch_cuda else "OFF"


class CMakeBuild(build_ext):
    def run(self) -> None:
        if sys.platform not in ("linux", "darwin"):
            sys.exit(f"maskrcnn-ops builds on Linux and macOS; this platform is {sys.platform}.")
        torch = find_torch()
        if torch is None:
            sys.exit(
                "maskrcnn-ops needs PyTorch to build against and found none. "
                "Install it first: pip install 'torch>=2.11', then pip install --no-build-isolation ."
            )
        # An editable install keeps the libraries beside the sources, and its CMake folder from build to build; a wheel
        # collects them from build_lib.
        package = ROOT if self.inplace else Path(self.build_lib).resolve()
        build = (ROOT / "build" if self.inplace else Path(self.build_temp).resolve()) / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={os.environ.get('CMAKE_BUILD_TYPE', 'Release')}",
            f"-DCMAKE_INSTALL_PREFIX={package / 'maskrcnn_ops'}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DMASKRCNN_OPS_PYTHON=ON",
            f"-DMASKRCNN_OPS_TORCH_DIR={torch}",
            f"-DMASKRCNN_OPS_CUDA={wants_cuda(torch)}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        for command in (
            configure,
            ["cmake", "--build", str(build), "--parallel", jobs],
            ["cmake", "--install", str(build)],
        ):
            try:
                subprocess.check_call(command)
            except FileNotFoundError:
                sys.exit("maskrcnn-ops needs cmake and ninja to build: pip install cmake ninja pybind11")
            except subprocess.CalledProcessError:
                sys.exit(
                    "maskrcnn-ops did not build; the first error above says why. Nothing was installed. "
                    "A C++17 compiler (g++ or clang++) and the headers of Python and torch >= 2.11 are needed."
                )


setup(
    ext_modules=[Extension("maskrcnn_ops._host", [])],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=[] if find_torch() else ["torch>=2.11"],
)
