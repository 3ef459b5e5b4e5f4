"""A mixture of products of normals over continuous actions: on all of space, or truncated, squashed or clipped to [-1, 1].

With weights w_k, means m_kj and standard deviations s_kj of component k and action dimension j, and phi and Phi the density
and the distribution function of the standard normal,

    (1)  p(a) = (1 - e) sum_k w_k prod_j f_kj(a_j) + e p0(a)
    (2)  f_kj(a_j) = phi((a_j - m_kj) / s_kj) / s_kj                                                     on all of space
    (3)  the same / (Phi((1 - m_kj) / s_kj) - Phi((-1 - m_kj) / s_kj)) in [-1, 1], 0 outside             truncated
    (4)  phi((atanh a_j - m_kj) / s_kj) / (s_kj (1 - a_j^2)) in (-1, 1), 0 outside                       squashed by tanh

so that the density integrates to 1 where actions can be. Normals that are clipped have the density (2) between their
bounds and the probability of the tail on them (`nn/clipped_normal.py`); each number of the action may be clipped at one
bound or at both. p0 is broad: uniform on the box where normals are truncated or squashed, else a standard normal,
clipped as the others are. Its share e bounds p from below, and so the weight that one surprising action can get.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key, Metrics
from stitchrl.nn.clipped_normal import clipped_log_prob, on_bounds
from stitchrl.nn.distributions import HALF_LOG_TWO_PI, LARGEST_TANH, LOG_TWO, Distribution

__all__ = ["MIXTURE_KINDS", "Ends", "NormalMixture", "as_ends", "bounds_of_ends"]

MIXTURE_KINDS = ("plain", "truncated", "squashed", "clipped")
"""Equations (2), (3) and (4), and (2) with the tails on the bounds."""
UNIFORM_BROAD = ("truncated", "squashed")
"""Kinds whose broad density is uniform on the box."""
Ends: TypeAlias = tuple[tuple[bool, bool], ...]
"""For each number of the action, whether it is clipped below and above; empty: both, of every number."""

ROUNDING = 1e-3
"""An action may lie this far outside the box: float32 rounds when actions are brought into it."""


def as_ends(ends: Any) -> Ends:
    """Ends as they are hashed: a file holds lists."""
    return tuple((bool(below), bool(above)) for below, above in ends)


def bounds_of_ends(ends: Ends) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(action,) or () the bounds -1 and 1 where actions are clipped, else -inf and inf."""
    below, above = jnp.asarray(ends or (True, True)).T
    return jnp.where(below, -1.0, -jnp.inf), jnp.where(above, 1.0, jnp.inf)


