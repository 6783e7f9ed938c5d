"""Reading pictures of every common kind into one form."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .dataset import DataError

# What Pillow raises for files that are not pictures, are cut short or are damaged.
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, KeyError, IndexError, TypeError)


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture as RGB.

    Greyscale, palette and CMYK pictures are converted; an alpha channel is dropped; 16-bit greyscale is
    scaled so that 65535 becomes 255; an EXIF orientation is applied; of an animation the first frame is
    taken.

    Args:
        path: a file that Pillow can read.

    Returns:
        uint8 tensor [3, H, W], contiguous, in memory of its own.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is no picture, is truncated or corrupt, or its pixels have no 8-bit meaning
            (32-bit integers beyond 65535, floating point). The message names the file.
    """
    path = Path(path)
    try:
        with Image.open(path) as picture:
            picture.load()
            pixels = _to_rgb(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: image file not found") from None
    except (*_READ_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot read the image: {error or type(error).__name__}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of a Pillow picture in any mode."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray(_scale_16_bit(np.asarray(picture)))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels; convert the picture to 8 or 16 bits")
    elif picture.mode in ("P", "PA") and ("transparency" in picture.info or picture.mode == "PA"):
        picture = picture.convert("RGBA")  # a transparent palette entry keeps its own colour this way
    return np.array(picture.convert("RGB"))


def _scale_16_bit(values: np.ndarray) -> np.ndarray:
    """Round ``values * 255 / 65535`` to uint8. Pillow hands 16-bit files over as 16- or 32-bit integers."""
    wide = values.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise ValueError(f"integer pixels from {wide.min()} to {wide.max()}; at most 16 bits are supported")
    return ((wide + 128) // 257).astype(np.uint8)
