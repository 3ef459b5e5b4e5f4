"""What would change if the worst episodes of a log were dropped: the value, its interval, and the error on other episodes.

The value and its interval are those of the whole log without the worst k. They are not a valid estimate: whoever drops
episodes for their rewards chooses the answer, and the interval does not allow for the choice.

The error is valid. The log is cut into two halves. In each the worst share k / n of its own episodes is dropped, chosen
by this half alone; the models are fitted to what remains, and judged on the other half, of which nothing is dropped. The
change of the error is paired episode by episode. Fits with and without the dropped episodes also differ by chance, so the
change comes with a standard error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.episode_scores import EpisodeScores, score_episodes
from stitchrl.evaluation.log_features import LogFeatures
from stitchrl.evaluation.log_models import fit_models, fit_values
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["ErrorChange", "WithoutWorst", "drop_curve", "halves_of"]

CERTAIN = 4.0
"""Standard errors by which an error must fall to count as lower. It is large since several errors of several lists are tested."""


@dataclasses.dataclass(frozen=True)
class ErrorChange:
    """The change of a model's error on episodes that neither its fit nor the choice of dropped episodes has seen.

    Attributes:
        model: "values", "actions" or "observations".
        change: change of the mean squared error, as a share of the error with all episodes: -0.02 is 2% lower.
        standard_error: standard error of the change, over held-out episodes.
    """

    model: str
    change: float
    standard_error: float

    @property
    def lower(self) -> bool:
        """Whether the error surely falls."""
        return self.change < -CERTAIN * self.standard_error


@dataclasses.dataclass(frozen=True)
class WithoutWorst:
    """A log without its worst episodes.

    Attributes:
        dropped: how many episodes are left out.
        value, lower, upper: value of the behaviour on the others, and its interval, which does not allow for the choice.
        errors: the change of each model's held-out error; empty where nothing is dropped.
    """

    dropped: int
    value: float
    lower: float
    upper: float
    errors: tuple[ErrorChange, ...] = ()

    @property
    def helps(self) -> bool:
        """Whether some held-out error is surely lower without these episodes, and the errors are lower together."""
        return any(one.lower for one in self.errors) and sum(one.change for one in self.errors) < 0


def drop_curve(
    log: Dataset,
    features: LogFeatures,
    scores: EpisodeScores,
    drops: Sequence[int],
    *,
    by: str,
    halves: Sequence[Int[NumpyArray, " _"]],
    gamma: float,
    confidence: float,
) -> tuple[WithoutWorst, ...]:
    """An entry for the whole log, and one for each number of dropped episodes.

    Args:
        log: the log.
        features: the features of the log.
        scores: the scores of its episodes.
        drops: how many of the worst episodes are dropped, each below half of the episodes.
        by: the order of the episodes, one of `ORDERS`.
        halves: the two halves, as `halves_of` draws them.
        gamma: discount of the value.
        confidence: two-sided coverage that the intervals aim at.
    """
    order = scores.order(by)
    errors = _held_out(log, features, drops, halves, by=by, gamma=gamma) if drops else []
    found = []
    for count, changes in zip([0, *drops], [(), *errors], strict=True):
        kept = np.sort(order[count:])
        value, spread, units = _value(log if not count else log.select_episodes(kept), features, gamma)
        reach = spread * float(stats.t.ppf((1 + confidence) / 2, max(units - 1, 1)))
        found.append(WithoutWorst(count, value, value - reach, value + reach, changes))
    return tuple(found)


def _value(log: Dataset, features: LogFeatures, gamma: float) -> tuple[float, float, int]:
    """The value of the behaviour by some episodes, its standard error, and how many independent units they are.

    Each episode contributes the value of its first state, and its temporal differences, weighed by how much likelier their
    states are to be visited, as in `evaluation/refit.py`; the behaviour's own weights are near 1.
    """
    model = fit_values(log, dataclasses.replace(features, ridge={}), gamma)
    fit, start, n = model.fit, log.episode_start[:-1], log.num_episodes
    begin = model.states[start]
    first = np.asarray(begin @ fit.theta)[:, 0] + model.base[0]
    carry = n * (fit.inverse.T @ np.asarray(begin.mean(0)).reshape(-1))
    steps = np.asarray(fit.instruments @ carry) * fit.residual(fit.theta)[:, 0]
    contributions = first + np.add.reduceat(steps, start)
    units = Units(n, log.group)
    sums = units.sums(contributions - contributions.mean())
    spread = float(np.sqrt((sums**2).sum() * units.count / max(units.count - 1, 1))) / n
    return float(first.mean()), spread, units.count


def _held_out(
    log: Dataset,
    features: LogFeatures,
    drops: Sequence[int],
    parts: Sequence[Int[NumpyArray, " _"]],
    *,
    by: str,
    gamma: float,
) -> list[tuple[ErrorChange, ...]]:
    """The changes of the errors for each number of dropped episodes, both halves together."""
    halves = [log.select_episodes(part) for part in parts]
    scores = [score_episodes(half, features, gamma) for half in halves]
    names = {one.name for one in scores[0].models} & {one.name for one in scores[1].models}
    all_errors: dict[str, list[NumpyArray]] = {one.name: [] for one in scores[0].models if one.name in names}
    for own, other, half in zip(scores, halves[::-1], halves, strict=True):
        read = {one.name: one for one in fit_models(other, features, gamma, {m.name: m.base for m in own.models})}
        order = own.order(by)
        for model in own.models:
            if model.name in all_errors:
                thetas = [model.fit.theta] + [
                    model.fit.counting(_kept_rows(half, order[: _share(count, half, log)])).theta for count in drops
                ]
                errors = [read[model.name].errors(other, theta, gamma) for theta in thetas]
                all_errors[model.name].append(np.stack(errors))
    joined = {name: np.concatenate(parts, axis=1) for name, parts in all_errors.items()}
    return [
        tuple(_change(name, errors[0], errors[k + 1]) for name, errors in joined.items()) for k in range(len(drops))
    ]


def _change(name: str, before: Float[NumpyArray, " n"], after: Float[NumpyArray, " n"]) -> ErrorChange:
    """The relative change of a sum of errors over episodes, and its standard error."""
    total, difference = float(before.sum()), after - before
    if not total > 0:
        return ErrorChange(name, 0.0, 0.0)
    spread = float(np.sqrt(len(difference)) * difference.std())
    return ErrorChange(name, float(difference.sum()) / total, spread / total)


def halves_of(log: Dataset, seed: int) -> tuple[Int[NumpyArray, " _"], Int[NumpyArray, " _"]]:
    """Two random halves of the episodes; all episodes of a group are in one of them."""
    unit = (
        np.arange(log.num_episodes) if log.group is None else np.unique(log.group, return_inverse=True)[1].reshape(-1)
    )
    units = int(unit.max()) + 1
    first = np.random.default_rng(seed).permutation(units)[: units // 2]
    member = np.isin(unit, first)
    return np.flatnonzero(member), np.flatnonzero(~member)


def _share(count: int, half: Dataset, log: Dataset) -> int:
    """How many episodes of a half are the same share as `count` of the log, at least one."""
    return max(1, round(count * half.num_episodes / log.num_episodes))


def _kept_rows(half: Dataset, dropped: Int[NumpyArray, " _"]) -> Float[NumpyArray, " N"]:
    return (~np.isin(half.episode_of_transition, dropped)).astype(np.float64)
