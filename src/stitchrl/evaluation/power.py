"""How large a log would be needed for GO: a power curve, by simulation from the log at hand.

A log of f times as many units (episodes, or groups of them) is drawn from the influence values psi of the primary gain, each unit
as often as a Poisson number of mean f says. With d the mean of the drawn psi, s their standard error, and v the gain supposed,

    gain = v + d k,    error = max(s, s_expected / sqrt(f)) and the noise of the fits,    GO where gain - t error > margin

s_expected is the standard error that the ratios of the policy lead one to expect (`evaluation/predictable.py`). k is its ratio
to the sample's own error, and at least 1: rare large ratios are not among the psi at hand, but a larger log would have some.
The health checks must pass at that size as well: shares of one unit fall as the log grows, effective units rise, and other
checks stay as they are.

The estimate of the gain is itself noisy. So the curve is given twice: for a gain of the estimate's size, and for one that lies
half as far above the margin. Where the estimate is not above the margin there is no curve.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.evaluation.estimating import bounded
from stitchrl.evaluation.estimator import Draft, expected_variance
from stitchrl.evaluation.health import at_another_size
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["LIKELY", "SIZES", "Power", "drawn", "power_of"]

SIZES = tuple(float(2 ** (k / 2)) for k in range(9))
"""Sizes of the logs that are simulated, 1 to 16 times the one at hand."""
LIKELY = 0.8
"""Chance of GO at which a log is called large enough."""
REPLICATES = 400
"""Logs that are simulated at each size."""
CELLS = 2_000_000
"""Numbers that are drawn at once."""
MANY = 20_000
"""Units beyond which the mean of the influence values counts as normal."""


@dataclasses.dataclass(frozen=True)
class Power:
    """The chance of GO by the size of the log.

    Attributes:
        noun: what one unit is called.
        units: how many units the verdict is judged on now.
        margin, value: the least gain worth having, and the estimate of the gain.
        sizes: units of each simulated log; empty where nothing was simulated.
        at_estimate, at_half: chance of GO at each size if the gain is what the estimate says, and if it lies half as far above
            the margin.
        needed, needed_half: units at which the chance of GO reaches 80% for each of the two gains; None where it does not
            within the sizes.
        unmended: the health checks that would fail at the largest size too, one sentence each.
        besides: letters of the other failed lines of the verdict, which have to hold as well.
    """

    noun: str
    units: int
    margin: float
    value: float
    sizes: tuple[int, ...] = ()
    at_estimate: tuple[float, ...] = ()
    at_half: tuple[float, ...] = ()
    needed: int | None = None
    needed_half: int | None = None
    unmended: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Power:
        """The power of its `to_dict`."""
        held: dict[str, Any] = {field.name: content[field.name] for field in dataclasses.fields(cls)}
        held = {name: tuple(value) if isinstance(value, list) else value for name, value in held.items()}
        return cls(**held)

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON, with the sentence."""
        return dataclasses.asdict(self) | {"sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """How large a log would be needed, in one sentence or two."""
        if not self.value > self.margin:
            return "The estimate of the gain is not above the margin, so no size of log is known to suffice for GO."
        if self.unmended:
            return f"No larger log of this kind is known to suffice for GO: {self.unmended[0]}"
        half = "half of that" if self.margin == 0 else "half as far above the margin"
        if self.needed is None:
            found = f"Even {self.sizes[-1]:,} {self.noun}s like these, {SIZES[-1]:.0f} times as many, would not make GO 80% "
            found += "likely, if the gain is what the estimate says"
        else:
            found = (
                f"With about {self.needed:,} {self.noun}s like these to judge by (there are {self.units:,}) GO would be 80% "
                "likely, "
            )
            if self.needed_half == self.needed:
                found += f"whether the gain is what the estimate says or {half}"
            elif self.needed_half is None:
                found += f"if the gain is what the estimate says; if it is {half}, even {self.sizes[-1]:,} would not do"
            else:
                found += (
                    f"if the gain is what the estimate says; if it is {half}, it would take about {self.needed_half:,}"
                )
        if not self.besides:
            return f"{found}."
        lines = " and ".join(f"({key})" for key in self.besides)
        many = "s" if len(self.besides) > 1 else ""
        return f"{found}. Line{many} {lines} would have to hold as well, which no size alone brings about."


def power_of(
    draft: Draft, gain: Estimate, units: Units, margin: float, failed: Sequence[str], *, seed: int = 0
) -> Power | None:
    """The power curve of a primary gain; None where it has no interval.

    Args:
        draft: the draft of the gain.
        gain: the estimate of the gain, with its interval and checks.
        units: which episodes are independent.
        margin: the least gain worth having.
        failed: letters of the lines of the verdict that failed.
        seed: random seed of the simulated logs.
    """
    if draft.statistic is None or gain.value is None or gain.standard_error is None:
        return None
    besides = tuple(key for key in failed if key not in "ac")
    found = Power(units.noun, units.count, margin, gain.value, besides=besides)
    if not gain.value > margin:
        return found
    largest = round(SIZES[-1] * units.count)
    last = [at_another_size(check, units.count, largest) for check in gain.checks]
    if unmended := tuple(check.sentence for check in last if not check.passed):
        return dataclasses.replace(found, unmended=unmended)
    influence = units.sums(draft.statistic.influence()) * (units.count / units.episodes)
    half = margin + (gain.value - margin) / 2
    curves = np.array([_chances(influence, draft, gain, (gain.value, half), margin, size, seed) for size in SIZES])
    sizes = tuple(round(size * units.count) for size in SIZES)
    return dataclasses.replace(
        found,
        sizes=sizes,
        at_estimate=tuple(curves[:, 0].tolist()),
        at_half=tuple(curves[:, 1].tolist()),
        needed=_needed(sizes, curves[:, 0]),
        needed_half=_needed(sizes, curves[:, 1]),
    )


def _chances(
    influence: Float[NumpyArray, " units"],
    draft: Draft,
    gain: Estimate,
    supposed: tuple[float, float],
    margin: float,
    size: float,
    seed: int,
) -> tuple[float, float]:
    """The chance of GO for each gain that is supposed, at one size."""
    n = len(influence)
    count = round(size * n)
    if not all(at_another_size(check, n, count).passed for check in gain.checks):
        return 0.0, 0.0
    rng = np.random.default_rng(seed)
    moved, error = drawn(influence, size, rng)
    own = float(influence.std(ddof=1) / np.sqrt(n))
    variance = expected_variance(draft)
    expected = 0.0 if variance is None else float(np.sqrt(variance))
    noise = (gain.behavior_error or 0.0) / np.sqrt(size)
    model = float(np.hypot(gain.model_error or 0.0, gain.trace_shift or 0.0))
    moved = moved * max(1.0, expected / own if own > 0 else 1.0)
    moved = moved + np.hypot(noise, model) * rng.normal(size=len(moved))
    wide = np.sqrt(np.maximum(error, expected / np.sqrt(size)) ** 2 + noise**2 + model**2)
    reach = float(stats.t.ppf((1 + gain.confidence) / 2, count - 1))
    lower = moved - reach * wide + bounded(draft.unknown[0])
    at_estimate, at_half = (float((value + lower > margin).mean()) for value in supposed)
    return at_estimate, at_half


def drawn(
    influence: Float[NumpyArray, " units"], size: float, rng: np.random.Generator
) -> tuple[Float[NumpyArray, " R"], Float[NumpyArray, " R"]]:
    """(R,) means and standard errors of the influence values of R simulated logs.

    Args:
        influence: the influence value of each unit of the log at hand.
        size: how many times as many units a simulated log has.
        rng: source of randomness.
    """
    n = len(influence)
    if n > MANY:
        error = float(influence.std(ddof=1) / np.sqrt(size * n))
        return error * rng.normal(size=REPLICATES), np.full(REPLICATES, error)
    means, errors = [], []
    rows = max(1, CELLS // n)
    for start in range(0, REPLICATES, rows):
        counts = rng.poisson(size, (min(rows, REPLICATES - start), n)).astype(np.float64)
        total = np.maximum(counts.sum(1), 2.0)
        mean = counts @ influence / total
        square = np.maximum(counts @ influence**2 / total - mean**2, 0.0)
        means.append(mean)
        errors.append(np.sqrt(square / (total - 1)))
    return np.concatenate(means), np.concatenate(errors)


def _needed(sizes: Sequence[int], chances: Float[NumpyArray, " sizes"]) -> int | None:
    """The size at which the chance first reaches 80%, between two sizes by their logarithms, to two digits."""
    over = np.flatnonzero(chances >= LIKELY)
    if not len(over):
        return None
    k = int(over[0])
    size = float(sizes[k])
    if k > 0 and chances[k] > chances[k - 1]:
        share = (LIKELY - chances[k - 1]) / (chances[k] - chances[k - 1])
        size = float(sizes[k - 1] * (sizes[k] / sizes[k - 1]) ** share)
    digits = max(int(np.floor(np.log10(max(size, 1.0)))) - 1, 0)
    return int(np.ceil(size / 10**digits) * 10**digits)
