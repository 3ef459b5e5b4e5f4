"""COMBO: conservative offline model-based policy optimisation (Yu et al. 2021, arXiv 2102.08363), for continuous actions.

It makes rollouts in a learned model of the world, as MOPO does, but does not lower the rewards by the model's
uncertainty, since a model has to know where it is wrong for that. Instead it has CQL's penalty: values of the policy's
and of other actions are pushed down in all states of a batch, also in those that the model made, and values of logged
actions are pushed up. A share `real_share` of a batch is logged rows:

    (1)  L_alpha  = -log alpha E[ log pi(a|s) + H ],              a ~ pi(s)
    (2)  L_pi     = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],     a ~ pi(s)
    (3)  y        = r + gamma (1 - terminated) min_i Qbar_i(s', a'),   a' ~ pi(s')
    (4)  L_Q      = sum_i E[ (y - Q_i(s, a))^2 ] + cql_weight sum_i ( E[ log sum_b exp Q_i(s, b) ] - E_log[ Q_i(s, a) ] )
    (5)  log sum_b exp Q(s, b)  ~  log sum_k exp( Q(s, b_k) - log d_k(b_k) ),   K actions b_k each from the uniform
         distribution, from pi(s) and from pi(s'), every one valued at s, d_k its own density
    (6)  Qbar    <- Qbar + target_rate (Q - Qbar)

E is the mean over all rows of a batch and E_log that over its logged rows; H is minus the number of dimensions of an
action. Rows without a TD target have weight 0 in every term of (4). (5) leaves out the constant log 3K, which has no
gradient.

Code: OfflineRL-Kit e3ce697, offlinerlkit/policy/model_based/combo.py, most of whose numbers are the defaults; the authors
published no code.

Deviations: those of MOPO about the model. (5) runs over all 3K actions as the paper has it; in that code a result of
`reshape` is not kept, so that its sum runs over three actions of each copy of a state. The paper has 1/2 before the
squared error, which that code leaves out, as here: a weight of w in the paper corresponds to 2 w here. (1) comes before
(2) on the same actions; there is no Lagrange multiplier and there are no rollouts by uniform actions, both of which are
off in that code. First weights are those of SAC-N.

Use: where MOPO would do, and also where the model's standard deviations do not show where it is wrong, since COMBO does
not use them.

Avoid: rewards of unknown scale, since the weight is in their units, and observations that a network predicts badly.

First knob: `cql_weight`, from 0.5 to 5: larger stays nearer to the log's actions and claims less.

Metrics: loss/critic (TD part of (4)), loss/cql (the penalty, unweighted), q/data_mean (at logged rows), q/spread
(standard deviation over critics, averaged over rows); loss/actor, q/policy_mean (of the minimum), policy/entropy (a
sample of it, nats), policy/mode_error (at logged rows), temperature; of the model: model/change_error and
model/reward_error, shares of the variance on held-out rows that its mean leaves unexplained, constant; model/reward,
model/penalty and model/ends, means over the rows that it made of the reward, of MOPO's uncertainty (not used here) and
of ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Step
from stitchrl.algorithms.cql_continuous import sampled_actions
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.model_settings import ModelSettings, ModelState
from stitchrl.algorithms.optimizers import polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.soft_actor import soft_policy_step
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import Network
from stitchrl.nn.tiling import tile_count, tiled_value_and_grad
from stitchrl.types import PyTree

__all__ = ["COMBO", "conservative_penalty"]

PUBLISHED = {
    "halfcheetah-medium": (5, 0.5), "halfcheetah-medium-replay": (5, 0.5), "halfcheetah-medium-expert": (5, 5.0),
    "hopper-medium": (5, 5.0), "hopper-medium-replay": (5, 0.5), "hopper-medium-expert": (5, 5.0),
    "walker2d-medium": (1, 5.0), "walker2d-medium-replay": (1, 0.5), "walker2d-medium-expert": (1, 5.0),
}  # fmt: skip
"""Data set -> (rollout_length, cql_weight)."""


def conservative_penalty(
    q: Float[Array, "C K B"],
    log_density: Float[Array, "K B"],
    q_data: Float[Array, "C B"],
    down: Float[Array, " B"],
    up: Float[Array, " B"],
) -> Float[Array, " C"]:
    """The bracket of (4) for each critic, the sum by (5) from K actions of known density.

    Args:
        q, log_density: of the K actions, in the states of a batch.
        q_data: of the action of each row.
        down: weight of a row in the first mean: 1, or 0 without a TD target.
        up: weight of a row in the second: B over the number of logged rows, or 0 in rows that the model made.
    """
    pushed_down = jax.nn.logsumexp(q - log_density[None], axis=1)
    return jnp.mean(down[None, :] * pushed_down - up[None, :] * q_data, axis=1)


@dataclasses.dataclass(frozen=True)
class COMBO(ModelSettings):
    """Conservative Q-learning on rows of the log and of a model of the world."""

    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            task: Preset(
                {"rollouts": 50_000, "rollout_length": steps, "cql_weight": weight},
                "yihaosun1124/OfflineRL-Kit e3ce697, run_example/run_combo.py",
                "observations as they are (standardize=False), 1,000,000 updates",
            )
            for task, (steps, weight) in PUBLISHED.items()
        }
    )

    real_share: float = setting(
        0.5, "(0, 1]", "Share of every batch that is logged rows; 1 learns from the log alone.", static=True
    )
    cql_weight: float = setting(5.0, "[0, inf)", "Larger stays nearer to what the log did; 0 trusts the model fully.")
    samples: int = setting(10, "at least 1", "Actions from each of the three distributions in the penalty.")
    network: Network = network_setting(Network((256, 256, 256)), "Shape of the critics' networks.")

    def update(
        self, state: ModelState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[ModelState, Metrics]:
        mix_key, actor_key, target_key, penalty_key = jax.random.split(key, 4)
        mix, told = self.mixed_batch(state, batch, given, 0.0, key=mix_key)
        obs, td_weight = mix["obs"], mix["td_weight"]
        actor, metrics = soft_policy_step(
            state.actor, state.critics.model, mix, self.adam(self.actor_learning_rate), 0.0, lower=self.pessimistic,
            key=actor_key,
        )  # fmt: skip

        policy: Any = actor.policy.model
        pi, next_pi = policy(obs), policy(mix["next_obs"])
        next_q = self.pessimistic(state.target_critics(mix["next_obs"], next_pi.sample(key=target_key)))
        td_target = self.targets(mix["reward"] + mix["discount"] * next_q, mix, self.num_critics)

        sampled, log_density = sampled_actions(pi, next_pi, self.samples, key=penalty_key)
        logged = jnp.arange(len(obs)) < self.real_rows(batch)
        # Rows first, so that parts of the batch can be taken one after another.
        parts = {
            "obs": obs,
            "actions": jnp.concatenate([jnp.swapaxes(sampled, 0, 1), mix["action"][:, None]], axis=1),
            "log_density": log_density.T,
            "td_target": td_target.T,  # of all critics, or each critic's own
            "td_weight": td_weight,
            "up": jnp.where(logged, td_weight, 0.0) * (len(obs) / self.real_rows(batch)),
        }

        def loss(critics: Any, part: Batch) -> tuple[Array, tuple[Array, Array]]:
            q = critics.several(part["obs"], jnp.swapaxes(part["actions"], 0, 1))
            penalty = conservative_penalty(q[:, :-1], part["log_density"].T, q[:, -1], part["td_weight"], part["up"])
            td = td_loss(q[:, -1], part["td_target"].T, part["td_weight"])
            return td + self.cql_weight * jnp.sum(penalty), (td, jnp.sum(penalty))

        tiles = tile_count(len(obs), parts["actions"].shape[1])
        (_, (td, penalty)), gradients = tiled_value_and_grad(loss, state.critics.model, parts, tiles)
        critics = state.critics.step(self.adam(self.learning_rate), gradients)
        target_critics = polyak(state.target_critics, critics.model, self.target_rate)

        q = state.critics.model(obs, mix["action"])
        metrics |= told | self.at_logged_rows(state, batch, q) | {"loss/critic": td, "loss/cql": penalty}
        return ModelState(actor, critics, target_critics, state.rollouts), metrics
