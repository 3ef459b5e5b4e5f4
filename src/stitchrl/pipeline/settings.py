"""Settings of the main job."""

from __future__ import annotations

import dataclasses
import math

from stitchrl.errors import ConfigurationError

__all__ = ["PipelineSettings", "check_tail"]


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """Everything that decides the numbers of a run, besides the log and the candidates.

    Attributes:
        updates: gradient updates of each seed of each candidate, at least 1.
        evaluation_updates: gradient updates of each network that the evaluation fits, at least 1. Networks of values over
            continuous actions get ten times as many, and networks of the behaviour five times as many, which may stop early.
        seeds: how many times each candidate is trained, at least 1.
        batch_size: transitions in a batch, at least 1.
        seed: of the split, of the fits of the evaluation, and of the resampling behind the intervals; at least 0.
        fractions: shares of train, validation and test, of the episodes; each above 0, together 1.
        split_by: what the split keeps whole, as `by` of `Dataset.split`; None keeps groups whole where the log has them.
        confidence: confidence level of every two-sided interval.
        margin: the smallest gain worth having, in units of the return.
        minimum_odds_ratio: strength of a hidden cause in any single decision, as an odds ratio, that a gain with a fitted
            behaviour must withstand; at least 1, and 1 asks for nothing.
        ladder: whether policies between each candidate and the behaviour are candidates as well.
        horizon: how many first steps of an episode the evaluation counts, at least 1; None counts until it terminates.
            What candidates learn from is the whole log in either case.
        group: columns whose value at the first step tells which group an episode is of; the gain is judged in each.
        cost: limits such as "hours_sedated<=8" of the expected cost of an episode.
        distribution: whether the evaluation on test also estimates how the returns are distributed; no line of the verdict
            looks at it.
        tail: the share of the worst episodes that it reports on, in (0, 1).
        gamma: discount of the task, in [0, 1], for learning and for evaluation; None takes the one of the log's schema.
        estimators: names of the estimators on the test part, as `st.evaluate` takes them; None takes those that suit the log.
            Candidates are ranked on the validation part by those that suit the log in either case.
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
    minimum_odds_ratio: float = 1.5
    ladder: bool = True
    horizon: int | None = None
    group: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    distribution: bool = False
    tail: float = 0.1
    gamma: float | None = None
    estimators: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("group", "cost"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.estimators is not None:
            object.__setattr__(self, "estimators", tuple(self.estimators))
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise ConfigurationError(
                f"`gamma` must be in [0, 1]; got {self.gamma}. Use 1 to count every reward in full."
            )
        for name in ("updates", "evaluation_updates", "seeds", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.seed < 0:
            raise ConfigurationError(f"`seed` must be at least 0; got {self.seed}.")
        if self.horizon is not None and self.horizon < 1:
            raise ConfigurationError(
                f"`horizon` must be at least 1 step; got {self.horizon}. Without one, steps are counted until an episode "
                "terminates."
            )
        if not math.isfinite(self.margin):
            raise ConfigurationError(f"`margin` must be a finite number; got {self.margin}.")
        if not 0 < self.confidence < 1:
            raise ConfigurationError(f"`confidence` must be in (0, 1); got {self.confidence}. 0.95 is usual.")
        shares = tuple(self.fractions)
        if len(shares) != 3 or not all(share > 0 for share in shares) or not math.isclose(sum(shares), 1.0):
            raise ConfigurationError(
                "`fractions` must be three shares above 0 that sum to 1, of train, validation and test; got "
                f"{', '.join(map(str, shares))}."
            )
        if not self.minimum_odds_ratio >= 1:
            raise ConfigurationError(
                f"`minimum_odds_ratio` must be at least 1, which asks for nothing; got {self.minimum_odds_ratio}. 1.5 is usual."
            )
        check_tail(self.distribution, self.tail)
        from stitchrl.data.splits import WAYS  # here, so that the command line has its defaults without NumPy

        if self.split_by is not None and self.split_by not in WAYS:
            raise ConfigurationError(f"`split_by` must be one of {', '.join(WAYS)}; got {self.split_by!r}.")


def check_tail(distribution: bool, tail: float) -> None:
    """Raise ConfigurationError where a share of worst episodes is no share, or no distribution of returns was asked for."""
    if not 0 < tail < 1:
        raise ConfigurationError(
            f"`tail` must be in (0, 1), the share of the worst episodes; got {tail}. {PipelineSettings.tail} is usual."
        )
    if tail != PipelineSettings.tail and not distribution:
        raise ConfigurationError(
            f"`tail` is a share of the distribution of returns, which was not asked for; got {tail}. Ask for it with "
            "`--distribution` (in Python `distribution=True`), or leave `tail` out."
        )
