"""SAC-N: soft actor-critic with the minimum over many critics (An et al. 2021, arXiv 2110.01548).

One update, in the order of the official code (snu-mllab/EDAC; CORL, algorithms/offline/sac_n.py), in which each step
uses what the step before it updated:

    (1)  L_alpha = -log alpha E[ log pi(a|s) + H ],              a ~ pi(s)
    (2)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],     a ~ pi(s)
    (3)  y       = r + gamma (1 - terminated) ( min_i Qbar_i(s', a') - alpha log pi(a'|s') ),   a' ~ pi(s')
    (4)  L_Q     = sum_i E[ (y - Q_i(s, a))^2 ]
    (5)  Qbar   <- Qbar + target_rate (Q - Qbar)

Nothing holds the actor to the log but the minimum: where the log says little, critics disagree, and the smallest of N
normal numbers of standard deviation d lies about 1.5 d (N = 10), 2.7 d (N = 200) or 3 d (N = 500) below their mean.
Critics have the same targets and disagree only by how their networks generalise. For a discrete action that the log
never has there are no targets at all: its values depend on first weights alone, and the minimum is no protection.

Q contains the entropy to come, alpha times it, by (3): while the temperature is high, or with gamma 1 over long
episodes, claimed values lie above what returns can be.

H is minus the number of dimensions of a continuous action. Discrete actions, which the official code does not have, are
summed over (`soft_actor`); H is then `entropy_share` of the logarithm of the number of allowed actions.

Deviations: the temperature's sample serves the actor too. Log standard deviations are kept in [-20, 2], not [-5, 2];
the log-density of an action is exact, where the official code adds 1e-6 inside log(1 - a^2). CORL draws the critics'
first layer within 1 / sqrt(outputs), here within 1 / sqrt(inputs). `entropy_share` is 0.3: the 0.98 of discrete SAC was
chosen for exploring, and on a log values would then consist mostly of entropy. Official runs take observations as they
are (`standardize=False`).

Use: logs of many different actions, such as replays of a learner, with time for many critics and long training.

Avoid: narrow logs of experts, sparse rewards (all published runs on AntMaze end at 0), and discrete actions of which
some were never logged, which it takes.

First knob: `num_critics`, from 10 to 500: larger is more pessimistic; fewer suffice where the log covers more.

Metrics: loss/critic, q/data_mean, q/spread (standard deviation over critics at logged actions, averaged over rows);
loss/actor, q/policy_mean (of the minimum), policy/entropy (continuous: a sample of it, nats), temperature,
policy/agreement or policy/mode_error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.heads import Critics
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.soft_actor import (
    SoftPolicy,
    SoftState,
    fresh_soft_state,
    soft_critic_value,
    soft_policy_step,
    soft_value,
)
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import Network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["SACN"]

CRITICS = {
    "halfcheetah": 10, "walker2d": 20, "hopper": 200, "hopper-medium": 500, "antmaze": 25, "maze2d": 25, "adroit": 100,
}  # fmt: skip
"""Task -> critics of the published runs."""


@dataclasses.dataclass(frozen=True)
class SACN(SourceCriticSettings):
    """Soft actor-critic with many critics, of whose values the smallest counts."""

    irregular_time: ClassVar[bool] = True
    values_hold_entropy: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    acts: ClassVar[str] = "greedy"  # the official evaluation takes tanh of the mean
    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            task: Preset(
                {"num_critics": count},
                "tinkoff-ai/CORL, configs/offline/sac_n/",
                "observations as they are (standardize=False), 3,000,000 updates",
            )
            for task, count in CRITICS.items()
        }
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    num_critics: int = setting(10, "at least 1", "Critics, whose minimum counts; more are more pessimistic.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the critics.")
    actor_learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the actor and the temperature.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    entropy_share: float = setting(
        0.3, "[0, 1]", "Entropy that a policy over discrete actions is held to, as a share of the largest there is."
    )
    first_temperature: float = setting(
        1.0, "(0, inf)", "Weight of entropy at the start; it should not outweigh a decision's reward."
    )
    network: Network = network_setting(Network((256, 256, 256)), "Shape of the critics' networks.")
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> SoftState:
        optimizers = self.adam(self.actor_learning_rate), self.adam(self.learning_rate)
        shapes = self.network, self.actor_network or self.network
        return fresh_soft_state(
            spec,
            self.count_critics(given, self.num_critics),
            *shapes,
            optimizers,
            temperature=self.first_temperature,
            key=key,
        )

    def update(self, state: SoftState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[SoftState, Metrics]:
        actor_key, target_key = jax.random.split(key)
        actor, metrics = soft_policy_step(
            state.actor,
            state.critics.model,
            batch,
            self.adam(self.actor_learning_rate),
            self.entropy_share,
            lower=self.pessimistic,
            key=actor_key,
        )
        reward, discount = self.td_return(batch)
        next_v = soft_value(actor, state.target_critics, batch, self.pessimistic, key=target_key)
        td_target = self.targets(reward + discount * next_v, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(batch["obs"], batch["action"])
            return td_loss(q, td_target, critic_weight), q

        (loss_q, q), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self.adam(self.learning_rate), gradients)
        target_critics: Any = polyak(state.target_critics, critics.model, self.target_rate)

        metrics |= {"loss/critic": loss_q, "q/data_mean": jnp.mean(q), "q/spread": jnp.mean(jnp.std(q, axis=0))}
        return SoftState(actor, critics, target_critics), metrics

    def policy(self, state: SoftState, given: PyTree) -> SoftPolicy:
        return state.actor.policy.model

    def value(self, state: SoftState, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return soft_critic_value(state.critics.model, state.actor.policy.model)
