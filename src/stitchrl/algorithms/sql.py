"""SQL and EQL: sparse and exponential Q-learning (Xu and others 2023, implicit value regularization, arXiv 2303.15810).

Both maximise the return less `temperature` times a divergence from the behaviour, and learn its value V from logged actions
alone. One update, in the order of the official code (ryanxhr/IVR: critic.py, actor.py), T the temperature:

    SQL  (1)  L_V = E[ max(t, 0)^2 + V(s) / T ],  t = 1 + (min_i Qbar_i(s, a) - V(s)) / (2 T)
         (2)  L_pi = -E[ min(max(A, 0), 100) log pi(a | s) ],  A = min_i Qbar_i(s, a) - V(s)
    EQL  (1)  L_V = E[ exp z + V(s) / T ],  z = (min_i Qbar_i(s, a) - V(s)) / T
         (2)  L_pi = -E[ min(exp(10 A / T), 100) log pi(a | s) ]
    both (3)  L_Q = sum_i E[ (r + gamma (1 - terminated) V(s') - Q_i(s, a))^2 ]
         (4)  Qbar <- Qbar + target_rate (Q - Qbar)

V is new in (2) and (3). At the minimum of (1) SQL's V is such that the mean of max(t, 0) over the logged actions is 1,
and EQL's V is T log E[ exp(Q / T) ]. Both lie between the mean of the logged actions' values, for a large temperature,
and the best of them, for a small one. SQL is sparse: actions with t below 0 do not move V at all, and those below V are
not imitated at all. For EQL z is cut off at 5, and both terms of (1) are divided by exp of the batch's largest z (at
least -1), as in the official code. Rows without a TD target (the log was cut there and what followed is unknown) have
weight 0 in (1) and (3) and count as advantage 0 in (2): weight 0 in SQL and 1 in EQL.

Policies are those of IQL. For discrete actions, which this official repository does not have, Q has one output per action
and pi is categorical under the action mask. `value_layer_norm` normalises V's network, as all official runs do.

Use: Where IQL would do, above all where much of the log is bad: SQL leaves the bad part out altogether.

Avoid: Logs of few rows per state, where V follows the luckiest of them, and rewards of unknown scale.

First knob: `temperature`, from 0.1 to 10, in units of value: smaller takes fewer of the logged actions.

Deviations: In the paper SQL's weight is max(t, 0), which follows from (1); the official code, followed here, has max(A,
0). The actor's cosine decay over all of training is off unless `actor_decay_updates` is given. Rewards are taken as
they come, observations as `fit` scales them. The official code has a dropout of V's network for AntMaze, but never
switches it on.

Metrics: loss/value, loss/actor, loss/critic; q/data_mean, v/mean, adv/mean; weight/mean, weight/effective_share,
weight/clipped, SQL also weight/zero (share of rows that are not imitated); policy/agreement or policy/mode_error,
policy/entropy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.in_sample import InSample, exponents
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Metrics, Scalar
from stitchrl.nn.networks import Network

__all__ = ["EQL", "SQL", "exponential_value_loss", "sparse_value_loss"]

SOURCE = "ryanxhr/IVR, run_"
LARGEST_EXPONENT = 5.0
"""Where z of EQL is cut off (official code)."""
EQL_SHARPNESS = 10.0
"""The factor of A / T in the weights of EQL (official code)."""
SHAPED = "rewards times 1000 / (largest - smallest return of an episode), observations as they are, 1,000,000 updates"
SPARSE = "rewards minus 1 (reward_shift=-1.0), observations as they are, 1,000,000 updates"
RAW = "rewards and observations as they are, 1,000,000 updates"


def sparse_value_loss(
    q: Float[Array, " B"], v: Float[Array, " B"], td_weight: Float[Array, " B"], temperature: Scalar
) -> Float[Array, ""]:
    """Equation (1) of SQL."""
    t = 1.0 + (q - v) / (2.0 * temperature)
    return jnp.mean(td_weight * (jnp.maximum(t, 0.0) ** 2 + v / temperature))


def exponential_value_loss(
    q: Float[Array, " B"], v: Float[Array, " B"], td_weight: Float[Array, " B"], temperature: Scalar
) -> Float[Array, ""]:
    """Equation (1) of EQL, divided by exp of the batch's largest exponent."""
    z, highest = exponents((q - v) / temperature, td_weight, LARGEST_EXPONENT)
    return jnp.mean(td_weight * (jnp.exp(z - highest) + jnp.exp(-highest) * v / temperature))


def _presets(mujoco: float, antmaze: float, diverse: float, kitchen: float) -> Mapping[str, Preset]:
    """The official runs, with the temperatures of one of the two algorithms."""
    decay = {"actor_decay_updates": 1_000_000}
    slow = decay | {"learning_rate": 2e-4}
    dropped = decay | {"actor_network": Network(dropout=0.1)}
    return {
        "mujoco": Preset({"temperature": mujoco} | decay, f"{SOURCE}mujoco.sh", SHAPED),
        "antmaze": Preset({"temperature": antmaze} | slow, f"{SOURCE}antmaze.sh", SPARSE),
        "antmaze-umaze-diverse": Preset({"temperature": diverse} | slow, f"{SOURCE}antmaze.sh", SPARSE),
        "kitchen": Preset({"temperature": kitchen} | dropped, f"{SOURCE}kitchen.sh", RAW),
    }


@dataclasses.dataclass(frozen=True)
class SQL(InSample):
    """Sparse Q-learning: imitates only actions that are better than V."""

    presets: ClassVar[Mapping[str, Preset]] = _presets(mujoco=1.0, antmaze=0.1, diverse=3.0, kitchen=0.5)

    temperature: float = setting(
        1.0, "(0, inf)", "Larger is nearer to the mean of the logged actions, smaller to the best."
    )

    def value_loss(
        self, q: Float[Array, " B"], v: Float[Array, " B"], td_weight: Float[Array, " B"]
    ) -> Float[Array, ""]:
        return sparse_value_loss(q, v, td_weight, self.temperature)

    def weights(self, adv: Float[Array, " B"]) -> Float[Array, " B"]:
        return jnp.maximum(adv, 0.0)

    def weight_metrics(self, weight: Float[Array, " B"]) -> Metrics:
        return super().weight_metrics(weight) | {"weight/zero": jnp.mean((weight == 0).astype(jnp.float32))}


@dataclasses.dataclass(frozen=True)
class EQL(InSample):
    """Exponential Q-learning: V is a soft maximum over the logged actions."""

    presets: ClassVar[Mapping[str, Preset]] = _presets(mujoco=2.0, antmaze=0.5, diverse=5.0, kitchen=2.0)

    temperature: float = setting(
        2.0, "(0, inf)", "Larger is nearer to the mean of the logged actions, smaller to the best."
    )

    def value_loss(
        self, q: Float[Array, " B"], v: Float[Array, " B"], td_weight: Float[Array, " B"]
    ) -> Float[Array, ""]:
        return exponential_value_loss(q, v, td_weight, self.temperature)

    def weights(self, adv: Float[Array, " B"]) -> Float[Array, " B"]:
        return jnp.exp(EQL_SHARPNESS * adv / self.temperature)
