"""FQE, fitted Q evaluation (Le, Voloshin, Yue 2019, arXiv 1903.08738): the network, and how it is read on a log.

A network is fitted by repeated regression, all policies in one program:

    (1)  Q <- argmin E[ (r + gamma (1 - terminated) Qbar(s', a') - Q(s, a))^2 ],   a' ~ policy(s')

Its value alone, E[V(s0)], has no honest interval: the fitting error is invisible in it (a nominal 95% covered about
20% in a trial). `refit.py` corrects it on the episodes of the estimate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling, unit_return_scale
from stitchrl.evaluation.settings import FitSettings
from stitchrl.feeds.batches import sample_transitions
from stitchrl.feeds.feed import Source, transition_source
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.progress import LoopMonitor
from stitchrl.training.loop import train
from stitchrl.types import NumpyArray, PyTree

__all__ = ["FQE", "FittedQ", "evaluation_source", "fit_q"]

ROWS_AT_ONCE = 4096
"""Rows whose features are computed in one call."""


class FQEState(NamedTuple):
    """Everything a resume needs."""

    critic: Trainable[MLP]
    target_critic: MLP


@dataclasses.dataclass(frozen=True)
class FQE(Algorithm):
    """Fitted Q evaluation of a fixed policy over discrete actions; the action enters the network one-hot."""

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is estimated.")
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size.")
    target_rate: float = setting(0.02, "(0, 1]", "Share of the way the target critic moves each update.")
    network: Network = network_setting(Network((128, 128)), "Shape of the network that is fitted.")
    start: float = setting(
        0.0, "(-inf, inf)", "Value every Q starts from, in scaled units; the mean return saves the climb."
    )

    def init(self, key: Key, spec: Spec, given: PyTree) -> FQEState:
        critic = MLP.create(spec.vector_size + spec.discrete_actions, self.network, 1, key=key, final_gain=0.01)
        critic = dataclasses.replace(critic, biases=(*critic.biases[:-1], critic.biases[-1] + self.start))
        return FQEState(Trainable.create(critic, self.adam(self.learning_rate)), jax.tree.map(jnp.copy, critic))

    def update(self, state: FQEState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[FQEState, Metrics]:
        next_cdf = batch["next_cdf"]
        uniform = jax.random.uniform(key, (next_cdf.shape[0], 1))
        next_action = jnp.sum(next_cdf <= uniform, axis=-1)
        next_q = _q(state.target_critic, batch["next_obs"], next_action, next_cdf.shape[-1])
        td_target = batch["reward"] + self.gamma * (1.0 - batch["terminated"]) * next_q

        def loss(critic: MLP) -> tuple[Array, Array]:
            q = _q(critic, batch["obs"], batch["action"], next_cdf.shape[-1])
            return td_loss(q[None, :], td_target, batch["td_weight"]), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(loss, has_aux=True)(state.critic.model)
        critic = state.critic.step(self.adam(self.learning_rate), gradients)
        target = polyak(state.target_critic, critic.model, self.target_rate)
        return FQEState(critic, target), {"loss/critic": loss_q, "q/data_mean": q_mean}

    def policy(self, state: FQEState, given: PyTree) -> DiscretePolicy:
        raise TypeError("FQE evaluates a policy; it has none of its own.")


def _q(critic: MLP, obs: Float[Array, "B D"], action: Int[Array, " B"], num_actions: int) -> Float[Array, " B"]:
    inputs = jnp.concatenate([obs, jax.nn.one_hot(action, num_actions, dtype=obs.dtype)], axis=-1)
    return critic(inputs)[:, 0]


def evaluation_source(
    log: Dataset, scaling: Scaling, next_probs: Iterable[Float[NumpyArray, "N A"]], count: int
) -> Source:
    """Transitions of a log for the FQE of `count` policies at once, member k for the k-th of `next_probs`."""
    source = transition_source(log, scaling)
    assert log.num_actions is not None
    # One array for all, filled in place: it is the largest of an evaluation.
    cdf = np.empty((count, log.num_transitions, log.num_actions), np.float32)
    for k, probs in enumerate(next_probs):
        np.cumsum(probs, axis=-1, out=cdf[k])
        cdf[k] /= cdf[k, :, -1:]  # exactly 1 from the last possible action on: rounding never draws a forbidden one
    arrays = source.arrays | {"next_cdf": jnp.asarray(cdf)}
    return Source(arrays, source.count, _sample_with_policy)


def _sample_with_policy(arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
    return dict(sample_transitions(arrays, index, member)) | {"next_cdf": arrays["next_cdf"][member, index]}


@dataclasses.dataclass(frozen=True, eq=False)
class FittedQ:
    """A fitted network and the scaling it lives in.

    Attributes:
        critic: the network, on scaled observations, in scaled reward units.
        scaling: of observations and rewards.
        num_actions: A.
    """

    critic: MLP
    scaling: Scaling
    num_actions: int

    def on(
        self, log: Dataset, probs: Float[NumpyArray, "N A"], next_probs: Float[NumpyArray, "N A"]
    ) -> dict[str, NumpyArray]:
        """Per transition of a log: q, v, next_v (N,) in raw reward units; psi, next_psi (N, H + 1) state features."""
        return self.on_many(log, [(probs, next_probs)])[0]

    def on_many(
        self, log: Dataset, of_policies: Sequence[tuple[Float[NumpyArray, "N A"], Float[NumpyArray, "N A"]]]
    ) -> list[dict[str, NumpyArray]]:
        """`on` for the probabilities of several policies; the network is read once for all."""
        table = self.scaling.observations(log.observation_table)
        parts: list[list[dict[str, Any]]] = []
        for start in range(0, log.num_transitions, ROWS_AT_ONCE):
            # The last piece reaches back, so that every piece has one shape and compiles once.
            first = max(0, min(start, log.num_transitions - ROWS_AT_ONCE))
            rows = slice(first, first + ROWS_AT_ONCE)
            following = np.maximum(log.next_observation_index[rows], 0)
            read = _read(
                self.critic,
                jnp.asarray(table[log.observation_index[rows]]),
                jnp.asarray(table[following]),
                jnp.zeros((0, self.num_actions)),
            )
            action = jnp.asarray(log.action[rows])
            of_piece = [_averaged(read, action, jnp.asarray(p[rows]), jnp.asarray(n[rows])) for p, n in of_policies]
            parts.append([{k: np.asarray(value)[start - first :] for k, value in out.items()} for out in of_piece])
        found = []
        for one in range(len(of_policies)):
            joined = {name: np.concatenate([piece[one][name] for piece in parts]) for name in parts[0][one]}
            for name in ("q", "v", "next_v"):
                joined[name] = joined[name].astype(np.float64) / self.scaling.reward_scale
            found.append(joined)
        return found


@jax.jit
def _read(critic: MLP, obs: Array, next_obs: Array, actions: Array) -> Any:
    """phi (B, A, H + 1) and q (B, A) of every action here and next; the first layer is shared between actions."""

    def everything(rows: Array) -> tuple[Array, Array]:
        size, num_actions = rows.shape[1], actions.shape[1]
        weight = critic.weights[0]
        first = (rows @ weight[:size] + critic.biases[0][None, :])[:, None, :] + weight[size:][None, :, :]
        hidden = critic.hidden_from_first(first)
        ones = jnp.ones((rows.shape[0], num_actions, 1), hidden.dtype)
        q = hidden @ critic.weights[-1] + critic.biases[-1][None, None, :]
        return jnp.concatenate([hidden, ones], axis=-1), q[..., 0]

    return everything(obs), everything(next_obs)


@jax.jit
def _averaged(read: Any, action: Array, probs: Array, next_probs: Array) -> Any:
    """Averages of what `_read` gives over a policy's probabilities."""
    (phi, q), (next_phi, next_q) = read
    return {
        "q": jnp.take_along_axis(q, action[:, None], axis=1)[:, 0],
        "psi": jnp.einsum("ba,bah->bh", probs, phi),
        "v": jnp.sum(probs * q, axis=1),
        "next_psi": jnp.einsum("ba,bah->bh", next_probs, next_phi),
        "next_v": jnp.sum(next_probs * next_q, axis=1),
    }


def fit_q(
    log: Dataset,
    next_probs: Iterable[NumpyArray],
    count: int,
    *,
    gamma: float,
    settings: FitSettings,
    monitors: Sequence[LoopMonitor] = (),
) -> list[FittedQ]:
    """FQE of every policy in one program; all members share one seed, so a policy's fit does not depend on its place.

    `next_probs` yields, for each of `count` policies, its (N, A) probabilities at the next states of `log`.
    """
    assert log.num_actions is not None
    scaling = Scaling.fit(log, reward_scale=unit_return_scale(log, gamma=gamma))
    algorithm = FQE(
        gamma=gamma,
        hidden_sizes=settings.hidden_sizes,
        learning_rate=settings.learning_rate,
        start=round(float(log.episode_returns(gamma).mean()) * scaling.reward_scale, 4),
    )
    trained = train(
        algorithm,
        evaluation_source(log, scaling, next_probs, count),
        Spec.of(log),
        updates=settings.updates,
        seeds=[settings.seed] * count,
        batch_size=settings.batch_size,
        monitors=monitors,
    )
    return [FittedQ(trained.member(k).algorithm.critic.model, scaling, log.num_actions) for k in range(count)]
