"""Loads libmaskrcnn_ops.so, which registers the operators under torch.ops.maskrcnn_ops."""

from pathlib import Path

import torch

LIBRARY = Path(__file__).with_name("libmaskrcnn_ops.so")


def load() -> None:
    """Load the operator library, or raise an ImportError that says why it cannot be and what to do."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 11):
        raise ImportError(f"maskrcnn_ops needs torch 2.11 or newer; this one is {torch.__version__}.")
    if not LIBRARY.is_file():
        raise ImportError(
            f"maskrcnn_ops was not built: {LIBRARY} does not exist. Install the package "
            "(pip install --no-build-isolation . in its source folder), or leave that folder if it is installed."
        )
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        raise ImportError(
            f"maskrcnn_ops was built but cannot be loaded beside torch {torch.__version__}: {error}. "
            "Rebuild it: pip install --no-build-isolation --force-reinstall --no-deps ."
        ) from error
