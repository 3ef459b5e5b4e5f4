"""Rollouts of a policy in a model of the world, whole and short.

Every member m of the model has rollouts of its own. The chance of an end is carried along rather than drawn: with L_0 = 1,

    (1)  return = sum_t gamma^t L_t r(s_t, a_t),   L_{t+1} = L_t (1 - P(end | s_t, a_t)),   s_{t+1} ~ N_m(s_t, a_t),  a_t ~ policy

which has the expectation of rollouts that end by chance, and less noise. With a horizon L is 0 after its last step.

Whole rollouts from the first states go on until gamma^t L_t falls below `DEAD` in all of them, or `MOST_STEPS` are made. Errors
of a model add up along a rollout; at a discount of 1 a chance of the end that is a little wrong in each step changes a long
return in proportion to its length. So Q comes from short rollouts with a fitted value behind them (Feinberg and others 2018,
arXiv 1803.00101):

    (2)  Q(s, a) = E[ sum_{t < k} gamma^t L_t r_t + gamma^k L_k V(s_k) ],   s_0 = s,  a_0 = a

where V(s_k) comes from fitted Q evaluation. The V(s) that goes with (2) is the policy's average of (2) over all actions, or over
actions drawn from the policy where they are continuous, so that a doubly robust correction of (2) stays right whatever the model
says. The noise of the rollouts depends on the observation alone, so that equal states have equal Q and an estimate does not
depend on the order of the rows.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.clock import clock
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import FittedQ
from stitchrl.evaluation.learned_model import FitDynamics, LearnedModel, ModelError, WorldModel
from stitchrl.evaluation.policy_actions import one_action
from stitchrl.evaluation.probabilities import PolicyLike, policy_probabilities
from stitchrl.evaluation.refit import FitQ, FittedValues
from stitchrl.jax_types import Array
from stitchrl.types import NumpyArray

__all__ = [
    "STEPS",
    "FitModelQ",
    "FitModelReturns",
    "ModelReturns",
    "ModelValues",
    "RollOuts",
    "Rolled",
    "cap_of",
    "row_keys",
]

STEPS = 5
"""k of equation (2)."""
MOST_STEPS = 1000
"""Steps after which whole rollouts are cut."""
DEAD = 1e-3
"""Weight gamma^t L_t, where that of the first reward is 1, below which later rewards are not counted."""
ROWS_AT_ONCE = 2**16
"""Rollouts of one call, of all members together."""
DRAWN = 4
"""Drawn actions over which Q is averaged to V where actions are continuous."""


class Rolled(NamedTuple):
    """Rollouts of C members from B rows.

    Attributes:
        returns: (C, B) the sum of equation (1) so far.
        obs: (C, B, D) the observations that they have come to.
        left: (C, B) gamma^t L_t there, the weight of whatever follows.
    """

    returns: Float[NumpyArray, "C B"]
    obs: Float[NumpyArray, "C B D"]
    left: Float[NumpyArray, "C B"]


def row_keys(obs: Float[NumpyArray, "B D"]) -> Int[NumpyArray, " B"]:
    """(B,) a number for each observation, the same for equal ones, which its noise is drawn from."""
    whole = np.ascontiguousarray(obs)
    return np.array([zlib.crc32(row.tobytes()) for row in whole], np.uint32).view(np.int32)


def cap_of(estimand: Estimand) -> int:
    """The most steps of a whole rollout: until the discount leaves nothing, the horizon ends, or `MOST_STEPS` are made."""
    steps = MOST_STEPS if estimand.horizon is None else min(estimand.horizon, MOST_STEPS)
    if estimand.gamma == 0:
        return 1
    if estimand.gamma < 1:
        steps = min(steps, int(np.ceil(np.log(DEAD) / np.log(estimand.gamma))))
    return steps


@dataclasses.dataclass(frozen=True, eq=False)
class RollOuts:
    """A policy in a model.

    Attributes:
        model: the model of the world.
        policy: the policy that acts.
        num_actions: A; None where actions are continuous.
        action_size: how many numbers a continuous action has.
        gamma: discount.
        seed: random seed of all noise.
    """

    model: WorldModel
    policy: PolicyLike
    num_actions: int | None
    action_size: int
    gamma: float
    seed: int

    def run(
        self,
        obs: Float[NumpyArray, "B D"],
        steps: int,
        *,
        first_action: NumpyArray | None = None,
        steps_left: Int[NumpyArray, " B"] | None = None,
    ) -> Rolled:
        """Rollouts of at most `steps` steps from each observation.

        Args:
            obs: (B, D) in logged units.
            steps: the most steps.
            first_action: (B, ...) the actions of the first step; None: those of the policy.
            steps_left: (B,) steps until the horizon; None without one.
        """
        members, (rows, size) = self.model.members, obs.shape
        keys = _keys(jnp.int32(self.seed), jnp.asarray(row_keys(obs)))
        here = jnp.broadcast_to(jnp.asarray(obs, jnp.float32)[None], (members, rows, size))
        returns, left = np.zeros((members, rows)), np.ones((members, rows))
        for t in range(steps):
            noise, chance = _noise(keys, t, members, size)
            if t == 0 and first_action is not None:
                action = jnp.broadcast_to(jnp.asarray(first_action)[None], (members, *first_action.shape))
            else:
                action = self._act(here, np.asarray(chance), t)
            found = self.model.step(here, action, noise)
            returns += left * np.asarray(found.reward, np.float64)
            left = left * self.gamma * (1.0 - np.asarray(found.end, np.float64))
            if steps_left is not None:
                left = left * (t + 1 < steps_left)[None, :]
            here = found.next_obs
            if left.max(initial=0.0) < DEAD:
                left = np.zeros_like(left)
                break
        return Rolled(returns, np.asarray(here), left)

    def _act(self, obs: Array, chance: Float[NumpyArray, "C B"], step: int) -> Array:
        """(C, B, ...) an action of the policy at each observation."""
        members, rows, size = obs.shape
        flat = np.asarray(obs).reshape(members * rows, size)
        if self.num_actions is not None:
            cdf = np.cumsum(policy_probabilities(self.policy, flat, None), axis=1, dtype=np.float64)
            drawn = (cdf / cdf[:, -1:] <= chance.reshape(-1, 1)).sum(1)
            return jnp.asarray(drawn.reshape(members, rows), jnp.int32)
        key = jax.random.fold_in(jax.random.key(self.seed + 1), step)
        drawn = one_action(self.policy, flat, self.action_size, key=key)
        return jnp.asarray(drawn.reshape(members, rows, self.action_size))


@jax.jit
def _keys(seed: Array, number: Array) -> Array:
    return jax.vmap(lambda one: jax.random.fold_in(jax.random.key(seed), one))(number)


def _noise(keys: Array, step: int, members: int, size: int) -> tuple[Array, Array]:
    """(C, B, D) standard normal and (C, B) uniform numbers of a step."""
    normal, uniform = _noise_of(keys, jnp.int32(step), jnp.zeros((members, size)))
    return jnp.swapaxes(normal, 0, 1), uniform.T


@jax.jit
def _noise_of(keys: Array, step: Array, like: Array) -> tuple[Array, Array]:
    def of_row(key: Array) -> tuple[Array, Array]:
        one, other = jax.random.split(jax.random.fold_in(key, step))
        return jax.random.normal(one, like.shape), jax.random.uniform(other, like.shape[:1])

    return jax.vmap(of_row)(keys)


# --- Q by short rollouts, equation (2) -------------------------------------------------------------------------


class ModelValues(NamedTuple):
    """A model's Q on the transitions of a log, and how far the model is off."""

    values: FittedValues
    error: ModelError


