"""BEAR: Q-learning held to the support of the log (Kumar, Fu, Tucker, Levine 2019, arXiv 1906.00949).

For continuous actions. One update, in the order of the official code (aviralkumar2907/BEAR, algos.py); each step uses
what the steps before it updated. pi is tanh of a normal; D(s, z) is the decoder of an autoencoder of logged actions,
before its tanh:

    (1)  L_D   = E[ (tanh D(s, z) - a)^2 ] + KL(N(m, v), N(0, 1)) / 2,   z ~ N(m, v),  (m, v) = encoder(s, a)
    (2)  y     = r + gamma (1 - terminated) max_k [ w min_i Qbar_i(s', a_k) + (1 - w) max_i Qbar_i(s', a_k) ],
                 a_k ~ pibar(s'),  k = 1 .. candidates,  w = min_weight
    (3)  L_Q   = sum_i E[ (y - Q_i(s, a))^2 ]
    (4)  M(s)  = sqrt( E k(x, x') + E k(u, u') - 2 E k(x, u) + 1e-6 ),   means over `match_samples` each of
                 x = D(s, z), z ~ N(0, 1) cut at +-0.5, and of u, pi's actions before tanh, their noise cut likewise
    (5)  L_pi  = E[ multiplier M(s) - min_i mean_u Q_i(s, tanh u) ],   without the second term in the warm start
    (6)  the multiplier, kept in [exp(-5), exp(10)], rises by its logarithm while E[M] > mmd_threshold, and falls below
    (7)  Qbar <- Qbar + target_rate (Q - Qbar),   pibar <- pibar + target_rate (pi - pibar)

M is the maximum mean discrepancy, of few samples, so that it asks for the same support more than for the same density
(paper section 5). Kernels: "laplacian" exp(-|x - u|_1 / (2 kernel_width)), "gaussian" exp(-|x - u|^2 / (2
kernel_width)). Both terms of (1) are means over the numbers of a vector, as in the official code; z has twice as many
numbers as an action. It acts by sampling `acting_candidates` actions of pi and taking the best by Q_1. Such actions
have no density. `greedy()` uses the same noise at every observation, so that nothing is left to chance. Rows without a
TD target (the log was cut there and what followed is unknown) have weight 0 in (3).

Use: continuous actions of mixed quality, where the best of what was done is rare but present.

Avoid: short trainings: until `warm_start_updates` it only imitates, and then the multiplier needs thousands of updates. Logs
whose choices lie close together: the weights in (1) average away what differs by less than a standard deviation of about
0.35, in a box of [-1, 1].

First knob: `mmd_threshold`, from 0.01 to 0.2: larger lets the actor go further from the log.

Deviations: The official code starts the multiplier at exp of a random normal number, here at 1. Its warm start is 20 calls
of its training loop, which are of 1,000 updates each in its published commands. Log standard deviations are kept in [-20, 2]. The
variance of the critics is not penalised, as in the published commands. The official widths are the preset "mujoco".

Metrics: loss/critic, loss/behavior (1), loss/actor (5), q/data_mean, q/policy_mean (what the actor maximises), mmd/mean
(E[M]), mmd/multiplier, behavior/error (root mean squared distance of tanh D from the logged action, per action
dimension).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.generative import best_candidate_value, vae_step
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import choice, network_setting, setting
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.vae import ActionVAE
from stitchrl.nn.value import ContinuousCriticValue
from stitchrl.types import PyTree

__all__ = ["BEAR", "BEARState", "mean_discrepancy"]

LARGEST_NOISE = 0.5
"""Size at which the noise of the actor's actions in (4) and (5) is cut (official code)."""
LOG_MULTIPLIERS = (-5.0, 10.0)
WIDTHS = {"network": Network((400, 300)), "behavior_network": Network((750, 750))}
README, RUN = (
    "aviralkumar2907/BEAR, readme.md and algos.py",
    "batches of 100 rows, rewards and observations as they are",
)


class BEARState(NamedTuple):
    """Everything a resume needs."""

    behavior: Trainable[ActionVAE]
    actor: Trainable[SquashedGaussianPolicy]
    critics: Trainable[ContinuousCritics]
    log_multiplier: Trainable[Array]
    target_actor: SquashedGaussianPolicy
    target_critics: ContinuousCritics


