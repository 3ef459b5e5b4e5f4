"""BCQ: batch-constrained Q-learning, for discrete and for continuous actions.

A model of the behaviour says which actions the log supports; the maximum of Q-learning is taken over those alone. The
two kinds of action have two algorithms, `bcq_discrete` and `bcq_continuous`; `BCQ` picks the one that fits the log.
Rows without a TD target (the log was cut there and what followed is unknown) have weight 0 in (4) and (8) and full
weight in the model of the behaviour.

Discrete (Fujimoto, Conti, Ghavamzadeh, Pineau 2019, arXiv 1910.01708; sfujim/BCQ, discrete_BCQ/discrete_BCQ.py), with
b the model, both gradients at the parameters before the update:

    (1)  L_b    = -E[ log b(a | s) ] + 0.01 E[ logit^2 ]
    (2)  A(s)   = {a : b(a | s) / max_b b(. | s) > threshold}
    (3)  y      = r + gamma (1 - terminated) Qbar(s', a'),   a' = argmax over A(s') of Q(s', .)
    (4)  L_Q    = E[ h(y - Q(s, a)) ],   h(e) = e^2 / 2 where |e| <= 1, else |e| - 1/2
    (5)  Qbar  <- Qbar + target_rate (Q - Qbar)

It acts by the argmax over A(s) of Q(s, .). The threshold is RELATIVE to the most likely action, so that A(s) is never
empty; under an action mask b is renormalised over the allowed actions.

Continuous (Fujimoto, Meger, Precup 2019, arXiv 1812.02900; sfujim/BCQ, continuous_BCQ/BCQ.py). Each step uses what the
steps before it updated. D decodes latent vectors z to actions, x perturbs an action a to x(s, a) = clip(a +
perturbation_limit tanh net(s, a), +-1):

    (6)  L_D    = E[ (D(s, z) - a)^2 ] + KL(N(m, v), N(0, 1)) / 2,   z ~ N(m, v),  (m, v) = encoder(s, a)
    (7)  y      = r + gamma (1 - terminated) max_k [ w min_i Qbar_i(s', a_k) + (1 - w) max_i Qbar_i(s', a_k) ],
                  a_k = xbar(s', D(s', z_k)),  z_k ~ N(0, 1) cut at +-0.5,  k = 1 .. candidates,  w = min_weight
    (8)  L_Q    = sum_i E[ (y - Q_i(s, a))^2 ]
    (9)  L_x    = -E[ Q_1(s, x(s, D(s, z))) ],   z ~ N(0, 1) cut at +-0.5
    (10) Qbar  <- Qbar + target_rate (Q - Qbar)
    (11) xbar  <- xbar + target_rate (x - xbar)

Both terms of (6) are means over the numbers of a vector, as in the official code; z has twice as many numbers as an
action. It acts by sampling `acting_candidates` actions x(s, D(s, z)) and taking the best by Q_1. Such actions have no
density. `greedy()` uses the same z at every observation, so that nothing is left to chance.

Use: a log that tries several actions in most states, where the policy must not go beyond what was done.

Avoid: a log of nearly one action per state, of which it can only be a copy; continuous actions whose choices lie close
together: the weights in (6) average away what differs by less than a standard deviation of about 0.35, in a box of [-1,
1]; discrete actions with rewards or targets that scatter by more than 1 about their mean. Beyond 1 the error (4) is
absolute, and Q learns a number between the mean and the median of its targets: for a reward of 100 one time in ten,
else 0, it learns 0.11 and not 10. More updates do not remove this bias, but smaller rewards do: set `reward_scale` of
`stitchrl.fit` so that the targets scatter by less than 1.

First knob: `threshold`, from 0.1 to 0.5: larger keeps nearer to what the behaviour did most. For continuous actions it
is `perturbation_limit`, from 0 to 0.2: smaller keeps nearer to the log.

Deviations: Discrete: the official code for Atari shares the convolutions of Q and b and copies the target every 8,000
updates; here the two are apart and the target is an average, as in the official code for other tasks. First weights are
orthogonal, and b starts near uniform. It acts without the official 0.1% of random actions. Masks are an addition.
Continuous: the official widths and step size are the preset "mujoco"; the defaults are those of the other algorithms.

Metrics: loss/critic, loss/behavior, q/data_mean. Discrete: policy/agreement (share of logged actions that are the
policy's), behavior/likely (share of the allowed actions that are in A(s): 1 constrains nothing). Continuous: loss/actor
(9), q/policy_mean, behavior/error (root mean squared distance of D's action from the logged one, per action dimension).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from stitchrl.algorithms import bcq_continuous, bcq_discrete
from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.bcq_continuous import ContinuousBCQState
from stitchrl.algorithms.bcq_discrete import DiscreteBCQState
from stitchrl.algorithms.bcq_settings import BCQSettings
from stitchrl.algorithms.presets import Preset
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.constrained import ConstrainedGreedyPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["BCQ"]

State = DiscreteBCQState | ContinuousBCQState


@dataclasses.dataclass(frozen=True)
class BCQ(BCQSettings):
    """Batch-constrained Q-learning. Images only with discrete actions."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    acts: ClassVar[str] = "sample"
    presets: ClassVar[Mapping[str, Preset]] = {
        "mujoco": Preset(
            {"learning_rate": 1e-3, "network": Network((400, 300)), "behavior_network": Network((750, 750))},
            "sfujim/BCQ, continuous_BCQ/BCQ.py and main.py",
            "batches of 100 rows, rewards and observations as they are, 1,000,000 updates",
        ),
    }

    def init(self, key: Key, spec: Spec, given: PyTree) -> State:
        if spec.num_actions is None:
            return bcq_continuous.init(self, spec, key=key)
        return bcq_discrete.init(self, spec, key=key)

    def update(self, state: State, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[State, Metrics]:
        if isinstance(state, DiscreteBCQState):
            return bcq_discrete.update(self, state, batch)
        return bcq_continuous.update(self, state, batch, key=key)

    def policy(self, state: State, given: PyTree) -> ConstrainedGreedyPolicy | BestOfPolicy:
        if isinstance(state, DiscreteBCQState):
            return bcq_discrete.policy(self, state)
        return bcq_continuous.policy(self, state)

    def value(self, state: State, given: PyTree) -> CriticValue | ContinuousCriticValue:
        if isinstance(state, DiscreteBCQState):
            return bcq_discrete.value(self, state)
        return bcq_continuous.value(self, state)