class _ModelAndQ(NamedTuple):
    model: LearnedModel
    networks: tuple[FittedQ, ...]


@dataclasses.dataclass(frozen=True)
class FitModelQ:
    """The request for Q by equation (2): model and fitted value come from other episodes.

    Attributes:
        steps: k, 1 or more.
    """

    steps: int = STEPS

    def fit(self, data: FitData) -> Sequence[_ModelAndQ]:
        """The model, and fitted Q evaluation of each policy, which other estimators share."""
        pairs = zip(data.models(FitDynamics()), data.models(FitQ()), strict=True)
        return [_ModelAndQ(model, tuple(networks)) for model, networks in pairs]

    def apply(self, model: _ModelAndQ, fold: Fold, policy: int) -> ModelValues:
        """Q of the logged actions and V on the transitions of a fold."""
        log, choices = fold.log, fold.choices(policy)
        if log.num_actions is None:
            actions = np.concatenate([log.action[:, None, :], choices[:, :DRAWN]], axis=1)
        else:
            actions = np.broadcast_to(np.arange(log.num_actions, dtype=np.int32), choices.shape)
        q = q_of_actions(model, fold, policy, actions, self.steps)
        if log.num_actions is None:
            return ModelValues(FittedValues(q[:, 0], q[:, 1:].mean(1)), model.model.error)
        logged = np.take_along_axis(q, log.action[:, None].astype(np.int64), axis=1)[:, 0]
        return ModelValues(FittedValues(logged, (choices * q).sum(1)), model.model.error)

    def join(self, parts: Sequence[ModelValues], order: Order) -> ModelValues:
        """Folds side by side."""
        q, v = (order.per_row([getattr(part.values, name) for part in parts]) for name in ("q", "v"))
        return ModelValues(FittedValues(q, v), ModelError.together([part.error for part in parts]))


