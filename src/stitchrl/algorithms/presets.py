"""Published settings of an algorithm, each under a name and with its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Preset"]


class Preset(NamedTuple):
    """The settings of a published run.

    Attributes:
        settings: those that differ from the defaults of the algorithm.
        source: where they were read: a paper's table, or a file of the official code.
        training: what those runs did beside the algorithm's own settings, as `fit` would be told; "" if nothing.
    """

    settings: Mapping[str, Any]
    source: str
    training: str = ""
