"""FQL: flow Q-learning (Park, Li, Levine 2025, arXiv 2502.02538), for continuous actions.

A flow imitates the log, however many kinds of action it holds for a state. A second policy turns noise into an action
in one step; it learns to give the flow's action for the same noise, and an action that the critics value. One update,
in the order of the official code (seohongpark/fql, agents/fql.py); all gradients are at the parameters before the
update:

    (1)  a'   = clip(mu(s', z'), +-1),   z' ~ N(0, 1)
    (2)  y    = r + gamma (1 - terminated) mean_i Qbar_i(s', a')
    (3)  L_Q  = E[ mean_i (y - Q_i(s, a))^2 ]
    (4)  L_v  = E[ (v(s, x_t, t) - (a - x_0))^2 ],   x_t = (1 - t) x_0 + t a,   x_0 ~ N(0, 1),  t ~ U(0, 1)
    (5)  F(s, z) = clip(x_1, +-1),   x_(t + 1/K) = x_t + v(s, x_t, t) / K from x_0 = z,   K = flow_steps
    (6)  L_mu = distill_weight E[ (mu(s, z) - F(s, z))^2 ] - lambda E[ mean_i Q_i(s, clip(mu(s, z), +-1)) ],  z ~ N(0, 1)
    (7)  Qbar <- Qbar + target_rate (Q - Qbar)

v is the velocity of the flow (`behavior` in the state) and F its action, by K steps of Euler's method; mu is the
one-step policy, which acts. Squares of (4) and (6) are means over rows AND action dimensions. F is a constant of (6),
so that no gradient goes through the K steps. Lambda is 1, or with `normalize_q` 1 / mean |mean_i Q_i|, a constant of
(6) that makes `distill_weight` free of the rewards' scale. The paper and its code take the mean over critics in (2);
with `target_aggregation="min"` it is their minimum, which some of the published runs use. Critics have layer
normalisation after each activation, the two policies have none. Rows without a TD target have weight 0 in (3) alone.

The flow keeps different ways of acting apart, and for each z a squared distance holds mu to F(s, z) alone. With a
smaller `distill_weight` actions drawn for a worse way move towards a better one, and at some weights they lie in
between, where the log has no actions. These are fewer than under TD3+BC, whose one action is held to all logged ones.

It acts by drawing z; such actions have no density, so weight-based estimators do not apply. `greedy()` has z = 0 in
every state; no published number was obtained in that way.

The published weights (`presets`) were chosen for each task by scores in its simulator. With a log alone there are no
such scores, and lower ones than the published are to be expected.

Deviations: the official target critics follow the critics as they were before their step, here as they are after it, as
in TD3. Layer normalisation adds 1e-5 to the variance, as PyTorch does, not 1e-6. First weights are orthogonal, not
Glorot's uniform ones. Official runs take observations as they are (`standardize=False`). Images, for which the official
code has encoders, are not supported.

Use: continuous actions, on logs with several good but different actions in one state, such as those of several people.

Avoid: logs with one kind of action per state, from which ReBRAC learns in a fraction of the time; and wherever the
density of the policy's actions is needed, as importance weights do.

First knob: `distill_weight`, from 0.03 to 10 with `normalize_q=True` (from 3 to 30,000 without, by the rewards' scale):
larger stays nearer to the log.

Metrics: loss/critic (3), loss/behavior (4), loss/actor (6), q/data_mean, q/policy_mean, policy/flow_error (root mean
squared distance of mu from F for the same noise, per action dimension).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.critic_settings import RewardNoise
from stitchrl.algorithms.flow_losses import distillation_loss, flow_matching_loss, q_loss
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import choice, flag, network_setting, setting
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.flow import FlowPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.one_step import OneStepPolicy
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = ["FQL"]

OGBENCH: Mapping[str, Mapping[str, Any]] = {
    "antmaze-large-navigate": {"target_aggregation": "min"},
    "antmaze-giant-navigate": {"gamma": 0.995, "target_aggregation": "min"},
    "humanoidmaze-medium-navigate": {"gamma": 0.995, "distill_weight": 30.0},
    "humanoidmaze-large-navigate": {"gamma": 0.995, "distill_weight": 30.0},
    "antsoccer-arena-navigate": {"gamma": 0.995},
    "cube-single-play": {"distill_weight": 300.0},
    "cube-double-play": {"distill_weight": 300.0},
    "scene-play": {"distill_weight": 300.0},
    "puzzle-3x3-play": {"distill_weight": 1000.0},
    "puzzle-4x4-play": {"distill_weight": 1000.0},
}
"""Environment of OGBench -> settings that its five tasks share."""
ANTMAZE: Mapping[str, float] = {
    "umaze": 10.0, "umaze-diverse": 10.0, "medium-play": 10.0, "medium-diverse": 10.0, "large-play": 3.0,
    "large-diverse": 3.0,
}  # fmt: skip
"""Data set of D4RL's AntMaze -> `distill_weight`."""
ADROIT: Mapping[str, tuple[float, float, float]] = {
    "pen": (10_000.0, 10_000.0, 3_000.0),
    "door": (30_000.0, 30_000.0, 30_000.0),
    "hammer": (30_000.0, 10_000.0, 30_000.0),
    "relocate": (10_000.0, 30_000.0, 30_000.0),
}
"""Task of D4RL's Adroit -> `distill_weight` of the data sets "human", "cloned" and "expert"."""
SOURCE = "seohongpark/fql, README.md, the commands of the paper's main results"


def _preset(settings: Mapping[str, Any], updates: str, rewards: str = "rewards as they are") -> Preset:
    return Preset(settings, SOURCE, f"observations as they are (standardize=False), {rewards}, {updates} updates")


