"""How the importance weights of a policy are spread over the episodes of a log, step by step, for the report.

With w_t the product of the ratios policy / behaviour up to step t, the effective units at step t are (sum w_t)^2 / sum w_t^2
(Kish 1965) over the independent units: as many equally weighted ones as the weights are worth. They fall as episodes grow
longer, and show from which step on a product of ratios says nothing any more.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stitchrl.evaluation.cases import cases_of
from stitchrl.evaluation.decisions import unit_noun
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.influence import LISTED
from stitchrl.evaluation.policy_actions import has_density
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.weights import Weights

__all__ = ["WeightProfile", "profile_of", "weight_profile"]

MOST_STEPS = 60
"""Steps that are listed; of longer episodes, equally spaced ones."""


@dataclasses.dataclass(frozen=True)
class WeightProfile:
    """How evenly the weights of whole episodes are spread.

    Attributes:
        noun: what one unit is called, "episode", "decision" or "group".
        count: how many units there are.
        steps: numbers of steps after which the weights are read, the last step of the longest episode included.
        effective: effective units after each of them.
        shares: the largest shares of one unit in all weight at the end, the largest first; at most `LISTED`.
        half: how many of the heaviest units have half of all weight together.
        none: how many units have no weight at all.
    """

    noun: str
    count: int
    steps: tuple[int, ...]
    effective: tuple[float, ...]
    shares: tuple[float, ...]
    half: int
    none: int

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


def weight_profile(weights: Weights, units: Units) -> WeightProfile | None:
    """The profile of some weights; None where no unit has any weight at the end."""
    longest = weights.now.shape[1]
    steps = np.unique(np.linspace(1, longest, min(longest, MOST_STEPS)).round().astype(int))
    last = np.sort(units.sums(weights.now[:, -1]))[::-1]
    if not last.sum() > 0:
        return None
    shares = last / last.sum()
    return WeightProfile(
        units.noun,
        units.count,
        tuple(int(step) for step in steps),
        tuple(units.effective(weights.now[:, step - 1]) for step in steps),
        tuple(float(share) for share in shares[:LISTED]),
        int(np.searchsorted(np.cumsum(shares), 0.5 - 1e-12)) + 1,
        int((last == 0).sum()),
    )


def profile_of(fits: Fits) -> WeightProfile | None:
    """The profile of the first policy of `fits` on its log; None where that policy has no density, hence no ratios."""
    if fits.log.num_actions is None and not has_density(fits.policies[0]):
        return None
    log = fits.log
    units = Units(log.num_episodes, log.group, noun=unit_noun(log, fits.estimand.horizon))
    return weight_profile(cases_of(fits, units)[0].weights, units)
