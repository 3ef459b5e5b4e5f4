"""Dynamics: an ensemble of networks that predict what follows an action, so that policies can be rolled out in it.

With x = (s, a), each member m predicts a normal distribution of y = (change of the observation, reward), and the probability
P_m that the episode terminates:

    (1)  L_m = E[ w_m ( sum_j v_j (1/2 ((y_j - mean_j(x)) / std_j(x))^2 + log std_j(x)) - v_e log P_m(e | x) ) ]

with e = 1 where the episode terminated. Changes are divided by their spread over the log, rewards are scaled. The weights v
leave out what the log does not show: the change of the observation where the episode ended or the next observation is not
stored, and the end where an episode was cut without its next observation, since it may have ended there. A cut
whose next observation is stored did go on, and counts as such: without these rows the chance of an end would come out too
large. The weights w_m, exponential with mean 1, fixed for each row and member, make each member a draw of the Bayesian
bootstrap (Rubin 1981), so that members differ where the log says little.

Source: Chua, Calandra, McAllister, Levine 2018 (PETS, arXiv 1805.12114); Yu and others 2020 (MOPO, arXiv 2005.13239; code
tianheyu927/mopo), whose algorithm (`mopo`), like COMBO (`combo`), learns from rollouts of such an ensemble.

Deviations: MOPO resamples rows for each network, where here rows are weighted; it learns the bounds of the variances, which
are fixed here; it keeps the 5 networks of 7 that predict held-out rows best, where here all are kept (`dynamics_fit` keeps
those); and it knows the end of an episode by a rule written for each environment, where here it is learned.

Metrics, means over the members: loss/change (negative log-likelihood of all changes, nats), loss/reward and loss/end (nats).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import MLP, Ensemble, Network
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.types import PyTree

__all__ = ["Changes", "Dynamics", "DynamicsState", "Prediction", "dynamics_losses", "model_inputs", "prediction_of"]

LEAST_LOG_STD, MOST_LOG_STD = -5.0, 1.0
"""Ends of the log standard deviations, in units of the spread over the log; kept smoothly."""
LEAST_SPREAD = 1e-3
"""Added to the spread of every change, so that a column that never changes stays finite."""


class Changes(NamedTuple):
    """How scaled observations change from one step to the next, over a log: (D,) means and spreads."""

    mean: Float[Array, " D"]
    spread: Float[Array, " D"]


class Prediction(NamedTuple):
    """What members predict for each row: means and log standard deviations of D changes and of the reward, and the logit of
    the end. Changes are in units of `Changes`, rewards are scaled."""

    mean: Float[Array, "*b D1"]
    log_std: Float[Array, "*b D1"]
    end: Float[Array, "*b"]


class DynamicsState(NamedTuple):
    """Everything a resume needs."""

    model: Trainable[Ensemble]


def model_inputs(obs: Float[Array, "*b D"], action: Shaped[Array, "..."], inputs: int) -> Array:
    """(*b, inputs) scaled observations beside actions: whole numbers one-hot, continuous ones in [-1, 1] as they are."""
    if jnp.issubdtype(action.dtype, jnp.integer):
        action = jax.nn.one_hot(action, inputs - obs.shape[-1], dtype=obs.dtype)
    return jnp.concatenate([obs, action], axis=-1)


def prediction_of(outputs: Float[Array, "*b outputs"]) -> Prediction:
    """The prediction whose parameters are these outputs of a network; standard deviations are kept between their bounds."""
    size = (outputs.shape[-1] - 1) // 2
    raw = outputs[..., size : 2 * size]
    below_most = MOST_LOG_STD - jax.nn.softplus(MOST_LOG_STD - raw)
    log_std = LEAST_LOG_STD + jax.nn.softplus(below_most - LEAST_LOG_STD)
    return Prediction(outputs[..., :size], log_std, outputs[..., -1])


def member_weights(row: Int[Array, " B"], members: int) -> Float[Array, "C B"]:
    """(C, B) weights w of the rows of a batch: the same whenever a row is drawn."""

    def of_row(number: Array) -> Array:
        return jax.random.exponential(jax.random.fold_in(jax.random.key(0), number), (members,))

    return jax.vmap(of_row)(row).T


def dynamics_losses(
    found: Prediction,
    target: Float[Array, "B D1"],
    ended: Float[Array, " B"],
    known: Float[Array, " B"],
    weight: Float[Array, "C B"],
) -> tuple[Float[Array, " C"], Float[Array, " C"], Float[Array, " C"]]:
    """The three terms of equation (1) for each member: change, reward, end.

    Args:
        found: what C members predict for B rows.
        target: changes in units of their spread, then the scaled reward; a change that was not seen may be any finite number.
        ended: 1 at a true end.
        known: `td_weight`, 0 where it is not known what followed.
        weight: w of equation (1).
    """
    error = (target[None] - found.mean) * jnp.exp(-found.log_std)
    nats = 0.5 * error**2 + found.log_std
    shown = (known * (1.0 - ended))[None, :]
    of_change = jnp.mean(weight * shown * jnp.sum(nats[..., :-1], axis=-1), axis=1)
    wrong = jax.nn.softplus((1.0 - 2.0 * ended)[None, :] * found.end)  # -log P(e)
    return of_change, jnp.mean(weight * nats[..., -1], axis=1), jnp.mean(weight * known[None, :] * wrong, axis=1)


@dataclasses.dataclass(frozen=True)
class Dynamics(Algorithm):
    """A model of what follows an action. It has no policy of its own; other algorithms roll out theirs in it."""

    has_critics: ClassVar[bool] = False

    members: int = setting(4, "at least 1", "Networks; where they disagree the model is a guess.")
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size.")
    network: Network = network_setting(
        Network((200, 200, 200, 200), activation="silu"), "Shape of each network, as in MOPO by default."
    )

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        """The changes of the scaled observations, where the log shows them."""
        rows = np.flatnonzero(log.can_bootstrap & ~log.terminated)
        table = scaling.observations(log.observation_table)
        if not len(rows):  # no row shows any change: every episode is a single decision
            size = log.observation_table.shape[1]
            return Prepared(log, given=Changes(jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32)))
        change = table[log.next_observation_index[rows]] - table[log.observation_index[rows]]
        mean, spread = change.mean(0), change.std(0) + LEAST_SPREAD
        return Prepared(log, given=Changes(jnp.asarray(mean, jnp.float32), jnp.asarray(spread, jnp.float32)))

    def init(self, key: Key, spec: Spec, given: PyTree) -> DynamicsState:
        inputs = spec.vector_size + (spec.action_size or spec.discrete_actions)
        outputs = 2 * (spec.vector_size + 1) + 1
        ensemble = Ensemble.create(self.members, inputs, self.network, outputs, key=key, final_gain=0.1)
        return DynamicsState(Trainable.create(ensemble, self.adam(self.learning_rate)))

    def update(
        self, state: DynamicsState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[DynamicsState, Metrics]:
        obs, ended = batch["obs"], batch["terminated"]
        weight = member_weights(batch["row"], self.members)
        shown = batch["td_weight"] * (1.0 - ended)
        change = (batch["next_obs"] - obs - given.mean[None, :]) / given.spread[None, :]
        change = jnp.where(shown[:, None] > 0, change, 0.0)
        target = jnp.concatenate([change, batch["reward"][:, None]], axis=-1)

        def loss(ensemble: Ensemble) -> tuple[Array, Metrics]:
            members = ensemble.members
            assert isinstance(members, MLP)
            found = prediction_of(ensemble(model_inputs(obs, batch["action"], members.weights[0].shape[-2])))
            parts = dynamics_losses(found, target, ended, batch["td_weight"], weight)
            names = ("loss/change", "loss/reward", "loss/end")
            # Members share no parameter: the gradient of the sum over members is each one's own.
            return jnp.sum(jnp.stack(parts)), {n: jnp.mean(part) for n, part in zip(names, parts, strict=True)}

        gradients, metrics = jax.grad(loss, has_aux=True)(state.model.model)
        return DynamicsState(state.model.step(self.adam(self.learning_rate), gradients)), metrics

    def policy(self, state: DynamicsState, given: PyTree) -> DiscretePolicy:
        raise TypeError("Dynamics models the world; it has no policy of its own.")
