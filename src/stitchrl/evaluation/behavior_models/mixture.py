"""Mixture density networks (Bishop 1994): the density of continuous actions, one normal or five at each observation.

A perceptron on standardised observations gives weights, means and standard deviations of products of normals, in actions
brought into [-1, 1]; `nn/mixture.py` holds the density. Where every action lies in a known box, the normals are truncated to
it, so that the density integrates to 1 over the possible actions. Behaviours that squash their actions into the box by tanh, as
SAC does, are fitted better by normals that are squashed as well. Where actions lie on bounds again and again
(`data/atoms.py`), the normals are clipped instead: they give a bound the probability of their tail.

The network maximises the likelihood of the logged actions and is stopped on held-out episodes. On the same episodes one factor
on all standard deviations is chosen, so that the network is as sure of its actions as it has reason to be.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.settings import choice, setting
from stitchrl.data.atoms import LEAST_SHARE, Atoms, action_atoms
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.evaluation.behavior_model import UNIFORM, BehaviorData, FittedBehavior, log_likelihoods
from stitchrl.evaluation.behavior_network import best_number, train_on_behavior
from stitchrl.evaluation.score_noise import ScoreNoise
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.continuous_policy import ContinuousPolicy, MixturePolicy
from stitchrl.nn.distributions import LARGEST_TANH
from stitchrl.nn.mixture import MIXTURE_KINDS, Ends, as_ends, bounds_of_ends
from stitchrl.nn.networks import MLP, ImageNetwork, create_network
from stitchrl.nn.units import RescaledPolicy
from stitchrl.types import PyTree

__all__ = ["Mixture", "MixtureDensity", "has_box"]

FACTORS = (0.5, 5.0)
"""Bounds of the factor on all standard deviations."""
FIRST_STD = 0.5
"""Standard deviation of every normal at first, in actions scaled to [-1, 1]."""
PENALTY = 1.0
"""Ridge penalty of the last layer where the noise of the fit is computed: it counts as little as one row."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A density of continuous actions: a normal, or a mixture of several.

    Attributes:
        name, title: as in `BehaviorModel`.
        components: how many normals the mixture has.
        squashed: whether the normals are squashed by tanh; otherwise they are clipped where actions lie on bounds, and
            truncated where the box of actions is known.
        maximum_likelihood: False, since it is stopped early and not fitted to all episodes.
    """

    name: str
    title: str
    components: int
    squashed: bool = False
    maximum_likelihood: bool = False

    def refusal(self, log: Dataset) -> str | None:
        """It refuses discrete actions. With squashed normals it also refuses actions whose bounds are not known, and those that
        often lie on the bounds."""
        if log.num_actions is not None:
            return (
                f"The model {self.name!r} of the behaviour is a density of continuous actions; this log's are discrete."
            )
        if not self.squashed:
            return None
        if not has_box(log):
            return (
                "Squashed normals need the bounds of the actions: declare `low` and `high` of [action] in the schema."
            )
        at_bounds = float((np.abs(Scaling.of(log).actions(log.action)) >= LARGEST_TANH).any(1).mean())
        if at_bounds > LEAST_SHARE:
            return (
                f"Squashed normals never reach the bounds of the actions, on which {at_bounds:.1%} of this log's lie; at "
                f"most {LEAST_SHARE:.1%} may."
            )
        return None

    def fit(self, data: BehaviorData) -> FittedBehavior:
        """The best state on held-out episodes, with the best factor on its standard deviations."""
        settings, scaling, atoms = data.settings, Scaling.of(data.whole), action_atoms(data.whole)
        kind = "squashed" if self.squashed else "truncated" if has_box(data.whole) else "plain"
        ends: Ends = ()
        if atoms is not None and not self.squashed:
            kind, (scaling, ends) = "clipped", _between(scaling, atoms)
        algorithm = MixtureDensity(
            hidden_sizes=settings.hidden_sizes,
            learning_rate=settings.learning_rate,
            components=self.components,
            kind=kind,
            ends=ends,
        )
        trained = train_on_behavior(algorithm, data, scaling)
        policy = best_number(lambda factor: with_factor(trained, factor), trained, data.held_out, FACTORS)
        noise = None
        if self.components == 1 and data.whole.observation_table.ndim == 2:
            noise = ScoreNoise(policy, PENALTY, data.train)
        return FittedBehavior(self.name, policy, log_likelihoods(policy, data.held_out), noise)


def has_box(log: Dataset) -> bool:
    """Whether the box of continuous actions is known: the schema declares it, or every logged action lies in [-1, 1]."""
    declared = log.schema.action_low is not None and log.schema.action_high is not None
    return declared or bool(np.abs(log.action).max() <= 1.0)


def _between(scaling: Scaling, atoms: Atoms) -> tuple[Scaling, Ends]:
    """The scaling that maps the bounds that actions are clipped to onto -1 and 1, and which bounds each number has."""
    assert scaling.action_center is not None
    assert scaling.action_half_width is not None
    center, half = scaling.action_center.astype(np.float64), scaling.action_half_width.astype(np.float64)
    clipped = np.isfinite([atoms.low, atoms.high])
    low, high = np.where(clipped[0], atoms.low, center - half), np.where(clipped[1], atoms.high, center + half)
    scaled = dataclasses.replace(
        scaling,
        action_center=((low + high) / 2).astype(np.float32),
        action_half_width=((high - low) / 2).astype(np.float32),
    )
    return scaled, as_ends(clipped.T)


def with_factor(policy: PyTree, factor: float) -> RescaledPolicy:
    """The policy with all standard deviations changed by a factor, as far as their bounds let them."""
    assert isinstance(policy, RescaledPolicy)
    changed: RescaledPolicy = eqx.tree_at(
        lambda one: one.policy.log_scale, policy, jnp.asarray(np.log(factor), jnp.float32)
    )
    return changed


class MixtureState(NamedTuple):
    """Everything a resume needs."""

    network: Trainable[MLP | ImageNetwork]


@dataclasses.dataclass(frozen=True)
class MixtureDensity(Algorithm):
    """Maximum likelihood of the logged actions under a mixture density network of a kind of `nn/mixture.py`.

    Metrics: loss/actor, the mean negative log-likelihood in scaled units.
    """

    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size.")
    components: int = setting(1, "at least 1", "Normals in the mixture.")
    kind: str = choice(
        "plain", MIXTURE_KINDS, "Whether normals are as they are, truncated to [-1, 1], squashed by tanh or clipped."
    )
    ends: Ends = ()
    """Where normals are clipped, whether each number of the action is below and above; empty: all of them are."""

    def init(self, key: Key, spec: Spec, given: PyTree) -> MixtureState:
        k, size = self.components, spec.action_size
        first, spread = jax.random.split(key)
        network = create_network(spec.observation.shape, self.network, k * (1 + 2 * size), key=first, final_gain=0.01)
        # Components that start alike would stay alike: their means begin apart.
        means = jax.random.uniform(spread, (k * size,), minval=-1.0, maxval=1.0) * float(k > 1)
        log_std = jnp.full(k * size, np.log(FIRST_STD), jnp.float32)
        start = jnp.concatenate([jnp.zeros(k, jnp.float32), means, log_std])
        network = eqx.tree_at(lambda one: (one if isinstance(one, MLP) else one.head).biases[-1], network, start)
        return MixtureState(Trainable.create(network, self.adam(self.learning_rate)))

    def update(
        self, state: MixtureState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[MixtureState, Metrics]:
        def loss(network: MLP | ImageNetwork) -> Float[Array, ""]:
            # Clipped, since an action that rounding moves outside the box would otherwise have no likelihood.
            action = batch["action"]
            if self.kind != "plain":
                ends = bounds_of_ends(self.ends if self.kind == "clipped" else ())
                action = jnp.clip(action, *(jnp.broadcast_to(end, action.shape) for end in ends))
            return -jnp.mean(self._policy(network).log_prob(batch["obs"], action))

        value, gradients = jax.value_and_grad(loss)(state.network.model)
        return MixtureState(state.network.step(self.adam(self.learning_rate), gradients)), {"loss/actor": value}

    def policy(self, state: MixtureState, given: PyTree) -> ContinuousPolicy:
        return self._policy(state.network.model)

    def _policy(self, network: MLP | ImageNetwork) -> MixturePolicy:
        return MixturePolicy(network, jnp.zeros((), jnp.float32), self.components, self.kind, UNIFORM, self.ends)
