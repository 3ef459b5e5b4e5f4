"""Pickles of arrays and plain attributes, without unpickling.

The instructions of the file are carried out here by a small interpreter. It can make NumPy arrays, dtypes, lists, dicts
and inert bags of attributes; it imports nothing, calls nothing by name, and refuses a file that asks for more.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import Declared
from stitchrl.types import NumpyArray

__all__ = ["Array", "RefusedError", "Thing", "loaded"]

MOST_STEPS = 5_000_000
MOST_ENTRIES = 100_000
"""Of one dict: hashes of numbers can be chosen to collide, and then each entry is compared with all before it."""
LARGEST_KEY = 2**53
"""Of numbers: Python hashes them modulo 2**61 - 1, so that multiples of it all collide."""
MULTIARRAY = ("numpy._core.multiarray", "numpy.core.multiarray")
NUMERIC = ("numpy._core.numeric", "numpy.core.numeric")
INERT = ("stable_baselines3.", "sb3_contrib.", "gymnasium.", "gym.", "numpy.random.")
"""Packages whose classes may be named: a bag of attributes stands for each of their objects."""
INERT_NAMES = {
    "torch.device",
    "collections.OrderedDict",
    "collections.deque",
    "numpy.ndarray",
    *(f"numpy.{kind}" for kind in ("bool", "bool_", "float32", "float64", "int8", "int32", "int64", "uint8")),
}
NO_BYTES = ("__builtin__.bytes", "builtins.bytes")
"""How protocol 2 says b""."""
NUMBER = re.compile(r"[?bBhHiIlLqQefd]|[biuf](1|2|4|8)")
TEXT = re.compile(r"[US]\d{1,4}")
KEYS = (str, int, float, bool, bytes, type(None))
LINES = (
    "import pickle, pathlib, numpy as np; b = vars(pickle.loads(pathlib.Path({pickle!r}).read_bytes()))\n"
    'np.savez({npz!r}, **{{f"{{k}}/{{n}}".strip("/"): a for k, v in b.items() for n, a in '
    '(v if isinstance(v, dict) else {{"": v}}).items() if np.asarray(a).dtype.kind in "biuf"}})'
)


class RefusedError(Exception):
    """What a pickle asks for and does not get."""


class _Name:
    """Something that a pickle names. It is never looked up."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.full = f"{module}.{name}"


class Thing:
    """An object of a named class, without the class: its attributes and entries."""

    def __init__(self, name: _Name) -> None:
        self.kind = name.name
        self.fields: dict[str, Any] = {}
        self.entries: dict[Any, Any] = {}


class Array:
    """An array to be; None until its content comes, and where that is Python objects."""

    def __init__(self) -> None:
        self.value: NumpyArray | None = None


