"""The maximum-likelihood model of a log with finitely many states, and dynamic programming in it, in NumPy and float64.

A state is a value of the column with the role `observation_id`. The model counts, for every state and action, how often
it was taken, the mean reward, and where it led:

    (1)  P(s' | s, a) = N(s, a, s') / N(s, a),   r(s, a) = mean of the logged rewards

Rows whose next state is unknown (the episode was cut, and what followed is none of the log's observations) are left
out. A state that occurs in such rows only has the lowest value, that of the worst sum of rewards in the log, so that no
policy gains by being cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from stitchrl.algorithms.returns import returns_to_go
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.types import NumpyArray

__all__ = ["NEGATIVE", "TabularModel", "log_table", "numbers_states", "policy_value", "settled"]

MOST_SWEEPS = 100_000
MOST_STATES, VISITS = 5_000, 10
"""`numbers_states` takes states for a finite set if there are at most so many and each is seen at least so often on average."""
TOLERANCE = 1e-10
"""Change of a value in one sweep, relative to the largest value, at which it counts as solved."""
NEGATIVE = -1e6
"""Stands for log 0: its exponential is exactly 0, yet it stays above the -1e9 of an action that a mask forbids."""


@dataclasses.dataclass(frozen=True, eq=False)
class TabularModel:
    """The model of equation (1) of S states and A actions.

    Attributes:
        state: (N,) the state of each row of the log.
        table: (S, D) float32 the observation of each state, scaled.
        count: (S, A) float64 how often each action was taken in each state with a known outcome.
        reward: (S, A) mean reward, scaled; 0 where never taken.
        transition: (S A, S) sparse probabilities of the next state; rows sum to the probability of going on. Where the log has
            a `time_unit`, each counted step is weighted by gamma^(elapsed - 1).
        behavior: (S, A) the behaviour's probabilities: the log's own averaged over a state's rows where it has them,
            else the shares of its actions.
        lowest, highest: the range of values seen: the smallest and the largest discounted sum of scaled rewards that follow
            any row in its episode, and 0, the value after an end.
        known: (S,) whether the outcome of any row of the state is known.
        allowed: (S, A) actions that some row of the state allowed; all where the log has no masks.
    """

    state: Int[NumpyArray, " N"]
    table: Float[NumpyArray, "S D"]
    count: Float[NumpyArray, "S A"]
    reward: Float[NumpyArray, "S A"]
    transition: sparse.csr_matrix
    behavior: Float[NumpyArray, "S A"]
    lowest: float
    highest: float
    known: Bool[NumpyArray, " S"]
    allowed: Bool[NumpyArray, "S A"]

    @classmethod
    def of(cls, log: Dataset, scaling: Scaling, *, gamma: float, name: str) -> TabularModel:
        """Count a log. `gamma` is the discount of its values; `name` is the algorithm that asks, for messages.

        Raises:
            DataError: no column with the role `observation_id`, observations that are images, one identifier with
                several observations, or one observation with several identifiers.
            ConfigurationError: continuous actions.
        """
        actions = log.num_actions
        if actions is None:
            raise ConfigurationError(f"{name} learns from discrete actions; this log's are continuous.")
        if log.observation_id is None or log.observation_table.ndim != 2:
            raise DataError(
                f"{name} counts states and needs a column with the role `observation_id` beside observations that are "
                "vectors; this log has none. Name one in the schema, or use IQL or CQL."
            )
        names, first, state = np.unique(log.observation_id, return_index=True, return_inverse=True)
        state, states = state.reshape(-1), len(names)
        seen = log.observation_table[log.observation_index[first]]
        differs = (log.observation_table[log.observation_index] != seen[state]).any(1)
        if differs.any():
            raise DataError(
                f"An `observation_id` must always have the same observation for {name}; {names[state[differs][0]]} has "
                "several. Number the distinct observations, or use IQL or CQL."
            )
        _, first_of, times = np.unique(seen, axis=0, return_inverse=True, return_counts=True)
        shared = np.flatnonzero(times[first_of.reshape(-1)] > 1)
        if len(shared):
            twin = next(k for k in shared[1:] if (seen[k] == seen[shared[0]]).all())
            raise DataError(
                f"An observation must have one `observation_id` for {name}, which acts by the observation; "
                f"{names[shared[0]]} and {names[twin]} have the same. Number the distinct observations, or use IQL or CQL."
            )
        following = _next_states(log, state, seen)
        known = log.terminated | (following >= 0)
        if log.elapsed is not None:
            known &= log.can_bootstrap
        values = returns_to_go(log, scaling, gamma)
        pair = state * actions + log.action
        count = np.bincount(pair[known], minlength=states * actions).astype(np.float64)
        reward = np.bincount(pair[known], scaling.rewards(log.reward)[known], states * actions) / np.maximum(count, 1)
        goes_on = np.flatnonzero(known & ~log.terminated)
        chance = 1.0 / count[pair[goes_on]]
        if log.elapsed is not None and gamma > 0:
            # `q` multiplies this by gamma, which gives gamma^elapsed; with gamma 0 nothing follows anyway.
            chance *= log.discount(gamma)[goes_on] / gamma
        entries = (chance, (pair[goes_on], following[goes_on]))
        transition = sparse.csr_matrix(entries, shape=(states * actions, states))
        shape = (states, actions)
        return cls(
            state,
            scaling.observations(seen),
            count.reshape(shape),
            reward.reshape(shape),
            transition,
            _behavior(log, state, shape),
            min(float(values.min(initial=0.0)), 0.0),
            max(float(values.max(initial=0.0)), 0.0),
            np.bincount(state[known], minlength=states) > 0,
            _allowed(log, state, shape),
        )

    def q(self, v: Float[NumpyArray, " S"], gamma: float) -> Float[NumpyArray, "S A"]:
        """(S, A) r(s, a) + gamma sum_s' P(s' | s, a) v(s')."""
        return self.reward + gamma * (self.transition @ v).reshape(self.count.shape)


def numbers_states(log: Dataset) -> bool:
    """Whether a log's states are a finite set that is seen again and again: discrete actions, observations that are
    vectors, one for each `observation_id` and one identifier for each, and enough visits to count."""
    if log.num_actions is None or log.observation_id is None or log.observation_table.ndim != 2:
        return False
    _, first, state = np.unique(log.observation_id, return_index=True, return_inverse=True)
    if len(first) > MOST_STATES or log.num_transitions < VISITS * len(first):
        return False
    seen = log.observation_table[log.observation_index[first]]
    one_each = (log.observation_table[log.observation_index] == seen[state.reshape(-1)]).all()
    return bool(one_each and len(np.unique(seen, axis=0)) == len(seen))


def _next_states(log: Dataset, state: Int[NumpyArray, " N"], seen: Float[NumpyArray, "S D"]) -> Int[NumpyArray, " N"]:
    """(N,) the state after each row: the next row's, else that of the same stored observation; -1 where unknown."""
    following = np.full(log.num_transitions, -1, np.int64)
    goes_on = np.flatnonzero(log.continues)
    following[goes_on] = state[goes_on + 1]
    ends = np.flatnonzero(~log.continues & ~log.terminated & (log.next_observation_index >= 0))
    if len(ends):
        places = {row.tobytes(): k for k, row in enumerate(np.ascontiguousarray(seen))}
        last = np.ascontiguousarray(log.observation_table[log.next_observation_index[ends]])
        following[ends] = [places.get(row.tobytes(), -1) for row in last]
    return following


def _behavior(log: Dataset, state: Int[NumpyArray, " N"], shape: tuple[int, int]) -> Float[NumpyArray, "S A"]:
    states, actions = shape
    rows = np.bincount(state, minlength=states)[:, None]
    if log.behavior_probs is not None:
        sums = np.zeros(shape)
        np.add.at(sums, state, log.behavior_probs.astype(np.float64))
    else:
        sums = np.bincount(state * actions + log.action, minlength=states * actions).reshape(shape).astype(np.float64)
    return sums / rows


def _allowed(log: Dataset, state: Int[NumpyArray, " N"], shape: tuple[int, int]) -> Bool[NumpyArray, "S A"]:
    if log.action_mask is None:
        return np.ones(shape, bool)
    allowed = np.zeros(shape, bool)
    np.logical_or.at(allowed, state, log.action_mask)
    return allowed


def policy_value(
    model: TabularModel, probs: Float[NumpyArray, "S A"], gamma: float, *, start: Float[NumpyArray, " S"] | None = None
) -> Float[NumpyArray, " S"]:
    """(S,) the value of a policy in the model, by sweeps of its Bellman equation.

    Raises:
        DataError: with gamma 1, where some states never end under the policy, so that their value has no bound.
    """
    return settled(
        lambda v: np.where(model.known, (probs * model.q(v, gamma)).sum(1), model.lowest),
        np.zeros(len(probs)) if start is None else start,
        "The value of a policy",
        f"with gamma {gamma:g} some states never end",
    )


def settled(
    sweep: Callable[[Float[NumpyArray, " S"]], Float[NumpyArray, " S"]],
    v: Float[NumpyArray, " S"],
    what: str,
    reason: str,
) -> Float[NumpyArray, " S"]:
    """(S,) the fixed point of sweeps of a Bellman equation, to `TOLERANCE`.

    Args:
        sweep: values -> values after a sweep.
        v: where to begin.
        what, reason: for the message: what did not settle, and why that happens.

    Raises:
        DataError: it does not settle in `MOST_SWEEPS` sweeps.
    """
    for _ in range(MOST_SWEEPS):
        new = sweep(v)
        change = np.abs(new - v).max(initial=0.0)
        v = new
        if change <= TOLERANCE * max(1.0, float(np.abs(v).max(initial=0.0))):
            return v
    raise DataError(
        f"{what} in the log's own model did not settle in {MOST_SWEEPS:,} sweeps: {reason}. Give a gamma below 1."
    )


def log_table(probs: Float[NumpyArray, "S A"]) -> Float[NumpyArray, "S A"]:
    """Logarithms of probabilities, `NEGATIVE` for 0, as float32."""
    logs = np.full(probs.shape, NEGATIVE)
    np.log(probs, out=logs, where=probs > 0)
    return logs.astype(np.float32)
