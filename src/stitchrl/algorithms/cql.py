"""CQL: conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), for discrete and for continuous actions.

Both add to the squared TD error a penalty (paper eq. 4, CQL(H)) that pushes down what the log did not do:

    (1)  L = sum_i E[ (y - Q_i(s, a))^2 ] + cql_weight sum_i E[ log sum_b exp Q_i(s, b) - Q_i(s, a) ]
    (2)  Qbar <- Qbar + target_rate (Q - Qbar)

The penalty is in the LOSS, at the state of the logged action; the target is ordinary. It is in units of value against
log-probability, so its strength depends on the reward's scale. The squared error has no factor 1/2, as in the official
code; the paper has it, so its weight is half of this one.

Discrete: the sum of (1) runs over the allowed actions; there is no actor, and

    (3)  y = r + gamma (1 - terminated) max_{a' allowed} min_i Qbar_i(s', a')

Continuous: soft actor-critic, every gradient at the parameters before the update, with the temperature alpha just
updated (aviralkumar2907/CQL, d4rl/rlkit/torch/sac/cql.py), H = -(numbers in an action):

    (4)  L_alpha = -log alpha E[ log pi(a|s) + H ],   a ~ pi(s)
    (5)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],   a ~ pi(s)
    (6)  y       = r + gamma (1 - terminated) min_i Qbar_i(s', a'),   a' ~ pi(s')
    (7)  log sum_b exp Q(s, b)  ~  log sum_k exp( Q(s, b_k) - log d_k(b_k) ),   K actions b_k each from the uniform
         distribution, from pi(s) and from pi(s'), every one valued at s, d_k its own density
    (8)  with `lagrange_gap` above 0, the penalty of each critic is alpha' (cql_weight penalty - lagrange_gap), and
         alpha' in [0, 1e6] rises while that difference is above 0

(6) has no entropy term (the official `deterministic_backup`). (7) is the official version 3: it leaves out a constant,
log 3K, that has no gradient.

Deviations. Discrete: the official code (atari) is on 200 quantiles with periodic target copies and a Huber loss; here Q
is an expectation, the loss squared, targets averaged, and the target takes the smaller of two critics. Continuous: the
official networks have three hidden layers (`hidden_sizes`) and its actor imitates for its first 40,000 updates; here
two, and never. The Lagrange term is off, as the official commands for gym have it (its code's default is on). First
weights are orthogonal, not the official very small ones (docs/decisions/0011); log standard deviations are kept in
[-20, 2], not [-5, 2].

Metrics: loss/critic (TD part), loss/cql (penalty, unweighted), q/data_mean. Discrete: q/gap (largest allowed Q above
the logged one), policy/agreement. Continuous: loss/actor, q/policy_mean, policy/entropy (a sample of it, nats),
policy/mode_error, temperature, cql/multiplier (alpha' of (8), else 1).
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.losses import soft_actor_loss, td_loss, temperature_loss
from stitchrl.algorithms.optimizers import apply_gradients, polyak
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.distributions import TanhNormal, mask_logits, take_action
from stitchrl.nn.networks import MLP, Ensemble
from stitchrl.nn.policy import ValueGreedyPolicy
from stitchrl.nn.tiling import tile_count, tiled_value_and_grad
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["CQL", "ContinuousCQLState", "DiscreteCQLState", "conservative_penalty", "sampled_penalty"]

LARGEST_MULTIPLIER = 1e6


class DiscreteCQLState(NamedTuple):
    """Everything a resume needs."""

    critics: Ensemble
    target_critics: Ensemble
    critic_optimizer: PyTree


class ContinuousCQLState(NamedTuple):
    """Everything a resume needs."""

    actor: SquashedGaussianPolicy
    critics: ContinuousCritics
    target_critics: ContinuousCritics
    log_temperature: Float[Array, ""]
    log_multiplier: Float[Array, ""]
    actor_optimizer: PyTree
    critic_optimizer: PyTree
    temperature_optimizer: PyTree
    multiplier_optimizer: PyTree


def conservative_penalty(
    q: Float[Array, "C B A"], action: Int[Array, " B"], action_mask: Bool[Array, "B A"]
) -> Float[Array, ""]:
    """Second term of equation (1) without its weight: at least 0, and 0 when all mass is on the logged action."""
    allowed = jax.vmap(mask_logits, (0, None))(q, action_mask)
    data = jax.vmap(take_action, (0, None))(q, action)
    return jnp.sum(jnp.mean(jax.nn.logsumexp(allowed, axis=-1) - data, axis=1))


def sampled_penalty(
    q: Float[Array, "C K B"], log_density: Float[Array, "K B"], q_data: Float[Array, "C B"]
) -> Float[Array, " C"]:
    """Second term of (1) for each critic, the sum estimated by (7) from K actions of known density."""
    return jnp.mean(jax.nn.logsumexp(q - log_density[None], axis=1) - q_data, axis=1)


@dataclasses.dataclass(frozen=True)
class CQL(Algorithm):
    """Conservative Q-learning. Settings that name the actor, samples or Lagrange are for continuous actions."""

    needs: ClassVar[tuple[str, ...]] = (
        "obs", "action", "reward", "next_obs", "terminated", "td_weight", "action_mask", "next_action_mask",
    )  # fmt: skip

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    cql_weight: float = setting(
        5.0, "[0, inf)",
        "Larger stays nearer to what the log did often; 0 is naive Q-learning. Official runs: 5 or 10 (MuJoCo), 1 to 4 (Atari).",
    )  # fmt: skip
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the critics and the multiplier of (8).")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; the target takes their minimum.")
    hidden_sizes: tuple[int, ...] = setting((256, 256), "at least 1", "Width of each hidden layer.")
    actor_learning_rate: float = setting(1e-4, "(0, inf)", "Adam's step size for the actor and the temperature.")
    samples: int = setting(10, "at least 1", "Actions from each of the three distributions in the penalty.")
    lagrange_gap: float = setting(
        0.0,
        "[0, inf)",
        "Weighted penalty at which the multiplier rests; 0 leaves the penalty's weight fixed.",
        static=True,
    )

    def init(self, key: Key, spec: Spec) -> DiscreteCQLState | ContinuousCQLState:
        optimizer = self.adam(self.learning_rate)
        if spec.num_actions is not None:
            ensemble = Ensemble.create(
                self.num_critics, spec.observation_size, self.hidden_sizes, spec.num_actions, key=key
            )
            return DiscreteCQLState(ensemble, jax.tree.map(jnp.copy, ensemble), optimizer.init(ensemble))
        a_key, q_key = jax.random.split(key)
        actor = SquashedGaussianPolicy(
            MLP.create(spec.observation_size, self.hidden_sizes, 2 * spec.action_size, key=a_key, final_gain=0.01)
        )
        critics = ContinuousCritics.create(
            self.num_critics, spec.observation_size, spec.action_size, self.hidden_sizes, key=q_key
        )
        log_temperature, log_multiplier = jnp.float32(0.0), jnp.float32(0.0)
        return ContinuousCQLState(
            actor,
            critics,
            jax.tree.map(jnp.copy, critics),
            log_temperature,
            log_multiplier,
            self.adam(self.actor_learning_rate).init(actor),
            optimizer.init(critics),
            self.adam(self.actor_learning_rate).init(log_temperature),
            optimizer.init(log_multiplier),
        )

    def update(
        self, state: DiscreteCQLState | ContinuousCQLState, batch: Batch, key: Key
    ) -> tuple[DiscreteCQLState | ContinuousCQLState, Metrics]:
        if isinstance(state, DiscreteCQLState):
            return self._update_discrete(state, batch)
        return self._update_continuous(state, batch, key)

    # --- discrete ------------------------------------------------------------------------------------------------

    def _update_discrete(self, state: DiscreteCQLState, batch: Batch) -> tuple[DiscreteCQLState, Metrics]:
        action, mask = batch["action"], batch["action_mask"]
        next_q = jnp.min(state.target_critics(batch["next_obs"]), axis=0)
        next_v = jnp.max(mask_logits(next_q, batch["next_action_mask"]), axis=-1)
        reward, discount = self.td_return(batch)
        td_target = reward + discount * next_v

        def loss(critics: Ensemble) -> tuple[Array, tuple[Array, Array, Array]]:
            q = critics(batch["obs"])
            td = td_loss(jax.vmap(take_action, (0, None))(q, action), td_target, batch["td_weight"])
            penalty = conservative_penalty(q, action, mask)
            return td + self.cql_weight * penalty, (q, td, penalty)

        (_, (q, td, penalty)), gradients = jax.value_and_grad(loss, has_aux=True)(state.critics)
        critics, optimizer = apply_gradients(
            self.adam(self.learning_rate), gradients, state.critic_optimizer, state.critics
        )
        allowed = mask_logits(jnp.mean(q, axis=0), mask)
        data = take_action(jnp.mean(q, axis=0), action)
        metrics = {
            "loss/critic": td,
            "loss/cql": penalty,
            "q/data_mean": jnp.mean(data),
            "q/gap": jnp.mean(jnp.max(allowed, axis=-1) - data),
            "policy/agreement": jnp.mean((jnp.argmax(allowed, axis=-1) == action).astype(jnp.float32)),
        }
        target_critics = polyak(state.target_critics, critics, self.target_rate)
        return DiscreteCQLState(critics, target_critics, optimizer), metrics

    # --- continuous ----------------------------------------------------------------------------------------------

    def _update_continuous(
        self, state: ContinuousCQLState, batch: Batch, key: Key
    ) -> tuple[ContinuousCQLState, Metrics]:
        actor_key, target_key, penalty_key = jax.random.split(key, 3)
        obs, action = batch["obs"], batch["action"]

        log_temperature, temperature_optimizer, actor, actor_optimizer, metrics = self._actor_step(
            state, obs, action, actor_key
        )

        pi, next_pi = state.actor(obs), state.actor(batch["next_obs"])
        next_action = next_pi.sample(key=target_key)
        next_q = jnp.min(state.target_critics(batch["next_obs"], next_action), axis=0)
        reward, discount = self.td_return(batch)
        td_target = reward + discount * next_q

        sampled, log_density = self._sampled_actions(pi, next_pi, penalty_key)
        # Rows first, so that parts of the batch can be taken one after another.
        parts = {
            "obs": obs,
            "candidates": jnp.swapaxes(jnp.concatenate([sampled, action[None]]), 0, 1),
            "log_density": log_density.T,
            "td_target": td_target,
            "td_weight": batch["td_weight"],
        }
        multiplier = jnp.clip(jnp.exp(state.log_multiplier), 0.0, LARGEST_MULTIPLIER)

        def critic_loss(critics: ContinuousCritics, part: Batch) -> tuple[Array, tuple[Array, Array, Array]]:
            q = critics.several(part["obs"], jnp.swapaxes(part["candidates"], 0, 1))
            td = td_loss(q[:, -1], part["td_target"], part["td_weight"])
            penalty = sampled_penalty(q[:, :-1], part["log_density"].T, q[:, -1])
            weighted = self.cql_weight * penalty
            if self.lagrange_gap:
                weighted = multiplier * (weighted - self.lagrange_gap)
            return td + jnp.sum(weighted), (td, penalty, jnp.mean(q[:, -1]))

        tiles = tile_count(len(obs), parts["candidates"].shape[1])
        (_, (td, penalty, q_mean)), gradients = tiled_value_and_grad(critic_loss, state.critics, parts, tiles)
        critics, critic_optimizer = apply_gradients(
            self.adam(self.learning_rate), gradients, state.critic_optimizer, state.critics
        )

        log_multiplier, multiplier_optimizer = self._multiplier_step(state, multiplier, penalty)
        metrics |= {"loss/critic": td, "loss/cql": jnp.sum(penalty), "q/data_mean": q_mean}
        metrics |= {"temperature": jnp.exp(log_temperature), "cql/multiplier": multiplier}
        return (
            ContinuousCQLState(
                actor,
                critics,
                polyak(state.target_critics, critics, self.target_rate),
                log_temperature,
                log_multiplier,
                actor_optimizer,
                critic_optimizer,
                temperature_optimizer,
                multiplier_optimizer,
            ),
            metrics,
        )

    def _sampled_actions(
        self, pi: TanhNormal, next_pi: TanhNormal, key: Key
    ) -> tuple[Float[Array, "K B action"], Float[Array, "K B"]]:
        """The actions b_k of equation (7) and their log-densities, 3 * samples an observation."""
        uniform_key, pi_key, next_key = jax.random.split(key, 3)
        uniform = jax.random.uniform(uniform_key, (self.samples, *pi.mean.shape), minval=-1.0, maxval=1.0)
        drawn = [
            (uniform, jnp.full(uniform.shape[:2], -uniform.shape[2] * math.log(2.0), jnp.float32)),
            pi.sample_with_log_prob(key=pi_key, count=(self.samples,)),
            next_pi.sample_with_log_prob(key=next_key, count=(self.samples,)),
        ]
        return jnp.concatenate([a for a, _ in drawn]), jnp.concatenate([density for _, density in drawn])

    def _multiplier_step(
        self, state: ContinuousCQLState, multiplier: Array, penalty: Float[Array, " C"]
    ) -> tuple[Array, PyTree]:
        """Equation (8): one step down -alpha' (cql_weight penalty - lagrange_gap), by log alpha'."""
        if not self.lagrange_gap:
            return state.log_multiplier, state.multiplier_optimizer
        difference = jnp.mean(self.cql_weight * penalty) - self.lagrange_gap
        return apply_gradients(
            self.adam(self.learning_rate), -difference * multiplier, state.multiplier_optimizer, state.log_multiplier
        )

    def _actor_step(
        self, state: ContinuousCQLState, obs: Array, action: Array, key: Key
    ) -> tuple[Array, PyTree, SquashedGaussianPolicy, PyTree, Metrics]:
        """Equations (4) and (5), on one sampled action an observation."""
        optimizer = self.adam(self.actor_learning_rate)
        _, log_prob = state.actor(obs).sample_with_log_prob(key=key)
        gradient = jax.grad(temperature_loss)(state.log_temperature, log_prob, -float(action.shape[1]))
        log_temperature, temperature_optimizer = apply_gradients(
            optimizer, gradient, state.temperature_optimizer, state.log_temperature
        )
        temperature = jnp.exp(log_temperature)

        def actor_loss(actor: SquashedGaussianPolicy) -> tuple[Array, Metrics]:
            pi = actor(obs)
            policy_action, log_prob = pi.sample_with_log_prob(key=key)
            q = jnp.min(state.critics(obs, policy_action), axis=0)
            loss = soft_actor_loss(log_prob, q, temperature)
            metrics = {"loss/actor": loss, "q/policy_mean": jnp.mean(q), "policy/entropy": -jnp.mean(log_prob)}
            return loss, metrics | pi.metrics(action)

        gradients, metrics = jax.grad(actor_loss, has_aux=True)(state.actor)
        actor, actor_optimizer = apply_gradients(optimizer, gradients, state.actor_optimizer, state.actor)
        return log_temperature, temperature_optimizer, actor, actor_optimizer, metrics

    # --- what is learned -----------------------------------------------------------------------------------------

    def policy(self, state: DiscreteCQLState | ContinuousCQLState) -> ValueGreedyPolicy | SquashedGaussianPolicy:
        return ValueGreedyPolicy(state.critics) if isinstance(state, DiscreteCQLState) else state.actor

    def value(self, state: DiscreteCQLState | ContinuousCQLState) -> CriticValue | ContinuousCriticValue:
        if isinstance(state, DiscreteCQLState):
            return CriticValue(state.critics, ValueGreedyPolicy(state.critics))
        return ContinuousCriticValue(state.critics, state.actor)
