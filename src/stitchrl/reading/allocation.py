"""Making the arrays of a log that is being read, in memory or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["New", "in_memory"]


New: TypeAlias = Callable[[str, tuple[int, ...], Any], NumpyArray]
"""A function from (name, shape, dtype) to an array to write into."""


def in_memory(name: str, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
    """An array in memory. Pages that are never written take no memory.

    Raises:
        DataError: there is not enough memory.
    """
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        raise DataError(
            f"{name} would be {'x'.join(map(str, shape))} numbers, more than memory holds. Convert the log to a store, "
            "which is read from disk."
        ) from None
