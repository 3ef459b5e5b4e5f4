"""The distribution of normals that are drawn and then clipped to the bounds of the action: the censored normal (Tobin 1958).

With mean m and standard deviation s of one number of the action, and phi and Phi the density and the distribution function
of the standard normal,

    (1)  phi((a - m) / s) / s        at low < a < high, a density
    (2)  Phi((low - m) / s)          at a = low, a probability
    (3)  Phi((m - high) / s)         at a = high, a probability

Two such distributions with the same bounds have well-defined ratios: both have a density at the same actions, and a
probability at the others. The logarithms of (2) and (3) are finite however far the mean is from the bound.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from stitchrl.data.atoms import BOUND_ROUNDING, SLACK
from stitchrl.jax_types import AnyArray, Array
from stitchrl.nn.distributions import HALF_LOG_TWO_PI

__all__ = ["clipped_log_prob", "on_bounds"]


def on_bounds(
    action: Float[AnyArray, "*b action"],
    low: Float[AnyArray, "..."],
    high: Float[AnyArray, "..."],
    *,
    spread: Float[AnyArray, "..."] | None = None,
) -> tuple[Bool[Array, "*b action"], Bool[Array, "*b action"]]:
    """Whether each dimension of an action lies on its lower, and on its upper bound; an infinite bound is never reached.

    An action lies on a bound if it is within a small tolerance of it. Without a `spread` the actions are those scaled to
    [-1, 1], and the tolerance is a share of the width of the box, where an infinite box counts as 2 wide. For actions in other
    units `spread` gives their standard deviations, and the tolerance is a share of these where they are smaller than the box.
    """
    low, high = (jnp.broadcast_to(end, action.shape) for end in (low, high))
    width, given = high - low, jnp.asarray(action)
    if spread is None:
        slack = SLACK * jnp.where(jnp.isfinite(width), width, 2.0)
        return given <= low + slack, given >= high - slack
    slack = SLACK * jnp.minimum(width, spread)
    return given <= low + slack + BOUND_ROUNDING * jnp.abs(low), given >= high - slack - BOUND_ROUNDING * jnp.abs(high)


def clipped_log_prob(
    action: Float[AnyArray, "*b action"],
    mean: Float[AnyArray, "*law action"],
    log_std: Float[AnyArray, "*law action"],
    low: Float[AnyArray, "..."],
    high: Float[AnyArray, "..."],
    *,
    spread: Float[AnyArray, "..."] | None = None,
) -> Float[Array, "*law action"]:
    """Logarithm of (1), (2) or (3) for each dimension of an action; an action beyond a bound counts as on it.

    For several distributions, such as the components of a mixture, `action` has length 1 on their axes. `spread` is as in
    `on_bounds`.
    """
    at_low, at_high = on_bounds(action, low, high, spread=spread)
    low, high = (jnp.broadcast_to(end, action.shape) for end in (low, high))
    scale = jnp.exp(-log_std)
    inside = -0.5 * ((action - mean) * scale) ** 2 - log_std - HALF_LOG_TWO_PI
    # Gradients of what is not chosen must be numbers too, so an infinite bound is replaced.
    below = jax.scipy.special.log_ndtr((jnp.where(jnp.isfinite(low), low, 0.0) - mean) * scale)
    above = jax.scipy.special.log_ndtr((mean - jnp.where(jnp.isfinite(high), high, 0.0)) * scale)
    return jnp.where(at_low, below, jnp.where(at_high, above, inside))
