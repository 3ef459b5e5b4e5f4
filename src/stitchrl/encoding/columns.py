"""Turning a column as a format holds it into NumPy arrays, or refusing it with the column and the row named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Shaped

from stitchrl.data.schema import VECTOR_ROLES
from stitchrl.errors import DataError
from stitchrl.messages import printable
from stitchrl.types import NumpyArray

__all__ = [
    "Block",
    "Column",
    "MissingError",
    "Where",
    "as_text",
    "identifiers",
    "is_image",
    "is_list",
    "is_text",
    "joined_identifiers",
    "plain",
    "refuse_missing",
]

Column: TypeAlias = "pa.Array | NumpyArray"
Block: TypeAlias = "Mapping[str, Column]"
"""Columns by their names, with as many rows each."""
LONGEST_TEXT = 1_000
"""The most bytes that a text value may have: NumPy makes every row as wide as the longest text of the column."""


class MissingError(DataError):
    """A column has missing values where it must have none."""


class Where(NamedTuple):
    """Where a block of a column stands in the log, for messages.

    Attributes:
        origin: what messages call the log.
        role: the role of the column.
        name: the name of the column.
        row: number of the block's first row in the log.
    """

    origin: str
    role: str
    name: str
    row: int

    @property
    def called(self) -> str:
        """The column by its role, with its own name where that differs."""
        named = self.role if self.name == self.role else f"{self.role} (column {printable(self.name)!r})"
        return f"{named} of {self.origin}"

    @property
    def column(self) -> str:
        """The column by its own name, with its role."""
        return f"Column {printable(self.name)!r} ({self.role}) of {self.origin}"


def plain(column: Column, where: Where, *, gaps: bool = False) -> Shaped[NumpyArray, "n ..."]:
    """The values of a column as NumPy holds them: (n,), or (n, k) for lists; text and times keep their kind.

    Args:
        column: the column in a block.
        where: the block stands, for messages.
        gaps: whether missing values become NaN rather than an error.

    Raises:
        DataError: missing values, lists of different lengths or where none belong, or values that are neither numbers
            nor text nor times.
    """
    with _converting(where):
        values = _of_numpy(column, where, gaps) if isinstance(column, np.ndarray) else _of_arrow(column, where, gaps)
    if values.dtype.kind not in "biufmMU":
        raise DataError(f"{where.column} must hold numbers, text or lists of numbers; it holds {values.dtype}.")
    return values


def as_text(column: Column, where: Where) -> pa.Array:
    """The values of a column as the names of categories: numbers as they are written, missing values as null."""
    with _converting(where):
        array = pa.array(column, from_pandas=True) if isinstance(column, np.ndarray) and column.ndim == 1 else column
        if isinstance(array, np.ndarray) or pa.types.is_nested(array.type):
            raise DataError(f"{where.column} must hold one value a row; it holds lists.")
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_nan(array), None, array)
        return _utf8(array, where)


def identifiers(column: Column, where: Where) -> NumpyArray | pa.DictionaryArray:
    """The values of a column that identifies episodes or groups.

    Numbers and times are as `plain` gives them. Text is dictionary-encoded, which is cheaper to compare and to hold.

    Raises:
        DataError: as `plain`.
    """
    with _converting(where):
        if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "OSU":
            column = pa.array(column.tolist(), from_pandas=True)
        if isinstance(column, np.ndarray):
            return plain(column, where)
        if not is_text(column.type.value_type if pa.types.is_dictionary(column.type) else column.type):
            return plain(column, where)
        refuse_missing(column, where)
        text = _utf8(column, where)
        _refuse_long(text, where)
        return text.dictionary_encode()


def joined_identifiers(columns: Sequence[tuple[Column, Where]]) -> pa.DictionaryArray:
    """What several columns identify together, as text with slashes between them: 12 and 3 become "12/3".

    A slash that a value holds itself gets a backslash before it, so that different values stay different.
    """
    parts = []
    for column, where in columns:
        text = as_text(column, where)
        refuse_missing(text, where)
        _refuse_long(text, where)
        parts.append(pc.replace_substring_regex(text, r"([/\\])", r"\\\1"))
    return pc.binary_join_element_wise(*parts, pa.scalar("/", pa.large_string())).dictionary_encode()


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text, or bytes that should be."""
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
        )
    )


def is_image(column: Column) -> bool:
    """Whether every value is an array of bytes with two axes or more."""
    if isinstance(column, np.ndarray):
        return column.ndim >= 3 and column.dtype == np.uint8
    kind = column.type
    return isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) >= 2 and pa.types.is_uint8(kind.value_type)


@contextmanager
def _converting(where: Where) -> Iterator[None]:
    """Turns what Arrow and NumPy raise on values that they cannot convert into a DataError of one sentence."""
    try:
        yield
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{where.column} asks for more memory than there is.") from None
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{where.column} cannot be used: {printable(lines[0].rstrip('.'))}.") from None


