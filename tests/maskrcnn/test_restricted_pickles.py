"""The reader of published pickles: arrays of every protocol, and nothing that a hostile file asks for."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskrcnn.checkpoint import CheckpointError
from maskrcnn.convert.pickles import read_arrays

CONTENT = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "halves": np.array([0.5, -2], dtype=np.float16),
    "big_endian": np.arange(3, dtype=">i4"),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 4)),
    "zero_dimensional": np.array(7),
    "number": np.float32(3),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps({"model": OrderedDict(CONTENT), "author": "me"}, protocol))
    read = read_arrays(path)
    assert read["author"] == "me"
    assert list(read["model"]) == list(CONTENT)
    for name, value in CONTENT.items():
        np.testing.assert_array_equal(read["model"][name], value)
        assert read["model"][name].dtype == value.dtype


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_names_of_both_generations_of_numpy(module: str, tmp_path: Path) -> None:
    ours = pickle.dumps(np.arange(3.0), 2)
    there = "numpy._core.multiarray" if b"numpy._core.multiarray" in ours else "numpy.core.multiarray"
    path = tmp_path / "arrays.pkl"
    path.write_bytes(ours.replace(there.encode(), module.encode()))
    assert read_arrays(path).tolist() == [0, 1, 2]


def test_a_file_of_python_2(tmp_path: Path) -> None:
    """There the bytes of an array are a string: float32 1 and 2 after the header, protocol 2."""
    text = struct.pack("<2f", 1.0, 2.0)
    program = (
        b"\x80\x02}U\x06conv_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + text + b"tbs."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(program)
    assert read_arrays(path)["conv_w"].tolist() == [1, 2]


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def names(module: str, name: str, *, protocol: int = 4) -> bytes:
    """A pickle that calls ``module.name("touch")``, whether there is such a thing or not."""
    if protocol < 4:
        return f"c{module}\n{name}\n(S'touch'\ntR.".encode()
    parts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + parts + b"\x93\x8c\x05touch\x85R."


HOSTILE = {
    "os.system": pickle.dumps({"model": Call(os.system, "touch executed")}),
    "builtins.eval": pickle.dumps({"model": Call(builtins.eval, "open('executed', 'w')")}),
    "builtins.getattr": pickle.dumps(Call(getattr, "", "join")),
    "numpy.f2py.diagnose.os.system": names("numpy.f2py.diagnose", "os.system"),
    "numpy.core.multiarray.os.system": names("numpy._core.multiarray", "os.system"),
    "numpy.ndarray.__class__.__base__": names("numpy", "ndarray.__class__.__base__"),
    "numpy.load": names("numpy", "load"),
    "numpy.fromfile": names("numpy", "fromfile", protocol=0),
    "_codecs.lookup": names("_codecs", "lookup"),
    "__main__.anything": names("__main__", "anything"),
    "maskrcnn.convert.pickles._Array": names("maskrcnn.convert.pickles", "_Array"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_unexecuted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hostile.pkl").write_bytes(HOSTILE[name])
    called = name.replace("os.system", "posix.system") if name == "os.system" else name
    with pytest.raises(CheckpointError, match=rf"hostile\.pkl: refused, .* names {called}$"):
        read_arrays("hostile.pkl")
    assert os.listdir() == ["hostile.pkl"]


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    """Their bytes would be addresses, had numpy read them."""
    path = tmp_path / "objects.pkl"
    path.write_bytes(pickle.dumps(np.array([None, "x"], dtype=object)))
    with pytest.raises(CheckpointError, match=r"refused, .* names the data type 'O8'"):
        read_arrays(path)
    path.write_bytes(pickle.dumps(np.array(["x"])))
    with pytest.raises(CheckpointError, match=r"refused, .* names the data type 'U1'"):
        read_arrays(path)


def test_a_number_does_not_become_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    path.write_bytes(b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R.")
    with pytest.raises(CheckpointError, match=r"refused, .* names bytes of int"):
        read_arrays(path)
    # A shape of 2^40 elements over four bytes.
    array = pickle.dumps(np.zeros(1, np.float32), 2)
    path.write_bytes(array.replace(b"K\x01\x85", b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85", 1))
    with pytest.raises(CheckpointError, match="not a readable pickle of arrays"):
        read_arrays(path)


def test_a_file_cannot_change_the_reader(tmp_path: Path) -> None:
    """BUILD sets attributes on what a file was given; the next file gets new ones."""
    path = tmp_path / "build.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}U\x04nameU\x05valuesb.")
    with contextlib.suppress(CheckpointError):
        read_arrays(path)
    path.write_bytes(b"\x80\x02c_codecs\nencode\n.")
    assert not hasattr(read_arrays(path), "name")


@pytest.mark.parametrize("length", [0, 1, 10, 100, -1])
def test_a_truncated_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "short.pkl"
    path.write_bytes(pickle.dumps(CONTENT)[:length])
    with pytest.raises(CheckpointError, match=r"short\.pkl: not a readable pickle of arrays"):
        read_arrays(path)
    with pytest.raises(CheckpointError, match=r"none\.pkl: no such file"):
        read_arrays(tmp_path / "none.pkl")
