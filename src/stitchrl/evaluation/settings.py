"""How the models that estimators rest on are fitted."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral

from stitchrl.errors import ConfigurationError

__all__ = ["BEHAVIORS", "MINIMUM_ODDS_RATIO", "FitSettings", "check_odds_ratio"]

MINIMUM_ODDS_RATIO = 1.5
"""The odds ratio of a hidden cause in the worst single decision that a gain from a fitted behaviour must withstand."""
BEHAVIORS = ("auto", "counts", "logistic", "mlp", "knn", "gaussian", "squashed", "mixture")
"""Models of the behaviour that can be asked for; "auto" takes the one that predicts held-out episodes best."""
MOST_NETWORKS = 4
"""How many kinds of value networks there are."""


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
        updates: gradient updates of FQE. Over continuous actions it makes ten times as many. A network of the behaviour makes
            at most five times as many, and stops early.
        batch_size: rows in a batch.
        hidden_sizes: widths of the hidden layers, in the network of FQE and in that of the behaviour.
        learning_rate: Adam's step size for both networks.
        seed: random seed of the fits, and of the choice of episodes that are held out to choose the model of the behaviour.
        behavior: model of the behaviour where the log lacks propensities. Discrete actions: "counts" of the actions in each
            state, "logistic" regression, an "mlp", or "knn", the nearest neighbours. Continuous actions: a "gaussian", one
            that is "squashed" by tanh, or a "mixture" of several. "auto" takes the simplest that predicts the actions of
            held-out episodes about as well as the best does; it leaves out "knn", whose noise of the fit is not known.
        networks: how many value networks are fitted over continuous actions, 1 to 4, each of another kind; what they disagree
            by is part of the standard error.

    Raises:
        ConfigurationError: a number of updates, rows or units below 1, a step size that is not above 0, a model of the
            behaviour that does not exist, or a number of networks that is not 1 to 4.
    """

    updates: int = 2000
    batch_size: int = 256
    hidden_sizes: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    seed: int = 0
    behavior: str = "auto"
    networks: int = 4

    def numbers(self) -> tuple[float, ...]:
        """All settings as numbers: evaluations whose numbers differ count as separate looks at a test part."""
        chosen = float(BEHAVIORS.index(self.behavior))
        fits = (self.seed, self.updates, self.batch_size, *self.hidden_sizes, self.learning_rate, self.networks)
        return (*map(float, fits), chosen)

    def __post_init__(self) -> None:
        sizes = tuple(self.hidden_sizes)
        counts = {"updates": self.updates, "batch_size": self.batch_size} | {"hidden_sizes": min(sizes, default=1)}
        for name, count in counts.items():
            if not isinstance(count, Integral) or count < 1:
                raise ConfigurationError(
                    f"`{name}` of FitSettings must be {'widths' if name == 'hidden_sizes' else 'a whole number'} of at least 1; "
                    f"got {getattr(self, name)!r}."
                )
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ConfigurationError(f"`learning_rate` of FitSettings must be above 0; got {self.learning_rate!r}.")
        if self.behavior not in BEHAVIORS:
            raise ConfigurationError(f"`behavior` must be one of {', '.join(BEHAVIORS)}; got {self.behavior!r}.")
        if self.networks not in range(1, MOST_NETWORKS + 1):
            raise ConfigurationError(
                f"`networks` must be 1 to {MOST_NETWORKS}, since there are {MOST_NETWORKS} kinds; got {self.networks!r}. With 1 "
                "nothing is known about the error of the model."
            )
