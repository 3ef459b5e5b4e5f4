"""Strict numerics for the whole suite, and shapes checked at every call."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Before JAX is imported anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

# Compiled programs are kept with pytest's own cache, not in the home directory.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ["XDG_CACHE_HOME"] = str(CACHE)

import jax  # noqa: E402 - after the settings above
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402 - after the settings above

install_import_hook("stitchrl", "checker.typechecked")


@pytest.fixture(autouse=True, scope="module")
def _programs_end_with_their_file() -> Iterator[None]:
    """Compiled programs hold memory maps, of which Linux gives a process 65,530: beyond them XLA crashes."""
    yield
    jax.clear_caches()
    gc.collect()
