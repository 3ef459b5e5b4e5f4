"""CQL: conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), for discrete actions.

    (1)  L = sum_i E[ (y - Q_i(s, a))^2 ] + cql_weight sum_i E[ log sum_{b allowed} exp Q_i(s, b) - Q_i(s, a) ]
    (2)  y = r + gamma (1 - terminated) max_{a' allowed} min_i Qbar_i(s', a')
    (3)  Qbar <- Qbar + target_rate (Q - Qbar)

The penalty (paper eq. 4, CQL(H)) is in the LOSS, at the same state as the logged action; the target (2) is ordinary.
It pushes down what the log did not do, so the greedy policy stays near what it did often. The penalty is in units of
value against log-probability: its strength depends on the reward's scale.

Deviations: the official discrete code (aviralkumar2907/CQL, atari) is on 200 quantiles with periodic target copies;
here Q is an expectation, the loss squared, targets averaged, and the target takes the smaller of two critics. The
squared error has no factor 1/2 (as the official continuous code).

Metrics: loss/critic (TD part), loss/cql (penalty, unweighted), q/data_mean, q/gap (largest allowed Q above the logged
one), policy/agreement.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Algorithm, Spec, setting
from stitchrl.algorithms.losses import apply_gradients, polyak, td_loss
from stitchrl.nn.distributions import mask_logits, take_action
from stitchrl.nn.networks import Ensemble
from stitchrl.nn.policy import ValueGreedyPolicy
from stitchrl.nn.value import CriticValue
from stitchrl.types import Array, Batch, Key, Metrics, PyTree

__all__ = ["CQL", "CQLState", "conservative_penalty"]


class CQLState(NamedTuple):
    """Everything a resume needs."""

    critics: Ensemble
    target_critics: Ensemble
    critic_optimizer: PyTree


def conservative_penalty(
    q: Float[Array, "C B A"], action: Int[Array, " B"], action_mask: Bool[Array, "B A"]
) -> Float[Array, ""]:
    """Second term of equation (1) without its weight: at least 0, and 0 when all mass is on the logged action."""
    allowed = jax.vmap(mask_logits, (0, None))(q, action_mask)
    data = jax.vmap(take_action, (0, None))(q, action)
    return jnp.sum(jnp.mean(jax.nn.logsumexp(allowed, axis=-1) - data, axis=1))


@dataclasses.dataclass(frozen=True)
class CQL(Algorithm):
    """Conservative Q-learning for discrete actions."""

    needs: ClassVar[tuple[str, ...]] = (
        "obs", "action", "reward", "next_obs", "terminated", "td_weight", "action_mask", "next_action_mask",
    )  # fmt: skip

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    cql_weight: float = setting(
        1.0, "[0, inf)", "Larger stays nearer to what the log did often; 0 is naive Q-learning."
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; the target takes their minimum.")
    hidden_sizes: tuple[int, ...] = setting((256, 256), "at least 1", "Width of each hidden layer.")

    def init(self, key: Key, spec: Spec) -> CQLState:
        critics = Ensemble.create(
            self.num_critics, spec.observation_size, self.hidden_sizes, spec.discrete_actions, key=key
        )
        optimizer = optax.adam(self.learning_rate).init(critics)
        return CQLState(critics, jax.tree.map(jnp.copy, critics), optimizer)

    def update(self, state: CQLState, batch: Batch, key: Key) -> tuple[CQLState, Metrics]:
        del key
        action, mask = batch["action"], batch["action_mask"]
        next_q = jnp.min(state.target_critics(batch["next_obs"]), axis=0)
        next_v = jnp.max(mask_logits(next_q, batch["next_action_mask"]), axis=-1)
        td_target = batch["reward"] + self.gamma * (1.0 - batch["terminated"]) * next_v

        def loss(critics: Ensemble) -> tuple[Array, tuple[Array, Array, Array]]:
            q = critics(batch["obs"])
            td = td_loss(jax.vmap(take_action, (0, None))(q, action), td_target, batch["td_weight"])
            penalty = conservative_penalty(q, action, mask)
            return td + self.cql_weight * penalty, (q, td, penalty)

        (_, (q, td, penalty)), gradients = jax.value_and_grad(loss, has_aux=True)(state.critics)
        critics, optimizer = apply_gradients(
            optax.adam(self.learning_rate), gradients, state.critic_optimizer, state.critics
        )
        allowed = mask_logits(jnp.mean(q, axis=0), mask)
        data = take_action(jnp.mean(q, axis=0), action)
        metrics = {
            "loss/critic": td,
            "loss/cql": penalty,
            "q/data_mean": jnp.mean(data),
            "q/gap": jnp.mean(jnp.max(allowed, axis=-1) - data),
            "policy/agreement": jnp.mean((jnp.argmax(allowed, axis=-1) == action).astype(jnp.float32)),
        }
        return CQLState(critics, polyak(state.target_critics, critics, self.target_rate), optimizer), metrics

    def policy(self, state: CQLState) -> ValueGreedyPolicy:
        return ValueGreedyPolicy(state.critics)

    def value(self, state: CQLState) -> CriticValue:
        return CriticValue(state.critics, self.policy(state))
