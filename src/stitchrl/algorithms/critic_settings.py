"""Settings of every algorithm with several critics: how their values are joined, and noise on the rewards of each.

    (1)  min_i Q_i                                        by default, as the papers have it
    (2)  mean_i Q_i - k sqrt( mean_i (Q_i - mean Q)^2 )   with `deviations` k; of two critics it is (1) at k 1
    (3)  y_i = y + reward_noise eps_{t i},  eps ~ N(0, 1), drawn once for each row t of the log and each critic i

(2) replaces (1) everywhere: in targets, in advantages and in what an actor maximises. (3) makes an ensemble show how
uncertain the rewards are (Osband et al. 2018, arXiv 1806.03335): each critic fits rewards of its own. Where an action
has many rows the noise averages out, so that critics keep disagreeing where the log says little: with gamma 0 and n
rows of an action their standard deviation there is reward_noise / sqrt(n). `spread` of the value function gives it.

Both are compiled in only where they are set: with the defaults the program is the one without them.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Batch

__all__ = ["CriticSettings", "RewardNoise", "mean_less_deviations", "noise_of_rows"]

STREAM = 20181806
"""Seed of the noise, the same for every run: the noise of a critic on a row never changes."""


def mean_less_deviations(q: Float[Array, "C *rest"], deviations: float) -> Float[Array, "*rest"]:
    """Equation (2). Where all critics agree the standard deviation has the gradient 0."""
    mean = jnp.mean(q, axis=0)
    variance = jnp.mean((q - mean[None]) ** 2, axis=0)
    apart = variance > 0
    return mean - deviations * jnp.where(apart, jnp.sqrt(jnp.where(apart, variance, 1.0)), 0.0)


def noise_of_rows(row: Int[Array, " B"], critics: int) -> Float[Array, "C B"]:
    """(C, B) the eps of equation (3), a function of the row's number in the log and of the critic alone."""

    def of_row(row: Int[Array, ""]) -> Float[Array, " C"]:
        return jax.random.normal(jax.random.fold_in(jax.random.key(STREAM), row), (critics,))

    return jax.vmap(of_row)(row).T


@dataclasses.dataclass(frozen=True)
class RewardNoise(Algorithm):
    """Base of the algorithms that have several critics and a rule of their own for joining them: equation (3) alone."""

    reward_noise: float = setting(
        0.0, "[0, inf)",
        "Standard deviation of the noise that each critic has on its (scaled) rewards; 0 is off.",
        static=True, kw_only=True,
    )  # fmt: skip

    def targets(
        self, td_target: Float[Array, " B"], batch: Batch, critics: int
    ) -> Float[Array, " B"] | Float[Array, "C B"]:
        """The TD targets of the critics: (B,) the same for all, or (C, B) with the noise of (3)."""
        if not self.reward_noise:
            return td_target
        return td_target[None, :] + self.reward_noise * noise_of_rows(batch["row"], critics)


@dataclasses.dataclass(frozen=True)
class CriticSettings(RewardNoise):
    """Base of the algorithms with several critics."""

    deviations: float | None = setting(
        None, "[0, inf)",
        "Critics are joined by their mean less this many of their standard deviations, larger is more pessimistic; None takes "
        "their minimum.",
        static=True, kw_only=True,
    )  # fmt: skip

    def pessimistic(self, q: Float[Array, "C *rest"]) -> Float[Array, "*rest"]:
        """The values of the critics joined by (1), or by (2)."""
        return jnp.min(q, axis=0) if self.deviations is None else mean_less_deviations(q, self.deviations)
