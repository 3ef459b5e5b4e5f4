"""A mixture of products of normals over continuous actions, on all of space or truncated to the box [-1, 1].

With weights w_k, means m_kj and standard deviations s_kj of component k and action dimension j, and phi and Phi the density
and the distribution function of the standard normal,

    (1)  p(a) = (1 - e) sum_k w_k prod_j f_kj(a_j) + e p0(a)
    (2)  f_kj(a_j) = phi((a_j - m_kj) / s_kj) / s_kj                                                     on all of space
    (3)  the same / (Phi((1 - m_kj) / s_kj) - Phi((-1 - m_kj) / s_kj)) in [-1, 1], 0 outside             in the box

so that the density integrates to 1 where actions can be. p0 is broad: uniform on the box, else a standard normal. Its share e
bounds the density from below, and with it what one surprising action can weigh.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from stitchrl.jax_types import AnyArray, Array, Key, Metrics
from stitchrl.nn.distributions import HALF_LOG_TWO_PI, LOG_TWO, Distribution

__all__ = ["NormalMixture"]

ROUNDING = 1e-3
"""An action may lie this far outside the box: float32 rounds when actions are brought into it."""


class NormalMixture(Distribution):
    """Equation (1) for each of B rows.

    Attributes:
        log_weight: (B, K) log w_k; rows are normalised.
        mean: (B, K, action); in [-1, 1] where the normals are truncated to that box.
        log_std: (B, K, action).
        boxed: equation (3) in place of (2).
        broad_share: e, in [0, 1).
    """

    log_weight: Float[Array, "B K"]
    mean: Float[Array, "B K action"]
    log_std: Float[Array, "B K action"]
    boxed: bool = eqx.field(static=True)
    broad_share: float = eqx.field(static=True, default=0.0)

    def log_prob(self, action: Shaped[AnyArray, "B action"]) -> Float[Array, " B"]:
        """The density of equation (1); -inf outside the box."""
        action = jnp.asarray(action)
        inside = jnp.clip(action, -1.0, 1.0) if self.boxed else action
        log_density = self._of_components(inside)
        if self.boxed:
            possible = jnp.all(jnp.abs(action) <= 1.0 + ROUNDING, axis=-1)
            log_density = jnp.where(possible, log_density, -jnp.inf)
        return log_density

    def mode(self) -> Float[Array, "B action"]:
        """The mean of a component, the one at which the density is largest. With one component it is the mode."""
        at_means = jax.vmap(self._of_components, in_axes=1, out_axes=1)(self.mean)
        best = jnp.argmax(at_means, axis=1)
        return jnp.take_along_axis(self.mean, best[:, None, None], axis=1)[:, 0]

    def sample(self, *, key: Key) -> Float[Array, "B action"]:
        which, normal, other, chance = jax.random.split(key, 4)
        component = jax.random.categorical(which, self.log_weight, axis=-1)[:, None, None]
        mean = jnp.take_along_axis(self.mean, component, axis=1)[:, 0]
        std = jnp.exp(jnp.take_along_axis(self.log_std, component, axis=1)[:, 0])
        if self.boxed:
            noise = jax.random.truncated_normal(normal, (-1.0 - mean) / std, (1.0 - mean) / std)
            broad = jax.random.uniform(other, mean.shape, minval=-1.0, maxval=1.0)
            found = jnp.clip(mean + std * noise, -1.0, 1.0)
        else:
            found = mean + std * jax.random.normal(normal, mean.shape)
            broad = jax.random.normal(other, mean.shape)
        return jnp.where(jax.random.uniform(chance, (mean.shape[0], 1)) < self.broad_share, broad, found)

    def marginal_cdf(self, action: Shaped[AnyArray, "B action"]) -> Float[Array, "B action"]:
        """(B, action) the probability that each dimension of an action is at most what it is, whatever the others are."""
        action = jnp.clip(action, -1.0, 1.0) if self.boxed else jnp.asarray(action)
        z = (action[:, None, :] - self.mean) * jnp.exp(-self.log_std)
        if self.boxed:
            low, high = self._ends()
            below = (_half_erf(z) + _half_erf(low)) / (_half_erf(low) + _half_erf(high))
            broad = (action + 1.0) / 2.0
        else:
            below, broad = 0.5 + _half_erf(z), 0.5 + _half_erf(action)
        found = jnp.sum(jnp.exp(self.log_weight)[:, :, None] * below, axis=1)
        return jnp.clip((1.0 - self.broad_share) * found + self.broad_share * broad, 0.0, 1.0)

    def metrics(self, action: Shaped[AnyArray, "B action"]) -> Metrics:
        """policy/mode_error: root mean squared distance of the mode, an action dimension."""
        return {"policy/mode_error": jnp.sqrt(jnp.mean((self.mode() - action) ** 2))}

    def _of_components(self, action: Float[Array, "B action"]) -> Float[Array, " B"]:
        """The logarithm of equation (1) at actions of the box."""
        z = (action[:, None, :] - self.mean) * jnp.exp(-self.log_std)
        log_normal = -0.5 * z**2 - self.log_std - HALF_LOG_TWO_PI
        if self.boxed:
            low, high = self._ends()
            log_normal = log_normal - jnp.log(_half_erf(low) + _half_erf(high))
        log_density = jax.nn.logsumexp(self.log_weight + jnp.sum(log_normal, axis=-1), axis=-1)
        if not self.broad_share:
            return log_density
        if self.boxed:
            broad = jnp.full_like(log_density, -LOG_TWO * self.mean.shape[-1])
        else:
            broad = -jnp.sum(0.5 * action**2 + HALF_LOG_TWO_PI, axis=-1)
        return jnp.logaddexp(math.log1p(-self.broad_share) + log_density, math.log(self.broad_share) + broad)

    def _ends(self) -> tuple[Float[Array, "B K action"], Float[Array, "B K action"]]:
        """How many standard deviations the ends of the box are from the mean, below and above; at least 0 each."""
        scale = jnp.exp(-self.log_std)
        return (1.0 + self.mean) * scale, (1.0 - self.mean) * scale


def _half_erf(z: Array) -> Array:
    """Phi(z) - 1/2, exact to relative precision near 0: the mass of a box about the mean is a sum of two of these."""
    return 0.5 * jax.lax.erf(z / math.sqrt(2.0))
