"""The hospital of the lesson on choosing: what tables learn from its log, what they claim, what other stays say, what is true."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import sparse

from stitchrl.algorithms.spibb import improved
from stitchrl.algorithms.tabular_model import TabularModel, policy_value
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.balance_checks import check_balance
from stitchrl.evaluation.contributions import Contributions, Episodes, Estimand
from stitchrl.evaluation.health import check_spread
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.predictable import VisitRatios, variance_of_difference
from stitchrl.evaluation.refit import ratio_of, refit
from stitchrl.evaluation.statistic import minus
from stitchrl.evaluation.units import Units
from stitchrl.mdp.icu_sepsis import demo_log, icu_sepsis
from stitchrl.types import NumpyArray

__all__ = [
    "GROUPS",
    "Judged",
    "Learned",
    "best_possible",
    "clinicians_value",
    "exact_value",
    "grouped",
    "implicit",
    "judged",
    "parts",
    "safe",
]

GROUPS = {25: (0, 1, 2, 3, 4), 9: (0, 1, 1, 2, 2), 4: (0, 1, 1, 1, 1)}
"""How many actions -> the level of each of the five doses: all of them; none, low, high; none, some."""
ROUNDS, SWEEPS = 60, 400


class Learned(NamedTuple):
    """A policy and the value that its learner claims; S = 716 states and A = 25 actions of the hospital.

    Attributes:
        table: (S, A) probabilities.
        q: (S, A) the policy's values in the model that counts the learner's stays, 0 where there are none.
        v: (S,) likewise.
        claim: the learner's mean value of the first states of its own stays.
        exact: survival under the policy in the true world.
    """

    table: NumpyArray
    q: NumpyArray
    v: NumpyArray
    claim: float
    exact: float


class Judged(NamedTuple):
    """The gain over the clinicians that a part of the log shows: its value, interval, and whether its weights are healthy."""

    value: float
    lower: float
    upper: float
    healthy: bool
    sentence: str

    @property
    def word(self) -> str:
        """What it comes to."""
        if not self.healthy:
            return "not to be judged"
        return "shown" if self.lower > 0 else "not shown"


@cache
def parts() -> Sequence[Dataset]:
    """The hospital log in three: 10,000 stays to learn from, 5,000 to choose by, 5,000 to decide by."""
    return demo_log().split((0.5, 0.25, 0.25), seed=0)


@cache
def grouped(actions: int) -> tuple[TabularModel, NumpyArray]:
    """The model that counts the learning part with so many actions, and the (25,) group of each action.

    The behaviour is taken to be what the log shows, as where no propensities are recorded.
    """
    level = np.array(GROUPS[actions])
    group = (level[:, None] * (level.max() + 1) + level[None, :]).reshape(-1)
    train = parts()[0]
    names = {name: column for name, column in train.schema.columns.items() if not name.startswith("behavior")}
    names.pop("action_mask", None)
    bare = dataclasses.replace(
        train,
        action=group[train.action].astype(train.action.dtype),
        behavior_probs=None,
        behavior_log_prob=None,
        action_mask=None,
        schema=dataclasses.replace(train.schema, columns=names, num_actions=actions),
    )
    return TabularModel.of(bare, Scaling.identity(0), gamma=1.0, name="this lesson"), group


def _learned(probs: NumpyArray, claimed: NumpyArray, actions: int) -> Learned:
    """In the 25 actions: inside a group the policy doses as clinicians do, and in states that were not seen it is theirs.

    Args:
        probs: of the groups, in each state of the model.
        claimed: the learner's value of each state.
        actions: how many groups there are.
    """
    model, group = grouped(actions)
    clinicians, train = icu_sepsis().clinicians, parts()[0]
    assert train.observation_id is not None
    seen = np.unique(train.observation_id)
    of_group = clinicians[seen] @ np.eye(actions)[group]
    inside = clinicians[seen] / np.where(of_group > 0, of_group, 1.0)[:, group]
    table = clinicians.copy()
    table[seen] = probs[:, group] * inside
    v = policy_value(model, probs, 1.0, start=claimed)
    full_q, full_v = np.zeros(clinicians.shape), np.zeros(len(clinicians))
    full_q[seen], full_v[seen] = model.q(v, 1.0)[:, group], v
    claim = float(claimed[model.state[train.episode_start[:-1]]].mean())
    return Learned(table, full_q, full_v, claim, exact_value(table))


@cache
def safe(least_count: int, actions: int = 25) -> Learned:
    """SPIBB (Laroche, Trichelair, Tachet des Combes 2019): policy iteration in the model, away from the log only on
    pairs of a state and an action that were seen so often. With 1 it is greedy among all pairs that were ever seen."""
    model, _ = grouped(actions)
    certain = model.count >= least_count
    probs, v = model.behavior, np.zeros(len(model.count))
    for _ in range(ROUNDS):
        v = policy_value(model, probs, 1.0, start=v)
        following = improved(model.q(v, 1.0), model.behavior, certain)
        if np.array_equal(following, probs):
            break
        probs = following
    return _learned(probs, v, actions)


@cache
def implicit(expectile: float, inverse_temperature: float) -> Learned:
    """IQL (Kostrikov, Nair and Levine 2022) with a table in place of networks, iterated to the end: V is the expectile
    of Q over the logged actions, Q = r + V of what followed, and the policy the log's actions weighted by
    exp(inverse_temperature (Q - V))."""
    model, _ = grouped(25)
    v = np.zeros(len(model.count))
    for _ in range(SWEEPS):
        q = model.q(v, 1.0)
        following = (model.behavior * q).sum(1)
        for _ in range(30):
            weight = model.behavior * np.where(q > following[:, None], expectile, 1 - expectile)
            following = (weight * q).sum(1) / weight.sum(1)
        v, change = following, float(np.abs(following - v).max())
        if change < 1e-6:
            break
    q = model.q(v, 1.0)
    probs = model.behavior * np.exp(np.minimum(inverse_temperature * (q - v[:, None]), 50.0))
    return _learned(probs / probs.sum(1, keepdims=True), v, 25)


def exact_value(table: NumpyArray) -> float:
    """Survival under a policy, exactly: the share of patients who leave alive."""
    mdp = icu_sepsis().mdp
    live = int((~mdp.terminal).sum())  # the terminal states are the last ones
    step = np.matmul(table[:live, None, :], mdp.transition[:live])[:, 0]
    # The reward is 1 on the way to survival, whatever the action.
    reward = (step * mdp.reward[:live, 0]).sum(1)
    values = np.linalg.solve(np.eye(live) - step[:, :live], reward)
    return float(mdp.initial[:live] @ values)


def judged(learned: Learned, part: int) -> Judged:
    """The gain by fitted Q evaluation, whose Q is that of the learner's model and whose last layer is a table, on a
    part of the log (1 or 2)."""
    log = parts()[part]
    state, goes_on = log.observation_id, log.continues
    assert state is not None
    assert log.behavior_log_prob is not None
    assert log.behavior_probs is not None
    following = np.where(goes_on, np.append(state[1:], 0), 0)
    n, shape = log.num_transitions, (log.num_transitions, int(icu_sepsis().mdp.num_states))
    here = sparse.csr_array((np.ones(n), (np.arange(n), state)), shape=shape)
    after = sparse.csr_array((goes_on.astype(float), (np.arange(n), following)), shape=shape)
    with np.errstate(divide="ignore"):
        ratio = ratio_of(np.log(learned.table[state, log.action]) - log.behavior_log_prob)
    fitted = {
        "q": learned.q[state, log.action],
        "v": learned.v[state],
        "next_v": np.where(goes_on, learned.v[following], 0.0),
        "psi": here,
        "next_psi": after,
    }
    found = refit(log, fitted, ratio, gamma=1.0)
    returns = Episodes.of(log, Estimand(1.0)).returns
    gain = minus(Contributions.average(found.contributions), Contributions.average(returns))
    own = VisitRatios(found.visits, learned.table[state], log.behavior_probs, found.residual, found.first)
    expected = variance_of_difference(own, VisitRatios(np.ones(n), None, np.ones((n, 0))), log.num_episodes)
    units = Units(log.num_episodes)
    interval = Resampler(units).interval(gain, expected)
    per_episode = np.add.reduceat(np.abs(found.weights), log.episode_start[:-1])
    checks = (check_balance(found.imbalance), *check_spread(units, per_episode))
    failed = [check.sentence for check in checks if not check.passed]
    return Judged(interval.value, interval.lower, interval.upper, not failed, failed[0] if failed else "")


@cache
def clinicians_value() -> float:
    return exact_value(icu_sepsis().clinicians)


@cache
def best_possible(actions: int) -> float:
    """The best survival that any policy over the grouped actions can have, by policy iteration."""
    _, group = grouped(actions)
    world = icu_sepsis()
    live = int((~world.mdp.terminal).sum())  # the terminal states are the last ones
    member = np.eye(actions)[group]
    share = (world.clinicians @ member)[:live]
    inside = world.clinicians[:live, None, :] * member.T / np.where(share > 0, share, 1.0)[:, :, None]
    transition = np.matmul(inside, world.mdp.transition[:live])
    reward = (transition * world.mdp.reward[:live, :1]).sum(2)
    transition = transition[:, :, :live]
    each, choice = np.arange(live), share.argmax(1)
    while True:
        v = np.linalg.solve(np.eye(live) - transition[each, choice], reward[each, choice])
        q = np.where(share > 0, reward + transition @ v, -np.inf)
        better = q.max(1) > q[each, choice] + 1e-12
        if not better.any():
            return float(world.mdp.initial[:live] @ v)
        choice = np.where(better, q.argmax(1), choice)
