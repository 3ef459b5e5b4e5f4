"""BC: behaviour cloning, and the model of the logging policy wherever a log lacks its probabilities.

Loss, over logged transitions, with the log's action mask:

    (1)  L = -E[ log pi(a | s) ]

Source: Pomerleau 1991; maximum likelihood. For discrete actions pi is a categorical distribution; for continuous ones
a normal with tanh on its mean and one standard deviation an action dimension, so that the mean is fitted by squared
error, each dimension weighted by its own precision. Settings follow the common offline baseline (256-256 ReLU, Adam
3e-4, batch 256; CORL any_percent_bc.py).

Deviations: that baseline is a deterministic network with the plain squared error; here every policy has a density, for
the estimators that need one. Its mode, `policy.greedy()`, is what the baseline deploys.

Metrics: loss/actor; discrete: policy/agreement (share of logged actions that are the policy's mode), policy/entropy
(nats); continuous: policy/mode_error (root mean squared distance of the mode, an action dimension), policy/entropy.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.heads import Actor, create_actor
from stitchrl.algorithms.optimizers import apply_gradients
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.types import PyTree

__all__ = ["BC", "BCState", "imitation_loss"]


class BCState(NamedTuple):
    """Everything a resume needs."""

    actor: Actor
    actor_optimizer: PyTree


def imitation_loss(log_prob: Float[Array, " B"]) -> Float[Array, ""]:
    """Equation (1), of the log-probabilities of the logged actions."""
    return -jnp.mean(log_prob)


@dataclasses.dataclass(frozen=True)
class BC(Algorithm):
    """Behaviour cloning. Learns to act as the log does, good and bad alike."""

    needs: ClassVar[tuple[str, ...]] = ("obs", "action", "action_mask")

    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size.")
    hidden_sizes: tuple[int, ...] = setting((256, 256), "at least 1", "Width of each hidden layer.")

    def init(self, key: Key, spec: Spec) -> BCState:
        actor = create_actor(spec, self.hidden_sizes, key=key)
        return BCState(actor, self.adam(self.learning_rate).init(actor))

    def update(self, state: BCState, batch: Batch, key: Key) -> tuple[BCState, Metrics]:
        del key

        def loss(actor: Actor) -> tuple[Array, Metrics]:
            pi = actor(batch["obs"], action_mask=batch.get("action_mask"))
            value = imitation_loss(pi.log_prob(batch["action"]))
            return value, {"loss/actor": value} | pi.metrics(batch["action"])

        gradients, metrics = jax.grad(loss, has_aux=True)(state.actor)
        actor, optimizer = apply_gradients(self.adam(self.learning_rate), gradients, state.actor_optimizer, state.actor)
        return BCState(actor, optimizer), metrics

    def policy(self, state: BCState) -> Actor:
        return state.actor
