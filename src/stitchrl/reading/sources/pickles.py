"""Reading pickles of arrays and plain attributes without unpickling them.

A small interpreter carries out the instructions of the file. It can make NumPy arrays, dtypes, lists, dicts and inert
bags of attributes. It imports nothing and calls nothing that the file names, and it refuses a file that asks for more.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import Declared
from stitchrl.reading.sources.pickle_objects import (
    MULTIARRAY,
    NO_BYTES,
    NUMERIC,
    Array,
    Dtype,
    Name,
    RefusedError,
    Thing,
    dtype_of,
    named,
    thing_of,
)

__all__ = ["loaded"]

MOST_STEPS = 5_000_000
"""The most instructions that a pickle may have."""
MOST_ENTRIES = 100_000
"""The most entries of a dict: keys can be chosen so that their hashes collide, which makes every insertion slow."""
LARGEST_KEY = 2**53
"""The largest number that may be a key: Python hashes numbers modulo 2**61 - 1, so that its multiples all collide."""
KEYS = (str, int, float, bool, bytes, type(None))
LINES = (
    "import pickle, pathlib, numpy as np; b = vars(pickle.loads(pathlib.Path({pickle!r}).read_bytes()))\n"
    'np.savez({npz!r}, **{{f"{{k}}/{{n}}".strip("/"): a for k, v in b.items() for n, a in '
    '(v if isinstance(v, dict) else {{"": v}}).items() if np.asarray(a).dtype.kind in "biuf"}})'
)


class _Bounded:
    """A file from which no more bytes are asked than it has, however many a pickle says will follow."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size
        self.tell, self.readline = file.tell, file.readline

    def read(self, count: int = -1) -> bytes:
        """The next `count` bytes, or those that are left."""
        left = self._size - self._file.tell()
        content: bytes = self._file.read(left if count < 0 else min(count, left))
        return content


def loaded(path: Path) -> Any:
    """What a pickle describes. Nothing that it names is imported or called.

    Raises:
        DataError: it asks for something that is refused.
        ValueError: it has no end.
    """
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
    """Carries out the instructions of a pickle. Each method is one of them, named in `ACTIONS`.

    Args:
        declared: adds up the sizes of arrays.
        size: bytes of the file. An honest file holds whatever is copied while reading (text into bytes, attributes into
            objects) at least once for each copy. More copies mean that the file names one thing again and again to
            fill memory.
    """

    def __init__(self, declared: Declared, size: int) -> None:
        self._size = self._left = size
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._declared = declared

    def step(self, code: str, value: Any) -> None:
        """Carry out an instruction. Raises RefusedError if it is not known."""
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
        """Take everything above the last mark off the stack."""
        start = self._marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def skip(self, _: Any) -> None:
        """Do nothing: protocol versions and frames do not matter here."""

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
            raise RefusedError("items in something that is not a list")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def set_items(self, _: Any) -> None:
        self._update(self._above_mark())

    def _update(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        target = target.entries if isinstance(target, Thing) else target
        if not isinstance(target, dict) or len(pairs) % 2:
            raise RefusedError("entries in something that is not a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in KEYS:
                raise RefusedError("a dict with keys that are no text or numbers")
            if isinstance(key, int | float) and abs(key) > LARGEST_KEY:
                raise RefusedError("a dict with a number beyond 2**53 as its key")
            if len(target) >= MOST_ENTRIES and key not in target:
                raise RefusedError(f"a dict of more than {MOST_ENTRIES:,} entries")
            target[key] = value

    def add_items(self, _: Any) -> None:
        self._above_mark()  # no array is kept in a set, so its items are dropped

    def frozen(self, _: Any) -> None:
        self._above_mark()
        self.stack.append([])

    def name(self, value: str) -> None:
        module, _, name = value.partition(" ")
        self.stack.append(named(module, name))

    def stacked_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(named(module, name))

    def new(self, _: Any) -> None:
        self.stack.pop()
        self.stack.append(thing_of(self.stack.pop()))

    def new_with_keywords(self, _: Any) -> None:
        del self.stack[-2:]
        self.stack.append(thing_of(self.stack.pop()))

    def reduce(self, _: Any) -> None:
        """Do what calling a name would do.

        Only NumPy's own constructors of arrays and dtypes are known; nothing is called.
        """
        given, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(given, tuple):
            raise RefusedError("a call of something that is no name")
        if name.full == "numpy.dtype":
            self.stack.append(dtype_of(given))
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
            self.stack.append(thing_of(name))

    def build(self, _: Any) -> None:
        """Set the attributes of an object, the content of an array, or the byte order of a dtype."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Thing):
            for attributes in state if isinstance(state, tuple) else (state,):
                if isinstance(attributes, dict):
                    self._charge(len(attributes))
                    target.fields.update({key: value for key, value in attributes.items() if type(key) is str})
        elif isinstance(target, Array):
            _, shape, dtype, fortran, content = state
            if not (isinstance(dtype, Dtype) and dtype.objects):
                target.value = self._values(content, dtype, shape, fortran=bool(fortran))
        elif isinstance(target, Dtype):
            if not isinstance(state, tuple) or len(state) < 5 or any(field is not None for field in state[2:5]):
                raise RefusedError("an array of records")
            target.order = state[1] if state[1] in ("<", ">", "|", "=") else "="
        else:
            raise RefusedError("attributes of something that is no object")

    def _charge(self, count: int) -> None:
        """Count what is copied. Raises RefusedError once that is more than the file can hold."""
        self._left -= count
        if self._left < 0:
            raise RefusedError(f"more bytes and attributes than its {self._size:,} bytes can hold")

    def _values(self, content: Any, dtype: Any, shape: Any, *, fortran: bool = False) -> Any:
        """The array of these bytes; a number where the shape is empty."""
        if not isinstance(dtype, Dtype) or not isinstance(shape, tuple) or any(type(n) is not int for n in shape):
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
