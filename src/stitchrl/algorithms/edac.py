"""EDAC: an ensemble-diversified actor-critic (An et al. 2021, arXiv 2110.01548), for continuous actions.

SAC-N whose critics are pushed to have different gradients by the action at logged actions, so that far fewer of them
suffice. One update, in the order of the official code (snu-mllab/EDAC; CORL, algorithms/offline/edac.py), in which each
step uses what the step before it updated:

    (1)  L_alpha = -log alpha E[ log pi(a|s) + H ],              a ~ pi(s)
    (2)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],     a ~ pi(s)
    (3)  y       = r + gamma (1 - terminated) ( min_i Qbar_i(s', a') - alpha log pi(a'|s') ),   a' ~ pi(s')
    (4)  L_Q     = sum_i E[ (y - Q_i(s, a))^2 ] + diversity_weight / (N - 1) E[ sum_{i != j} <g_i, g_j> ],
         g_i     = grad_a Q_i(s, a) / |grad_a Q_i(s, a)|
    (5)  Qbar   <- Qbar + target_rate (Q - Qbar)

<g_i, g_j> is the cosine between the gradients of two critics at the logged action. If all gradients agree, so do all
critics at actions a little further on, and their minimum does not tell that these were not logged. With one action
dimension g_i can only be 1 or -1, so that the second term of (4) has no gradient: there EDAC is SAC-N. The sum in (4)
is |sum_i g_i|^2 - sum_i |g_i|^2, which costs N products, not N^2. Rows without a TD target (the log was cut there and
what followed is unknown) have weight 0 in both terms of (4). H is minus the number of dimensions of an action.

Deviations: those of SAC-N: the temperature's sample serves the actor too, log standard deviations are kept in [-20, 2],
the log-density is exact, and the critics' first layer starts within 1 / sqrt(inputs). g_i is 0 where the gradient is
exactly 0, as for a network whose units are all off. Official runs take observations as they are (`standardize=False`).

Use: where SAC-N would do, with a tenth of its critics, if an action has at least two dimensions.

Avoid: narrow logs of experts and sparse rewards: all published runs on AntMaze end at 0.

First knob: `diversity_weight`, from 0.1 to 1000: larger is more pessimistic; published runs have 1 and 5 on robots that
walk, mostly 200 on robot hands.

Metrics: loss/critic (TD part), loss/diversity (the second term of (4), unweighted: from -N / (N - 1) to N),
q/data_mean, q/spread (standard deviation over critics at logged actions, averaged over rows); loss/actor, q/policy_mean
(of the minimum), policy/entropy (a sample of it, nats), policy/mode_error, temperature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.critic_settings import CriticSettings
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
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import Network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["EDAC", "diversity"]

PUBLISHED = {
    "halfcheetah": (10, 1.0), "halfcheetah-medium-expert": (10, 5.0), "walker2d": (10, 1.0),
    "walker2d-medium-expert": (10, 5.0), "hopper": (50, 1.0), "maze2d": (10, 0.1), "antmaze": (10, 1.0),
    "pen": (20, 10.0), "pen-human": (20, 1000.0), "door": (50, 200.0), "hammer": (50, 200.0), "relocate": (50, 200.0),
}  # fmt: skip
"""Task -> (critics, diversity_weight) of the published runs."""


def diversity(slope: Float[Array, "C B action"], td_weight: Float[Array, " B"]) -> Float[Array, ""]:
    """Second term of (4) without its weight, given the gradients of at least 2 critics by the action."""
    squared = jnp.sum(slope**2, axis=-1, keepdims=True)
    # The length of a gradient of 0 has no derivative: such a gradient stays 0.
    length = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    direction = slope / length
    pairs = jnp.sum(jnp.sum(direction, axis=0) ** 2, axis=-1) - jnp.sum(direction**2, axis=(0, 2))
    return jnp.mean(td_weight * pairs) / (slope.shape[0] - 1)


@dataclasses.dataclass(frozen=True)
class EDAC(CriticSettings):
    """Soft actor-critic with several critics that are kept diverse, of whose values the smallest counts."""

    irregular_time: ClassVar[bool] = True
    values_hold_entropy: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    acts: ClassVar[str] = "greedy"  # the official evaluation takes tanh of the mean
    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            task: Preset(
                {"num_critics": count, "diversity_weight": weight},
                "tinkoff-ai/CORL, configs/offline/edac/",
                "observations as they are (standardize=False), 3,000,000 updates",
            )
            for task, (count, weight) in PUBLISHED.items()
        }
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    num_critics: int = setting(10, "at least 2", "Critics, whose minimum counts; more are more pessimistic.")
    diversity_weight: float = setting(1.0, "[0, inf)", "Larger keeps critics more diverse; 0 is SAC-N.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the critics.")
    actor_learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the actor and the temperature.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    first_temperature: float = setting(
        1.0, "(0, inf)", "Weight of entropy at the start; it should not outweigh a decision's reward."
    )
    network: Network = network_setting(Network((256, 256, 256)), "Shape of the critics' networks.")
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> SoftState:
        if spec.num_actions is not None:
            raise ConfigurationError(
                "EDAC needs continuous actions; the log's are discrete. SACN, IQL or CQL learn from it."
            )
        optimizers = self.adam(self.actor_learning_rate), self.adam(self.learning_rate)
        shapes = self.network, self.actor_network or self.network
        return fresh_soft_state(
            spec, self.num_critics, *shapes, optimizers, temperature=self.first_temperature, key=key
        )

    def update(self, state: SoftState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[SoftState, Metrics]:
        actor_key, target_key = jax.random.split(key)
        actor, metrics = soft_policy_step(
            state.actor,
            state.critics.model,
            batch,
            self.adam(self.actor_learning_rate),
            0.0,
            lower=self.pessimistic,
            key=actor_key,
        )
        reward, discount = self.td_return(batch)
        next_v = soft_value(actor, state.target_critics, batch, self.pessimistic, key=target_key)
        td_target = self.targets(reward + discount * next_v, batch, self.num_critics)

        def critic_loss(critics: Any) -> tuple[Array, tuple[Array, Array, Array]]:
            def values(actions: Float[Array, "C B action"]) -> tuple[Array, Array]:
                q = critics.several_each(batch["obs"], actions[:, None])[:, 0]
                return jnp.sum(q), q

            # Each critic has a copy of the action, so that one gradient of the sum holds every critic's own.
            copies = jnp.broadcast_to(batch["action"][None], (self.num_critics, *batch["action"].shape))
            slope, q = jax.grad(values, has_aux=True)(copies)
            td, spread = td_loss(q, td_target, batch["td_weight"]), diversity(slope, batch["td_weight"])
            return td + self.diversity_weight * spread, (td, spread, q)

        gradients, (td, spread, q) = jax.grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self.adam(self.learning_rate), gradients)
        target_critics: Critics = polyak(state.target_critics, critics.model, self.target_rate)

        metrics |= {"loss/critic": td, "loss/diversity": spread}
        metrics |= {"q/data_mean": jnp.mean(q), "q/spread": jnp.mean(jnp.std(q, axis=0))}
        return SoftState(actor, critics, target_critics), metrics

    def policy(self, state: SoftState, given: PyTree) -> SoftPolicy:
        return state.actor.policy.model

    def value(self, state: SoftState, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return soft_critic_value(state.critics.model, state.actor.policy.model)
