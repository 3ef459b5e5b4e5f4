"""Distributional fitted Q evaluation: a network that gives the whole distribution of a policy's returns, not its mean alone.

Z(s, a), the return from taking a in s and following the policy from there, has the categorical distribution p(s, a) on K
atoms z_k (Bellemare, Dabney, Munos 2017, arXiv 1707.06887; for a fixed policy it converges, Rowland and others 2018):

    (1)  Z(s, a) = r + gamma (1 - terminated) Z(s', a'),   a' ~ policy(s')        in distribution
    (2)  p <- argmin E[ - sum_k (Projected target)_k log p_k(s, a) ]

The target of (2) has probability p_k at r + gamma z_k for each k. It is divided between the two nearest atoms in proportion to
nearness, which keeps the mean. This adds a little to the spread, and nothing where gamma is 1 and rewards and atoms lie on
the same lattice; `support_of` puts the atoms there where it can. After a true end the target is the reward itself. After a cut
whose next observation is stored the target goes on from there; without one the row has weight 0.

Nothing is known about the error of the fit, so what is read off it has no interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.attainable import attainable_range
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.evaluation.fitted_q import CONTINUOUS_TIMES, evaluation_source, logged_and_next_actions
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.training.loop import train
from stitchrl.types import NumpyArray, PyTree

__all__ = ["ATOMS", "DistributionalFQE", "FitReturns", "ModelledReturns", "projected", "support_of"]

ATOMS = 101
"""K, the number of atoms of a distribution."""
BEYOND = 0.25
"""How far the atoms reach beyond the logged returns, as a share of their range; they end where no return can be."""
CELLS_AT_ONCE = 4_000_000
"""Numbers that are computed in one call when first states are read."""


class DistributionalState(NamedTuple):
    """Everything a resume needs."""

    critic: Trainable[MLP]
    target_critic: MLP


@dataclasses.dataclass(frozen=True)
class DistributionalFQE(Algorithm):
    """Equations (1) and (2) for a fixed policy; rewards are in the units of the log."""

    gamma: float = setting(0.99, "[0, 1]", "Discount of the returns.")
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size.")
    target_rate: float = setting(0.02, "(0, 1]", "Share of the way the target critic moves each update.")
    network: Network = network_setting(Network((128, 128)), "Shape of the network that is fitted.")
    low: float = setting(0.0, "(-inf, inf)", "The least atom.")
    spacing: float = setting(
        1.0, "(0, inf)", "Distance between neighbouring atoms; smaller resolves more and reaches less far."
    )

    def init(self, key: Key, spec: Spec, given: PyTree) -> DistributionalState:
        """`given` holds the log-probabilities of the atoms that every distribution starts from."""
        action_size = spec.action_size or spec.discrete_actions
        critic = MLP.create(spec.vector_size + action_size, self.network, ATOMS, key=key, final_gain=0.01)
        critic = dataclasses.replace(critic, biases=(*critic.biases[:-1], critic.biases[-1] + given))
        return DistributionalState(
            Trainable.create(critic, self.adam(self.learning_rate)), jax.tree.map(jnp.copy, critic)
        )

    def update(
        self, state: DistributionalState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[DistributionalState, Metrics]:
        action, next_action = logged_and_next_actions(batch, key)
        following = jax.nn.softmax(_logits(state.target_critic, batch["next_obs"], next_action))
        discount = self.gamma * (1.0 - batch["terminated"])
        target = projected(following, batch["reward"], discount, self.low, self.spacing)

        def loss(critic: MLP) -> tuple[Array, Array]:
            log_probs = jax.nn.log_softmax(_logits(critic, batch["obs"], action))
            atoms = self.low + self.spacing * jnp.arange(ATOMS, dtype=jnp.float32)
            mean = jnp.mean(jnp.sum(jnp.exp(log_probs) * atoms[None, :], axis=1))
            return jnp.mean(batch["td_weight"] * -jnp.sum(target * log_probs, axis=1)), mean

        (cross_entropy, mean), gradients = jax.value_and_grad(loss, has_aux=True)(state.critic.model)
        critic = state.critic.step(self.adam(self.learning_rate), gradients)
        moved = polyak(state.target_critic, critic.model, self.target_rate)
        return DistributionalState(critic, moved), {"loss/critic": cross_entropy, "q/data_mean": mean}

    def policy(self, state: DistributionalState, given: PyTree) -> DiscretePolicy:
        raise TypeError("DistributionalFQE evaluates a policy; it has none of its own.")


def _logits(critic: MLP, obs: Float[Array, "B D"], action: Float[Array, "B action"]) -> Float[Array, "B K"]:
    return critic(jnp.concatenate([obs, action], axis=-1))


def projected(
    probs: Float[Array, "B K"],
    reward: Float[Array, " B"],
    discount: Float[Array, " B"],
    low: float | Float[Array, ""],
    spacing: float | Float[Array, ""],
) -> Float[Array, "B K"]:
    """(B, K) probabilities of reward + discount Z on the atoms of Z; a value between two atoms is divided between them.

    Values beyond the atoms go to the outermost one.

    Args:
        probs: (B, K) probabilities of Z at each atom.
        reward, discount: (B,) reward and discount of each row; a discount of 0 leaves the reward alone.
        low, spacing: the atoms are low + k * spacing for k = 0, ..., K - 1.
    """
    count = probs.shape[1]
    atoms = low + spacing * jnp.arange(count, dtype=probs.dtype)
    place = (reward[:, None] + discount[:, None] * atoms[None, :] - low) / spacing
    place = jnp.clip(place, 0.0, count - 1.0)
    below = jnp.clip(jnp.floor(place), 0.0, count - 2.0)
    share = place - below
    index, rows = below.astype(jnp.int32), jnp.arange(probs.shape[0])[:, None]
    found = jnp.zeros_like(probs).at[rows, index].add(probs * (1.0 - share))
    return found.at[rows, index + 1].add(probs * share)


def support_of(log: Dataset, estimand: Estimand) -> tuple[float, float]:
    """The least atom and the spacing, such that the atoms cover the logged returns from any step on and a margin beyond."""
    logged = _returns_to_go(log, estimand.gamma)
    low, high = float(min(logged.min(), 0.0)), float(max(logged.max(), 0.0))
    reach = BEYOND * max(high - low, 1e-6)
    possible = attainable_range(log, estimand)
    low, high = max(low - reach, min(possible[0], low)), min(high + reach, max(possible[1], high))
    unit = _lattice(log.reward) if estimand.gamma == 1 else None
    spacing = (high - low) / (ATOMS - 1)
    if unit is None:
        return low, spacing
    low = float(np.floor(low / unit + 1e-6)) * unit
    return low, unit * max(1.0, float(np.ceil((high - low) / unit / (ATOMS - 1) - 1e-6)))


def _lattice(reward: Float[NumpyArray, " N"]) -> float | None:
    """The largest number of which all rewards are multiples, to 6 decimals; None where it is so small that it means nothing."""
    whole = np.unique(np.round(np.abs(reward.astype(np.float64)) * 1e6).astype(np.int64))
    unit = int(np.gcd.reduce(whole)) / 1e6
    largest = float(np.abs(reward).max(initial=0.0))
    return (
        unit
        if unit > 0 and largest / unit <= ATOMS and np.allclose(whole / 1e6 / unit, np.round(whole / 1e6 / unit))
        else None
    )


def _returns_to_go(log: Dataset, gamma: float) -> Float[NumpyArray, " N"]:
    """(N,) discounted logged return from each row to the end of its episode, over missing rows too, as if they were not there."""
    lengths = log.episode_lengths
    found = log.reward.astype(np.float64)
    last = log.episode_start[1:] - 1
    for back in range(1, int(lengths.max())):
        rows = (last - back)[lengths > back]
        found[rows] += gamma * found[rows + 1]
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class ModelledReturns:
    """The modelled distribution of returns from the first state of each of n episodes.

    Attributes:
        atoms: (K,) returns.
        probs: (n, K) their probabilities.
    """

    atoms: Float[NumpyArray, " K"]
    probs: Float[NumpyArray, "n K"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Fitted:
    """A fitted network, the scaling of its inputs, and its atoms."""

    critic: MLP
    scaling: Scaling
    low: float
    spacing: float


@dataclasses.dataclass(frozen=True)
class FitReturns:
    """The request for the distribution of a policy's returns, fitted on other episodes."""

    def fit(self, data: FitData) -> list[_Fitted]:
        """One network a policy, all in one program."""
        log, settings, continuous = data.timed_log, data.settings, data.log.num_actions is None
        low, spacing = support_of(log, data.estimand)
        scaling = Scaling.of(log)
        place = np.clip(np.round((_returns_to_go(log, data.gamma) - low) / spacing), 0, ATOMS - 1).astype(np.int64)
        start = np.log((np.bincount(place, minlength=ATOMS) + 1.0) / (len(place) + ATOMS))
        algorithm = DistributionalFQE(
            gamma=data.gamma,
            network=Network(settings.hidden_sizes),
            learning_rate=settings.learning_rate,
            low=low,
            spacing=spacing,
        )
        trained = train(
            algorithm,
            evaluation_source(log, scaling, data.next_choices(), data.policies),
            Spec.of(log),
            updates=settings.updates * (CONTINUOUS_TIMES if continuous else 1),
            seeds=[settings.seed] * data.policies,
            given=jnp.asarray(start, jnp.float32),
            batch_size=settings.batch_size,
            monitors=data.monitors,
        )
        return [_Fitted(trained.member(k).algorithm.critic.model, scaling, low, spacing) for k in range(data.policies)]

    def apply(self, model: _Fitted, fold: Fold, policy: int) -> ModelledReturns:
        """The distribution from the first states of a fold, averaged over the policy's actions there."""
        log = fold.timed_log
        first = log.episode_start[:-1]
        obs = model.scaling.observations(log.observation_table)[log.observation_index[first]]
        choices = fold.choices(policy)[first]
        atoms = model.low + model.spacing * np.arange(ATOMS)
        if log.num_actions is None:
            actions = model.scaling.actions(choices)
            weight = np.full((len(actions), actions.shape[1]), 1.0 / actions.shape[1], np.float32)
        else:
            actions, weight = np.eye(log.num_actions, dtype=np.float32)[None], choices.astype(np.float32)
        rows = max(1, CELLS_AT_ONCE // (weight.shape[1] * ATOMS))
        found = [
            np.asarray(
                _mixture(
                    model.critic,
                    jnp.asarray(obs[k : k + rows]),
                    jnp.asarray(actions if len(actions) == 1 else actions[k : k + rows]),
                    jnp.asarray(weight[k : k + rows]),
                )
            )
            for k in range(0, len(obs), rows)
        ]
        return ModelledReturns(atoms, np.concatenate(found).astype(np.float64))

    def join(self, parts: Sequence[ModelledReturns], order: Order) -> ModelledReturns:
        """Folds side by side, on the atoms of the one that reaches furthest."""
        widest = max((part.atoms for part in parts), key=lambda atoms: float(atoms[-1] - atoms[0]))
        return ModelledReturns(widest, order.per_episode([_on_atoms(part, widest) for part in parts]))


@jax.jit
def _mixture(critic: MLP, obs: Array, actions: Array, weight: Array) -> Array:
    """(B, K) probabilities of the atoms, averaged over (B, M, D) actions, or over (1, M, D) that are the same in all rows."""
    shape = (obs.shape[0], weight.shape[1])
    pairs = jnp.concatenate(
        [
            jnp.broadcast_to(obs[:, None, :], (*shape, obs.shape[1])),
            jnp.broadcast_to(actions, (*shape, actions.shape[2])),
        ],
        axis=-1,
    )
    return jnp.einsum("bm,bmk->bk", weight, jax.nn.softmax(critic(pairs)))


def _on_atoms(part: ModelledReturns, atoms: Float[NumpyArray, " K"]) -> Float[NumpyArray, "n K"]:
    """Its probabilities on other atoms, each divided between the two nearest."""
    spacing = float(atoms[1] - atoms[0])
    place = np.clip((part.atoms - atoms[0]) / spacing, 0, len(atoms) - 1)
    return part.probs @ np.maximum(1.0 - np.abs(place[:, None] - np.arange(len(atoms))[None, :]), 0.0)