def mean_discrepancy(
    x: Float[Array, "K B action"], u: Float[Array, "K B action"], kernel: str, kernel_width: Scalar
) -> Float[Array, " B"]:
    """Equation (4) for every row, from K samples of each of the two distributions."""

    def mean_kernel(one: Array, other: Array) -> Float[Array, " B"]:
        difference = one[:, None] - other[None, :]
        size = jnp.abs(difference) if kernel == "laplacian" else difference**2
        return jnp.mean(jnp.exp(-jnp.sum(size, axis=-1) / (2.0 * kernel_width)), axis=(0, 1))

    return jnp.sqrt(mean_kernel(x, x) + mean_kernel(u, u) - 2.0 * mean_kernel(x, u) + 1e-6)


@dataclasses.dataclass(frozen=True)
class BEAR(Algorithm):
    """An actor whose actions stay where the log has some."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    acts: ClassVar[str] = "sample"
    presets: ClassVar[Mapping[str, Preset]] = {
        "mujoco": Preset(WIDTHS, README, RUN),
        "mujoco gaussian": Preset(WIDTHS | {"kernel": "gaussian", "kernel_width": 20.0}, README, RUN),
    }

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    mmd_threshold: float = setting(
        0.05,
        "(0, inf)",
        "Discrepancy from the log's actions at which the multiplier stays; larger lets the actor go further from them.",
    )
    kernel_width: float = setting(
        10.0,
        "(0, inf)",
        "Width of the kernel; larger compares means more than shapes. Official: 10 laplacian, 20 gaussian.",
    )
    min_weight: float = setting(
        0.75,
        "[0, 1]",
        "Weight of the smallest critic in the target; the largest has the rest. Larger is more cautious.",
    )
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size for the critics and the autoencoder.")
    actor_learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size for the actor.")
    multiplier_learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size for the logarithm of the multiplier.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the targets move each update.")
    warm_start_updates: int = setting(
        20_000, "at least 0", "Updates in which the actor only minimises the discrepancy."
    )
    match_samples: int = setting(
        5, "at least 1", "Actions of each kind in the discrepancy; few match supports, not densities."
    )
    candidates: int = setting(10, "at least 1", "Actions of the actor over which the target takes its maximum.")
    acting_candidates: int = setting(10, "at least 1", "Actions of the actor among which the policy chooses.")
    num_critics: int = setting(2, "at least 1", "Critics; the actor maximises the smallest of them.")
    kernel: Literal["laplacian", "gaussian"] = choice(
        "laplacian", ("laplacian", "gaussian"), "Kernel of the discrepancy; the official runs differ by robot."
    )
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")
    behavior_network: Network | None = network_setting(
        None, "Shape of the autoencoder's networks; that of `network` by default."
    )

    def init(self, key: Key, spec: Spec, given: PyTree) -> BEARState:
        if spec.num_actions is not None:
            raise ConfigurationError(
                "BEAR needs continuous actions; the log's are discrete. BCQ, IQL or CQL learn from it."
            )
        b_key, a_key, q_key = jax.random.split(key, 3)
        size, actions, optimizer = spec.vector_size, spec.action_size, self.adam(self.learning_rate)
        vae = ActionVAE.create(size, actions, self.behavior_network or self.network, key=b_key)
        shape = self.actor_network or self.network
        actor = SquashedGaussianPolicy(MLP.create(size, shape, 2 * actions, key=a_key, start="uniform"))
        critics = ContinuousCritics.create(self.num_critics, size, actions, self.network, key=q_key, start="uniform")
        return BEARState(
            Trainable.create(vae, optimizer),
            Trainable.create(actor, self.adam(self.actor_learning_rate)),
            Trainable.create(critics, optimizer),
            Trainable.create(jnp.float32(0.0), self.adam(self.multiplier_learning_rate)),
            jax.tree.map(jnp.copy, actor),
            jax.tree.map(jnp.copy, critics),
        )

    def update(self, state: BEARState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[BEARState, Metrics]:
        vae_key, target_key, actor_key = jax.random.split(key, 3)
        obs, action, optimizer = batch["obs"], batch["action"], self.adam(self.learning_rate)
        behavior, metrics = vae_step(state.behavior, obs, action, optimizer, key=vae_key)

        td_target = self._td_target(state, batch, key=target_key)

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(obs, action)
            return td_loss(q, td_target, batch["td_weight"]), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(optimizer, gradients)

        multiplier = jnp.exp(state.log_multiplier.model)
        actor, actor_metrics = self._actor_step(
            state.actor, behavior.model, critics.model, multiplier, obs, step, key=actor_key
        )
        metrics |= {"loss/critic": loss_q, "q/data_mean": q_mean, "mmd/multiplier": multiplier} | actor_metrics
        return (
            BEARState(
                behavior,
                actor,
                critics,
                self._multiplier_step(state.log_multiplier, multiplier, actor_metrics["mmd/mean"]),
                polyak(state.target_actor, actor.model, self.target_rate),
                polyak(state.target_critics, critics.model, self.target_rate),
            ),
            metrics,
        )

    def _td_target(self, state: BEARState, batch: Batch, *, key: Key) -> Float[Array, " B"]:
        """Equation (2)."""
        next_obs = batch["next_obs"]
        noise = jax.random.normal(key, (self.candidates, *batch["action"].shape))
        next_actions = state.target_actor.candidates(next_obs, noise)
        next_v = best_candidate_value(state.target_critics.several(next_obs, next_actions), self.min_weight)
        reward, discount = self.td_return(batch)
        return reward + discount * next_v

    def _actor_step(
        self,
        actor: Trainable[SquashedGaussianPolicy],
        vae: ActionVAE,
        critics: ContinuousCritics,
        multiplier: Array,
        obs: Array,
        step: Step,
        *,
        key: Key,
    ) -> tuple[Trainable[SquashedGaussianPolicy], Metrics]:
        """One step of equation (5)."""
        latent_key, noise_key = jax.random.split(key)
        shape = (self.match_samples, obs.shape[0])
        generated = vae.generate(obs, jax.random.normal(latent_key, (*shape, vae.latent_size)))
        noise = jax.random.normal(noise_key, (*shape, vae.latent_size // 2))
        noise = jnp.clip(noise, -LARGEST_NOISE, LARGEST_NOISE)
        heeds_critics = (step.update >= self.warm_start_updates).astype(jnp.float32)

        def loss(model: SquashedGaussianPolicy) -> tuple[Array, Metrics]:
            pi = model(obs)
            inner = pi.mean[None] + jnp.exp(pi.log_std)[None] * noise
            discrepancy = jnp.mean(mean_discrepancy(generated, inner, self.kernel, self.kernel_width))
            q = jnp.mean(jnp.min(jnp.mean(critics.several(obs, jnp.tanh(inner)), axis=1), axis=0))
            value = multiplier * discrepancy - heeds_critics * q
            return value, {"loss/actor": value, "q/policy_mean": q, "mmd/mean": discrepancy}

        gradients, metrics = jax.grad(loss, has_aux=True)(actor.model)
        return actor.step(self.adam(self.actor_learning_rate), gradients), metrics

    def _multiplier_step(
        self, log_multiplier: Trainable[Array], multiplier: Array, discrepancy: Array
    ) -> Trainable[Array]:
        """Equation (6): one step down -multiplier (E[M] - mmd_threshold), by its logarithm."""
        gradient = -multiplier * (discrepancy - self.mmd_threshold)
        after = log_multiplier.step(self.adam(self.multiplier_learning_rate), gradient)
        return Trainable(jnp.clip(after.model, *LOG_MULTIPLIERS), after.optimizer_state)

    def policy(self, state: BEARState, given: PyTree) -> BestOfPolicy:
        actor = state.actor.model
        assert isinstance(actor.network, MLP)
        size = actor.network.biases[-1].shape[-1] // 2
        return BestOfPolicy.create(actor, state.critics.model.perceptron(0), self.acting_candidates, size)

    def value(self, state: BEARState, given: PyTree) -> ContinuousCriticValue:
        return ContinuousCriticValue(state.critics.model, self.policy(state, given))
