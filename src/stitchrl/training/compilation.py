"""The persistent compilation cache: a second start skips compiling."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import jax

__all__ = ["enable_compilation_cache"]


@cache
def enable_compilation_cache() -> None:
    """Use a cache below XDG_CACHE_HOME (or ~/.cache) unless JAX was already told of one or it cannot be written."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "stitchrl" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
