"""Ranking of candidates on validation: by the lower end that the test part is predicted to give to their gain.

The lower end on validation itself would be the wrong number. Validation is a small part, so that its error is larger than that
on the test part, where the decision is made; candidates near the behaviour, whose gain is small and sure, would win. On the other
hand the best of many candidates is partly the luckiest of them. Hence

    predicted lower end = gain - `LUCK` s - z s sqrt(units on validation / units on test)

with s the standard error on validation, the larger of the sample's and the expected one, and z the normal quantile. Pulling all
gains towards their common mean (empirical Bayes) was tried instead. It is worse where gain and error grow together, as they do
the further a policy is from the behaviour (benchmarks/selection.py).

Where a verdict can confirm some gains and others not, however large they are, those come first that it can confirm and whose
predicted lower end is above the margin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from stitchrl.evaluation.health import at_another_size
from stitchrl.evaluation.primary import choose_primary
from stitchrl.evaluation.results import Estimate

__all__ = ["LUCK", "Ranked", "passed_over", "rank"]

LUCK = 0.5
"""How many standard errors of a candidate's gain are put down to luck."""


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A candidate's place.

    Attributes:
        index: position in the sequence that was ranked.
        estimator: name of the estimator whose gain it was ranked by; None where none has an interval.
        eligible: whether it may be selected; a candidate that may not is kept as a warning.
        healthy: whether every check of that gain is predicted to hold on the test part.
        predicted_lower: the lower end of its gain that the test part is predicted to give; None without a gain.
        confirmable: whether a verdict could confirm that gain.
    """

    index: int
    estimator: str | None
    eligible: bool
    healthy: bool = False
    predicted_lower: float | None = None
    confirmable: bool = False


def rank(
    gains: Sequence[Mapping[str, Estimate]],
    eligible: Sequence[bool],
    *,
    size: int = 1,
    test_size: int = 1,
    margin: float = 0.0,
    confirms: Callable[[str, Estimate], bool] = lambda estimator, gain: True,
) -> list[Ranked]:
    """Candidates, the best first.

    Eligible ones come before others, then those whose gain is predicted to be healthy, then those whose gain a verdict could
    confirm and whose predicted lower end is above the margin, then those with the higher predicted lower end. Ties keep their
    order.

    Args:
        gains: estimator -> gain, of each candidate, on validation.
        eligible: whether a candidate may be selected.
        size, test_size: how many independent units the validation and the test part have.
        margin: the smallest gain worth having, in units of the return.
        confirms: estimator, gain -> whether a verdict could confirm it.
    """
    names = [choose_primary(gain) for gain in gains]
    found = [None if name is None else gain[name] for gain, name in zip(gains, names, strict=True)]
    ratio = test_size / size
    rows = []
    for k, (name, estimate) in enumerate(zip(names, found, strict=True)):
        if name is None or estimate is None or estimate.value is None or estimate.standard_error is None:
            rows.append(Ranked(k, name, eligible[k]))
            continue
        reach = LUCK + float(stats.norm.ppf((1 + estimate.confidence) / 2)) / np.sqrt(ratio)
        healthy = all(at_another_size(check, size, test_size).passed for check in estimate.checks)
        lower = estimate.value - reach * estimate.standard_error
        rows.append(Ranked(k, name, eligible[k], healthy, float(lower), confirms(name, estimate)))

    def place(row: Ranked) -> tuple[bool, bool, bool, float]:
        lower = _or_least(row.predicted_lower)
        return not row.eligible, not row.healthy, not (row.confirmable and lower > margin), -lower

    return sorted(rows, key=place)


def passed_over(row: Ranked, ahead: Sequence[Ranked]) -> bool:
    """Whether a candidate stands behind one with a lower predicted end, because a verdict could not confirm its gain."""
    lower = _or_least(row.predicted_lower)
    return row.healthy and not row.confirmable and any(_or_least(one.predicted_lower) < lower for one in ahead)


def _or_least(value: float | None) -> float:
    return -np.inf if value is None else value
