"""Losses that several algorithms share, on plain arrays; B transitions, A actions, C critics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from stitchrl.jax_types import Array, Scalar
from stitchrl.nn.distributions import masked_log_softmax, take_action

__all__ = [
    "MAX_WEIGHT",
    "advantage_weighted_loss",
    "damped_imitation_loss",
    "effective_share",
    "expected_soft_actor_loss",
    "expectile_loss",
    "for_critics",
    "soft_actor_loss",
    "td_loss",
    "temperature_loss",
]

MAX_WEIGHT = 100.0
"""Cap on advantage weights (official code of IQL, CORL's of AWAC)."""
LOGIT_WEIGHT = 1e-2
"""Weight of the squared logits in `damped_imitation_loss` (official code of discrete BCQ)."""


def advantage_weighted_loss(
    log_prob: Float[Array, " B"],
    adv: Float[Array, " B"],
    td_weight: Float[Array, " B"],
    inverse_temperature: Scalar,
) -> tuple[Float[Array, ""], Float[Array, " B"]]:
    """-E[w log pi(a|s)], w = min(exp(inverse_temperature adv), 100), of the logged actions; also w (B,).

    A row without a TD target (td_weight 0) has an advantage that nothing was fitted to: it is imitated with weight 1.
    """
    weight = jnp.minimum(jnp.exp(inverse_temperature * jax.lax.stop_gradient(adv)), MAX_WEIGHT)
    weight = jnp.where(td_weight > 0, weight, 1.0)
    return -jnp.mean(weight * log_prob), weight


def effective_share(weight: Float[Array, " B"]) -> Float[Array, ""]:
    """(E w)^2 / E w^2: the share of a batch that counts under its weights, 1 where all are alike and 1 / B for a single one."""
    largest = jnp.maximum(jnp.max(weight), jnp.finfo(jnp.float32).tiny)  # so that no square overflows or vanishes
    scaled = weight / largest
    return jnp.mean(scaled) ** 2 / jnp.maximum(jnp.mean(scaled**2), jnp.finfo(jnp.float32).tiny)


def damped_imitation_loss(
    logits: Float[Array, "B A"], action: Int[Array, " B"], action_mask: Bool[Array, "B A"]
) -> Float[Array, ""]:
    """-E[log b(a|s)] + 0.01 E[logit^2], the mean over rows and actions: the model of the behaviour in discrete BCQ.

    Forbidden actions have probability 0, and their logits count as 0 in the second term, which keeps the model from
    becoming certain of what it saw a few times (Fujimoto et al. 2019, arXiv 1910.01708, official code).
    """
    log_prob = take_action(masked_log_softmax(logits, action_mask), action)
    return -jnp.mean(log_prob) + LOGIT_WEIGHT * jnp.mean(jnp.where(action_mask, logits, 0.0) ** 2)


def expectile_loss(error: Float[Array, " B"], expectile: Scalar) -> Float[Array, " B"]:
    """|expectile - 1(error < 0)| error^2 (Kostrikov et al. 2021, eq. 5); error = target - prediction.

    At 0.5 it is half the squared error (the mean); towards 1 its minimiser rises to the largest target.
    """
    weight = jnp.where(error < 0, 1.0 - expectile, expectile)
    return weight * error**2


def for_critics(weight: Float[Array, " B"] | Float[Array, "C B"]) -> Float[Array, "c B"]:
    """Weights of rows as (C, B), each critic's own, or as (1, B), the same for all critics."""
    return weight if weight.ndim == 2 else weight[None, :]


def td_loss(
    q: Float[Array, "C B"],
    td_target: Float[Array, " B"] | Float[Array, "C B"],
    td_weight: Float[Array, " B"] | Float[Array, "C B"],
) -> Float[Array, ""]:
    """Sum over critics of the mean squared TD error; rows without a target have td_weight 0.

    Targets and weights are those of all critics, or each critic's own.
    """
    fixed = jax.lax.stop_gradient(td_target)
    error = q - (fixed if fixed.ndim == 2 else fixed[None, :])
    return jnp.sum(jnp.mean(for_critics(td_weight) * error**2, axis=1))


def soft_actor_loss(log_prob: Float[Array, " B"], q: Float[Array, " B"], temperature: Scalar) -> Float[Array, ""]:
    """E[temperature log pi(a|s) - Q(s, a)], a ~ pi (Haarnoja et al. 2018, arXiv 1812.05905)."""
    return jnp.mean(temperature * log_prob - q)


def expected_soft_actor_loss(
    log_probs: Float[Array, "B A"], q: Float[Array, "B A"], temperature: Scalar
) -> Float[Array, ""]:
    """The loss of `soft_actor_loss` with the exact expectation over discrete actions (Christodoulou 2019, arXiv 1910.07207)."""
    return jnp.mean(jnp.sum(jnp.exp(log_probs) * (temperature * log_probs - q), axis=-1))


def temperature_loss(
    log_temperature: Scalar, log_prob: Float[Array, " B"], entropy_target: float | Float[Array, " B"]
) -> Float[Array, ""]:
    """-log_temperature E[log pi(a|s) + entropy_target]: the temperature rises while entropy is below its target.

    Haarnoja et al. 2018 (arXiv 1812.05905) have the temperature itself in place of its logarithm, which is what the
    official code of CQL has. The loss has a gradient by the temperature alone.
    """
    return -log_temperature * jnp.mean(jax.lax.stop_gradient(log_prob) + entropy_target)
