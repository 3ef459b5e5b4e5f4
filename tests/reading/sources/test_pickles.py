"""Pickles are read without running anything, whatever they ask for."""

from __future__ import annotations

import functools
import os
import pickle
import struct
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from format_files import Runs, opened

from stitchrl.errors import DataError
from stitchrl.reading.formats import (
    stable_baselines3,
)
from stitchrl.reading.sources import pickles


def globals_of(module: str, name: str, *given: bytes) -> bytes:
    """A pickle that calls the function `module.name` with some texts."""
    texts = b"".join(b"\x8c" + bytes([len(g)]) + g for g in given)
    named = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + named + b"\x93(" + texts + b"tR."


def hostile(marker: str) -> dict[str, bytes]:
    command = f"touch {marker}"
    code = f"__import__('os').mkdir({marker!r})"
    made = {
        "system": pickle.dumps(Runs(os.system, command)),
        "system in a buffer": pickle.dumps({"observations": Runs(os.system, command)}),
        "eval": pickle.dumps(Runs(eval, code)),
        "exec": pickle.dumps(Runs(exec, code)),
        "partial": pickle.dumps(Runs(functools.partial, os.mkdir, marker)),
        "getattr": globals_of("builtins", "getattr", b"os", b"mkdir"),
        "old protocol": pickle.dumps(Runs(os.system, command), protocol=0),
        "inst": f"(S'{command}'\nios\nsystem\n.".encode(),
        "obj": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "runstring": globals_of("numpy.testing._private.utils", "runstring", code.encode(), b""),
        "numpy load": globals_of("numpy", "load", marker.encode()),
        "f2py": globals_of("numpy.f2py.crackfortran", "myeval", code.encode()),
        "memmap": globals_of("numpy", "memmap", marker.encode(), b"uint8", b"w+"),
        "fromfile": globals_of("numpy", "fromfile", marker.encode()),
        "dotted": globals_of("numpy._core.multiarray", "scalar.__class__", b"x"),
        "dotted inert": globals_of("gymnasium.utils", "seeding.os.system", command.encode()),
        "sb3 function": globals_of("stable_baselines3.common.save_util", "load_from_pkl", marker.encode()),
        "gymnasium make": globals_of("gymnasium.envs.registration", "make", marker.encode()),
        "persistent": b"\x80\x04\x8c\x01aQ.",
        "extension": b"\x80\x04\x82\x01.",
        "build a name": b"\x80\x04cnumpy\ndtype\n}\x8c\x08__code__\x8c\x01xsb.",
        "bytes of 10^15": b"\x80\x04\x8e" + struct.pack("<Q", 10**15) + b"x.",
        "bytearray of 10^15": b"\x80\x05\x96" + struct.pack("<Q", 10**15) + b"x.",
        "frame of 10^15": b"\x80\x04\x95" + struct.pack("<Q", 10**15) + b"N.",
        "memo of 2^31": b"\x80\x04N" + b"r" + struct.pack("<I", 2**31 - 1) + b".",
        "deep": b"\x80\x04)" + b"\x85" * 20_000 + b".",
        "deep key": b"\x80\x04})" + b"\x85" * 20_000 + b"Ns.",
        "deep lists": b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".",
        "laughs": b"\x80\x04]" + b"2a" * 1000 + b".",
        "array of 10^15": b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n)R(K\x01\x8a\x08"
        + struct.pack("<q", 10**15)
        + b"\x85cnumpy\ndtype\n\x8c\x02f4\x85R\x89C\x04aaaatb.",
        "underflow": b"\x80\x04R.",
        "no mark": b"\x80\x04t.",
        "empty": b"\x80\x04.",
        "nothing": b"\x80\x04",
        "garbage": b"\x80\x04\xff\xff\xff",
        "plain list": pickle.dumps([1, 2, 3]),
        "deque": pickle.dumps(deque([1])),
        "code": pickle.dumps(Runs(bytes.fromhex, "00")),
    }
    return made


@pytest.mark.parametrize("name", list(hostile("x")))
def test_hostile_pickles_run_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "buffer.pkl"
    path.write_bytes(hostile(str(marker))[name])
    with pytest.raises(DataError, match=r"buffer\.pkl"):
        stable_baselines3.FORMAT.open(path)
    assert not marker.exists()


def test_pickles_of_endless_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_STEPS", 1000)
    (tmp_path / "many.pkl").write_bytes(b"\x80\x04(" + b"]" * 2000 + b"l.")
    with pytest.raises(DataError, match="more than 1,000 objects"):
        opened(tmp_path / "many.pkl")


def test_pickles_do_not_multiply_what_they_hold(tmp_path: Path) -> None:
    """A pickle may not turn one text into bytes 3,000 times, nor give one dict to 3,000 objects."""
    text = b"\x80\x04X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x94c_codecs\nencode\n\x94\x8c\x06latin1\x94000"
    encoded = text + b"]" + b"h\x01h\x00h\x02\x86Ra" * 3000 + b"."
    held = b"".join(b"\x8c\x05" + f"{i:05}".encode() + b"N" for i in range(10_000))
    given = b"\x80\x04}(" + held + b"u\x940]" + b"cgym.x\nX\n)\x81h\x00ba" * 3000 + b"."
    for content in (encoded, given):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(DataError, match=r"asks for more bytes and attributes than its [0-9,]+ bytes can hold"):
            pickles.loaded(tmp_path / "x.pkl")


@pytest.mark.parametrize("key", [(2**61 - 1) * 3, -(2**61 - 1), 2**53 + 1, 10**400, 2.0**60, float("inf")])
def test_pickles_of_keys_that_collide_are_refused(tmp_path: Path, key: float) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({key: 1}))
    with pytest.raises(DataError, match=r"asks for a dict with a number beyond 2\*\*53 as its key"):
        pickles.loaded(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({2**53: 1, -(2**53): 2, 0.5: 3}))
    assert pickles.loaded(tmp_path / "x.pkl") == {2**53: 1, -(2**53): 2, 0.5: 3}
    (tmp_path / "x.pkl").write_bytes(b"Np" + str(2**61 - 1).encode() + b"\n.")
    with pytest.raises(DataError, match=r"asks for a place in memory beyond 2\*\*53"):
        pickles.loaded(tmp_path / "x.pkl")


def test_pickles_of_large_dicts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_ENTRIES", 1000)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(dict.fromkeys(range(1000))))
    assert len(pickles.loaded(tmp_path / "x.pkl")) == 1000
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(dict.fromkeys(range(1001))))
    with pytest.raises(DataError, match="asks for a dict of more than 1,000 entries"):
        pickles.loaded(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    stored = {
        "a": np.arange(12, dtype=">i4").reshape(3, 4),
        "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "c": np.zeros((0, 2), np.uint8),
        "d": np.float32(2.5),
        "e": np.array([True, False]),
    }
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    found = pickles.loaded(path)
    for name, values in stored.items():
        value = found[name].value if isinstance(found[name], pickles.Array) else found[name]
        np.testing.assert_array_equal(value, values)
        assert np.shape(value) == values.shape  # type: ignore[attr-defined]
