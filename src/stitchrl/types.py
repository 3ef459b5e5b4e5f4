"""Names shared by every layer: array aliases and the small protocols between them. Imports nothing of stitchrl."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

__all__ = ["NumpyArray", "PyTree"]

NumpyArray: TypeAlias = np.ndarray
PyTree: TypeAlias = Any