def _presets() -> dict[str, Preset]:
    found = {task: _preset(settings, "1,000,000") for task, settings in OGBENCH.items()}
    for log, weight in ANTMAZE.items():
        found[f"antmaze-{log}"] = _preset({"distill_weight": weight}, "500,000", "1 taken from every reward")
    for task, weights in ADROIT.items():
        for log, weight in zip(("human", "cloned", "expert"), weights, strict=True):
            found[f"{task}-{log}"] = _preset({"distill_weight": weight, "target_aggregation": "min"}, "500,000")
    return found


class FQLState(NamedTuple):
    """Everything a resume needs."""

    behavior: Trainable[FlowPolicy]
    actor: Trainable[OneStepPolicy]
    critics: Trainable[ContinuousCritics]
    target_critics: ContinuousCritics


@dataclasses.dataclass(frozen=True)
class FQL(RewardNoise):
    """A flow that imitates the log, and a one-step policy that is held to it while it maximises the critics."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(_presets())

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    distill_weight: float = setting(
        10.0, "[0, inf)", "Larger holds the policy nearer to the flow that imitates the log; tune it first."
    )
    normalize_q: bool = flag(
        False, "True divides the actor's Q by its mean size, so that the rewards' scale drops out."
    )
    target_aggregation: Literal["mean", "min"] = choice(
        "mean", ("mean", "min"), 'How critics are joined in the TD target; "min" is pessimistic.'
    )
    flow_steps: int = setting(10, "at least 1", "Steps of Euler's method from noise to the flow's action.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; the actor maximises their mean.")
    network: Network = network_setting(
        Network((512, 512, 512, 512), activation="gelu", layer_norm="after"),
        "Shape of the critics' networks, with layer normalisation.",
    )
    actor_network: Network | None = network_setting(
        None, "Shape of the networks of both policies; that of `network` without its layer normalisation by default."
    )

    def init(self, key: Key, spec: Spec, given: PyTree) -> FQLState:
        if spec.num_actions is not None:
            raise ConfigurationError("FQL needs continuous actions; the log's are discrete. IQL or CQL learn from it.")
        behavior_key, actor_key, critic_key = jax.random.split(key, 3)
        size, numbers, optimizer = spec.vector_size, spec.action_size, self.adam(self.learning_rate)
        shape = self.actor_network or dataclasses.replace(self.network, layer_norm="none")
        behavior = FlowPolicy.create(size, numbers, shape, self.flow_steps, key=behavior_key)
        actor = OneStepPolicy.create(size, numbers, shape, key=actor_key)
        critics = ContinuousCritics.create(self.num_critics, size, numbers, self.network, key=critic_key)
        return FQLState(
            Trainable.create(behavior, optimizer),
            Trainable.create(actor, optimizer),
            Trainable.create(critics, optimizer),
            jax.tree.map(jnp.copy, critics),
        )

    def update(self, state: FQLState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[FQLState, Metrics]:
        obs, action, optimizer = batch["obs"], batch["action"], self.adam(self.learning_rate)
        next_key, start_key, time_key, noise_key = jax.random.split(key, 4)

        td_target = self._td_target(state, batch, jax.random.normal(next_key, action.shape))
        td_target = self.targets(td_target, batch, self.num_critics)

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return td_loss(q, td_target, batch["td_weight"]) / self.num_critics, jnp.mean(q)

        (loss_q, q_mean), by_critics = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)

        start = jax.random.normal(start_key, action.shape)
        time = jax.random.uniform(time_key, (action.shape[0], 1))

        def behavior_loss(flow: FlowPolicy) -> Array:
            point = (1.0 - time) * start + time * action
            return flow_matching_loss(flow.velocity(obs, point, time), start, action)

        loss_v, by_behavior = jax.value_and_grad(behavior_loss)(state.behavior.model)

        noise = jax.random.normal(noise_key, action.shape)
        flow_action = state.behavior.model.action(obs, noise)

        def actor_loss(actor: OneStepPolicy) -> tuple[Array, tuple[Array, Array]]:
            one_step = actor.unbounded(obs, noise)
            distance = distillation_loss(one_step, flow_action)
            q = jnp.mean(state.critics.model(obs, jnp.clip(one_step, -1.0, 1.0)), axis=0)
            return self.distill_weight * distance + q_loss(q, self.normalize_q), (distance, jnp.mean(q))

        (loss_mu, (distance, policy_q)), by_actor = jax.value_and_grad(actor_loss, has_aux=True)(state.actor.model)

        critics = state.critics.step(optimizer, by_critics)
        after = FQLState(
            state.behavior.step(optimizer, by_behavior),
            state.actor.step(optimizer, by_actor),
            critics,
            polyak(state.target_critics, critics.model, self.target_rate),
        )
        metrics = {"loss/critic": loss_q, "loss/behavior": loss_v, "loss/actor": loss_mu, "q/data_mean": q_mean}
        return after, metrics | {"q/policy_mean": policy_q, "policy/flow_error": jnp.sqrt(distance)}

    def _td_target(self, state: FQLState, batch: Batch, noise: Array) -> Array:
        """Equations (1) and (2)."""
        next_obs = batch["next_obs"]
        next_q = state.target_critics(next_obs, state.actor.model.action(next_obs, noise))
        reward, discount = self.td_return(batch)
        joined = jnp.min(next_q, axis=0) if self.target_aggregation == "min" else jnp.mean(next_q, axis=0)
        return reward + discount * joined

    def policy(self, state: FQLState, given: PyTree) -> OneStepPolicy:
        return state.actor.model

    def value(self, state: FQLState, given: PyTree) -> ContinuousCriticValue:
        return ContinuousCriticValue(state.critics.model, state.actor.model)
