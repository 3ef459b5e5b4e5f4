"""MOPO: model-based offline policy optimisation (Yu et al. 2020, arXiv 2005.13239), for continuous actions.

Soft actor-critic on rows that a learned model of the world makes, with rewards that are lower where the model is
uncertain. The model consists of networks that each give a normal distribution of what follows; it is fitted before
learning. Every `rollouts_every_updates` updates the current policy makes `rollouts` rollouts of `rollout_length` steps
in it, which start at logged observations. A share `real_share` of a batch is logged rows, and the rest is rows of those
rollouts:

    (1)  u(s, a)  = max_m | sigma_m(s, a) |,   sigma_m the standard deviations that network m gives of s' and r
    (2)  r~       = r - penalty_weight u(s, a) in rows of the model;  r~ = r in logged rows
    (3)  y        = r~ + gamma (1 - terminated) ( min_i Qbar_i(s', a') - alpha log pi(a'|s') ),   a' ~ pi(s')
    (4)  L_Q      = sum_i E[ (y - Q_i(s, a))^2 ]
    (5)  L_alpha  = -log alpha E[ log pi(a|s) + H ],              a ~ pi(s)
    (6)  L_pi     = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],     a ~ pi(s)
    (7)  Qbar    <- Qbar + target_rate (Q - Qbar)

H is minus the number of dimensions of an action. The vector sigma_m holds a standard deviation for each number of the
next observation and one for the reward, and |.| is its length. Those of the observation are of the standardised
observation by default, and of the observation as logged with `standardize=False`. `reward_scale` multiplies u as it
multiplies the reward, so that it does not change which weight is right. The published weights, from 0.5 to 5, were
chosen with `standardize=False`. The default of `penalty_weight`, 2.5, is their median; with standardised observations
it is only a place to start from. With a true bound on the model's error in place of u, the return in the penalised
model is a lower bound of the true one (paper, theorem 4.4); a standard deviation is no bound, and where a model is
wrong without knowing it, values are too high.

Codes: tianheyu927/mopo; OfflineRL-Kit e3ce697, offlinerlkit/policy/model_based/mopo.py, most of whose numbers are the
defaults.

Deviations: The model ends a rollout with a probability that it learned, where the codes have a rule written for each
environment; its standard deviations are kept between fixed bounds, which the codes learn; members differ by weights of
rows, not by resampled rows; episodes are held out, not rows; the model is fitted for at most `model_updates`, which the
codes do not limit; its weights do not decay; and 10,000 rollouts are made at a time, not 50,000 as there and in
`presets`. The temperature is not kept below 1, (5) comes before (6) on the same actions, and the actor's step size does
not fall by default (`decay_updates`). First weights are those of SAC-N.

Use: logs of varied behaviour, such as a replay log, whose dynamics are smooth and have few dimensions. Look at
`model/change_error` first: it says whether the model predicts at all.

Avoid: narrow logs of one expert, observations that a network predicts badly (many columns, contacts, randomness), and
observations in different units with `standardize=False`.

First knob: `penalty_weight`, from 0.5 to 5: larger stays nearer to where the model is certain. Compare `penalty_weight`
times `model/penalty` with `model/reward`: where the penalty makes rewards negative, ending an episode early looks good
to the policy.

Metrics: loss/critic (4), q/data_mean (at logged rows), q/spread (standard deviation over critics, averaged over rows);
loss/actor, q/policy_mean (of the minimum), policy/entropy (a sample of it, nats), policy/mode_error (at logged rows),
temperature; of the model: model/change_error and model/reward_error, shares of the variance on held-out rows that its
mean leaves unexplained, constant; model/reward, model/penalty and model/ends, means of r, u and ends over the rows that
it made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import jax

from stitchrl.algorithms.base import Step
from stitchrl.algorithms.heads import Critics
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.model_settings import ModelSettings, ModelState
from stitchrl.algorithms.optimizers import polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import setting
from stitchrl.algorithms.soft_actor import soft_policy_step, soft_value
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.types import PyTree

__all__ = ["MOPO"]

PUBLISHED = {
    "halfcheetah-medium": (5, 0.5), "halfcheetah-medium-replay": (5, 0.5), "halfcheetah-medium-expert": (5, 2.5),
    "hopper-medium": (5, 5.0), "hopper-medium-replay": (5, 2.5), "hopper-medium-expert": (5, 5.0),
    "walker2d-medium": (5, 0.5), "walker2d-medium-replay": (1, 2.5), "walker2d-medium-expert": (1, 2.5),
}  # fmt: skip
"""Data set -> (rollout_length, penalty_weight)."""


@dataclasses.dataclass(frozen=True)
class MOPO(ModelSettings):
    """Soft actor-critic in a model of the world, whose uncertainty is taken from the reward."""

    values_hold_entropy: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            task: Preset(
                {"rollouts": 50_000, "rollout_length": steps, "penalty_weight": weight},
                "yihaosun1124/OfflineRL-Kit e3ce697, run_example/run_mopo.py",
                "observations as they are (standardize=False), 3,000,000 updates",
            )
            for task, (steps, weight) in PUBLISHED.items()
        }
    )

    penalty_weight: float = setting(
        2.5, "[0, inf)", "Larger stays nearer to where the model is certain; 0 trusts the model fully."
    )

    def update(
        self, state: ModelState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[ModelState, Metrics]:
        mix_key, target_key, actor_key = jax.random.split(key, 3)
        mix, told = self.mixed_batch(state, batch, given, self.penalty_weight, key=mix_key)
        next_v = soft_value(state.actor, state.target_critics, mix, self.pessimistic, key=target_key)
        td_target = self.targets(mix["reward"] + mix["discount"] * next_v, mix, self.num_critics)

        def critic_loss(critics: Critics) -> tuple[Array, Array]:
            q = critics(mix["obs"], mix["action"])
            return td_loss(q, td_target, mix["td_weight"]), q

        (loss_q, q), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(self.adam(self.learning_rate), gradients)

        optimizer = self.adam(self.actor_learning_rate)
        actor, metrics = soft_policy_step(
            state.actor, critics.model, mix, optimizer, 0.0, lower=self.pessimistic, key=actor_key
        )
        target_critics: Critics = polyak(state.target_critics, critics.model, self.target_rate)

        metrics |= told | self.at_logged_rows(state, batch, q) | {"loss/critic": loss_q}
        return ModelState(actor, critics, target_critics, state.rollouts), metrics
