"""How the models that estimators rest on are fitted."""

from __future__ import annotations

import dataclasses

__all__ = ["FitSettings"]


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How the nuisance models of an evaluation are fitted.

    Attributes:
        updates: gradient updates of FQE and, where the log lacks propensities, of the behaviour model.
        batch_size: rows a batch.
        hidden_sizes: widths of both networks.
        learning_rate: Adam's step size of both.
        seed: of both.
    """

    updates: int = 2000
    batch_size: int = 256
    hidden_sizes: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    seed: int = 0
