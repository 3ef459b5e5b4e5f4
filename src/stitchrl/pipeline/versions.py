"""The versions of the packages that a result depends on."""

from __future__ import annotations

import importlib.metadata
import platform

__all__ = ["installed_versions"]

PACKAGES = ("stitchrl", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "pyarrow")


def installed_versions() -> dict[str, str]:
    """Package -> version, with Python's own."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
