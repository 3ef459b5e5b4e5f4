"""The numbers of a race, and how its budget is divided among rounds."""

from __future__ import annotations

import dataclasses
import math

from stitchrl.errors import ConfigurationError
from stitchrl.pipeline.settings import PipelineSettings

__all__ = ["FINALISTS", "RaceSettings", "check_budget", "round_sizes", "updates_each"]

FINALISTS = 3
"""A round with so many candidates or fewer is the last one."""


@dataclasses.dataclass(frozen=True)
class RaceSettings:
    """Everything that decides the numbers of a race, besides the log and the candidates.

    Attributes:
        budget: gradient updates of all candidates in all rounds together, at least 1; never more are made.
        eta: one candidate in this many goes on to the next round, at least 2.
        evaluation_updates: gradient updates of each model that judges the candidates of a round, as in `PipelineSettings`; not
            part of the budget.
        seeds: how many times each candidate is trained, at least 1; every one of them is a candidate by itself.
        batch_size: transitions in a batch, at least 1.
        seed: of the split and of the models that judge; candidates are trained from seeds 0, 1, ...
        fractions: shares of train, validation and test, of the episodes; each above 0, together 1.
        split_by: what the split keeps whole, as `by` of `Dataset.split`; None keeps groups whole where the log has them.
        confidence: confidence level of the two-sided intervals, whose predicted lower end ranks the candidates.
        horizon: how many first steps of an episode are judged, at least 1; None counts until it terminates.
        ladder: whether policies between each candidate and the behaviour stand for it as well, as in the main job: a candidate
            is ranked by the best bound that it or one of them has.
    """

    budget: int = 30_000
    eta: int = 3
    evaluation_updates: int = PipelineSettings.evaluation_updates
    seeds: int = 1
    batch_size: int = PipelineSettings.batch_size
    seed: int = PipelineSettings.seed
    fractions: tuple[float, float, float] = PipelineSettings.fractions
    split_by: str | None = None
    confidence: float = PipelineSettings.confidence
    horizon: int | None = None
    ladder: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.budget, bool) or not isinstance(self.budget, int) or self.budget < 1:
            raise ConfigurationError(
                f"`budget` must be a whole number of gradient updates, at least 1; got {self.budget!r}. {RaceSettings.budget:,} "
                "is usual."
            )
        if isinstance(self.eta, bool) or not isinstance(self.eta, int) or self.eta < 2:
            raise ConfigurationError(
                f"`eta` must be a whole number of at least 2: one candidate in this many goes on; got {self.eta!r}. "
                f"{RaceSettings.eta} is usual."
            )
        # The main job has the same rules for what both have.
        names = {field.name for field in dataclasses.fields(PipelineSettings)}
        shared = {name: value for name, value in vars(self).items() if name in names}
        object.__setattr__(self, "fractions", PipelineSettings(**shared).fractions)


def round_sizes(candidates: int, eta: int) -> list[int]:
    """How many candidates each round has: one of `eta` goes on, until at most `FINALISTS` are left for the last round."""
    sizes = [candidates]
    while sizes[-1] > FINALISTS:
        sizes.append(math.ceil(sizes[-1] / eta))
    return sizes


def updates_each(left: int, rounds: int, learners: int) -> int:
    """How many updates each of `learners` makes in the next of `rounds`, which share what is `left` of the budget evenly."""
    return left // (rounds * learners) if learners else 0


def check_budget(budget: int, rounds: int, learners: int) -> None:
    """Raise ConfigurationError where a candidate of the first round would not make a single update."""
    if learners and budget < rounds * learners:
        raise ConfigurationError(
            f"`budget` must be at least {rounds * learners:,} updates, one for each of {learners} candidates where {rounds} "
            f"rounds share them evenly; got {budget:,}. Raise it, or name fewer algorithms."
        )
