"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), for continuous actions.

One update, in the order of the official code (sfujim/TD3_BC, TD3_BC.py); every `actor_every_updates`-th also does (4)
to (6):

    (1)  a' = clip(pibar(s') + clip(eps, +-noise_clip), +-1),  eps ~ N(0, target_noise^2)    (target smoothing)
    (2)  y  = r + gamma (1 - terminated) min_i Qbar_i(s', a')
    (3)  L_Q  = sum_i E[ (y - Q_i(s, a))^2 ]
    (4)  L_pi = -lambda E[ Q_1(s, pi(s)) ] + E[ (pi(s) - a)^2 ],  lambda = q_weight / mean |Q_1(s, pi(s))|   (eq. 5)
    (5)  Qbar   <- Qbar   + target_rate (Q - Qbar)
    (6)  pibar  <- pibar  + target_rate (pi - pibar)

Lambda is a constant of (4): the scale of Q drops out, so one `q_weight` serves many reward scales. Q_1 in (4) is the
critic just updated. The second term is a mean over rows and action dimensions. Actions are in [-1, 1].

First weights are uniform, PyTorch's default, as in the official code; with orthogonal ones it learned less in the same
number of updates. Observations are scaled by `fit` (`standardize`), with 1e-3 added to the standard deviation as in the
official code.

Deviations: none known. With `critic_per_source` the minimum of all critics stands in the place of Q_1 in (4), since the first
critic is that of one source.

Use: continuous actions around good behaviour, as a fast and simple baseline.

Avoid: logs with two good actions in one state, between which the squared distance pulls, and rewards that are nearly
all 0.

First knob: `q_weight`, from 1 to 10: larger trusts the critic more than the log (tinkoff-ai/CORL, issue 25, reports
that 36 helps on AntMaze).

Metrics: loss/critic, q/data_mean; from the last actor update: loss/actor, q/policy_mean, policy/mode_error (root mean
squared distance of the policy's action, per action dimension).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.deterministic_actor import (
    DeterministicState,
    actor_optimizer,
    actor_step,
    fresh_state,
    smoothed_action,
)
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = ["TD3BC", "regularized_actor_loss"]


def regularized_actor_loss(
    q: Float[Array, " B"],
    policy_action: Float[Array, "B action"],
    action: Float[Array, "B action"],
    q_weight: Scalar,
) -> Float[Array, ""]:
    """Equation (4), with q = Q_1(s, pi(s)) and action the logged one."""
    # The floor keeps 0 / 0 out of the policy where all values are 0.
    scale = q_weight / jnp.maximum(jax.lax.stop_gradient(jnp.mean(jnp.abs(q))), 1e-8)
    return -scale * jnp.mean(q) + jnp.mean((policy_action - action) ** 2)


@dataclasses.dataclass(frozen=True)
class TD3BC(SourceCriticSettings):
    """TD3 whose actor is held to the logged actions by their squared distance."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    q_weight: float = setting(
        2.5, "[0, inf)", "Weight of the (scale-free) value against imitation; 0 is behaviour cloning."
    )
    target_noise: float = setting(0.2, "[0, inf)", "Standard deviation of the noise on target actions.")
    noise_clip: float = setting(0.5, "[0, inf)", "Largest noise on a target action.")
    actor_every_updates: int = setting(2, "at least 1", "Critic updates for each update of actor and targets.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for both networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the targets move each actor update.")
    num_critics: int = setting(2, "at least 1", "Critics; the target takes their minimum.")
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        return actor_optimizer(self, self.learning_rate, self.actor_every_updates)

    def init(self, key: Key, spec: Spec, given: PyTree) -> DeterministicState:
        if spec.num_actions is not None:
            raise ConfigurationError(
                "TD3BC needs continuous actions; the log's are discrete. IQL or CQL learn from it."
            )
        a_key, q_key = jax.random.split(key)
        size, shape = spec.vector_size, self.actor_network or self.network
        actor = DeterministicPolicy(MLP.create(size, shape, spec.action_size, key=a_key, start="uniform"))
        critics = ContinuousCritics.create(
            self.count_critics(given, self.num_critics),
            size,
            spec.action_size,
            self.network,
            key=q_key,
            start="uniform",
        )
        return fresh_state(actor, critics, self._actor_optimizer, self._optimizer)

    def update(
        self, state: DeterministicState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[DeterministicState, Metrics]:
        action, next_obs = batch["action"], batch["next_obs"]
        noise = jax.random.normal(key, action.shape)
        next_action = smoothed_action(state.target_actor.mode(next_obs), noise, self.target_noise, self.noise_clip)
        next_q = self.pessimistic(state.target_critics(next_obs, next_action))
        reward, discount = self.td_return(batch)
        td_target = self.targets(reward + discount * next_q, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(batch["obs"], action)
            return td_loss(q, td_target, critic_weight), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        state = state._replace(critics=state.critics.step(self._optimizer, gradients))

        due = (step.update + 1) % self.actor_every_updates == 0
        state = jax.lax.cond(due, self._update_actor, lambda state, batch: state, state, dict(batch))
        return state, {"loss/critic": loss_q, "q/data_mean": q_mean} | state.actor_metrics

    def _update_actor(self, state: DeterministicState, batch: Batch) -> DeterministicState:
        """Equations (4) to (6)."""
        obs, action, critics = batch["obs"], batch["action"], state.critics.model

        def climbed(policy_action: Array) -> Array:
            if self.critic_per_source:  # the first critic is that of one source
                return self.pessimistic(critics(obs, policy_action))
            return critics.member(0)(obs, policy_action)[0]

        def loss(policy_action: Array) -> tuple[Array, Array]:
            q = climbed(policy_action)
            return regularized_actor_loss(q, policy_action, action, self.q_weight), q

        return actor_step(state, loss, obs, action, self._actor_optimizer, self.target_rate)

    def policy(self, state: DeterministicState, given: PyTree) -> DeterministicPolicy:
        return state.actor.model

    def value(self, state: DeterministicState, given: PyTree) -> ContinuousCriticValue:
        return ContinuousCriticValue(state.critics.model, state.actor.model)
