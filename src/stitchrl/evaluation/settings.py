"""How the models that estimators rest on are fitted."""

from __future__ import annotations

import dataclasses

from stitchrl.errors import ConfigurationError

__all__ = ["BEHAVIORS", "MINIMUM_ODDS_RATIO", "FitSettings", "check_odds_ratio"]

MINIMUM_ODDS_RATIO = 1.5
"""Hidden cause in the worst single decision, as an odds ratio, that a gain from a fitted behaviour must withstand."""
BEHAVIORS = ("auto", "counts", "logistic", "mlp", "knn", "gaussian", "squashed", "mixture")
"""Models of the behaviour that can be asked for; "auto" takes the one that predicts held-out episodes best."""
MOST_NETWORKS = 4
"""Kinds of networks of the value there are."""


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
        updates: gradient updates of FQE; over continuous actions ten times as many, and for a network of the behaviour five
            times, which stops early.
        batch_size: rows a batch.
        hidden_sizes: widths of both networks.
        learning_rate: Adam's step size of both.
        seed: of both, and of the episodes that are held out to choose the model of the behaviour.
        behavior: model of the behaviour where the log lacks propensities. Discrete actions: "counts" of the actions in each
            state, "logistic" regression, an "mlp", or "knn", the nearest neighbours. Continuous actions: a "gaussian", one
            that is "squashed" by tanh, or a "mixture" of several. "auto" takes whichever predicts the actions of held-out
            episodes best, "knn" left out, for nothing is known about the noise of its fit.
        networks: networks of the value over continuous actions, 1 to 4, of different kinds: what they disagree by is part of
            the standard error.

    Raises:
        ConfigurationError: a model of the behaviour that does not exist, or a number of networks that is not 1 to 4.
    """

    updates: int = 2000
    batch_size: int = 256
    hidden_sizes: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    seed: int = 0
    behavior: str = "auto"
    networks: int = 4

    def numbers(self) -> tuple[float, ...]:
        """Everything here as numbers: two evaluations with other numbers are two looks."""
        chosen = float(BEHAVIORS.index(self.behavior))
        fits = (self.seed, self.updates, self.batch_size, *self.hidden_sizes, self.learning_rate, self.networks)
        return (*map(float, fits), chosen)

    def __post_init__(self) -> None:
        if self.behavior not in BEHAVIORS:
            raise ConfigurationError(f"`behavior` must be one of {', '.join(BEHAVIORS)}; got {self.behavior!r}.")
        if self.networks not in range(1, MOST_NETWORKS + 1):
            raise ConfigurationError(
                f"`networks` must be 1 to {MOST_NETWORKS}, of so many kinds; got {self.networks!r}. With 1 nothing is known "
                "about the error of the model."
            )
