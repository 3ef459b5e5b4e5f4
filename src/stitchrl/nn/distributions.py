"""Distributions over actions, in log space: categorical under a mask, normal, and normal squashed by tanh.

Each has `log_prob`, `mode`, `sample` and `metrics`, so that one loss serves discrete and continuous actions.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from stitchrl.jax_types import AnyArray, Array, Key, Metrics

__all__ = [
    "Categorical",
    "Distribution",
    "Normal",
    "TanhNormal",
    "mask_logits",
    "masked_log_softmax",
    "take_action",
]

NEGATIVE = -1e9
"""Logit of a forbidden action: its probability underflows to exactly 0, and gradients stay finite."""
LARGEST_TANH = 1.0 - 1e-6
"""The largest size of an action before atanh: nearer to 1 float32 cannot undo a tanh."""
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
LOG_TWO = math.log(2.0)


def mask_logits(logits: Float[AnyArray, "*b A"], action_mask: Bool[AnyArray, "*b A"] | None) -> Float[Array, "*b A"]:
    """Logits with forbidden actions pushed to -1e9."""
    return jnp.asarray(logits) if action_mask is None else jnp.where(action_mask, logits, jnp.float32(NEGATIVE))


def masked_log_softmax(
    logits: Float[AnyArray, "*b A"], action_mask: Bool[AnyArray, "*b A"] | None
) -> Float[Array, "*b A"]:
    """Log-probabilities renormalised over the allowed actions."""
    return jax.nn.log_softmax(mask_logits(logits, action_mask), axis=-1)


def take_action(values: Float[AnyArray, "*b A"], action: Int[AnyArray, "*b"]) -> Float[Array, "*b"]:
    """values[..., action]."""
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]


class Distribution(eqx.Module):
    """One distribution over actions for each of B rows."""

    @abstractmethod
    def log_prob(self, action: Shaped[AnyArray, "B ..."]) -> Float[Array, " B"]:
        """(B,) log-probability, or log-density, of the given actions."""

    @abstractmethod
    def mode(self) -> Shaped[Array, "B ..."]:
        """The deterministic action, one per row."""

    @abstractmethod
    def sample(self, *, key: Key) -> Shaped[Array, "B ..."]:
        """One action drawn per row."""

    @abstractmethod
    def metrics(self, action: Shaped[AnyArray, "B ..."]) -> Metrics:
        """Scalars for the training log that compare the distribution with the logged actions."""


class Categorical(Distribution):
    """Over actions 0 to A - 1; rows of `log_probs` are normalised."""

    log_probs: Float[Array, "B A"]

    def log_prob(self, action: Shaped[AnyArray, " B"]) -> Float[Array, " B"]:
        return take_action(self.log_probs, action)

    def mode(self) -> Int[Array, " B"]:
        return jnp.argmax(self.log_probs, axis=-1)

    def sample(self, *, key: Key) -> Int[Array, " B"]:
        return jax.random.categorical(key, self.log_probs, axis=-1)

    def kl(self, other: Categorical) -> Float[Array, " B"]:
        """(B,) KL(self || other) in nats, at least 0; both under the same mask."""
        return jnp.sum(jnp.exp(self.log_probs) * (self.log_probs - other.log_probs), axis=-1)

    def metrics(self, action: Shaped[AnyArray, " B"]) -> Metrics:
        """policy/agreement: share of the actions that are the mode. policy/entropy: nats."""
        entropy = -jnp.sum(jnp.exp(self.log_probs) * self.log_probs, axis=-1)
        agreement = (self.mode() == action).astype(jnp.float32)
        return {"policy/agreement": jnp.mean(agreement), "policy/entropy": jnp.mean(entropy)}


class Normal(Distribution):
    """Independent normals; not squashed, so a sample may leave [-1, 1]."""

    mean: Float[Array, "B action"]
    log_std: Float[Array, "B action"]

    def log_prob(self, action: Shaped[AnyArray, "B action"]) -> Float[Array, " B"]:
        error = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * error**2 + self.log_std + HALF_LOG_TWO_PI, axis=-1)

    def mode(self) -> Float[Array, "B action"]:
        return self.mean

    def sample(self, *, key: Key) -> Float[Array, "B action"]:
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def kl(self, other: Normal) -> Float[Array, " B"]:
        """(B,) KL(self || other) in nats, at least 0: the sum over the dimensions of an action."""
        ratio, shift = jnp.exp(2.0 * (self.log_std - other.log_std)), (self.mean - other.mean) * jnp.exp(-other.log_std)
        return jnp.sum(0.5 * (ratio + shift**2 - 1.0) - (self.log_std - other.log_std), axis=-1)

    def metrics(self, action: Shaped[AnyArray, "B action"]) -> Metrics:
        """policy/mode_error: root mean squared distance of the mode, per action dimension. policy/entropy: nats."""
        entropy = jnp.sum(self.log_std + (0.5 + HALF_LOG_TWO_PI), axis=-1)
        return {"policy/mode_error": _distance(self.mean, action), "policy/entropy": jnp.mean(entropy)}


class TanhNormal(Distribution):
    """tanh of independent normals: actions in (-1, 1). `mean` and `log_std` are before the tanh."""

    mean: Float[Array, "*b action"]
    log_std: Float[Array, "*b action"]

    def log_prob(self, action: Shaped[AnyArray, "*b action"]) -> Float[Array, "*b"]:
        """The exact log-density of the action; an action larger than 1 - 1e-6 in size counts as one of that size."""
        inner = jnp.arctanh(jnp.clip(action, -LARGEST_TANH, LARGEST_TANH))
        return self._log_prob_of_inner(inner)

    def mode(self) -> Float[Array, "*b action"]:
        """tanh of the mean: the median, and the deterministic action (the density's own peak is elsewhere)."""
        return jnp.tanh(self.mean)

    def sample(self, *, key: Key) -> Float[Array, "*b action"]:
        return self.sample_with_log_prob(key=key)[0]

    def sample_with_log_prob(
        self, *, key: Key, count: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "*count_and_b action"], Float[Array, "*count_and_b"]]:
        """Actions and their log-density, exact because tanh is never undone; `count` leads the shape."""
        noise = jax.random.normal(key, (*count, *self.mean.shape))
        wide = (None,) * len(count)
        inner = self.mean[wide] + jnp.exp(self.log_std[wide]) * noise
        spread = jnp.broadcast_to(self.log_std[wide], inner.shape)
        return jnp.tanh(inner), _squashed(noise, spread, inner)

    def metrics(self, action: Shaped[AnyArray, "*b action"]) -> Metrics:
        """policy/mode_error: root mean squared distance of the mode, per action dimension."""
        return {"policy/mode_error": _distance(self.mode(), action)}

    def _log_prob_of_inner(self, inner: Float[Array, "*b action"]) -> Float[Array, "*b"]:
        return _squashed((inner - self.mean) * jnp.exp(-self.log_std), self.log_std, inner)


def _squashed(noise: Array, log_std: Array, inner: Array) -> Array:
    """log N(inner) - sum log(1 - tanh(inner)^2), with the last term as 2 (log 2 - inner - softplus(-2 inner))."""
    normal = -(0.5 * noise**2 + log_std + HALF_LOG_TWO_PI)
    return jnp.sum(normal - 2.0 * (LOG_TWO - inner - jax.nn.softplus(-2.0 * inner)), axis=-1)


def _distance(mode: Array, action: AnyArray) -> Array:
    return jnp.sqrt(jnp.mean((mode - action) ** 2))
