"""Strict numerics for the whole suite, and shapes checked at every call."""

from __future__ import annotations

import os
from pathlib import Path

# Before JAX is imported anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

# Compiled programs are kept with pytest's own cache, not in the home directory.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ["XDG_CACHE_HOME"] = str(CACHE)

from jaxtyping import install_import_hook  # noqa: E402 - after the settings above

install_import_hook("stitchrl", "checker.typechecked")
