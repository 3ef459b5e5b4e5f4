"""How the models that estimators rest on are fitted."""

from __future__ import annotations

import dataclasses

from stitchrl.errors import ConfigurationError

__all__ = ["MINIMUM_ODDS_RATIO", "FitSettings", "check_odds_ratio"]

MINIMUM_ODDS_RATIO = 1.5
"""Hidden cause in the worst single decision, as an odds ratio, that a gain from a fitted behaviour must withstand."""


def check_odds_ratio(minimum_odds_ratio: float) -> None:
    """Raise ConfigurationError where it is no odds ratio of at least 1."""
    if not minimum_odds_ratio >= 1:
        raise ConfigurationError(
            f"`minimum_odds_ratio` must be at least 1, which asks for nothing; got {minimum_odds_ratio}. 1.5 is usual."
        )


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
