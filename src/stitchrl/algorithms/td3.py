"""TD3: twin delayed DDPG (Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477), run on a fixed log, where it is known to fail.

One update, in the order of the official code (sfujim/TD3, TD3.py); every `actor_every_updates`-th also does (4) to (6):

    (1)  a' = clip(pibar(s') + clip(eps, +-noise_clip), +-1),  eps ~ N(0, target_noise^2)    (target smoothing)
    (2)  y  = r + gamma (1 - terminated) min_i Qbar_i(s', a')
    (3)  L_Q  = sum_i E[ (y - Q_i(s, a))^2 ]
    (4)  L_pi = -E[ Q_1(s, pi(s)) ]
    (5)  Qbar   <- Qbar   + target_rate (Q - Qbar)
    (6)  pibar  <- pibar  + target_rate (pi - pibar)

(4) moves the actor towards actions that the critic values more, logged or not. TD3+BC adds one term to (4) that holds
the actor to the log. It is included so that this failure can be seen, and for learning online.

Deviations: none known, but that it learns from a fixed log, where the official code collects data by acting with noise.

Use: to see what the additional term of TD3+BC is for, and for learning online, for which it was made.

Avoid: deploying what it learns from a fixed log.

First knob: `target_noise`, from 0.1 to 0.5: larger makes critics smoother in the action, and ends no overestimation.

Metrics: loss/critic, q/data_mean; from the last actor update: loss/actor, q/policy_mean, policy/mode_error (root mean
squared distance of the policy's action from the logged one, per action dimension).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.critic_settings import CriticSettings
from stitchrl.algorithms.deterministic_actor import (
    DeterministicState,
    actor_optimizer,
    actor_step,
    fresh_state,
    smoothed_action,
)
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = ["TD3"]


@dataclasses.dataclass(frozen=True)
class TD3(CriticSettings):
    """Twin delayed DDPG on a log: a demonstration of overestimation, not a way to a policy."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    caution: ClassVar[str] = (
        "Nothing holds its actor to the log: it goes where the critic is too high, and its claimed values run away from the "
        "truth. It is shown as a warning and is never selected."
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
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
            raise ConfigurationError("TD3 needs continuous actions; the log's are discrete. DQN learns from such logs.")
        a_key, q_key = jax.random.split(key)
        size, shape = spec.vector_size, self.actor_network or self.network
        actor = DeterministicPolicy(MLP.create(size, shape, spec.action_size, key=a_key, start="uniform"))
        critics = ContinuousCritics.create(
            self.num_critics, size, spec.action_size, self.network, key=q_key, start="uniform"
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
        td_target = self.targets(reward + discount * next_q, batch, self.num_critics)

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(batch["obs"], action)
            return td_loss(q, td_target, batch["td_weight"]), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        state = state._replace(critics=state.critics.step(self._optimizer, gradients))

        due = (step.update + 1) % self.actor_every_updates == 0
        state = jax.lax.cond(due, self._update_actor, lambda state, batch: state, state, dict(batch))
        return state, {"loss/critic": loss_q, "q/data_mean": q_mean} | state.actor_metrics

    def _update_actor(self, state: DeterministicState, batch: Batch) -> DeterministicState:
        """Equations (4) to (6)."""
        obs, first_critic = batch["obs"], state.critics.model.member(0)

        def loss(policy_action: Array) -> tuple[Array, Array]:
            q = first_critic(obs, policy_action)[0]
            return -jnp.mean(q), q

        return actor_step(state, loss, obs, batch["action"], self._actor_optimizer, self.target_rate)

    def policy(self, state: DeterministicState, given: PyTree) -> DeterministicPolicy:
        return state.actor.model

    def value(self, state: DeterministicState, given: PyTree) -> ContinuousCriticValue:
        return ContinuousCriticValue(state.critics.model, state.actor.model)
