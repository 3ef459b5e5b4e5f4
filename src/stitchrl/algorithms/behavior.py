"""BC: behaviour cloning, and the model of the logging policy wherever a log lacks its probabilities.

Loss, over logged transitions, with the log's action mask:

    (1)  L = -E[ log pi(a | s) ]

Source: Pomerleau 1991; the maximum-likelihood form for discrete actions. Settings follow the common offline
baseline (256-256 ReLU, Adam 3e-4, batch 256; CORL any_percent_bc.py).

Metrics: loss/actor; policy/agreement (share of logged actions that are the policy's mode); policy/entropy (nats).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Algorithm, Spec, setting
from stitchrl.algorithms.losses import apply_gradients
from stitchrl.nn.distributions import masked_log_softmax, take_action
from stitchrl.nn.networks import MLP
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.types import Array, Batch, Key, Metrics, PyTree

__all__ = ["BC", "BCState", "imitation_loss"]


class BCState(NamedTuple):
    """Everything a resume needs."""

    actor: MLP
    actor_optimizer: PyTree


def imitation_loss(
    logits: Float[Array, "B A"], action: Int[Array, " B"], action_mask: Bool[Array, "B A"]
) -> tuple[Float[Array, ""], Metrics]:
    """Equation (1) and its metrics."""
    log_probs = masked_log_softmax(logits, action_mask)
    loss = -jnp.mean(take_action(log_probs, action))
    agreement = jnp.mean((jnp.argmax(log_probs, axis=-1) == action).astype(jnp.float32))
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))
    return loss, {"loss/actor": loss, "policy/agreement": agreement, "policy/entropy": entropy}


@dataclasses.dataclass(frozen=True)
class BC(Algorithm):
    """Behaviour cloning for discrete actions. Learns to act as the log does, good and bad alike."""

    needs: ClassVar[tuple[str, ...]] = ("obs", "action", "action_mask")

    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size.")
    hidden_sizes: tuple[int, ...] = setting((256, 256), "at least 1", "Width of each hidden layer.")

    def init(self, key: Key, spec: Spec) -> BCState:
        actor = MLP.create(spec.observation_size, self.hidden_sizes, spec.discrete_actions, key=key, final_gain=0.01)
        return BCState(actor, optax.adam(self.learning_rate).init(actor))

    def update(self, state: BCState, batch: Batch, key: Key) -> tuple[BCState, Metrics]:
        del key

        def loss(actor: MLP) -> tuple[Array, Metrics]:
            return imitation_loss(actor(batch["obs"]), batch["action"], batch["action_mask"])

        gradients, metrics = jax.grad(loss, has_aux=True)(state.actor)
        actor, optimizer = apply_gradients(
            optax.adam(self.learning_rate), gradients, state.actor_optimizer, state.actor
        )
        return BCState(actor, optimizer), metrics

    def policy(self, state: BCState) -> CategoricalPolicy:
        return CategoricalPolicy(state.actor)
