"""CQL: conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), for discrete and for continuous actions.

Both add to the squared TD error a penalty (paper eq. 4, CQL(H)) that pushes down what the log did not do:

    (1)  L = sum_i E[ (y - Q_i(s, a))^2 ] + cql_weight sum_i E[ log sum_b exp Q_i(s, b) - Q_i(s, a) ]
    (2)  Qbar <- Qbar + target_rate (Q - Qbar)

Rows without a TD target (the log was cut there and what followed is unknown) have weight 0 in both terms, for no TD
error would limit how far the penalty pushes their Q. Both means are over all rows of the batch. The two kinds of action
have two algorithms, `cql_discrete` and `cql_continuous`; `CQL` picks the one that fits the log.

The penalty is in the LOSS, at the state of the logged action; the target is ordinary. It is in units of value against
log-probability, so its strength depends on the reward's scale. The squared error has no factor 1/2, as in the official
code; the paper has it, so that a weight of w in the paper corresponds to 2 w here.

Discrete: the sum of (1) runs over the allowed actions; there is no actor, and

    (3)  y = r + gamma (1 - terminated) max_{a' allowed} min_i Qbar_i(s', a')

Continuous, soft actor-critic, every gradient at the parameters before the update, with the temperature alpha just
updated, H = -(number of action dimensions); official code: aviralkumar2907/CQL, d4rl/rlkit/torch/sac/cql.py:

    (4)  L_alpha = -log alpha E[ log pi(a|s) + H ],   a ~ pi(s)
    (5)  L_pi    = E[ alpha log pi(a|s) - min_i Q_i(s, a) ],   a ~ pi(s)
    (6)  y       = r + gamma (1 - terminated) min_i Qbar_i(s', a'),   a' ~ pi(s')
    (7)  log sum_b exp Q(s, b)  ~  log sum_k exp( Q(s, b_k) - log d_k(b_k) ),   K actions b_k each from the uniform
         distribution, from pi(s) and from pi(s'), every one valued at s, d_k its own density

Variants, for both kinds of action unless it is said, each off by default; only (14) changes the target:

    (8)  with `lagrange_gap` above 0, the penalty of each critic is alpha' (cql_weight penalty - lagrange_gap), and
         alpha' in [0, 1e6] rises while that difference is above 0
    (9)  with `gradient_samples` m above 0, the gradient of (7) is estimated without bias: it is the expectation of
         grad Q(s, b_k) under k ~ softmax_k(Q(s, b_k) - log d_k), so all K candidates are valued, and m of them, drawn by
         that distribution for each row and critic, are differentiated (`docs/decisions/0017-cql-sampled-gradient.md`)

    (10) `penalty="rho"`, the paper's CQL(rho): log sum_b rho(b|s) exp Q_i(s, b) - Q_i(s, a). Continuous: the candidates of
         (7) and the logged action, without their densities, which is the official version 2. Discrete: rho is softmax
         Qbar(s, .) over allowed actions, the policy before
    (11) `penalty="behavior"`: the same with omega(b|s) = (1 - beta(b|s)) / (1 + beta(b|s)) in place of rho, so that actions
         are pushed down the more, the rarer they are. beta is the behaviour, cloned from the log before learning and then
         fixed; continuous: its density relative to that at its mode
    (12) `return_weighted`: the penalty's second term is u Q_i(s, a), u = clip(exp z, 0.1, 10) with mean 1 over rows, z the
         standardised return of the row's episode
    (13) `bc_weight` and `kl_weight` hold the policy to the log, which (1) alone does not: continuous, L_pi +
         bc_weight E[ -log pi(a|s) ] + kl_weight E[ KL(pi(.|s) || beta(.|s)) ], the divergence by the action of (5); discrete,
         where (1) is already the loss of behaviour cloning of softmax Q, L + kl_weight sum_i E[ KL(softmax Q_i || beta) ]
    (14) `target_samples` above 1, continuous: the next value of (6) is the largest over that many actions,
         for each critic (the official `max_q_backup`)

Under (12) the penalty changes when all Q shift together: rows with u above 1 pull Q up, the others down. (11) and (12)
are not of the paper; they are sometimes written with the penalty's sign turned, which would raise the rare actions.

(6) has no entropy term (the official `deterministic_backup`). (7) is the official version 3; it leaves out the constant
log 3K, which has no gradient.

Deviations: Discrete: the official code (atari) is on 200 quantiles with periodic target copies and a Huber loss; here Q
is an expectation, the loss squared, targets averaged, and the target takes the smaller of two critics. Continuous: the
official networks have three hidden layers (`hidden_sizes`) and its actor imitates the log for its first 40,000 updates;
here they have two, and the actor never imitates. The official code updates the critics before it takes the actor's
gradient through them. PyTorch up to 1.4 allowed this and mixed old and new weights, later versions refuse it; here that
gradient is at the old weights. Its log-density adds 1e-6 inside log(1 - a^2), so that the gradient vanishes for actions
at the edge of the box; here the log-density is exact. The Lagrange term is off, as the official commands for gym have
it (its code's default is on). First weights are orthogonal, not the official very small ones (docs/decisions/0011); log
standard deviations are kept in [-20, 2], not [-5, 2]; the gradient of alpha' goes on beyond its cap of 1e6, where the
official one stops.

Use: where values must not exceed the truth, and on discrete actions that the log covers broadly.

Avoid: rewards of unknown scale, since the weight is in their units, and narrow logs of one expert, which imitation
serves better.

First knob: `cql_weight`, from 0.1 to 10: larger stays nearer to the log's actions and claims less.

Metrics: loss/critic (TD part), loss/cql (penalty, unweighted), q/data_mean. Discrete: q/gap (largest allowed Q above
the logged one), policy/agreement, with (8) cql/multiplier, with (13) policy/kl. Continuous: loss/actor, q/policy_mean,
policy/entropy (a sample of it, nats), policy/mode_error, temperature, cql/multiplier (alpha' of (8), else 1),
with (13) loss/bc and policy/kl.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from stitchrl.algorithms import cql_continuous, cql_discrete
from stitchrl.algorithms.base import Prepared, Spec, Step
from stitchrl.algorithms.behavior_fit import fitted_behavior
from stitchrl.algorithms.cql_continuous import ContinuousCQLState
from stitchrl.algorithms.cql_discrete import DiscreteCQLState
from stitchrl.algorithms.cql_settings import CQLSettings
from stitchrl.algorithms.cql_terms import return_weights
from stitchrl.algorithms.presets import Preset
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.policy import ValueGreedyPolicy
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["CQL"]

OFFICIAL = "aviralkumar2907/CQL, d4rl/examples"
CORL = "tinkoff-ai/CORL, configs/offline/cql"
DEEP, DEEPER = Network((256, 256, 256)), Network((256,) * 5)
State = DiscreteCQLState | ContinuousCQLState


@dataclasses.dataclass(frozen=True)
class CQL(CQLSettings):
    """Conservative Q-learning. Images only with discrete actions."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    presets: ClassVar[Mapping[str, Preset]] = {
        "mujoco": Preset(
            {"network": DEEP},
            f"{OFFICIAL}/cql_mujoco_new.py with the arguments of its README (weight 5 or 10)",
            "observations as they are, 3,000,000 updates, in the first 40,000 of which the actor imitates",
        ),
        "antmaze": Preset(
            {"network": DEEP, "lagrange_gap": 5.0},
            f"{OFFICIAL}/cql_antmaze_new.py with the arguments of its README",
            "rewards (r - 0.5) 4, observations as they are, 3,000,000 updates, in the first 40,000 of which the actor imitates",
        ),
        "corl mujoco": Preset(
            {"network": DEEP, "cql_weight": 10.0, "actor_learning_rate": 3e-5},
            f"{CORL}/halfcheetah, hopper, walker2d",
            "observations standardised, 1,000,000 updates; hopper-medium also scales rewards by the spread of returns",
        ),
        "corl antmaze": Preset(
            {"network": DEEPER, "actor_network": DEEP, "lagrange_gap": 4.0, "target_samples": 10},
            f"{CORL}/antmaze, whose gap of 0.8 is multiplied by the weight 5",
            "rewards 10 r - 5, observations as they are, 1,000,000 updates; its multiplier starts at e and its difference "
            "is kept above -200",
        ),
    }

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        ready = self.prepare_again(log, scaling, None, key=key)
        if self.needs_behavior:
            behavior = fitted_behavior(log, scaling, self.network, self.behavior_updates, key=key)
            ready = ready._replace(given={**(ready.given or {}), "behavior": behavior})
        return ready

    def prepare_again(self, log: Dataset, scaling: Scaling, given: PyTree, *, key: Key) -> Prepared:
        columns = {"return_weight": return_weights(log)} if self.return_weighted else {}
        ready = self.with_sources(Prepared(log, columns))
        return ready if given is None else ready._replace(given=given)

    def init(self, key: Key, spec: Spec, given: PyTree) -> State:
        if spec.num_actions is None:
            return cql_continuous.init(self, spec, given, key=key)
        return cql_discrete.init(self, spec, given, key=key)

    def update(self, state: State, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[State, Metrics]:
        if isinstance(state, DiscreteCQLState):
            return cql_discrete.update(self, state, batch, given)
        return cql_continuous.update(self, state, batch, given, key=key)

    def policy(self, state: State, given: PyTree) -> ValueGreedyPolicy | SquashedGaussianPolicy:
        return cql_discrete.policy(state) if isinstance(state, DiscreteCQLState) else cql_continuous.policy(state)

    def value(self, state: State, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return cql_discrete.value(state) if isinstance(state, DiscreteCQLState) else cql_continuous.value(state)
