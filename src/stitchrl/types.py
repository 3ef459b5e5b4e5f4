"""Names shared by every layer: array aliases and the small protocols between them. Imports nothing of stitchrl."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int, Shaped, UInt64
else:
    # Annotations are strings, which only a checker of shapes reads, and it imports jaxtyping first. A deployed policy runs
    # without jaxtyping, whose import takes half as long as NumPy's.
    class _Shaped:
        """Stands for an array with a dtype and a shape, which are not checked."""

        def __class_getitem__(cls, item: Any) -> Any:
            return np.ndarray

    Bool = Float = Int = Shaped = UInt64 = _Shaped

__all__ = ["Bool", "Float", "Int", "NumpyArray", "PyTree", "Shaped", "UInt64"]

NumpyArray: TypeAlias = np.ndarray
PyTree: TypeAlias = Any
