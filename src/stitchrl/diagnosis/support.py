"""How far a policy is from the behaviour, decision by decision: bits, and which decisions have support in the log.

Bits are the Kullback-Leibler divergence of the policy from the behaviour, with logarithms to base 2:

    (1)  discrete actions     sum_a pi(a|s) log2( pi(a|s) / b(a|s) ),  exact, so that a greedy policy has -log2 b(its action)
    (2)  continuous actions   mean over actions drawn from pi of log2( pi(a|s) / b(a|s) ),  b a model fitted to the log

One action counts for `MOST_BITS` at most: where the behaviour never takes it the logarithm would be infinite.

A decision between discrete actions has support to the extent that the policy's probability lies on actions which the behaviour
takes with a probability of at least `SUPPORT`. A continuous action has support where its nearest logged action in similar states
is no farther away than it is for 99% of the logged actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from stitchrl.diagnosis.similar_states import SimilarStates, distance_to_nearest, similar_states
from stitchrl.diagnosis.subject import NotLookedAtError, Shared, Subject
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.agreement import SUPPORT
from stitchrl.evaluation.policy_actions import drawn_actions, has_density, log_densities
from stitchrl.nn.memory import has_memory
from stitchrl.types import NumpyArray

__all__ = ["MOST_BITS", "Bits", "Support", "bits_of", "check_acts_alone", "logged_support", "states_of", "support_of"]

MOST_BITS = 20.0
"""The most bits that one action counts for: those of an action that the behaviour takes once in a million decisions."""
USUAL = 0.99
"""Share of the logged actions whose distance to the nearest one in similar states counts as usual."""
LEAST_DISTANCE = 1e-3
"""Distances up to it, in standard deviations of the logged actions, always count as usual."""
DRAW_SEED = 0


class Bits(NamedTuple):
    """Divergence from the behaviour.

    Attributes:
        of_row: (N,) at each decision.
        least: (N,) the fewest bits of any policy that always takes one action, -log2 max_a b(a|s); None for continuous
            actions, for which there is no such number.
    """

    of_row: Float[NumpyArray, " N"]
    least: Float[NumpyArray, " N"] | None


class Support(NamedTuple):
    """How much of each decision has no support in the log.

    Attributes:
        rows: (n,) numbers of the rows that were examined, ascending.
        off: (n,) share of the policy's decision without support, 0 to 1.
        off_logged: (n,) the same for the behaviour itself.
        distance, usual: of continuous actions (n,) the distance of the policy's action to the nearest logged one in similar
            states, in standard deviations, and the distance up to which it has support; None for discrete ones.
    """

    rows: Int[NumpyArray, " n"]
    off: Float[NumpyArray, " n"]
    off_logged: Float[NumpyArray, " n"]
    distance: Float[NumpyArray, " n"] | None = None
    usual: float | None = None


def check_acts_alone(subject: Subject) -> None:
    """Raise `NotLookedAtError` where the policy acts by more than the observation."""
    if has_memory(subject.member.policy):
        raise NotLookedAtError(
            f"{subject.member.name} acts by its memory of the episode, so single decisions do not show how far it departs from "
            "the behaviour; `st.evaluate` runs it along whole episodes."
        )


def bits_of(subject: Subject) -> Bits:
    """Equation (1) or (2) at every row. Raises `NotLookedAtError` where the policy has no density or a memory."""
    check_acts_alone(subject)
    if subject.rows.num_actions is None:
        return Bits(_drawn_bits(subject), None)
    policy, behavior = subject.probs.astype(np.float64), _behavior_probs(subject.shared)
    apart = np.minimum(-np.log2(np.maximum(behavior, 2.0**-MOST_BITS)), MOST_BITS)
    certainty = policy * np.log2(np.where(policy > 0, policy, 1.0))
    return Bits((certainty + policy * apart).sum(1), apart.min(1))


def support_of(subject: Subject) -> Support:
    """The support of a policy's decisions. Raises `NotLookedAtError` where it cannot be found out."""
    check_acts_alone(subject)
    if subject.rows.num_actions is not None:
        behavior = _behavior_probs(subject.shared)
        rare = behavior < SUPPORT
        off, off_logged = (subject.probs * rare).sum(1, dtype=np.float64), (behavior * rare).sum(1)
        return Support(np.arange(len(off)), off, off_logged)
    states, logged = subject.shared.once(states_of), subject.shared.once(logged_support)
    known = logged[np.isfinite(logged)]
    if len(known) == 0:
        raise NotLookedAtError("The log has one row, so no action was logged in a state similar to another one.")
    usual = max(float(np.quantile(known, USUAL)), LEAST_DISTANCE)
    distance = distance_to_nearest(states, states.of_rows(subject.drawn))
    return Support(states.rows, (distance > usual).astype(float), (logged > usual).astype(float), distance, usual)


def states_of(shared: Shared) -> SimilarStates:
    """The similar states of the rows. Raises `NotLookedAtError` for images."""
    if shared.rows_of.observation_table.ndim != 2:
        raise NotLookedAtError(
            "The observations are images, and similar states can only be found among observations that are columns of numbers."
        )
    return similar_states(shared.rows_of)


def logged_support(shared: Shared) -> Float[NumpyArray, " n"]:
    """(n,) distance of each logged action to the nearest one in similar states."""
    states = shared.once(states_of)
    return distance_to_nearest(states, states.action)


def _behavior_probs(shared: Shared) -> Float[NumpyArray, "N A"]:
    probs = shared.behavior.probs
    if probs is None:
        raise NotLookedAtError("It is not known how probable the behaviour's other actions were.")
    return probs.astype(np.float64)


def _drawn_bits(subject: Subject) -> Float[NumpyArray, " N"]:
    """Equation (2)."""
    policy = subject.member.policy
    if not has_density(policy):
        raise NotLookedAtError(
            f"{subject.member.name} gives actions no density, so its distance from the behaviour cannot be measured in bits, but "
            "only by the distance to the nearest logged actions."
        )
    model = subject.shared.behavior_model
    try:
        draws = drawn_actions(policy, subject.obs, subject.rows.action.shape[1], seed=DRAW_SEED)
        ratios = [
            (log_densities(policy, subject.obs, action) - log_densities(model, subject.obs, action)) / np.log(2)
            for action in np.moveaxis(draws, 1, 0)
        ]
    except EvaluationError as why:
        raise NotLookedAtError(str(why)) from None
    return np.clip(ratios, -MOST_BITS, MOST_BITS).mean(0)
