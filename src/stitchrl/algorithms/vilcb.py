"""VI-LCB: value iteration with lower confidence bounds (Rashidinejad, Zhu, Ma, Jiao, Russell 2021, arXiv 2103.12021).

Value iteration in the maximum-likelihood model of the log, whose rewards are lowered by a bound on their error (their
algorithm 3, for discounted problems):

    (1)  b(s, a) = penalty_weight V_range sqrt( log(2 S A / failure) / (2 N(s, a)) )
    (2)  Q(s, a) = r(s, a) - b(s, a) + gamma sum_s' P(s' | s, a) V(s'),   no less than V_lowest
    (3)  V(s)    = max over the actions tried in s of Q(s, a)
    (4)  pi(s)   = the action of (3)

Actions never tried in a state have an infinite penalty, and a state of which no outcome is known has the value
V_lowest. V_lowest is the smallest discounted sum of rewards that followed any row of the log, and V_range the distance
from there to the largest; both count the value 0 after an end. The paper's constants make (1) so large that nothing
tried less than hundreds of times counts; `penalty_weight` scales it, and 0 is plain value iteration in the model, which
picks the luckiest actions.

Deviations: Hoeffding's constant in place of the paper's; all of the log in every sweep, where the paper splits it into
one part a sweep (for its proof). There are no updates: `updates` is ignored.

Acting: an observation that is none of the log's is treated as the nearest one.

Use: logs whose states are numbered, as a fast baseline for learners with networks.

Avoid: states that cannot be counted, or that hide what decides the outcome.

First knob: `penalty_weight`, from 0.01 to 1: larger trusts only what was tried often.

Metrics: none.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.algorithms.settings import setting
from stitchrl.algorithms.tabular_model import TabularModel, settled
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.tabular import TabularPolicy, TabularValue
from stitchrl.types import NumpyArray, PyTree

__all__ = ["VILCB", "VILCBState", "penalty", "pessimistic_values"]

FAILURE = 0.05
"""The failure probability of equation (1)."""


class VILCBState(NamedTuple):
    """Nothing is trained."""


def penalty(count: Float[NumpyArray, "S A"], value_range: float, penalty_weight: float) -> Float[NumpyArray, "S A"]:
    """Equation (1); infinite where an action was never tried."""
    error = np.sqrt(math.log(2 * count.size / FAILURE) / (2 * np.maximum(count, 1)))
    return np.where(count > 0, penalty_weight * value_range * error, np.inf)


def pessimistic_values(
    model: TabularModel, bonus: Float[NumpyArray, "S A"], tried: Bool[NumpyArray, "S A"], gamma: float
) -> Float[NumpyArray, "S A"]:
    """Q of equations (2) and (3), by sweeps until nothing changes; minus infinity for actions that were not tried.

    Raises:
        DataError: with gamma 1, where going round in a cycle of states pays for ever.
    """

    def q(v: Float[NumpyArray, " S"]) -> Float[NumpyArray, "S A"]:
        lowered = np.maximum(model.q(v, gamma) - np.where(tried, bonus, 0.0), model.lowest)
        lowered[~model.known] = model.lowest
        return np.where(tried, lowered, -np.inf)

    return q(
        settled(
            lambda v: q(v).max(1),
            np.full(len(bonus), model.lowest),
            "Value iteration",
            f"with gamma {gamma:g} going round in some cycle of states pays for ever",
        )
    )


@dataclasses.dataclass(frozen=True)
class VILCB(Algorithm):
    """Value iteration with lower confidence bounds, on logs with the role `observation_id`."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    closed_form: ClassVar[bool] = True

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.", static=True)
    penalty_weight: float = setting(
        0.1, "[0, inf)", "Larger trusts only what was tried often; 0 is value iteration without caution.", static=True
    )

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        model = TabularModel.of(log, scaling, gamma=self.gamma, name=self.name)
        tried = (model.count > 0) & model.allowed
        # A state of which no outcome is known keeps the behaviour's actions.
        tried |= ~tried.any(1, keepdims=True) & (model.behavior > 0)
        bonus = penalty(np.maximum(model.count, tried), model.highest - model.lowest, self.penalty_weight)
        q = pessimistic_values(model, bonus, tried, self.gamma)
        # Actions that were never tried get the lowest value in the table, so that nothing meets an infinity.
        table = np.where(np.isfinite(q), q, model.lowest).astype(np.float32)
        return Prepared(log, given={"table": model.table, "log_probabilities": _preference(q), "q": table})

    def init(self, key: Key, spec: Spec, given: PyTree) -> VILCBState:
        return VILCBState()

    def update(self, state: VILCBState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[Any, Metrics]:
        return state, {}

    def policy(self, state: VILCBState, given: PyTree) -> TabularPolicy:
        return TabularPolicy(given["table"], given["log_probabilities"])

    def value(self, state: VILCBState, given: PyTree) -> TabularValue:
        return TabularValue(given["table"], given["q"], self.policy(state, given))


def _preference(q: Float[NumpyArray, "S A"]) -> Float[NumpyArray, "S A"]:
    """Log-probabilities of equation (4); where a mask forbids the best action, the best allowed one is next in line."""
    rank = np.argsort(np.argsort(-q, axis=1, kind="stable"), axis=1, kind="stable")
    # 1e3 apart: each is certain against all after it, and none underflows where those before it are forbidden.
    return (-1e3 * rank).astype(np.float32)
