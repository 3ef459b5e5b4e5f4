"""The contract of a probe: measurements of a member's state on fixed rows, in the compiled program, once per log row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from stitchrl.algorithms.base import Algorithm
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Metrics
from stitchrl.types import PyTree

__all__ = ["AnyProbe", "Measure"]

Measure = Callable[[Algorithm, PyTree, PyTree, PyTree], Metrics]
"""(algorithm, its state, what its `prepare` gave, the probe's arrays) -> scalars by name. It is pure, is traced into the
program of the loop, and gives finite numbers where the state is finite."""


@runtime_checkable
class AnyProbe(Protocol):
    """Measurements of a run beside its own metrics. They do not change what is learned.

    They describe the state at the end of a log row, while the metrics of updates are means over the row.
    """

    @property
    def measure(self) -> Measure:
        """The function that measures; the same one for every probe of a kind, so that programs are compiled once."""

    def arrays(self, log: Dataset, scaling: Scaling) -> PyTree:
        """The arrays to measure on, made once per run on the host.

        Args:
            log: the rows that are learned from.
            scaling: the units of batches.
        """
