"""BCQ: batch-constrained Q-learning, for discrete actions (Fujimoto, Conti, Ghavamzadeh, Pineau 2019, arXiv 1910.01708).

A model b of the behaviour says which actions the log supports; Q-learning takes its maximum over those alone. One
update, in the order of the official code (sfujim/BCQ, discrete_BCQ/discrete_BCQ.py), both gradients at the parameters
before it:

    (1)  L_b    = -E[ log b(a | s) ] + 0.01 E[ logit^2 ]
    (2)  A(s)   = {a : b(a | s) / max_b b(. | s) > threshold}
    (3)  y      = r + gamma (1 - terminated) Qbar(s', a'),   a' = argmax over A(s') of Q(s', .)
    (4)  L_Q    = E[ h(y - Q(s, a)) ],   h(e) = e^2 / 2 where |e| <= 1, else |e| - 1/2
    (5)  Qbar  <- Qbar + target_rate (Q - Qbar)

It acts by the argmax over A(s) of Q(s, .). The threshold is RELATIVE to the most likely action, so that A(s) is never
empty; under an action mask b is renormalised over the allowed actions. Threshold 0 is Q-learning, a threshold near 1
behaviour cloning. Rows without a TD target (cut, what followed unknown) have weight 0 in (4) and full weight in (1).

Use: discrete actions, a log that tries several actions in most states, and no wish to go beyond what was done.

Avoid: a log of nearly one action a state, of which it can only be a copy; rewards in the hundreds, for which the clipped
error (4) learns slowly (use `reward_scale`).

First knob: `threshold`, from 0.1 to 0.5: larger keeps nearer to what the behaviour did most.

Deviations: the official code for Atari shares the convolutions of Q and b and copies the target every 8,000 updates;
here the two are apart and the target is an average, as in the official code for other tasks. First weights are
orthogonal, and b starts near uniform. It acts without the official 0.1% of random actions. Masks are an addition.

Metrics: loss/critic, loss/behavior, q/data_mean; policy/agreement (share of logged actions that are the policy's),
behavior/likely (share of the allowed actions that are in A(s): 1 constrains nothing).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from stitchrl.algorithms import bcq_discrete
from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.bcq_discrete import DiscreteBCQState
from stitchrl.algorithms.bcq_settings import BCQSettings
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.constrained import ConstrainedGreedyPolicy
from stitchrl.nn.value import CriticValue
from stitchrl.types import PyTree

__all__ = ["BCQ"]


@dataclasses.dataclass(frozen=True)
class BCQ(BCQSettings):
    """Batch-constrained Q-learning."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    def init(self, key: Key, spec: Spec, given: PyTree) -> DiscreteBCQState:
        return bcq_discrete.init(self, spec, key=key)

    def update(
        self, state: DiscreteBCQState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[DiscreteBCQState, Metrics]:
        return bcq_discrete.update(self, state, batch)

    def policy(self, state: DiscreteBCQState, given: PyTree) -> ConstrainedGreedyPolicy:
        return bcq_discrete.policy(self, state)

    def value(self, state: DiscreteBCQState, given: PyTree) -> CriticValue:
        return bcq_discrete.value(self, state)