class NormalMixture(Distribution):
    """Equation (1) for each of B rows.

    Attributes:
        log_weight: (B, K) log w_k; rows are normalised.
        mean: (B, K, action); in [-1, 1] where the normals are truncated to that box, and before tanh where they are squashed.
        log_std: (B, K, action).
        kind: one of `MIXTURE_KINDS`.
        broad_share: e, in [0, 1).
        ends: where normals are clipped, whether each number of the action is below and above; empty: all of them are.
    """

    log_weight: Float[Array, "B K"]
    mean: Float[Array, "B K action"]
    log_std: Float[Array, "B K action"]
    kind: str = eqx.field(static=True)
    broad_share: float = eqx.field(static=True, default=0.0)
    ends: Ends = eqx.field(static=True, default=())

    def log_prob(self, action: Shaped[AnyArray, "B action"]) -> Float[Array, " B"]:
        """The logarithm of equation (1): of a probability on bounds that actions are clipped to; -inf outside the box."""
        action = jnp.asarray(action)
        log_density = self._inside(self._held(action))
        if self.kind != "plain":
            low, high = self._bounds(action)
            possible = jnp.all((action >= low - ROUNDING) & (action <= high + ROUNDING), axis=-1)
            log_density = jnp.where(possible, log_density, -jnp.inf)
        return log_density

    def mode(self) -> Float[Array, "B action"]:
        """The component mean at which the density before squashing or clipping is largest, then squashed or clipped."""
        before = dataclasses.replace(self, kind="plain") if self.kind == "clipped" else self
        at_means = jax.vmap(before._of_components, in_axes=1, out_axes=1)(self.mean)
        best = jnp.argmax(at_means, axis=1)
        found = jnp.take_along_axis(self.mean, best[:, None, None], axis=1)[:, 0]
        if self.kind == "clipped":
            return jnp.clip(found, *self._bounds(found))
        return jnp.tanh(found) if self.kind == "squashed" else found

    def sample(self, *, key: Key) -> Float[Array, "B action"]:
        which, normal, other, chance = jax.random.split(key, 4)
        component = jax.random.categorical(which, self.log_weight, axis=-1)[:, None, None]
        mean = jnp.take_along_axis(self.mean, component, axis=1)[:, 0]
        std = jnp.exp(jnp.take_along_axis(self.log_std, component, axis=1)[:, 0])
        if self.kind == "truncated":
            noise = jax.random.truncated_normal(normal, (-1.0 - mean) / std, (1.0 - mean) / std)
            found = jnp.clip(mean + std * noise, -1.0, 1.0)
        else:
            found = mean + std * jax.random.normal(normal, mean.shape)
        if self.kind == "squashed":
            found = jnp.tanh(found)
        if self.kind in UNIFORM_BROAD:
            broad = jax.random.uniform(other, mean.shape, minval=-1.0, maxval=1.0)
        else:
            broad = jax.random.normal(other, mean.shape)
        drawn = jnp.where(jax.random.uniform(chance, (mean.shape[0], 1)) < self.broad_share, broad, found)
        return jnp.clip(drawn, *self._bounds(drawn)) if self.kind == "clipped" else drawn

    def marginal_cdf(self, action: Shaped[AnyArray, "B action"], *, below: bool = False) -> Float[Array, "B action"]:
        """(B, action) the probability that a draw is at most the action in each dimension, whatever it is in the others.

        With `below`, that it is less. The two differ only on bounds that actions are clipped to.
        """
        action = self._held(jnp.asarray(action))
        inner = jnp.arctanh(action) if self.kind == "squashed" else action
        z = (inner[:, None, :] - self.mean) * jnp.exp(-self.log_std)
        of_each = 0.5 + _half_erf(z)
        if self.kind == "truncated":
            low, high = self._ends()
            of_each = (_half_erf(z) + _half_erf(low)) / (_half_erf(low) + _half_erf(high))
        broad = (action + 1.0) / 2.0 if self.kind in UNIFORM_BROAD else 0.5 + _half_erf(action)
        found = jnp.sum(jnp.exp(self.log_weight)[:, :, None] * of_each, axis=1)
        found = jnp.clip((1.0 - self.broad_share) * found + self.broad_share * broad, 0.0, 1.0)
        if self.kind != "clipped":
            return found
        at_low, at_high = on_bounds(action, *self._bounds(action))
        return jnp.where(at_low, 0.0, found) if below else jnp.where(at_high, 1.0, found)

    def metrics(self, action: Shaped[AnyArray, "B action"]) -> Metrics:
        """policy/mode_error: root mean squared distance of the mode, per action dimension."""
        return {"policy/mode_error": jnp.sqrt(jnp.mean((self.mode() - action) ** 2))}

    def _held(self, action: Float[Array, "B action"]) -> Float[Array, "B action"]:
        """The nearest action of the box, and where atanh follows, as far inside as float32 needs."""
        if self.kind == "squashed":
            return jnp.clip(action, -LARGEST_TANH, LARGEST_TANH)
        return action if self.kind == "plain" else jnp.clip(action, *self._bounds(action))

    def _bounds(self, action: Float[Array, "*b action"]) -> tuple[Float[Array, "*b action"], Float[Array, "*b action"]]:
        """The ends of the box where normals are not plain, one for each number of the actions."""
        low, high = bounds_of_ends(self.ends if self.kind == "clipped" else ())
        return jnp.broadcast_to(low, action.shape), jnp.broadcast_to(high, action.shape)

    def _inside(self, action: Float[Array, "B action"]) -> Float[Array, " B"]:
        """The logarithm of equation (1) at actions that are possible."""
        if self.kind == "squashed":
            stretched = -jnp.sum(jnp.log1p(-action) + jnp.log1p(action), axis=-1)
            log_density = self._of_components(jnp.arctanh(action)) + stretched
        else:
            log_density = self._of_components(action)
        if not self.broad_share:
            return log_density
        if self.kind in UNIFORM_BROAD:
            broad = jnp.full_like(log_density, -LOG_TWO * self.mean.shape[-1])
        elif self.kind == "clipped":
            zero = jnp.zeros_like(action)
            broad = jnp.sum(clipped_log_prob(action, zero, zero, *self._bounds(action)), axis=-1)
        else:
            broad = -jnp.sum(0.5 * action**2 + HALF_LOG_TWO_PI, axis=-1)
        return jnp.logaddexp(math.log1p(-self.broad_share) + log_density, math.log(self.broad_share) + broad)

    def _of_components(self, inner: Float[Array, "B action"]) -> Float[Array, " B"]:
        """The logarithm of the sum in equation (1), of squashed normals before tanh."""
        if self.kind == "clipped":
            action = inner[:, None, :]
            log_each = clipped_log_prob(action, self.mean, self.log_std, *self._bounds(action))
            return jax.nn.logsumexp(self.log_weight + jnp.sum(log_each, axis=-1), axis=-1)
        z = (inner[:, None, :] - self.mean) * jnp.exp(-self.log_std)
        log_normal = -0.5 * z**2 - self.log_std - HALF_LOG_TWO_PI
        if self.kind == "truncated":
            low, high = self._ends()
            log_normal = log_normal - jnp.log(_half_erf(low) + _half_erf(high))
        return jax.nn.logsumexp(self.log_weight + jnp.sum(log_normal, axis=-1), axis=-1)

    def _ends(self) -> tuple[Float[Array, "B K action"], Float[Array, "B K action"]]:
        """How many standard deviations the ends of the box are from the mean, below and above; at least 0 each."""
        scale = jnp.exp(-self.log_std)
        return (1.0 + self.mean) * scale, (1.0 - self.mean) * scale


def _half_erf(z: Array) -> Array:
    """Phi(z) - 1/2, exact to relative precision near 0: the mass of a box about the mean is a sum of two of these."""
    return 0.5 * jax.lax.erf(z / math.sqrt(2.0))
