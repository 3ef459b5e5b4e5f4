"""Settings of the main job."""

from __future__ import annotations

import dataclasses
import math

from stitchrl.errors import ConfigurationError

__all__ = ["PipelineSettings"]


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """Everything that decides the numbers of a run, besides the log and the algorithms.

    Attributes:
        updates: gradient updates of each candidate, at least 1.
        evaluation_updates: of the FQE and of a fitted behaviour, at least 1.
        seeds: candidates of each algorithm, at least 1.
        batch_size: transitions a batch, at least 1.
        seed: of the split, the fits of the evaluation and the bootstrap (of whole groups, where the log has them).
        fractions: train, validation, test, of the episodes.
        split_by: as `by` of `Dataset.split`; None keeps groups whole where the log has them.
        confidence: two-sided, of every interval.
        margin: the least gain worth having, in return units.
    """

    updates: int = 2000
    evaluation_updates: int = 2000
    seeds: int = 3
    batch_size: int = 256
    seed: int = 0
    fractions: tuple[float, float, float] = (0.5, 0.1, 0.4)
    split_by: str | None = None
    confidence: float = 0.95
    margin: float = 0.0

    def __post_init__(self) -> None:
        for name in ("updates", "evaluation_updates", "seeds", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.seed < 0:
            raise ConfigurationError(f"`seed` must be at least 0; got {self.seed}.")
        if not math.isfinite(self.margin):
            raise ConfigurationError(f"`margin` must be a finite number; got {self.margin}.")
        if not 0 < self.confidence < 1:
            raise ConfigurationError(f"`confidence` must be in (0, 1); got {self.confidence}. 0.95 is usual.")
