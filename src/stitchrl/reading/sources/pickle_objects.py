"""What a pickle may describe: named classes without their code, arrays and dtypes that are filled in later."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from stitchrl.types import NumpyArray

__all__ = [
    "MULTIARRAY",
    "NO_BYTES",
    "NUMERIC",
    "Array",
    "Dtype",
    "Name",
    "RefusedError",
    "Thing",
    "dtype_of",
    "named",
    "thing_of",
]

MULTIARRAY = ("numpy._core.multiarray", "numpy.core.multiarray")
"""Where NumPy 2 and 1 keep `_reconstruct` and `scalar`, by which pickles make arrays and numbers."""
NUMERIC = ("numpy._core.numeric", "numpy.core.numeric")
"""Where they keep `_frombuffer`, by which newer pickles make arrays."""
INERT = ("stable_baselines3.", "sb3_contrib.", "gymnasium.", "gym.", "numpy.random.")
"""Packages whose classes a pickle may name; their objects become inert bags of attributes."""
INERT_NAMES = {
    "torch.device",
    "collections.OrderedDict",
    "collections.deque",
    "numpy.ndarray",
    *(f"numpy.{kind}" for kind in ("bool", "bool_", "float32", "float64", "int8", "int32", "int64", "uint8")),
}
NO_BYTES = ("__builtin__.bytes", "builtins.bytes")
"""How protocol 2 writes an empty bytes object."""
NUMBER = re.compile(r"[?bBhHiIlLqQefd]|[biuf](1|2|4|8)")
TEXT = re.compile(r"[US]\d{1,4}")


class RefusedError(Exception):
    """A pickle asks for something that is refused; the message says what."""


class Name:
    """The name of a class or function that a pickle mentions. It is never imported."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.full = f"{module}.{name}"


class Thing:
    """The attributes and entries of an object, without its class."""

    def __init__(self, name: Name) -> None:
        self.kind = name.name
        self.fields: dict[str, Any] = {}
        self.entries: dict[Any, Any] = {}


class Array:
    """An array whose content the pickle gives later. `value` is None until then, and for arrays of Python objects."""

    def __init__(self) -> None:
        self.value: NumpyArray | None = None


class Dtype:
    """A dtype whose byte order the pickle gives later."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def made(self) -> np.dtype:
        """The dtype, once its byte order is known."""
        return np.dtype(f"{self.order if self.order != '|' else '='}{self.code}")

    @property
    def objects(self) -> bool:
        """Whether it is a dtype of Python objects."""
        return self.code.startswith("O")


def named(module: Any, name: Any) -> Name:
    """A name, checked to be one that a pickle may mention."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedError("a name that is no text")
    result = Name(module, name)
    arrays = (module in MULTIARRAY and name in ("_reconstruct", "scalar")) or (
        module in NUMERIC and name == "_frombuffer"
    )
    known = result.full in ("numpy.dtype", "_codecs.encode", *NO_BYTES) or result.full in INERT_NAMES
    if not (arrays or known or module.startswith(INERT)):
        raise RefusedError(f"{result.full[:80]!r}")
    return result


def thing_of(name: Any) -> Thing:
    """An empty object of a class whose objects are inert."""
    inert = isinstance(name, Name) and (name.module.startswith(INERT) or name.full in INERT_NAMES)
    if not inert:
        raise RefusedError("an object of an unknown class")
    return Thing(name)


def dtype_of(given: tuple[Any, ...]) -> Dtype:
    """A dtype of numbers, text or Python objects, from the arguments of `numpy.dtype`."""
    code = given[0] if given else None
    if not isinstance(code, str) or not (NUMBER.fullmatch(code) or TEXT.fullmatch(code) or code in ("O", "O8")):
        raise RefusedError("an array of unknown type")
    return Dtype(code)
