"""A learned model of the world, and how far its predictions of held-out episodes are off.

The ensemble of `algorithms/dynamics.py` is fitted to most of the episodes that models are fitted on; the others show how well it
predicts. One step of it draws the next observation from the normal distribution of a member, and gives the mean reward and the
chance that the episode ends. Observations and rewards are kept within the ranges that were seen, since a network knows nothing
beyond them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.dynamics import Changes, Dynamics, Prediction, model_inputs, prediction_of
from stitchrl.algorithms.dynamics_fit import parts_of
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import CONTINUOUS_TIMES
from stitchrl.feeds.feed import transition_source
from stitchrl.jax_types import Array, Key
from stitchrl.nn.networks import MLP, Ensemble, Network
from stitchrl.training.loop import train
from stitchrl.types import NumpyArray

__all__ = ["FitDynamics", "LearnedModel", "ModelError", "ModelStep", "WorldModel", "fit_dynamics"]

ROWS_AT_ONCE = 8192
"""Rows whose predictions are compared in one call."""


class ModelStep(NamedTuple):
    """What follows an action in a model, for C members and B rows each.

    Attributes:
        next_obs: (C, B, D) the next observation if the episode goes on.
        reward: (C, B) expected reward.
        end: (C, B) probability that the episode ends here.
    """

    next_obs: Float[Array, "C B D"]
    reward: Float[Array, "C B"]
    end: Float[Array, "C B"]


@runtime_checkable
class WorldModel(Protocol):
    """What rollouts need of a model."""

    @property
    def members(self) -> int:
        """How many members it has; each has rollouts of its own."""

    def step(self, obs: Float[Array, "C B D"], action: Shaped[Array, "..."], noise: Float[Array, "C B D"]) -> ModelStep:
        """One step of every member.

        Args:
            obs: (C, B, D) observations in logged units.
            action: (C, B) discrete actions, or (C, B, action size) continuous ones in logged units.
            noise: (C, B, D) standard normal numbers.
        """


@dataclasses.dataclass(frozen=True)
class ModelError:
    """How well a model predicts episodes that it did not learn from.

    Attributes:
        change: mean squared error of the predicted changes of the observation, divided by the variance of the changes, averaged
            over the columns that change: 0 is perfect, and 1 is no better than the mean change.
        reward: the same for the reward.
        ends_expected: how many rows the model expects to end an episode.
        ends_seen: how many rows did.
        ends_error: standard error of the difference of these two if the model were right.
        rows: how many rows the predictions were compared on.
    """

    change: float
    reward: float
    ends_expected: float
    ends_seen: float
    ends_error: float
    rows: int

    @property
    def ends_off(self) -> float:
        """By how many standard errors the model expects too many ends, or, where negative, too few."""
        return (self.ends_expected - self.ends_seen) / max(self.ends_error, 0.5)

    @classmethod
    def together(cls, errors: Sequence[ModelError]) -> ModelError:
        """The error of the models of several folds, each on its own held-out rows, taken together."""
        rows = np.array([one.rows for one in errors], float)
        share = rows / max(rows.sum(), 1.0)
        return cls(
            float(share @ [one.change for one in errors]),
            float(share @ [one.reward for one in errors]),
            sum(one.ends_expected for one in errors),
            sum(one.ends_seen for one in errors),
            float(np.sqrt(sum(one.ends_error**2 for one in errors))),
            int(rows.sum()),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedModel:
    """A fitted ensemble, the scaling of its inputs and outputs, and the ranges that it stays in.

    Attributes:
        ensemble: the networks.
        changes: mean and spread of the changes of the observation, the units of the networks' outputs.
        scaling: scaling of observations, rewards and continuous actions.
        low, high: (D,) ranges of the observations that were seen.
        reward_low, reward_high: range of the rewards that were seen.
        error: how well it predicts held-out episodes.
    """

    ensemble: Ensemble
    changes: Changes
    scaling: Scaling
    low: Float[NumpyArray, " D"]
    high: Float[NumpyArray, " D"]
    reward_low: float
    reward_high: float
    error: ModelError

    @property
    def members(self) -> int:
        """How many networks there are."""
        assert isinstance(self.ensemble.members, MLP)
        return int(self.ensemble.members.weights[0].shape[0])

    @cached_property
    def _constants(self) -> dict[str, Any]:
        scaling, whole = self.scaling, self.scaling.action_center is None
        numbers = {
            "mean": scaling.mean,
            "std": scaling.std,
            "center": np.zeros(0) if whole else scaling.action_center,
            "half_width": np.ones(0) if whole else scaling.action_half_width,
            "low": self.low,
            "high": self.high,
            "reward_scale": scaling.reward_scale,
            "reward_shift": scaling.reward_shift,
            "reward_low": self.reward_low,
            "reward_high": self.reward_high,
        }
        return {name: jnp.asarray(number, jnp.float32) for name, number in numbers.items()}

    def step(self, obs: Float[Array, "C B D"], action: Shaped[Array, "..."], noise: Float[Array, "C B D"]) -> ModelStep:
        """One step of every member."""
        return _step(self.ensemble, self.changes, self._constants, obs, action, noise)


def _predicted(members: Any, constants: dict[str, Array], obs: Array, action: Array) -> Prediction:
    """Predictions of every member about its own rows, (C, B, ...), from logged units."""
    scaled = (obs - constants["mean"][None, None]) / constants["std"][None, None]
    if constants["center"].size:
        action = (action - constants["center"][None, None]) / constants["half_width"][None, None]
    inputs = model_inputs(scaled, action, members.weights[0].shape[-2])
    return prediction_of(jax.vmap(lambda member, rows: member(rows))(members, inputs))


@jax.jit
def _step(
    ensemble: Ensemble, changes: Changes, constants: dict[str, Array], obs: Array, action: Array, noise: Array
) -> ModelStep:
    found = _predicted(ensemble.members, constants, obs, action)
    drawn = found.mean[..., :-1] + jnp.exp(found.log_std[..., :-1]) * noise
    change = (changes.mean[None, None] + changes.spread[None, None] * drawn) * constants["std"][None, None]
    next_obs = jnp.clip(obs + change, constants["low"][None, None], constants["high"][None, None])
    reward = found.mean[..., -1] / constants["reward_scale"] - constants["reward_shift"]
    return ModelStep(
        next_obs, jnp.clip(reward, constants["reward_low"], constants["reward_high"]), jax.nn.sigmoid(found.end)
    )


def fit_dynamics(data: FitData) -> LearnedModel:
    """The ensemble, fitted to most of the episodes and judged on the others."""
    log, settings = data.log, data.settings
    train_log, held_out = parts_of(log, settings.seed)
    spread, center = float(log.reward.std()), float(log.reward.mean())
    scaling = dataclasses.replace(
        Scaling.of(train_log, reward_scale=1.0 / spread if spread > 0 else 1.0), reward_shift=-center
    )
    algorithm = Dynamics(
        network=Network(settings.hidden_sizes, activation="silu"), learning_rate=settings.learning_rate
    )
    changes: Changes = algorithm.prepare(train_log, scaling, key=_key(settings.seed)).given
    trained = train(
        algorithm,
        transition_source(train_log, scaling),
        Spec.of(train_log),
        updates=settings.updates * (CONTINUOUS_TIMES if log.num_actions is None else 1),
        seeds=[settings.seed],
        given=changes,
        batch_size=settings.batch_size,
        monitors=data.monitors,
    )
    table = train_log.compact().observation_table
    model = LearnedModel(
        trained.member(0).algorithm.model.model,
        changes,
        scaling,
        table.min(0),
        table.max(0),
        float(train_log.reward.min()),
        float(train_log.reward.max()),
        ModelError(0.0, 0.0, 0.0, 0.0, 0.0, 0),
    )
    return dataclasses.replace(model, error=held_out_error(model, held_out))


def _key(seed: int) -> Key:
    return jax.random.key(seed)


def held_out_error(model: LearnedModel, log: Dataset) -> ModelError:
    """The error of the members' average prediction on the rows of a log."""
    parts = []
    for start in range(0, log.num_transitions, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        obs = jnp.asarray(log.observation_table[log.observation_index[rows]])
        action = jnp.asarray(log.action[rows])
        # Without noise a step gives means.
        mean = _step(
            model.ensemble,
            model.changes,
            model._constants,
            *(jnp.broadcast_to(one[None], (model.members, *one.shape)) for one in (obs, action, jnp.zeros_like(obs))),
        )
        parts.append([np.asarray(one.mean(0), np.float64) for one in mean])
    next_obs, reward, end = (np.concatenate(one) for one in zip(*parts, strict=True))
    known, ended = log.can_bootstrap, log.terminated
    shown = np.flatnonzero(known & ~ended)
    following = log.observation_table[log.next_observation_index[shown]].astype(np.float64)
    change = following - log.observation_table[log.observation_index[shown]]
    return ModelError(
        _share_unexplained((following - next_obs[shown]), change),
        _share_unexplained((log.reward - reward)[:, None], log.reward[:, None].astype(np.float64)),
        float(end[known].sum()),
        float(ended[known].sum()),
        float(np.sqrt((end * (1 - end))[known].sum())),
        log.num_transitions,
    )


def _share_unexplained(error: Float[NumpyArray, "N K"], target: Float[NumpyArray, "N K"]) -> float:
    """Mean squared error over variance, averaged over the columns that vary."""
    if not len(error):
        return 0.0
    variance = target.var(0)
    varies = variance > 1e-12
    return float(((error**2).mean(0)[varies] / variance[varies]).mean()) if varies.any() else 0.0


@dataclasses.dataclass(frozen=True)
class FitDynamics:
    """The request for a model of the world, which serves all policies; `apply` gives the error of the model."""

    def fit(self, data: FitData) -> Sequence[LearnedModel]:
        """The same model for every policy."""
        return [fit_dynamics(data)] * data.policies

    def apply(self, model: LearnedModel, fold: Fold, policy: int) -> ModelError:
        """Its error on held-out episodes of the fit; the episodes of the fold are not used."""
        return model.error

    def join(self, parts: Sequence[ModelError], order: Order) -> ModelError:
        """The errors of the models of all folds."""
        return ModelError.together(parts)
