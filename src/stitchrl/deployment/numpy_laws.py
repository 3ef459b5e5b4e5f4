"""Distributions over continuous actions in NumPy: normal, squashed by tanh, and mixtures; as in `nn/`.

Only where a law is truncated or clipped is SciPy imported, when it is first needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stitchrl.data.atoms import BOUND_ROUNDING, SLACK
from stitchrl.deployment.numpy_networks import softplus
from stitchrl.types import NumpyArray

__all__ = [
    "NumpyMixture",
    "NumpyNormal",
    "NumpyTanhNormal",
    "bounds_of",
    "clipped_log_prob",
    "log_mass",
    "on_bounds",
    "truncated",
]

HALF_LOG_TWO_PI = np.float32(0.5 * math.log(2 * math.pi))
LOG_TWO = np.float32(math.log(2))
LARGEST_TANH = np.float32(1 - 1e-6)
"""The largest size of an action before atanh."""
ROUNDING = 1e-3
"""An action may lie this far outside the box."""
UNIFORM_BROAD = ("truncated", "squashed")
"""Kinds of mixtures whose broad density is uniform on the box."""


class NumpyNormal:
    """Independent normals, (B, action) each."""

    def __init__(self, mean: NumpyArray, log_std: NumpyArray) -> None:
        self.mean, self.log_std = mean, log_std

    def log_prob(self, action: NumpyArray) -> NumpyArray:
        error = (action - self.mean) * np.exp(-self.log_std)
        found: NumpyArray = -(np.float32(0.5) * error**2 + self.log_std + HALF_LOG_TWO_PI).sum(-1)
        return found

    def mode(self) -> NumpyArray:
        return self.mean

    def sample(self, rng: np.random.Generator) -> NumpyArray:
        return self.mean + np.exp(self.log_std) * rng.standard_normal(self.mean.shape, np.float32)


class NumpyTanhNormal(NumpyNormal):
    """tanh of independent normals, whose mean and log standard deviation are those before the tanh."""

    def log_prob(self, action: NumpyArray) -> NumpyArray:
        inner = np.arctanh(np.clip(action, -LARGEST_TANH, LARGEST_TANH))
        stretched = np.float32(2) * (LOG_TWO - inner - softplus(np.float32(-2) * inner)).sum(-1)
        found: NumpyArray = super().log_prob(inner) - stretched
        return found

    def mode(self) -> NumpyArray:
        return np.tanh(self.mean)

    def sample(self, rng: np.random.Generator) -> NumpyArray:
        return np.tanh(super().sample(rng))


class NumpyMixture:
    """A mixture of products of normals: plain, truncated to [-1, 1], squashed into it by tanh, or clipped to it.

    Args:
        log_weight: (B, K) normalised.
        mean, log_std: (B, K, action).
        kind: "plain", "truncated", "squashed" or "clipped".
        broad_share: share of a broad density.
        ends: where normals are clipped, whether each number of the action is below and above; empty: all of them are.
    """

    def __init__(
        self,
        log_weight: NumpyArray,
        mean: NumpyArray,
        log_std: NumpyArray,
        kind: str,
        broad_share: float,
        ends: Sequence[Sequence[bool]],
    ) -> None:
        self.log_weight, self.mean, self.log_std = log_weight, mean, log_std
        self.kind, self.broad_share = kind, broad_share
        self.low, self.high = bounds_of(ends if kind == "clipped" else ())

    def log_prob(self, action: NumpyArray) -> NumpyArray:
        """(B,) the log-density; on bounds that actions are clipped to, that of a probability; -inf outside the box."""
        held = action
        if self.kind == "squashed":
            held = np.clip(action, -LARGEST_TANH, LARGEST_TANH)
        elif self.kind != "plain":
            held = np.clip(action, self.low, self.high)
        found = self._inside(held)
        if self.kind == "plain":
            return found
        possible = ((action >= self.low - ROUNDING) & (action <= self.high + ROUNDING)).all(-1)
        return np.where(possible, found, -np.inf)

    def mode(self) -> NumpyArray:
        """The component mean at which the density before squashing or clipping is largest, then squashed or clipped."""
        clipped = self.kind == "clipped"
        at_means = np.stack(
            [self._of_components(self.mean[:, k], clip=not clipped) for k in range(self.mean.shape[1])], 1
        )
        found = np.take_along_axis(self.mean, at_means.argmax(1)[:, None, None], 1)[:, 0]
        if clipped:
            return np.clip(found, self.low, self.high)
        return np.tanh(found) if self.kind == "squashed" else found

    def sample(self, rng: np.random.Generator) -> NumpyArray:
        """(B, action) one action drawn per row."""
        rising = np.exp(self.log_weight).cumsum(1)
        chosen = (rng.random((len(rising), 1)) * rising[:, -1:] >= rising).sum(1)[:, None, None]
        mean = np.take_along_axis(self.mean, chosen, 1)[:, 0]
        std = np.exp(np.take_along_axis(self.log_std, chosen, 1)[:, 0])
        if self.kind == "truncated":
            found = np.clip(mean + std * truncated(rng, (-1 - mean) / std, (1 - mean) / std), -1, 1)
        else:
            found = mean + std * rng.standard_normal(mean.shape)
        if self.kind == "squashed":
            found = np.tanh(found)
        broad = rng.uniform(-1, 1, mean.shape) if self.kind in UNIFORM_BROAD else rng.standard_normal(mean.shape)
        drawn = np.where(rng.random((len(mean), 1)) < self.broad_share, broad, found)
        return np.clip(drawn, self.low, self.high) if self.kind == "clipped" else drawn

    def _inside(self, action: NumpyArray) -> NumpyArray:
        """(B,) the density at actions that are possible."""
        if self.kind == "squashed":
            stretched = -(np.log1p(-action) + np.log1p(action)).sum(-1)
            found = self._of_components(np.arctanh(action)) + stretched
        else:
            found = self._of_components(action)
        if not self.broad_share:
            return found
        if self.kind in UNIFORM_BROAD:
            broad = np.full_like(found, -LOG_TWO * self.mean.shape[-1])
        elif self.kind == "clipped":
            zero = np.zeros_like(action)
            broad = clipped_log_prob(action, zero, zero, self.low, self.high).sum(-1)
        else:
            broad = -(np.float32(0.5) * action**2 + HALF_LOG_TWO_PI).sum(-1)
        return np.logaddexp(math.log1p(-self.broad_share) + found, math.log(self.broad_share) + broad)

    def _of_components(self, inner: NumpyArray, *, clip: bool = True) -> NumpyArray:
        """(B,) the logarithm of the weighted sum of the components, of squashed normals before tanh."""
        action = inner[:, None, :]
        if self.kind == "clipped" and clip:
            each = clipped_log_prob(action, self.mean, self.log_std, self.low, self.high)
        else:
            scale = np.exp(-self.log_std)
            each = np.float32(-0.5) * ((action - self.mean) * scale) ** 2 - self.log_std - HALF_LOG_TWO_PI
            if self.kind == "truncated":
                each = each - log_mass((-1 - self.mean) * scale, (1 - self.mean) * scale)
        together: NumpyArray = self.log_weight + each.sum(-1)
        most = together.max(-1, keepdims=True)
        summed: NumpyArray = most[:, 0] + np.log(np.exp(together - most).sum(-1))
        return summed


def bounds_of(ends: Sequence[Sequence[bool]]) -> tuple[NumpyArray, NumpyArray]:
    """(action,) or () the bounds -1 and 1 where actions are clipped, else -inf and inf."""
    below, above = np.asarray(ends or (True, True), bool).T
    return np.where(below, -1.0, -np.inf).astype(np.float32), np.where(above, 1.0, np.inf).astype(np.float32)


def on_bounds(
    action: NumpyArray, low: NumpyArray, high: NumpyArray, *, spread: NumpyArray | None = None
) -> tuple[NumpyArray, NumpyArray]:
    """Whether each number of an action lies on its lower, and on its upper bound; an infinite bound is never reached.

    Without a `spread` actions were brought into [-1, 1], and a box with an infinite bound counts as 2 wide. With the standard
    deviations of actions in other units only what is very near beside them lies on a bound, however wide the box is.
    """
    width = high - low
    if spread is None:
        slack = np.float32(SLACK) * np.where(np.isfinite(width), width, np.float32(2))
        return action <= low + slack, action >= high - slack
    slack = np.float32(SLACK) * np.minimum(width, spread)
    below, above = (
        slack + np.float32(BOUND_ROUNDING) * np.where(np.isfinite(end), np.abs(end), np.float32(0))
        for end in (low, high)
    )
    return action <= low + below, action >= high - above


def clipped_log_prob(
    action: NumpyArray,
    mean: NumpyArray,
    log_std: NumpyArray,
    low: NumpyArray,
    high: NumpyArray,
    *,
    spread: NumpyArray | None = None,
) -> NumpyArray:
    """Logarithm of a clipped normal for each number: the density between the bounds, the probability of the tail on them.

    `spread` is as in `on_bounds`.
    """
    from scipy.special import log_ndtr

    at_low, at_high = on_bounds(action, low, high, spread=spread)
    scale = np.exp(-log_std)
    inside = np.float32(-0.5) * ((action - mean) * scale) ** 2 - log_std - HALF_LOG_TWO_PI
    below = log_ndtr((np.where(np.isfinite(low), low, 0) - mean) * scale)
    above = log_ndtr((mean - np.where(np.isfinite(high), high, 0)) * scale)
    return np.where(at_low, below, np.where(at_high, above, inside))


def log_mass(low: NumpyArray, high: NumpyArray) -> NumpyArray:
    """Logarithm of the probability that a standard normal lies between two bounds."""
    from scipy.special import log_ndtr

    low, high = low.astype(np.float64), high.astype(np.float64)
    flipped = low > 0  # the lower tail is the one that is computed precisely
    low, high = np.where(flipped, -high, low), np.where(flipped, -low, high)
    log_high = log_ndtr(high)
    found: NumpyArray = log_high + np.log1p(-np.exp(log_ndtr(low) - log_high))
    return found


def truncated(rng: np.random.Generator, low: NumpyArray, high: NumpyArray) -> NumpyArray:
    """Draws of a standard normal between two bounds."""
    from scipy.special import ndtr, ndtri

    low, high = low.astype(np.float64), high.astype(np.float64)
    flipped = low > 0
    near, far = np.where(flipped, -high, low), np.where(flipped, -low, high)
    drawn = np.clip(ndtri(rng.uniform(ndtr(near), ndtr(far))), near, far)
    return np.where(flipped, -drawn, drawn)
