"""XQL: extreme Q-learning (Garg, Hejna, Geist, Ermon 2023, arXiv 2301.02328).

If errors of Q follow a Gumbel distribution, as maxima do, Gumbel regression finds the soft value of the logged actions.
One update, in the order of the official code (Div99/XQL, offline: critic.py, actor.py), T the temperature:

    (1)  L_V  = E[ exp z - z - 1 ],  z = min( (min_i Qbar_i(s, a) - V(s)) / T, largest_exponent )
    (2)  L_pi = -E[ min(exp(inverse_temperature (min_i Qbar_i(s, a) - V(s))), 100) log pi(a | s) ]
    (3)  L_Q  = sum_i E[ h(Q_i(s, a) - y) ],  y = r + gamma (1 - terminated) V(s'),
         h(x) = x^2 / 2 up to |x| = 20, and straight beyond (Huber)
    (4)  Qbar <- Qbar + target_rate (Q - Qbar)

V is new in (2) and (3). At the minimum of (1) V is T log E[ exp(Q / T) ] over the logged actions: their mean for a
large temperature, the best of them for a small one, as in EQL, whose loss has the same gradient where nothing is cut
off. A row whose z is cut off has no gradient in (1); in EQL it still pulls V down. (1) is divided by exp of the batch's
largest z (at least -1), as in the official code. Rows without a TD target (the log was cut there and what followed is
unknown) have weight 0 in (1) and (3) and weight 1 in (2): imitation.

Policies are those of IQL. For discrete actions, which the official code does not have, Q has one output per action and pi is
categorical under the action mask. `value_layer_norm` normalises V's network, as all official runs do.

Use: Where IQL would need a very high expectile, as on long tasks that pay only at their end.

Avoid: Rewards that differ widely by chance: the exponential follows the luckiest rows. With a small T it can diverge.

First knob: `temperature`, from 0.5 to 10, in units of value: smaller is more optimistic.

Deviations: The official noise on actions and the random actions beside logged ones in (1), both off by default, are not
here. Defaults are those of the consistent MuJoCo runs; the code's own temperature is 1. The actor's cosine decay over
all of training is off unless `actor_decay_updates` is given. Rewards are taken as they come, observations as `fit`
scales them. The official code has a dropout of V's network for AntMaze, but never switches it on.

Metrics: loss/value, loss/actor, loss/critic; q/data_mean, v/mean, adv/mean; weight/mean, weight/effective_share, weight/clipped;
policy/agreement or policy/mode_error, policy/entropy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.in_sample import InSample, exponents
from stitchrl.algorithms.losses import for_critics
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import setting
from stitchrl.jax_types import Array, Scalar
from stitchrl.nn.networks import Network

__all__ = ["XQL", "gumbel_loss", "huber_td_loss"]

SOURCE = "Div99/XQL, offline/reproduce/"
HUBER = 20.0
"""Where the loss of the critics becomes straight (official code)."""


def gumbel_loss(
    q: Float[Array, " B"],
    v: Float[Array, " B"],
    td_weight: Float[Array, " B"],
    temperature: Scalar,
    largest_exponent: Scalar,
) -> Float[Array, ""]:
    """Equation (1), divided by exp of the batch's largest z."""
    z, highest = exponents((q - v) / temperature, td_weight, largest_exponent)
    return jnp.mean(td_weight * (jnp.exp(z - highest) - (z + 1.0) * jnp.exp(-highest)))


def huber_td_loss(
    q: Float[Array, "C B"],
    td_target: Float[Array, " B"] | Float[Array, "C B"],
    td_weight: Float[Array, " B"] | Float[Array, "C B"],
) -> Float[Array, ""]:
    """Equation (3)."""
    fixed = jax.lax.stop_gradient(td_target)
    size = jnp.abs(q - (fixed if fixed.ndim == 2 else fixed[None, :]))
    inside = jnp.minimum(size, HUBER)
    return jnp.sum(jnp.mean(for_critics(td_weight) * (0.5 * inside**2 + HUBER * (size - inside)), axis=1))


@dataclasses.dataclass(frozen=True)
class XQL(InSample):
    """Extreme Q-learning."""

    presets: ClassVar[Mapping[str, Preset]] = {
        "mujoco": Preset(
            {"actor_decay_updates": 1_000_000},
            f"{SOURCE}mujoco/mujoco_consistent.sh",
            "rewards times 1000 / (largest - smallest return of an episode), observations as they are, 1,000,000 updates",
        ),
        "antmaze": Preset(
            {"temperature": 0.6, "inverse_temperature": 10.0},
            f"{SOURCE}antmaze/ant_consistent.sh",
            "rewards minus 1 (reward_shift=-1.0), observations as they are, 1,000,000 updates",
        ),
        "kitchen": Preset(
            {
                "temperature": 5.0,
                "inverse_temperature": 0.5,
                "actor_network": Network(dropout=0.1),
                "actor_decay_updates": 1_000_000,
            },
            f"{SOURCE}franka/kitchen_consistent.sh, which also serves Adroit",
            "rewards and observations as they are, 1,000,000 updates",
        ),
    }

    temperature: float = setting(
        2.0, "(0, inf)", "Larger is nearer to the mean of the logged actions, smaller to the best."
    )
    inverse_temperature: float = setting(
        3.0, "[0, inf)", "Larger follows the advantage further from the log; 0 is behaviour cloning."
    )
    largest_exponent: float = setting(
        7.0, "(0, inf)", "Where z is cut off; smaller is steadier and leaves out outliers."
    )

    def value_loss(
        self, q: Float[Array, " B"], v: Float[Array, " B"], td_weight: Float[Array, " B"]
    ) -> Float[Array, ""]:
        return gumbel_loss(q, v, td_weight, self.temperature, self.largest_exponent)

    def weights(self, adv: Float[Array, " B"]) -> Float[Array, " B"]:
        return jnp.exp(self.inverse_temperature * adv)

    def critic_loss(
        self,
        q: Float[Array, "C B"],
        td_target: Float[Array, " B"] | Float[Array, "C B"],
        td_weight: Float[Array, " B"] | Float[Array, "C B"],
    ) -> Float[Array, ""]:
        return huber_td_loss(q, td_target, td_weight)
