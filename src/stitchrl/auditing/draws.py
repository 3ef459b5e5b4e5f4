"""The random draws of the audit: the samples that it looks at in a large log, and its random functions and first weights.

The seed of an audit is kept aside while it runs, and not handed from function to function: every check draws, most of them
far down, and none has another use for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from stitchrl.errors import ConfigurationError

__all__ = ["audit_seed", "drawn_by", "draws"]

_SEED = ContextVar("seed of the audit", default=0)


@contextmanager
def drawn_by(seed: int) -> Iterator[None]:
    """Let `draws` begin with this seed inside a `with` block.

    Raises:
        ConfigurationError: it is below 0.
    """
    if seed < 0:
        raise ConfigurationError(f"`seed` must be at least 0; got {seed}.")
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


def audit_seed() -> int:
    """The seed of the audit that is running; 0 outside one."""
    return _SEED.get()


def draws(stream: int) -> np.random.Generator:
    """A new generator for one purpose, which its number tells from the others of the same seed."""
    return np.random.default_rng((stream, audit_seed()))
