"""What a policy costs beside its return, against a limit: the same estimators, with the cost in place of the reward.

The estimand is that of the gain: the expected sum of gamma**t times the cost over an episode, or over its first steps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.named_columns import named_columns
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.cases import cases_of, draft_of, logged_draft
from stitchrl.evaluation.estimating import estimates_of
from stitchrl.evaluation.estimator import Estimator
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.primary import choose_primary
from stitchrl.evaluation.results import Estimate
from stitchrl.messages import interval_in_words, listed
from stitchrl.types import NumpyArray

__all__ = ["CostEstimate", "CostLimits", "Limit", "check_costs", "cost_of", "costs_of", "limits_of"]

HOLDS, BROKEN, OPEN = "shown to hold", "shown to be broken", "not shown"
"""What is said of a limit."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """The largest expected cost of an episode that is accepted.

    Attributes:
        column: name of the cost's column.
        limit: the limit, in the units of the cost.
    """

    column: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """The limit that "COLUMN<=NUMBER" says. Raises ConfigurationError where the text says none."""
        found = re.fullmatch(r"\s*(.+?)\s*<=\s*(\S+)\s*", text)
        try:
            limit = float(found[2]) if found else math.nan
        except ValueError:
            limit = math.nan
        if found is None or not math.isfinite(limit):
            raise ConfigurationError(
                f"A limit of a cost must say COLUMN<=LIMIT, such as 'hours_sedated<=8'; got {text!r}."
            )
        return cls(found[1], limit)


def limits_of(costs: str | Sequence[str]) -> tuple[Limit, ...]:
    """The limits that texts such as "hours_sedated<=8" say.

    Raises:
        ConfigurationError: a text that says none, or a column that is named twice.
    """
    found = tuple(Limit.parse(text) for text in ([costs] if isinstance(costs, str) else costs))
    names = [one.column for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigurationError(
            f"The limits of costs must name each column once; {twice[0]!r} has several limits. Keep one."
        )
    return found


def cost_of(log: Dataset, column: str) -> Float[NumpyArray, " N"]:
    """(N,) what each row of a log costs, by a column with the role `cost` or by a number of the observation.

    Raises:
        ConfigurationError: the log has no such column.
    """
    named = named_columns(log, "cost")
    if column in named:
        return np.asarray(named[column], np.float32)
    names = list(log.observation_names)
    if column in names:
        return np.asarray(log.observation_table[log.observation_index, names.index(column)], np.float32)
    raise ConfigurationError(
        f"A cost must be a column of numbers that the log was read with; there is no {column!r} among "
        f"{listed([*named, *names], 40)}. Give it the role `cost` in the schema, or `beside={{'cost': [...]}}` to `st.read`."
    )


def check_costs(limits: Sequence[Limit], *logs: Dataset | None) -> None:
    """Raise ConfigurationError where one of the logs lacks the column of a limit."""
    for log in logs:
        if log is not None:
            for one in limits:
                cost_of(log, one.column)


@dataclasses.dataclass(frozen=True)
class CostEstimate:
    """The expected cost of an episode under a policy, against its limit.

    Attributes:
        column, limit: the cost and its limit, as in `Limit`.
        estimator: name of the estimator that the judgement rests on; None where no estimator that a verdict may rest on has
            an interval.
        estimate: the cost by that estimator, with its interval and health; None where there is no such estimator.
        others: estimator -> the cost by every other one.
        behavior: the behaviour's own mean cost of an episode in the log.
        state: "shown to hold", "shown to be broken", or "not shown".
    """

    column: str
    limit: float
    estimator: str | None
    estimate: Estimate | None
    others: Mapping[str, Estimate]
    behavior: float
    state: str

    @property
    def judged(self) -> bool:
        """Whether there is a healthy estimate with an interval."""
        one = self.estimate
        return one is not None and one.lower is not None and one.upper is not None and one.healthy

    @property
    def sentence(self) -> str:
        """What is said of the limit in the verdict."""
        asked = f"{self.column} <= {self.limit:g}"
        one = self.estimate
        if one is None or one.value is None or one.lower is None or one.upper is None:
            return f"The limit {asked} is not shown to hold: no estimate of the cost has an interval."
        span = f"{interval_in_words(one.value, one.lower, one.upper, sign=False)} by {self.estimator}"
        if not one.healthy:
            return f"The limit {asked} is not shown to hold: {span}, which fails a check. {one.reasons[0]}"
        if self.state == OPEN:
            return f"The limit {asked} is not shown to hold, nor to be broken: {span}."
        return f"The limit {asked} is {self.state}: {span}."

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self) | {"sentence": self.sentence}


@dataclasses.dataclass(frozen=True)
class CostLimits:
    """All costs that were asked for."""

    costs: tuple[CostEstimate, ...]

    def parts(self) -> list[tuple[bool, str]]:
        """Whether each cost lets a GO pass, with a sentence that says why."""
        return [(one.state != BROKEN, one.sentence) for one in self.costs]

    @property
    def judged(self) -> bool:
        """Whether every cost has a healthy estimate with an interval."""
        return all(one.judged for one in self.costs)

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain content for JSON."""
        return [one.to_dict() for one in self.costs]


def costs_of(
    fits: Fits, chosen: Sequence[Estimator], limits: Sequence[Limit], resampler: Resampler, *, over_last: bool = False
) -> list[CostLimits]:
    """The costs of every policy of `fits`; for each limit a Q of the cost is fitted.

    Args:
        fits: what is known about the policies and their log.
        chosen: the estimators, those of the gain.
        limits: the limits of the costs.
        resampler: gives the intervals.
        over_last: whether the last policy is the baseline of the others.
    """
    found: list[list[CostEstimate]] = [[] for _ in fits.policies]
    for limit in limits:
        of_cost = fits.with_reward(functools.partial(_cost, limit.column))
        cases = cases_of(of_cost, resampler.units, over_last=over_last)
        drafts = [[draft_of(estimator, case) for estimator in chosen] for case in cases]
        logged = logged_draft(cases[0]).statistic
        assert logged is not None
        for of_policy, estimates in zip(found, estimates_of(drafts, chosen, cases[0], resampler), strict=True):
            of_policy.append(_judged(limit, estimates, logged.value()))
    return [CostLimits(tuple(of_policy)) for of_policy in found]


def _cost(column: str, log: Dataset) -> Float[NumpyArray, " N"]:
    return cost_of(log, column)


def _judged(limit: Limit, estimates: Mapping[str, Estimate], behavior: float) -> CostEstimate:
    """The cost by the estimate that a verdict may rest on, against its limit."""
    name = choose_primary(estimates)
    others = {other: estimate for other, estimate in estimates.items() if other != name}
    if name is None:
        return CostEstimate(limit.column, limit.limit, None, None, others, behavior, OPEN)
    one = estimates[name]
    assert one.lower is not None
    assert one.upper is not None
    state = OPEN
    if one.healthy:
        state = HOLDS if one.upper <= limit.limit else BROKEN if one.lower > limit.limit else OPEN
    return CostEstimate(limit.column, limit.limit, name, one, others, behavior, state)
