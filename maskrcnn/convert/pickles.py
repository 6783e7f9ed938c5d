"""Reads the pickles in which weights are published as numpy arrays, and nothing else that a pickle can hold.

A pickle is a program that names functions to call. Here it may name only what builds numbers and arrays
of them, and gets stand-ins of this file for those: no function of numpy, or of any other library, runs on what
the file says.
"""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from maskrcnn.checkpoint import CheckpointError

_NUMBER = re.compile(r"[biufc](1|2|4|8|16)")


def read_arrays(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle of numpy arrays in plain containers; arrays are read-only.

    Raises:
        CheckpointError: naming the file: missing, damaged, or a pickle that names anything but arrays.
    """
    try:
        with open(path, "rb") as file:
            # Python 2 wrote bytes as what Python 3 takes for text; latin1 keeps every byte.
            return _arrays(_Unpickler(file, encoding="latin1").load())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except _RefusedError as error:
        raise CheckpointError(
            f"{path}: refused, a pickle of weights holds arrays only, this one names {error}"
        ) from error
    except Exception as error:  # an unpickler raises nearly anything on damaged bytes
        raise CheckpointError(f"{path}: not a readable pickle of arrays ({error!r:.200})") from error


class _RefusedError(Exception):
    """Its text is what a pickle names and may not."""


class _Unpickler(pickle.Unpickler):
    """Knows no names but those of :func:`_admitted`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names = _admitted()

    def find_class(self, module: str, name: str) -> Any:
        # Python 3 and numpy 2 have moved what their predecessors wrote.
        module = {"__builtin__": "builtins"}.get(module, module).replace("numpy._core.", "numpy.core.", 1)
        if (module, name) not in self._names:
            raise _RefusedError(f"{module}.{name}")
        return self._names[module, name]


class _Number:
    """In the place of ``numpy.dtype``: integers, floats, complex and boolean numbers only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not _NUMBER.fullmatch(code):
            raise _RefusedError(f"the data type {code!r:.40}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.dtype = self.dtype.newbyteorder("=" if order == "|" else order)


class _Array:
    """In the place of ``numpy.ndarray``: empty, until its state is set."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = np.zeros(0) if array is None else array

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, number, fortran, data = state
        self.array = _array(_bytes(data), number, shape, "F" if fortran else "C")


def _array(data: bytes, number: _Number, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(data, number.dtype).reshape(shape, order="F" if order == "F" else "C")


def _bytes(data: bytes | bytearray | str = b"", *_: str) -> bytes:
    if not isinstance(data, bytes | bytearray | str):  # bytes(n) would make n of them
        raise _RefusedError(f"bytes of {type(data).__name__}")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _admitted() -> dict[tuple[str, str], Callable[..., Any]]:
    """What a file may name. Made anew for each: a pickle may set attributes on what it is given."""
    return {
        ("numpy", "ndarray"): type("ndarray", (_Array,), {}),
        ("numpy", "dtype"): type("dtype", (_Number,), {}),
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
        ("numpy.core.multiarray", "scalar"): lambda number, data: _array(_bytes(data), number, (), "C")[()],
        # Since protocol 5: bytes, type, shape, order.
        ("numpy.core.numeric", "_frombuffer"): lambda data, *rest: _Array(_array(_bytes(data), *rest)),
        # Python 3 writes bytes so for Python 2's protocol: text in latin1.
        ("_codecs", "encode"): lambda text, *_: _bytes(text),
        ("builtins", "bytes"): lambda *data: _bytes(*data),
        ("builtins", "bytearray"): lambda *data: _bytes(*data),
        ("collections", "OrderedDict"): OrderedDict,
    }


def _arrays(content: Any) -> Any:
    """The content with arrays for their stand-ins."""
    if isinstance(content, _Array):
        return content.array
    if isinstance(content, dict):
        return {key: _arrays(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_arrays(value) for value in content]
    return content