class _Dtype:
    """A dtype to be: its byte order comes later."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def made(self) -> np.dtype:
        return np.dtype(f"{self.order if self.order != '|' else '='}{self.code}")

    @property
    def objects(self) -> bool:
        return self.code.startswith("O")


class _Bounded:
    """A file that is never asked for more than it has."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size
        self.tell, self.readline = file.tell, file.readline

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes."""
        left = self._size - self._file.tell()
        content: bytes = self._file.read(left if count < 0 else min(count, left))
        return content


def loaded(path: Path) -> Any:
    """What a pickle describes. Nothing in it is imported or called."""
    size = path.stat().st_size
    machine = _Machine(Declared(path.name, size), size)
    try:
        with open(path, "rb") as file:
            for number, (code, value, _) in enumerate(pickletools.genops(cast(IO[bytes], _Bounded(file, size)))):
                if number > MOST_STEPS:
                    raise RefusedError(f"more than {MOST_STEPS:,} objects")
                if code.name == "STOP":
                    return machine.stack.pop()
                machine.step(code.name, value)
    except RefusedError as refused:
        lines = LINES.format(pickle=path.name, npz=f"{path.stem}.npz")
        raise DataError(
            f"{path.name} is a pickle that asks for {refused}, which is not read, because a pickle can run any code. "
            f"If you trust it, these two lines convert it:\n{lines}"
        ) from None
    raise ValueError("the pickle has no end")


class _Machine:
    """Carries out the instructions that arrays and plain attributes need.

    Args:
        declared: what the sizes of arrays are added to.
        size: bytes of the file. What is copied while reading, text into bytes and attributes into objects, stands in
            it at least once for each copy; more copies than that are one thing named again and again to fill memory.
    """

    def __init__(self, declared: Declared, size: int) -> None:
        self._size = self._left = size
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._declared = declared

    def step(self, code: str, value: Any) -> None:
        """One instruction. Raises RefusedError for those that are not known."""
        if code in PUSHED:
            self.stack.append(value)
        elif code in CONSTANTS:
            self.stack.append(CONSTANTS[code]())
        else:
            action = ACTIONS.get(code)
            if action is None:
                raise RefusedError(f"the instruction {code}")
            action(self, value)

    def _above_mark(self) -> list[Any]:
        start = self._marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def skip(self, _: Any) -> None:
        """Versions and frames change nothing."""

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._above_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def put(self, place: int) -> None:
        if place > LARGEST_KEY:
            raise RefusedError("a place in memory beyond 2**53")
        self._memo[place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self._memo[place])

    def tuple_of_mark(self, _: Any) -> None:
        self.stack.append(tuple(self._above_mark()))

    def tuple_of(self, count: int) -> None:
        taken = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(taken)

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Thing):
            raise RefusedError("items in what is no list")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def set_items(self, _: Any) -> None:
        self._update(self._above_mark())

    def _update(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        target = target.entries if isinstance(target, Thing) else target
        if not isinstance(target, dict) or len(pairs) % 2:
            raise RefusedError("entries in what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in KEYS:
                raise RefusedError("a dict with keys that are no text or numbers")
            if isinstance(key, int | float) and abs(key) > LARGEST_KEY:
                raise RefusedError("a dict with a number beyond 2**53 as its key")
            if len(target) >= MOST_ENTRIES and key not in target:
                raise RefusedError(f"a dict of more than {MOST_ENTRIES:,} entries")
            target[key] = value

    def add_items(self, _: Any) -> None:
        self._above_mark()  # what is in a set matters to nothing here

    def frozen(self, _: Any) -> None:
        self._above_mark()
        self.stack.append([])

    def name(self, value: str) -> None:
        module, _, name = value.partition(" ")
        self.stack.append(_named(module, name))

    def stacked_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_named(module, name))

    def new(self, _: Any) -> None:
        self.stack.pop()
        self.stack.append(_thing(self.stack.pop()))

    def new_with_keywords(self, _: Any) -> None:
        del self.stack[-2:]
        self.stack.append(_thing(self.stack.pop()))

    def reduce(self, _: Any) -> None:
        """ "Calls" a name: only NumPy's own makers of arrays and dtypes are known, by what they would do."""
        given, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(given, tuple):
            raise RefusedError("a call of something that is no name")
        if name.full == "numpy.dtype":
            self.stack.append(_dtype(given))
        elif name.module in MULTIARRAY and name.name == "_reconstruct":
            self.stack.append(Array())
        elif name.module in MULTIARRAY and name.name == "scalar":
            self.stack.append(self._values(given[1] if len(given) > 1 else b"", given[0], ()))
        elif name.module in NUMERIC and name.name == "_frombuffer":
            content, dtype, shape, order = given
            self.stack.append(self._values(content, dtype, shape, fortran=order == "F"))
        elif name.full == "_codecs.encode":
            if len(given) != 2 or given[1] != "latin1" or not isinstance(given[0], str):
                raise RefusedError("an encoding")
            self._charge(len(given[0]))
            self.stack.append(given[0].encode("latin-1"))
        elif name.full in NO_BYTES and not given:
            self.stack.append(b"")
        else:
            self.stack.append(_thing(name))

    def build(self, _: Any) -> None:
        """Attributes of a thing, content of an array, byte order of a dtype."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Thing):
            for part in state if isinstance(state, tuple) else (state,):
                if isinstance(part, dict):
                    self._charge(len(part))
                    target.fields.update({key: value for key, value in part.items() if type(key) is str})
        elif isinstance(target, Array):
            _, shape, dtype, fortran, content = state
            if not (isinstance(dtype, _Dtype) and dtype.objects):
                target.value = self._values(content, dtype, shape, fortran=bool(fortran))
        elif isinstance(target, _Dtype):
            if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
                raise RefusedError("an array of records")
            target.order = state[1] if state[1] in ("<", ">", "|", "=") else "="
        else:
            raise RefusedError("attributes of something that is no object")

    def _charge(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise RefusedError(f"more bytes and attributes than its {self._size:,} bytes can hold")

    def _values(self, content: Any, dtype: Any, shape: Any, *, fortran: bool = False) -> Any:
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or any(type(n) is not int for n in shape):
            raise RefusedError("an array of unknown type")
        if dtype.objects:
            return Array()
        if not isinstance(content, bytes | bytearray):
            raise RefusedError("an array without content")
        kind = dtype.made()
        if math.prod(shape) * kind.itemsize != len(content) or min(shape, default=0) < 0:
            raise ValueError(f"an array of shape {shape} has {len(content)} bytes")
        self._declared.add("an array", shape, kind.itemsize)
        values = np.frombuffer(content, kind) if len(content) else np.empty(0, kind)
        values = values.reshape(shape, order="F" if fortran else "C")
        return values.item() if not shape else values


def _named(module: Any, name: Any) -> _Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedError("a name that is no text")
    found = _Name(module, name)
    arrays = (module in MULTIARRAY and name in ("_reconstruct", "scalar")) or (
        module in NUMERIC and name == "_frombuffer"
    )
    known = found.full in ("numpy.dtype", "_codecs.encode", *NO_BYTES) or found.full in INERT_NAMES
    if not (arrays or known or module.startswith(INERT)):
        raise RefusedError(f"{found.full[:80]!r}")
    return found


def _thing(name: Any) -> Thing:
    inert = isinstance(name, _Name) and (name.module.startswith(INERT) or name.full in INERT_NAMES)
    if not inert:
        raise RefusedError("an object of an unknown class")
    return Thing(name)


def _dtype(given: tuple[Any, ...]) -> _Dtype:
    code = given[0] if given else None
    if not isinstance(code, str) or not (NUMBER.fullmatch(code) or TEXT.fullmatch(code) or code in ("O", "O8")):
        raise RefusedError("an array of unknown type")
    return _Dtype(code)


PUSHED = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "INT",
        "LONG",
        "LONG1",
        "BINFLOAT",
        "FLOAT",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "UNICODE",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
)
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.skip,
    "FRAME": _Machine.skip,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "MEMOIZE": _Machine.memoize,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple_of_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "FROZENSET": _Machine.frozen,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "NEWOBJ": _Machine.new,
    "NEWOBJ_EX": _Machine.new_with_keywords,
}