def _of_numpy(column: NumpyArray, where: Where, gaps: bool) -> NumpyArray:
    """`plain` of a NumPy column: text decoded, in the byte order of this machine."""
    if column.dtype.kind == "O":
        return _of_arrow(pa.array(column.tolist(), from_pandas=True), where, gaps)
    if column.dtype.kind in "SU":
        _refuse_long(pa.array(column), where)
    text = np.char.decode(column, "utf-8") if column.dtype.kind == "S" else column
    return text.astype(text.dtype.newbyteorder("="), copy=False)


def refuse_missing(array: pa.Array, where: Where) -> None:
    """Raise DataError naming the first row that has no value, if there is one."""
    if array.null_count:
        at = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        way = (
            ""
            if where.role != "observation"
            else f" Say what stands for them: `missing` under [{where.role}.{where.name}]."
        )
        raise MissingError(
            f"{where.column} must have no missing values; found {array.null_count}, the first in row {where.row + at}.{way}"
        )


def _of_arrow(array: pa.Array, where: Where, gaps: bool) -> NumpyArray:
    """`plain` of an Arrow column."""
    if not gaps:
        refuse_missing(array, where)
    if isinstance(array, pa.ExtensionArray):
        if isinstance(array, pa.FixedShapeTensorArray) and not array.null_count:
            return array.to_numpy_ndarray()
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    kind = array.type
    if is_list(kind):
        return _lists(array, where, gaps)
    if is_text(kind):
        return _text(_utf8(array, where), where)
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan, np.float32)
    if pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif pa.types.is_boolean(kind) and array.null_count:
        array = array.cast(pa.uint8())
    elif pa.types.is_time(kind):
        whole = array.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64())
        return whole.to_numpy(zero_copy_only=False).astype(f"m8[{kind.unit}]")
    elif pa.types.is_nested(kind):
        raise DataError(f"{where.column} must hold numbers, text or lists of numbers; it holds {printable(str(kind))}.")
    return array.to_numpy(zero_copy_only=False)


def _utf8(array: pa.Array, where: Where) -> pa.Array:
    """The values as UTF-8 text. Raises DataError naming the first row whose bytes are not UTF-8."""
    try:
        text = array.cast(pa.large_string())
        text.validate(full=True)
        return text
    except pa.ArrowInvalid:
        for row, value in enumerate(array.cast(pa.large_binary())):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError:
                raise DataError(f"{where.column} must be UTF-8 text; row {where.row + row} is not.") from None
        raise


def _text(array: pa.Array, where: Where) -> NumpyArray:
    """Text as a NumPy array.

    It goes through a dictionary, because most text repeats and each value is made only once.
    """
    _refuse_long(array, where)
    encoded = array.fill_null("").dictionary_encode()
    return encoded.dictionary.to_numpy(zero_copy_only=False).astype(str)[encoded.indices.to_numpy()]


def _refuse_long(array: pa.Array, where: Where) -> None:
    """Raise DataError if a text value is longer than `LONGEST_TEXT`."""
    longest = pc.max(pc.binary_length(array)).as_py() or 0
    if longest > LONGEST_TEXT:
        raise DataError(
            f"Text of {where.called} may have {LONGEST_TEXT:,} bytes a row; some has {longest:,}. Shorten or drop it."
        )


def _lists(array: pa.Array, where: Where, gaps: bool) -> Shaped[NumpyArray, "n k"]:
    """A column of flat lists of one length as an array; missing lists become rows of NaN."""
    if where.role not in VECTOR_ROLES:
        raise DataError(f"{where.column} must hold one value a row; it holds lists.")
    known = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if known is not None:
        array = array.drop_null()
    flat, rows = array.flatten(), len(array)
    if is_list(flat.type):
        raise DataError(f"{where.column} must hold flat lists; it holds {printable(str(array.type))}.")
    if flat.null_count and not gaps:
        raise DataError(f"The lists of {where.called} must have no missing values.")
    width = len(flat) // rows if rows else 0
    if not pa.types.is_fixed_size_list(array.type) and rows:
        lengths = array.value_lengths().to_numpy()
        different = np.flatnonzero(lengths != lengths[0])
        if len(different):
            row = np.arange(len(lengths)) if known is None else np.flatnonzero(known)
            raise DataError(
                f"The lists of {where.called} must all have the same length; row {where.row + int(row[0])} has "
                f"{int(lengths[0])} values, row {where.row + int(row[different[0]])} {int(lengths[different[0]])}."
            )
    values = _of_arrow(flat, where, gaps).reshape(rows, width)
    if known is None:
        return values
    spread = np.full((len(known), width), np.nan, np.result_type(values.dtype, np.float32))
    spread[known] = values
    return spread
