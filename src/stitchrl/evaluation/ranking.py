"""Ranking of candidates on validation: by the lower end that the test part is predicted to give to their gain.

The lower end on validation itself would be the wrong number twice. It punishes noise by the error of a small part, though
the decision falls on a larger one; and the best of many candidates is the luckiest of them. So each gain is first pulled
towards what all candidates have in common, as far as its error says that it may be luck (empirical Bayes; Efron and
Morris 1975; the spread between candidates after DerSimonian and Laird 1986):

    shrunken_k = m + tau^2 / (tau^2 + s_k^2) (gain_k - m)
    predicted lower end = shrunken_k - z s_k sqrt(episodes on validation / episodes on test)

with s_k the standard error on validation, the larger of the sample's and the expected one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from stitchrl.evaluation.health import at_another_size
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.verdict import choose_primary

__all__ = ["Ranked", "rank"]


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A candidate's place.

    Attributes:
        index: position in the sequence that was ranked.
        estimator: of the gain it was ranked by; None where none has an interval.
        eligible: False for candidates kept as a warning, which are never selected.
        healthy: whether every check of that gain is predicted to hold on the test part.
        shrunken: its gain, pulled towards that of all; None without a gain.
        predicted_lower: the lower end of its gain that the test part is predicted to give; None without a gain.
    """

    index: int
    estimator: str | None
    eligible: bool
    healthy: bool = False
    shrunken: float | None = None
    predicted_lower: float | None = None


def rank(
    gains: Sequence[Mapping[str, Estimate]], eligible: Sequence[bool], *, size: int = 1, test_size: int = 1
) -> list[Ranked]:
    """Best first: eligible before not, gains predicted to be healthy before others, then by the predicted lower end.

    Ties keep their order.

    Args:
        gains: estimator -> gain, of each candidate, on validation.
        eligible: whether a candidate may be selected.
        size, test_size: how many independent units the validation and the test part have.
    """
    names = [choose_primary(gain) for gain in gains]
    found = [None if name is None else gain[name] for gain, name in zip(gains, names, strict=True)]
    known = [k for k, estimate in enumerate(found) if estimate is not None and eligible[k]]
    shrunken = dict(zip(known, _shrunken([found[k] for k in known]), strict=True))
    ratio = test_size / size
    rows = []
    for k, (name, estimate) in enumerate(zip(names, found, strict=True)):
        if estimate is None or estimate.value is None or estimate.standard_error is None:
            rows.append(Ranked(k, name, eligible[k]))
            continue
        reach = float(stats.norm.ppf((1 + estimate.confidence) / 2)) * estimate.standard_error / np.sqrt(ratio)
        middle = shrunken.get(k, estimate.value)
        healthy = all(at_another_size(check, ratio).passed for check in estimate.checks)
        rows.append(Ranked(k, name, eligible[k], healthy, middle, float(middle - reach)))
    return sorted(rows, key=lambda row: (not row.eligible, not row.healthy, -_or_least(row.predicted_lower)))


def _or_least(value: float | None) -> float:
    return -np.inf if value is None else value


def _shrunken(estimates: Sequence[Estimate | None]) -> list[float]:
    """The gains, each pulled towards what all have in common by as much as its error may be the reason for it."""
    value = np.array([0.0 if e is None or e.value is None else e.value for e in estimates])
    error = np.array([0.0 if e is None or e.standard_error is None else e.standard_error for e in estimates])
    if len(value) < 2 or not (error > 0).all():
        return [float(v) for v in value]
    weight = 1.0 / error**2
    mean = float(weight @ value / weight.sum())
    heterogeneity = float(weight @ (value - mean) ** 2) - (len(value) - 1)
    between = max(heterogeneity / (weight.sum() - (weight**2).sum() / weight.sum()), 0.0)
    # Around the mean of candidates that truly differ, not of the one with the smallest error.
    weight = 1.0 / (error**2 + between)
    mean = float(weight @ value / weight.sum())
    return [float(mean + between / (between + s**2) * (v - mean)) for v, s in zip(value, error, strict=True)]
