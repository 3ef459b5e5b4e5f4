"""A test of the ratios of actions that were clipped to bounds: are they quotients of probabilities there, and not of densities?

An atom is a bound on which many actions lie exactly (`data/atoms.py`). On an atom k right ratios rho = policy / behaviour obey,
at every state,

    E_b[ rho 1{a on k} ] = P_policy(a on k)

whose right side is known from actions that are drawn from the policy. It fails where a density takes the place of a probability
in the ratio: that of a policy that is not clipped, of a fit that does not know the bounds, or of propensities that were logged
before the action was clipped. Wrong ratios may be so large that their own spread hides them from the test. So ratios that are
cut off at a constant are tested as well, whose expectation is at most the policy's share.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.atoms import LEAST_SHARE, Atoms
from stitchrl.evaluation.balance import JointTest, joint_p_value
from stitchrl.evaluation.units import Units
from stitchrl.types import NumpyArray

__all__ = ["OnAtoms", "clipping_test", "on_atoms"]


CAP = 5.0
"""Where ratios are cut off for the second test."""
SELDOM = 0.1 * LEAST_SHARE
"""Largest share of drawn actions on an atom at which a policy counts as having none: a density near a bound puts a few there."""


class OnAtoms(NamedTuple):
    """Which actions lie on each of K atoms.

    Attributes:
        logged: (N, K) whether each logged action does.
        drawn: (N, K) share of the actions that the policy draws at the same states which do.
    """

    logged: Bool[NumpyArray, "N K"]
    drawn: Float[NumpyArray, "N K"]

    @property
    def seldom(self) -> bool:
        """Whether the policy is never, or next to never, on any atom."""
        return float(self.drawn.mean(0).max()) <= SELDOM

    def weight(self, log_ratio: Float[NumpyArray, " N"]) -> float:
        """The share of all weight that logged actions on atoms have."""
        relative = np.exp(log_ratio - np.maximum(log_ratio.max(), -1e300))
        return float(relative[self.logged.any(1)].sum()) / max(float(relative.sum()), 1e-300)


def on_atoms(atoms: Atoms, action: Float[NumpyArray, "N D"], draws: Float[NumpyArray, "N M D"]) -> OnAtoms:
    """Which logged actions, and what share of M drawn ones at each state, lie on each atom."""
    there = np.stack([atoms.share_low, atoms.share_high]) > 0
    logged = atoms.on(action)[:, there]
    drawn = np.zeros(logged.shape)
    for k in range(draws.shape[1]):
        drawn += atoms.on(draws[:, k])[:, there]
    return OnAtoms(logged, drawn / draws.shape[1])


def clipping_test(
    on: OnAtoms,
    ratio: Float[NumpyArray, " N"],
    start: NumpyArray,
    units: Units,
    noise: Float[NumpyArray, "K K"] | None = None,
) -> JointTest:
    """Whether the weighted actions lie on each atom as often as the policy's; `size` is the largest difference of the shares.

    The p-value is that of the two tests together (Bonferroni).

    Args:
        on: which actions lie on atoms.
        ratio: (N,) policy / behaviour of each logged action.
        start: (n,) the first row of each episode.
        units: which episodes are independent.
        noise: (K, K) covariance of the sums over all rows that comes from the fit of the behaviour; None without one.
    """
    found = np.add.reduceat(ratio[:, None] * on.logged - on.drawn, start, axis=0)
    capped = np.add.reduceat(np.minimum(ratio, CAP)[:, None] * on.logged - on.drawn, start, axis=0)
    above = capped.sum(0) > 0
    noise_above = None if noise is None else noise[np.ix_(above, above)]
    p_values = joint_p_value(found, units, noise), joint_p_value(capped[:, above], units, noise_above)
    size = float(max(np.abs(found.sum(0)).max(), np.maximum(capped.sum(0), 0.0).max())) / len(ratio)
    return JointTest(size, min(1.0, 2 * min(p_values)))
