"""The common part of SQL, EQL and XQL, which differ from IQL in three equations.

One update, in the order of IQL's official code, on which their codes are based:

    (1)  L_V  = E[ value loss of min_i Qbar_i(s, a) and V(s) ]
    (2)  L_pi = -E[ w log pi(a | s) ],  w a function of A = min_i Qbar_i(s, a) - V(s)
    (3)  L_Q  = critic loss of Q_i(s, a) and y = r + gamma (1 - terminated) V(s')
    (4)  Qbar <- Qbar + target_rate (Q - Qbar)

V is new in (2) and (3). Rows without a TD target (the log was cut there and what followed is unknown) have weight 0 in
(1) and (3); in (2) they count as rows of advantage 0. Q is only ever asked for logged actions.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.heads import Actor, Critics, create_actor, create_critics, critic_value
from stitchrl.algorithms.losses import MAX_WEIGHT, effective_share, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.settings import flag, network_setting, setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import MLP, ImageNetwork, Network, create_network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["InSample", "InSampleState", "exponents"]

Body = MLP | ImageNetwork


class InSampleState(NamedTuple):
    """Everything a resume needs."""

    value: Trainable[Body]
    actor: Trainable[Actor]
    critics: Trainable[Critics]
    target_critics: Critics


def exponents(
    z: Float[Array, " B"], td_weight: Float[Array, " B"], largest: Float[Array, ""] | float
) -> tuple[Float[Array, " B"], Float[Array, ""]]:
    """min(z, largest), and the largest of these in the batch, but at least -1: exponentials are divided by its exponential.

    The division bounds the steps. Rows without a TD target do not count, and no gradient goes through the divisor.
    """
    cut = jnp.minimum(z, largest)
    highest = jnp.maximum(jnp.max(jnp.where(td_weight > 0, cut, -1.0)), -1.0)
    return cut, jax.lax.stop_gradient(highest)


@dataclasses.dataclass(frozen=True)
class InSample(SourceCriticSettings):
    """The common part: equations (1) to (4), of which each algorithm gives its own first three."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    acts: ClassVar[str] = "greedy"  # the official evaluations take the actor's mode (temperature 0)

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all three networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; their minimum is the advantage's Q.")
    actor_decay_updates: int = setting(
        0, "at least 0", "Cosine decay of the actor's step size over this many updates; 0 is off."
    )
    value_layer_norm: bool = flag(True, "Layer normalisation in V's network, before each activation.")
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    @abstractmethod
    def value_loss(
        self, q: Float[Array, " B"], v: Float[Array, " B"], td_weight: Float[Array, " B"]
    ) -> Float[Array, ""]:
        """Equation (1)."""

    @abstractmethod
    def weights(self, adv: Float[Array, " B"]) -> Float[Array, " B"]:
        """w of equation (2), before it is capped at 100."""

    def critic_loss(
        self,
        q: Float[Array, "C B"],
        td_target: Float[Array, " B"] | Float[Array, "C B"],
        td_weight: Float[Array, " B"] | Float[Array, "C B"],
    ) -> Float[Array, ""]:
        """Equation (3), by default the squared error."""
        return td_loss(q, td_target, td_weight)

    def weight_metrics(self, weight: Float[Array, " B"]) -> Metrics:
        """Metrics of the weights of a batch."""
        clipped = jnp.mean((weight >= MAX_WEIGHT).astype(jnp.float32))
        return {
            "weight/mean": jnp.mean(weight),
            "weight/clipped": clipped,
            "weight/effective_share": effective_share(weight),
        }

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate, decay_updates=self.actor_decay_updates or self.decay_updates)

    def init(self, key: Key, spec: Spec, given: PyTree) -> InSampleState:
        v_key, a_key, q_key = jax.random.split(key, 3)
        # As in IQL: the official code starts every layer with sqrt(2), and has no categorical policy.
        gain, actor_gain = (2.0**0.5, 2.0**0.5) if spec.num_actions is None else (1.0, 0.01)
        shape = dataclasses.replace(self.network, layer_norm="before") if self.value_layer_norm else self.network
        value = create_network(spec.observation.shape, shape, 1, key=v_key, final_gain=gain)
        actor = create_actor(spec, self.actor_network or self.network, key=a_key, final_gain=actor_gain)
        critics = create_critics(
            spec, self.count_critics(given, self.num_critics), self.network, key=q_key, final_gain=gain
        )
        return InSampleState(
            Trainable.create(value, self._optimizer),
            Trainable.create(actor, self._actor_optimizer),
            Trainable.create(critics, self._optimizer),
            jax.tree.map(jnp.copy, critics),
        )

    def update(
        self, state: InSampleState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[InSampleState, Metrics]:
        obs, action, td_weight = batch["obs"], batch["action"], batch["td_weight"]
        q_data = self.pessimistic(state.target_critics(obs, action))

        def value_loss(value: Body) -> Array:
            return self.value_loss(q_data, value(obs)[:, 0], td_weight)

        loss_v, gradients = jax.value_and_grad(value_loss)(state.value.model)
        value = state.value.step(self._optimizer, gradients)

        v, next_v = jnp.split(value.model(jnp.concatenate([obs, batch["next_obs"]]))[:, 0], 2)
        adv = jnp.where(td_weight > 0, q_data - v, 0.0)
        weight = jnp.minimum(self.weights(adv), MAX_WEIGHT)

        def actor_loss(actor: Actor) -> tuple[Array, Metrics]:
            pi = actor(obs, action_mask=batch.get("action_mask"), key=key)
            return -jnp.mean(weight * pi.log_prob(action)), pi.metrics(action)

        (loss_pi, metrics), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state.actor.model)
        actor = state.actor.step(self._actor_optimizer, gradients)

        reward, discount = self.td_return(batch)
        td_target = self.targets(reward + discount * next_v, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return self.critic_loss(q, td_target, critic_weight), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self._optimizer, gradients)
        target_critics = polyak(state.target_critics, critics.model, self.target_rate)

        metrics |= {"loss/value": loss_v, "loss/actor": loss_pi, "loss/critic": loss_q}
        metrics |= {"q/data_mean": q_mean, "v/mean": jnp.mean(v), "adv/mean": jnp.mean(adv)}
        return InSampleState(value, actor, critics, target_critics), metrics | self.weight_metrics(weight)

    def policy(self, state: InSampleState, given: PyTree) -> Actor:
        return state.actor.model

    def value(self, state: InSampleState, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return critic_value(state.critics.model, state.actor.model)