def q_of_actions(
    model: _ModelAndQ, fold: Fold, policy: int, actions: NumpyArray, steps: int
) -> Float[NumpyArray, "N M"]:
    """(N, M) equation (2) for M actions of each row, averaged over the members of the model."""
    log, estimand = fold.log, fold.data.estimand
    acting = RollOuts(model.model, fold.policies[policy], *_of_actions(log), estimand.gamma, fold.data.settings.seed)
    position, count = log.position, actions.shape[1]
    found = np.empty((log.num_transitions, count))
    # All pieces have one shape, so that a compiled function compiles once: the last piece repeats its last row.
    at_once = min(max(1, ROWS_AT_ONCE // (model.model.members * count)), log.num_transitions)
    for start in range(0, log.num_transitions, at_once):
        rows = np.minimum(np.arange(start, start + at_once), log.num_transitions - 1)
        obs = np.repeat(log.observation_table[log.observation_index[rows]], count, axis=0)
        first = actions[rows].reshape(len(obs), *actions.shape[2:])
        since = np.repeat(position[rows], count)
        left = None if estimand.horizon is None else estimand.horizon - since
        rolled = acting.run(obs, steps, first_action=first, steps_left=left)
        told = None
        if estimand.horizon is not None:
            told = clock(np.minimum(since + steps, estimand.horizon), estimand.horizon)
        total = rolled.returns + rolled.left * _values(acting, model.networks, rolled, told, steps)
        kept = min(at_once, log.num_transitions - start)
        found[start : start + kept] = total.mean(0).reshape(at_once, count)[:kept]
    return found


def _of_actions(log: Dataset) -> tuple[int | None, int]:
    return log.num_actions, 0 if log.num_actions is not None else int(log.action.shape[1])


def _values(
    acting: RollOuts, networks: Sequence[FittedQ], rolled: Rolled, told: NumpyArray | None, steps: int
) -> Float[NumpyArray, "C B"]:
    """V of fitted Q evaluation where rollouts are, averaged over its networks."""
    members, rows, size = rolled.obs.shape
    if not rolled.left.any():
        return np.zeros((members, rows))
    flat = rolled.obs.reshape(members * rows, size)
    if acting.num_actions is not None:
        weight = policy_probabilities(acting.policy, flat, None)
        actions = np.eye(acting.num_actions, dtype=np.float32)[None]
    else:
        key = jax.random.fold_in(jax.random.key(acting.seed + 1), steps)
        actions = one_action(acting.policy, flat, acting.action_size, key=key)[:, None, :]
        weight = np.ones((len(flat), 1), np.float32)
    if told is not None:
        flat = np.concatenate([flat, np.tile(told, (members, 1))], axis=1)
    found = np.zeros(len(flat))
    for network in networks:
        scaling = network.scaling
        scaled = actions if acting.num_actions is not None else scaling.actions(actions)
        q = _q(network.critic, jnp.asarray(scaling.observations(flat)), jnp.asarray(scaled), jnp.asarray(weight))
        found += np.asarray(q, np.float64) / scaling.reward_scale / len(networks)
    return found.reshape(members, rows)


@jax.jit
def _q(critic: Any, obs: Array, actions: Array, weight: Array) -> Array:
    """(B,) Q averaged with weights over (B, M, D) actions, or over (1, M, D) that are the same in all rows."""
    shape = weight.shape
    pairs = jnp.concatenate(
        [
            jnp.broadcast_to(obs[:, None, :], (*shape, obs.shape[1])),
            jnp.broadcast_to(actions, (*shape, actions.shape[2])),
        ],
        axis=-1,
    )
    return jnp.sum(weight * critic(pairs)[..., 0], axis=1)


# --- whole rollouts, equation (1) ------------------------------------------------------------------------------


class ModelReturns(NamedTuple):
    """Whole rollouts from the first state of each of n episodes.

    Attributes:
        returns: (n, C) the return by each member of the model.
        left: (n, C) gamma^t L_t where rollouts were cut, by the discount or by their number of steps; 0 where they died out.
        error: how far the model is off.
    """

    returns: Float[NumpyArray, "n C"]
    left: Float[NumpyArray, "n C"]
    error: ModelError


@dataclasses.dataclass(frozen=True)
class FitModelReturns:
    """The request for whole rollouts from the logged first states, in a model of other episodes."""

    def fit(self, data: FitData) -> Sequence[LearnedModel]:
        """The model."""
        found: Sequence[LearnedModel] = data.models(FitDynamics())
        return found

    def apply(self, model: LearnedModel, fold: Fold, policy: int) -> ModelReturns:
        """Rollouts from the first states of a fold."""
        log, estimand = fold.log, fold.data.estimand
        acting = RollOuts(model, fold.policies[policy], *_of_actions(log), estimand.gamma, fold.data.settings.seed)
        obs = log.observation_table[log.observation_index[log.episode_start[:-1]]]
        at_once = min(max(1, ROWS_AT_ONCE // model.members), len(obs))
        parts, steps = [], cap_of(estimand)
        for start in range(0, len(obs), at_once):
            rows = np.minimum(np.arange(start, start + at_once), len(obs) - 1)
            left = None if estimand.horizon is None else np.full(at_once, estimand.horizon)
            rolled = acting.run(obs[rows], steps, steps_left=left)
            kept = min(at_once, len(obs) - start)
            parts.append((rolled.returns.T[:kept], rolled.left.T[:kept]))
        returns, remaining = (np.concatenate(one) for one in zip(*parts, strict=True))
        return ModelReturns(returns, remaining, model.error)

    def join(self, parts: Sequence[ModelReturns], order: Order) -> ModelReturns:
        """Folds side by side."""
        returns, left = (order.per_episode([getattr(part, name) for part in parts]) for name in ("returns", "left"))
        return ModelReturns(returns, left, ModelError.together([part.error for part in parts]))
