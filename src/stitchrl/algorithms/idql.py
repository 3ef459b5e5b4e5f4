"""IDQL: implicit diffusion Q-learning (Hansen-Estruch and others 2023, arXiv 2304.10573), for continuous actions.

A diffusion model imitates the log, however many kinds of action it holds for a state; critics are learned as in IQL,
from logged actions alone; and the policy acts by the best of many draws of the diffusion. Nothing that is learned
depends on the policy. One update, in the order of the official code (philippe-eecs/IDQL,
jaxrl5/agents/ddpm_iql_simple/ddpm_iql_learner.py), with the kept_t of `nn/diffusion.py`, which falls with t:

    (1)  L_e  = E[ sum_j (e(s, x_t, t) - noise)_j^2 ],   x_t = sqrt(kept_t) a + sqrt(1 - kept_t) noise,
                noise ~ N(0, 1),   t one of 0 .. T - 1, equally often,   T = diffusion_steps
    (2)  ebar <- ebar + actor_target_rate (e - ebar)
    (3)  L_V  = E[ |expectile - 1(u < 0)| u^2 ],   u = min_i Qbar_i(s, a) - V(s)
    (4)  L_Q  = E[ mean_i (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]
    (5)  Qbar <- Qbar + target_rate (Q - Qbar)
    (6)  pi(s) = the a_k with the largest min_i Qbar_i(s, a_k),   a_k drawn by ebar,   k = 1 .. acting_candidates

e is a residual network with layer normalisation and dropout (`actor` in the state) that predicts the noise in a noisy
action; a draw starts from noise and removes in T steps the noise that ebar predicts. V is new in (4). The sum in (1) is
over the dimensions of an action. Rows without a TD target (the log was cut there and what followed is unknown) have
weight 0 in (3) and (4) and full weight in (1). `deviations` changes (3) alone; (6) is by the minimum.

With few steps the draws are inexact: with 5 steps, the paper's number, and a network that is exactly right, 22% of the
draws for a log of two actions, -0.7 and 0.7, end more than 0.25 from both; with 20 steps almost none do. Where critics
overvalue actions between those of the log, more steps help.

It acts by sampling: such actions have no density, so weight-based estimators do not apply. `policy.greedy()` makes its
candidates from the same fixed noise at every observation, so that the same observation always gives the same action.

`hidden_sizes` and `network` shape the critics and V only. The diffusion's own network has `actor_blocks` residual blocks of
`actor_width`.

With more candidates it follows the critics further from the log, and their errors too. The log holds it back only in
that no action is taken more than `acting_candidates` times as often as the diffusion draws it.

Deviations: V's network has no layer normalisation; the official one first normalises the columns of each observation,
which loses the observation's size. Layer normalisation adds 1e-5 to the variance, as PyTorch does, not 1e-6. First
weights are orthogonal, not Glorot's uniform ones. The cosine decay of the actor's step size is off unless
`actor_decay_updates` is given. The paper's second way to act, a draw by weights from (3) instead of the best, is not
offered. The paper trains critics for half as many updates as the actor; the official code updates both each time, as
this one does. Images are not supported.

Use: continuous actions, on logs with several good but different actions in one state, and where how far to follow the
critics is to be chosen after training.

Avoid: where an action must be computed in little time, as each costs `acting_candidates` draws of `diffusion_steps`
passes; and wherever the density of the policy's actions is needed.

First knob: `expectile`, from 0.5 to 0.9: larger is more optimistic among the actions in the log. Then
`acting_candidates`, from 1, which imitates the log, to 256.

Metrics: loss/actor (1), loss/value (3), loss/critic (4), q/data_mean, v/mean, adv/mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.losses import expectile_loss, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.diffusion import DiffusionPolicy, noisy
from stitchrl.nn.networks import MLP
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = ["IDQL", "denoising_loss"]

SOURCE = "philippe-eecs/IDQL, launcher/examples/train_ddpm_iql_offline.py"


def denoising_loss(predicted: Float[Array, "B action"], noise: Float[Array, "B action"]) -> Float[Array, ""]:
    """Equation (1)."""
    return jnp.mean(jnp.sum((predicted - noise) ** 2, axis=-1))


class IDQLState(NamedTuple):
    """Everything a resume needs."""

    actor: Trainable[DiffusionPolicy]
    value: Trainable[MLP]
    critics: Trainable[ContinuousCritics]
    target_actor: DiffusionPolicy
    target_critics: ContinuousCritics


@dataclasses.dataclass(frozen=True)
class IDQL(SourceCriticSettings):
    """A diffusion that imitates the log, whose best draw by IQL's critics is taken."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    acts: ClassVar[str] = "sample"
    presets: ClassVar[Mapping[str, Preset]] = {
        "mujoco": Preset(
            {"actor_decay_updates": 3_000_000},
            SOURCE,
            "batches of 512 rows, rewards times 1000 / (largest - smallest return of an episode), observations as they are, "
            "3,000,000 updates",
        ),
        "antmaze": Preset(
            {"expectile": 0.9, "actor_decay_updates": 3_000_000},
            SOURCE,
            "batches of 512 rows, rewards minus 1 (reward_shift=-1.0), observations as they are, 3,000,000 updates",
        ),
    }

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    expectile: float = setting(
        0.7, "(0, 1)", "Larger is more optimistic; the papers take 0.7 for most tasks and 0.9 for mazes."
    )
    acting_candidates: int = setting(
        64, "at least 1", "Draws among which the policy takes the best; 1 imitates the log."
    )
    diffusion_steps: int = setting(5, "at least 1", "Steps of the diffusion from noise to an action.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    actor_target_rate: float = setting(
        0.001, "(0, 1]", "Share of the way the diffusion that acts moves each update to the one that learns."
    )
    actor_weight_decay: float = setting(
        1e-4, "[0, inf)", "Each update shrinks the diffusion's parameters by this share times the step size."
    )
    num_critics: int = setting(2, "at least 1", "Critics; their minimum is the Q of V's loss and of the choice.")
    actor_width: int = setting(
        256, "at least 1", "Width of the residual blocks of the diffusion's network; smaller is faster, such as 64."
    )
    actor_blocks: int = setting(3, "at least 1", "Residual blocks of the diffusion's network.")
    actor_dropout: float = setting(
        0.1, "[0, 1)", "Share of a block's inputs that dropout sets to 0 while it learns.", static=True
    )
    actor_decay_updates: int = setting(
        0, "at least 0", "Cosine decay of the diffusion's step size over this many updates; 0 is off."
    )

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate)

    @property
    def _actor_optimizer(self) -> optax.GradientTransformation:
        decay = self.actor_decay_updates or self.decay_updates
        return self.adam(self.learning_rate, decay_updates=decay, weight_decay=self.actor_weight_decay)

    def init(self, key: Key, spec: Spec, given: PyTree) -> IDQLState:
        if spec.num_actions is not None:
            raise ConfigurationError(
                "IDQL needs continuous actions; the log's are discrete. IQL, BCQ or CQL learn from it."
            )
        a_key, v_key, q_key = jax.random.split(key, 3)
        size, numbers = spec.vector_size, spec.action_size
        actor = DiffusionPolicy.create(
            size, numbers, self.actor_width, self.actor_blocks, self.diffusion_steps, self.actor_dropout, key=a_key
        )
        value = MLP.create(size, self.network, 1, key=v_key)
        critics = ContinuousCritics.create(
            self.count_critics(given, self.num_critics), size, numbers, self.network, key=q_key
        )
        return IDQLState(
            Trainable.create(actor, self._actor_optimizer),
            Trainable.create(value, self._optimizer),
            Trainable.create(critics, self._optimizer),
            jax.tree.map(jnp.copy, actor),
            jax.tree.map(jnp.copy, critics),
        )

    def update(self, state: IDQLState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[IDQLState, Metrics]:
        obs, action, td_weight = batch["obs"], batch["action"], batch["td_weight"]
        actor, loss_pi = self._actor_step(state.actor, obs, action, key=key)

        q_data = self.pessimistic(state.target_critics(obs, action))

        def value_loss(value: MLP) -> Array:
            return jnp.mean(td_weight * expectile_loss(q_data - value(obs)[:, 0], self.expectile))

        loss_v, gradients = jax.value_and_grad(value_loss)(state.value.model)
        value = state.value.step(self._optimizer, gradients)

        v, next_v = jnp.split(value.model(jnp.concatenate([obs, batch["next_obs"]]))[:, 0], 2)
        reward, discount = self.td_return(batch)
        td_target = self.targets(reward + discount * next_v, batch, self.count_critics(given, self.num_critics))
        critic_weight = self.critic_weight(batch, given, self.num_critics)

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return td_loss(q, td_target, critic_weight) / len(q), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self._optimizer, gradients)

        after = IDQLState(
            actor,
            value,
            critics,
            polyak(state.target_actor, actor.model, self.actor_target_rate),
            polyak(state.target_critics, critics.model, self.target_rate),
        )
        metrics = {"loss/actor": loss_pi, "loss/value": loss_v, "loss/critic": loss_q, "q/data_mean": q_mean}
        return after, metrics | {"v/mean": jnp.mean(v), "adv/mean": jnp.mean(q_data - v)}

    def _actor_step(
        self, actor: Trainable[DiffusionPolicy], obs: Array, action: Array, *, key: Key
    ) -> tuple[Trainable[DiffusionPolicy], Array]:
        """One step of equation (1), and the loss before it."""
        step_key, noise_key, dropout_key = jax.random.split(key, 3)
        number = jax.random.randint(step_key, (action.shape[0],), 0, self.diffusion_steps)
        noise = jax.random.normal(noise_key, action.shape)
        point, time = noisy(action, noise, number, self.diffusion_steps), number.astype(jnp.float32)[:, None]

        def loss(model: DiffusionPolicy) -> Array:
            return denoising_loss(model.predicted_noise(obs, point, time, key=dropout_key), noise)

        value, gradients = jax.value_and_grad(loss)(actor.model)
        return actor.step(self._actor_optimizer, gradients), value

    def policy(self, state: IDQLState, given: PyTree) -> BestOfPolicy:
        proposal, critics = state.target_actor, state.target_critics.ensemble
        return BestOfPolicy.create(proposal, critics, self.acting_candidates, proposal.noise_size)

    def value(self, state: IDQLState, given: PyTree) -> ContinuousCriticValue:
        return ContinuousCriticValue(state.critics.model, self.policy(state, given))
