"""ReBRAC: TD3+BC with the penalty in the actor and in the target (Tarasov et al. 2023, arXiv 2305.09836).

For continuous actions. One update, in the order of the official code (DT6A/ReBRAC; CORL, algorithms/offline/rebrac.py);
every `actor_every_updates`-th also does (4) to (6):

    (1)  a' = clip(pibar(s') + clip(eps, +-noise_clip), +-1),  eps ~ N(0, target_noise^2)
    (2)  y  = r + gamma (1 - terminated) ( min_i Qbar_i(s', a') - critic_bc_weight |a' - a'_log|^2 )
    (3)  L_Q  = sum_i E[ (y - Q_i(s, a))^2 ]
    (4)  L_pi = E[ actor_bc_weight |pi(s) - a|^2 - lambda min_i Q_i(s, pi(s)) ],  lambda = 1 / mean |min_i Q_i(s, pi(s))|
    (5)  Qbar  <- Qbar  + target_rate (Q - Qbar)
    (6)  pibar <- pibar + target_rate (pi - pibar)

a'_log is the action that the log took next. Where the log has none (the episode was cut there, or rows are missing) the
penalty of (2) is left out of that row; a terminated row has neither value nor penalty. |x|^2 is a sum over the
dimensions of an action. Lambda is a constant of (4), so that the scale of Q drops out there, but not in (2), whose
weight is in units of reward. Q in (4) is the critic just updated. Critics have layer normalisation after each
activation, the actor has none.

The published pairs of weights (`presets`) were chosen by scores in the simulator. With a log alone there are no such
scores, and lower ones than the published are to be expected.

Deviations: the official data set takes the first action of the next episode for a'_log where an episode was cut; here
such rows have no penalty. The official target actor follows the actor as it was before its step, here as it is after
it, as in TD3. The actor's update is the second of each pair, as in TD3, not the first. Layer normalisation adds 1e-5 to
the variance, as PyTorch does, not 1e-6. No published run uses the official default of both weights, 1; here it is 0.01,
the pair chosen most often. Official runs take observations as they are (`standardize=False`) and batches of 1,024 rows.

Use: continuous actions, dense or sparse rewards, as the strongest of the simple methods where two weights can be tried.

Avoid: logs with several good actions in one state, far apart, to whose mean a deterministic actor is pulled.

First knob: `actor_bc_weight`, from 0.001 to 0.1: larger stays nearer to the log; then `critic_bc_weight`, from 0 to 0.5.

Metrics: loss/critic, q/data_mean, bc/next (mean of the penalty of (2), unweighted, over rows that have one); from the
last actor update: loss/actor, q/policy_mean, policy/mode_error (root mean squared distance of the policy's action from
the logged one, per action dimension).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Prepared, Spec, Step
from stitchrl.algorithms.deterministic_actor import (
    DeterministicState,
    actor_optimizer,
    actor_step,
    fresh_state,
    smoothed_action,
)
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.continuous_policy import DeterministicPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = ["ReBRAC", "penalized_actor_loss", "squared_distance"]

WEIGHTS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "halfcheetah": {
        "random": (0.001, 0.1), "medium": (0.001, 0.01), "medium-replay": (0.01, 0.001),
        "medium-expert": (0.01, 0.1), "expert": (0.01, 0.01), "full-replay": (0.001, 0.1),
    },
    "hopper": {
        "random": (0.001, 0.01), "medium": (0.01, 0.01), "medium-replay": (0.05, 0.5),
        "medium-expert": (0.1, 0.01), "expert": (0.1, 0.1), "full-replay": (0.01, 0.01),
    },
    "walker2d": {
        "random": (0.01, 0.0), "medium": (0.05, 0.1), "medium-replay": (0.05, 0.01),
        "medium-expert": (0.01, 0.01), "expert": (0.01, 0.5), "full-replay": (0.01, 0.01),
    },
    "antmaze": {
        "umaze": (0.003, 0.002), "umaze-diverse": (0.003, 0.001), "medium-play": (0.001, 0.0005),
        "medium-diverse": (0.001, 0.0), "large-play": (0.002, 0.001), "large-diverse": (0.002, 0.002),
    },
    "pen": {"human": (0.1, 0.5), "cloned": (0.05, 0.5), "expert": (0.01, 0.01)},
    "door": {"human": (0.1, 0.1), "cloned": (0.01, 0.1), "expert": (0.05, 0.01)},
    "hammer": {"human": (0.01, 0.5), "cloned": (0.1, 0.5), "expert": (0.01, 0.01)},
    "relocate": {"human": (0.1, 0.01), "cloned": (0.1, 0.01), "expert": (0.05, 0.01)},
    "maze2d": {"umaze": (0.003, 0.001), "medium": (0.003, 0.001), "large": (0.003, 0.001)},
}  # fmt: skip
"""Task -> data set -> (actor_bc_weight, critic_bc_weight) of the published runs."""
STEPS: Mapping[str, Mapping[str, float]] = {
    "antmaze": {"actor_learning_rate": 3e-4, "learning_rate": 5e-5, "gamma": 0.999},
    **{
        task: {"actor_learning_rate": 3e-4, "learning_rate": 3e-4}
        for task in ("pen", "door", "hammer", "relocate", "maze2d")
    },
}
"""Settings beside the two weights, of the tasks that change them."""


def _preset(task: str, log: str) -> Preset:
    actor, critic = WEIGHTS[task][log]
    size = 256 if task in STEPS else 1024
    rewards = "rewards times 100 (reward_scale=100.0)" if task == "antmaze" else "rewards as they are"
    return Preset(
        {"actor_bc_weight": actor, "critic_bc_weight": critic, **STEPS.get(task, {})},
        f"tinkoff-ai/CORL, configs/offline/rebrac/{task}/",
        f"batch_size={size}, observations as they are (standardize=False), {rewards}, 1,000,000 updates",
    )


def squared_distance(one: Float[Array, "B action"], two: Float[Array, "B action"]) -> Float[Array, " B"]:
    """(B,) the penalty of equations (2) and (4): squared distances, summed over the dimensions of an action."""
    return jnp.sum((one - two) ** 2, axis=-1)


def penalized_actor_loss(
    q: Float[Array, " B"],
    policy_action: Float[Array, "B action"],
    action: Float[Array, "B action"],
    actor_bc_weight: Scalar,
) -> Float[Array, ""]:
    """Equation (4), with q = min_i Q_i(s, pi(s)) and action the logged one."""
    # The floor keeps 0 / 0 out of the policy where all values are 0.
    scale = 1.0 / jnp.maximum(jax.lax.stop_gradient(jnp.mean(jnp.abs(q))), 1e-8)
    return jnp.mean(actor_bc_weight * squared_distance(policy_action, action) - scale * q)


@dataclasses.dataclass(frozen=True)
class ReBRAC(SourceCriticSettings):
    """TD3 with a penalty on the distance from logged actions in the actor and, by a weight of its own, in the target."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {f"{task}-{log}": _preset(task, log) for task, logs in WEIGHTS.items() for log in logs}
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    actor_bc_weight: float = setting(
        0.01, "[0, inf)", "Larger keeps the actor nearer to logged actions; try 0.001 to 0.1."
    )
    critic_bc_weight: float = setting(
        0.01, "[0, inf)", "Larger lowers the value of next actions far from the logged one; try 0 to 0.5."
    )
    target_noise: float = setting(0.2, "[0, inf)", "Standard deviation of the noise on target actions.")
    noise_clip: float = setting(0.5, "[0, inf)", "Largest noise on a target action.")
    actor_every_updates: int = setting(2, "at least 1", "Critic updates for each update of actor and targets.")
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size for the critics.")
    actor_learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size for the actor.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the targets move each actor update.")
    num_critics: int = setting(2, "at least 1", "Critics; target and actor take their minimum.")
    network: Network = network_setting(
        Network((256, 256, 256), layer_norm="after"), "Shape of the critics' networks, with layer normalisation."
    )
    actor_network: Network | None = network_setting(
        None, "Shape of the actor's network; that of `network` without its layer normalisation by default."
    )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        return actor_optimizer(self, self.actor_learning_rate, self.actor_every_updates)

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        if log.num_actions is not None:
            raise ConfigurationError(
                "ReBRAC needs continuous actions; the log's are discrete. IQL or CQL learn from it."
            )
        # By the numbers of episodes and steps: comparing the next observation with that of the next row may fail by rounding.
        episode = log.episode_of_transition
        known = np.append((np.diff(episode) == 0) & (np.diff(log.step) == 1), [False])
        action = scaling.actions(log.action)
        following = np.where(known[:, None], np.roll(action, -1, axis=0), np.float32(0.0))
        columns = {"next_action": following, "next_action_known": known.astype(np.float32)}
        return self.with_sources(Prepared(log, columns))

    def init(self, key: Key, spec: Spec, given: PyTree) -> DeterministicState:
        if spec.num_actions is not None:
            raise ConfigurationError(
                "ReBRAC needs continuous actions; the log's are discrete. IQL or CQL learn from it."
            )
        a_key, q_key = jax.random.split(key)
        size, numbers = spec.vector_size, spec.action_size
        shape = self.actor_network or dataclasses.replace(self.network, layer_norm="none")
        actor = MLP.create(size, shape, numbers, key=a_key, start="small", final_gain=1e-3)
        critics = ContinuousCritics.create(
            self.count_critics(given, self.num_critics),
            size,
            numbers,
            self.network,
            key=q_key,
            start="small",
            final_gain=3e-3,
        )
        return fresh_state(DeterministicPolicy(actor), critics, self._actor_optimizer, self._optimizer)

    def update(
        self, state: DeterministicState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[DeterministicState, Metrics]:
        action, next_obs, known = batch["action"], batch["next_obs"], batch["next_action_known"]
        noise = jax.random.normal(key, action.shape)
        next_action = smoothed_action(state.target_actor.mode(next_obs), noise, self.target_noise, self.noise_clip)
        penalty = known * squared_distance(next_action, batch["next_action"])
        next_q = self.pessimistic(state.target_critics(next_obs, next_action))
        reward, discount = self.td_return(batch)
        td_target = reward + discount * (next_q - self.critic_bc_weight * penalty)
        td_target = self.targets(td_target, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(batch["obs"], action)
            return td_loss(q, td_target, critic_weight), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        state = state._replace(critics=state.critics.step(self._optimizer, gradients))

        due = (step.update + 1) % self.actor_every_updates == 0
        state = jax.lax.cond(due, self._update_actor, lambda state, batch: state, state, dict(batch))
        metrics = {"loss/critic": loss_q, "q/data_mean": q_mean}
        metrics["bc/next"] = jnp.sum(penalty) / jnp.maximum(jnp.sum(known), 1.0)
        return state, metrics | state.actor_metrics

    def _update_actor(self, state: DeterministicState, batch: Batch) -> DeterministicState:
        """Equations (4) to (6)."""
        obs, action, critics = batch["obs"], batch["action"], state.critics.model

        def loss(policy_action: Array) -> tuple[Array, Array]:
            q = self.pessimistic(critics(obs, policy_action))
            return penalized_actor_loss(q, policy_action, action, self.actor_bc_weight), q

        return actor_step(state, loss, obs, action, self._actor_optimizer, self.target_rate)

    def policy(self, state: DeterministicState, given: PyTree) -> DeterministicPolicy:
        return state.actor.model

    def value(self, state: DeterministicState, given: PyTree) -> ContinuousCriticValue:
        return ContinuousCriticValue(state.critics.model, state.actor.model)
