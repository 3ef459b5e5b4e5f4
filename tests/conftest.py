"""Strict numerics for the whole suite, and shapes checked at every call."""

from __future__ import annotations

import os

# Before JAX is imported anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

from jaxtyping import install_import_hook

install_import_hook("stitchrl", "checker.typechecked")
