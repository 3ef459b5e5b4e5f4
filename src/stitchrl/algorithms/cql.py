"""CQL: conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), for discrete and for continuous actions.

Both add to the squared TD error a penalty (paper eq. 4, CQL(H)) that pushes down what the log did not do:

    (1)  L = sum_i E[ (y - Q_i(s, a))^2 ] + cql_weight sum_i E[ log sum_b exp Q_i(s, b) - Q_i(s, a) ]
    (2)  Qbar <- Qbar + target_rate (Q - Qbar)

Rows without a TD target (cut, what followed unknown) have weight 0 in both terms: pushing their Q up would have nothing
to answer to. Both divide by all rows of the batch. The two kinds of action are two algorithms, `cql_discrete` and
`cql_continuous`; this name picks by the log.

The penalty is in the LOSS, at the state of the logged action; the target is ordinary. It is in units of value against
log-probability, so its strength depends on the reward's scale. The squared error has no factor 1/2, as in the official
code; the paper has it, so its weight is half of this one.

Discrete: the sum of (1) runs over the allowed actions; there is no actor, and

    (3)  y = r + gamma (1 - terminated) max_{a' allowed} min_i Qbar_i(s', a')

Continuous: soft actor-critic, every gradient at the parameters before the update, with the temperature alpha just
updated, H = -(numbers in an action); official code: aviralkumar2907/CQL, d4rl/rlkit/torch/sac/cql.py:

    (4)  L_alpha = -log alpha E[ log pi(a|s) + H ],   a ~ pi(s)
    (5)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],   a ~ pi(s)
    (6)  y       = r + gamma (1 - terminated) min_i Qbar_i(s', a'),   a' ~ pi(s')
    (7)  log sum_b exp Q(s, b)  ~  log sum_k exp( Q(s, b_k) - log d_k(b_k) ),   K actions b_k each from the uniform
         distribution, from pi(s) and from pi(s'), every one valued at s, d_k its own density
    (8)  with `lagrange_gap` above 0, the penalty of each critic is alpha' (cql_weight penalty - lagrange_gap), and
         alpha' in [0, 1e6] rises while that difference is above 0

    (9)  with `gradient_samples` m above 0, the gradient of (7) is estimated without bias: it is the expectation of
         grad Q(s, b_k) under k ~ softmax_k(Q(s, b_k) - log d_k), so all K candidates are valued, and m of them, drawn by
         that distribution for each row and critic, are differentiated (`docs/decisions/0017-cql-sampled-gradient.md`)

(6) has no entropy term (the official `deterministic_backup`). (7) is the official version 3: it leaves out a constant,
log 3K, that has no gradient.

Deviations: Discrete: the official code (atari) is on 200 quantiles with periodic target copies and a Huber loss; here Q
is an expectation, the loss squared, targets averaged, and the target takes the smaller of two critics. Continuous: the
official networks have three hidden layers (`hidden_sizes`) and its actor imitates for its first 40,000 updates; here
two, and never. The official code steps the critics before it takes the actor's gradient through them, which
PyTorch up to 1.4 let pass with a mixture of old and new weights and later versions refuse; here that gradient is at
the old weights. Its log-density adds 1e-6 inside log(1 - a^2), which ends the pull on actions at the edge of the box;
here it is exact. The Lagrange term is off, as the official commands for gym have it (its code's default is on). First
weights are orthogonal, not the official very small ones (docs/decisions/0011); log standard deviations are kept in
[-20, 2], not [-5, 2]; the gradient of alpha' goes on beyond its cap of 1e6, where the official one stops.

Use: where values must not exceed the truth, and on discrete actions that the log covers broadly.

Avoid: rewards of unknown scale, since the weight is in their units, and narrow logs of one expert, which imitation
serves better.

First knob: `cql_weight`, from 0.1 to 10: larger stays nearer to the log's actions and claims less.

Metrics: loss/critic (TD part), loss/cql (penalty, unweighted), q/data_mean. Discrete: q/gap (largest allowed Q above
the logged one), policy/agreement. Continuous: loss/actor, q/policy_mean, policy/entropy (a sample of it, nats),
policy/mode_error, temperature, cql/multiplier (alpha' of (8), else 1).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from stitchrl.algorithms import cql_continuous, cql_discrete
from stitchrl.algorithms.base import Spec, Step
from stitchrl.algorithms.cql_continuous import ContinuousCQLState
from stitchrl.algorithms.cql_discrete import DiscreteCQLState
from stitchrl.algorithms.cql_settings import CQLSettings
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.policy import ValueGreedyPolicy
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["CQL"]

State = DiscreteCQLState | ContinuousCQLState


@dataclasses.dataclass(frozen=True)
class CQL(CQLSettings):
    """Conservative Q-learning. Images only with discrete actions."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")

    def init(self, key: Key, spec: Spec, given: PyTree) -> State:
        if spec.num_actions is None:
            return cql_continuous.init(self, spec, key=key)
        return cql_discrete.init(self, spec, key=key)

    def update(self, state: State, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[State, Metrics]:
        if isinstance(state, DiscreteCQLState):
            return cql_discrete.update(self, state, batch)
        return cql_continuous.update(self, state, batch, key=key)

    def policy(self, state: State, given: PyTree) -> ValueGreedyPolicy | SquashedGaussianPolicy:
        return cql_discrete.policy(state) if isinstance(state, DiscreteCQLState) else cql_continuous.policy(state)

    def value(self, state: State, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return cql_discrete.value(state) if isinstance(state, DiscreteCQLState) else cql_continuous.value(state)
