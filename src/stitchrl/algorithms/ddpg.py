"""DDPG: deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971), run on a fixed log, where it is known
to fail.

One update, in the order of the paper's algorithm 1; each step uses what the step before it updated:

    (1)  y    = r + gamma (1 - terminated) Qbar(s', pibar(s'))
    (2)  L_Q  = E[ (y - Q(s, a))^2 ]
    (3)  L_pi = -E[ Q(s, pi(s)) ]
    (4)  Qbar   <- Qbar   + target_rate (Q - Qbar)
    (5)  pibar  <- pibar  + target_rate (pi - pibar)

It is Q-learning with an actor in place of the maximum over actions. So it values actions that the log rarely or never
took, and the actor moves to those that the critic overestimates (Fujimoto, Meger, Precup 2019, arXiv 1812.02900, who
show that it fails on fixed logs). It is included so that this failure can be seen, and for learning online.

Deviations: the action enters the critic's first layer, not its second. No batch normalisation, and no decay of the
critic's weights. Weights start uniform, PyTorch's default, last layers too.

Use: to see overestimation happen in its plainest form over continuous actions.

Avoid: deploying what it learns from a fixed log; online, TD3 and SAC have taken its place.

First knob: `target_rate`, from 0.001 to 0.1: smaller delays the overestimation and does not end it.

Metrics: loss/critic, q/data_mean, loss/actor, q/policy_mean, policy/mode_error (root mean squared distance of the
policy's action from the logged one, per action dimension).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.deterministic_actor import DeterministicState, actor_step, fresh_state
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = ["DDPG"]


@dataclasses.dataclass(frozen=True)
class DDPG(Algorithm):
    """Deep deterministic policy gradient on a log: a demonstration of overestimation, not a way to a policy."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    caution: ClassVar[str] = (
        "Nothing holds its actor to the log: it goes where the critic is too high, and its claimed values run away from the "
        "truth. It is shown as a warning and is never selected."
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size for the critic.")
    actor_learning_rate: float = setting(1e-4, "(0, inf)", "Adam's step size for the actor.")
    target_rate: float = setting(0.001, "(0, 1]", "Share of the way the targets move each update.")
    network: Network = network_setting(Network((400, 300)), "Shape of the critic's network.")
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> DeterministicState:
        if spec.num_actions is not None:
            raise ConfigurationError(
                "DDPG needs continuous actions; the log's are discrete. DQN learns from such logs."
            )
        a_key, q_key = jax.random.split(key)
        size, shape = spec.vector_size, self.actor_network or self.network
        actor = DeterministicPolicy(MLP.create(size, shape, spec.action_size, key=a_key, start="uniform"))
        critics = ContinuousCritics.create(1, size, spec.action_size, self.network, key=q_key, start="uniform")
        return fresh_state(actor, critics, self.adam(self.actor_learning_rate), self.adam(self.learning_rate))

    def update(
        self, state: DeterministicState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[DeterministicState, Metrics]:
        del key
        obs, action, next_obs = batch["obs"], batch["action"], batch["next_obs"]
        reward, discount = self.td_return(batch)
        td_target = reward + discount * state.target_critics(next_obs, state.target_actor.mode(next_obs))[0]

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return td_loss(q, td_target, batch["td_weight"]), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self.adam(self.learning_rate), gradients)

        def actor_loss(policy_action: Array) -> tuple[Array, Array]:
            q = critics.model(obs, policy_action)[0]
            return -jnp.mean(q), q

        optimizer, state = self.adam(self.actor_learning_rate), state._replace(critics=critics)
        state = actor_step(state, actor_loss, obs, action, optimizer, self.target_rate)
        return state, {"loss/critic": loss_q, "q/data_mean": q_mean} | state.actor_metrics

    def policy(self, state: DeterministicState, given: PyTree) -> DeterministicPolicy:
        return state.actor.model

    def value(self, state: DeterministicState, given: PyTree) -> ContinuousCriticValue:
        return ContinuousCriticValue(state.critics.model, state.actor.model)
