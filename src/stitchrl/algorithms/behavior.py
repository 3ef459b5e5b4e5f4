"""BC: behaviour cloning, and the model of the logging policy wherever a log lacks its probabilities.

Loss, over logged transitions, with the log's action mask:

    (1)  L = -E[ log pi(a | s) ]

Source: Pomerleau 1991 (Neural Computation 3); it is maximum likelihood. For discrete actions pi is a categorical
distribution; for continuous ones a normal with tanh on its mean and one standard deviation per action dimension, so
that the mean is fitted by squared error, each dimension weighted by its own precision. Observations are vectors or
images. Settings follow the common offline baseline (256-256 ReLU, Adam 3e-4, batch 256; CORL any_percent_bc.py).

Deviations: that baseline is a deterministic network with the plain squared error; here every policy has a density, for
the estimators that need one. Its mode, `policy.greedy()`, is what the baseline deploys.

Use: first on every log, as the baseline that all others must exceed, and as the model of the logging policy.

Avoid: where more than the log's average is needed: where good and bad behaviour are mixed, it imitates the mixture.

First knob: `learning_rate`, from 1e-4 to 1e-3: larger learns faster, and overfits a small log sooner.

Metrics: loss/actor; discrete: policy/agreement (share of logged actions that are the policy's mode), policy/entropy
(nats); continuous: policy/mode_error (root mean squared distance of the mode, per action dimension), policy/entropy.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.heads import Actor, create_actor
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.types import PyTree

__all__ = ["BC", "BCState", "Imitation", "imitation_loss"]


class BCState(NamedTuple):
    """Everything a resume needs."""

    actor: Trainable[Actor]


def imitation_loss(log_prob: Float[Array, " B"]) -> Float[Array, ""]:
    """Equation (1), of the log-probabilities of the logged actions."""
    return -jnp.mean(log_prob)


@dataclasses.dataclass(frozen=True)
class Imitation(Algorithm):
    """The common part of BC and FilteredBC: equation (1) on the rows that are drawn."""

    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    has_critics: ClassVar[bool] = False

    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> BCState:
        actor = create_actor(spec, self.network, key=key)
        return BCState(Trainable.create(actor, self.adam(self.learning_rate)))

    def update(self, state: BCState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[BCState, Metrics]:
        def loss(actor: Actor) -> tuple[Array, Metrics]:
            pi = actor(batch["obs"], action_mask=batch.get("action_mask"), key=key)
            value = imitation_loss(pi.log_prob(batch["action"]))
            return value, {"loss/actor": value} | pi.metrics(batch["action"])

        gradients, metrics = jax.grad(loss, has_aux=True)(state.actor.model)
        return BCState(state.actor.step(self.adam(self.learning_rate), gradients)), metrics

    def policy(self, state: BCState, given: PyTree) -> Actor:
        return state.actor.model


@dataclasses.dataclass(frozen=True)
class BC(Imitation):
    """Behaviour cloning. Learns to act as the log does, good and bad alike."""
