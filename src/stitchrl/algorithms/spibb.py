"""SPIBB: safe policy improvement with baseline bootstrapping (Laroche, Trichelair, Tachet des Combes 2019, arXiv 1712.06924).

Policy iteration in the maximum-likelihood model of the log, which departs from the behaviour b only for actions that
were tried often (Pi_b-SPIBB, their algorithm 1). A pair (s, a) is uncertain if N(s, a) < least_count:

    (1)  pi(a | s) = b(a | s)                               on uncertain pairs
    (2)  the rest of the mass goes to the certain action with the largest Q_pi(s, a)
    (3)  Q_pi(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) V_pi(s'),   in the model; (2) and (3) until nothing changes

With probability 1 - delta the policy is no worse than the behaviour by more than zeta (their theorem 2):

    (4)  zeta = 4 V_max / (1 - gamma) sqrt(2 / least_count log(2 S A 2^S / delta)) - (gain in the model)

which says nothing for nearly every log (zeta is larger than the range of values), and `remarks` then says so. What
protects in practice is (1): where the log is thin, the policy is the behaviour. b is the log's own probabilities where
it has them, else the shares of its actions in each state (estimated baselines: Simao, Laroche, Tachet des Combes 2020,
arXiv 1909.05236).

Official code: RomainLaroche/SPIBB.

Deviations: behaviour probabilities of a state are averages over its rows; in states where every pair is uncertain the
policy is the behaviour. There are no updates: `updates` is ignored.

Acting: an observation that is none of the log's is treated as the nearest one.

Use: logs whose states are numbered and often visited, where doing no worse than now matters more than doing best.

Avoid: logs in which few pairs of state and action are tried often: the policy then is the behaviour.

First knob: `least_count`, from 3 to 100: larger stays nearer to the behaviour.

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
from stitchrl.algorithms.tabular_model import TabularModel, log_table, policy_value
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Batch, Key, Metrics
from stitchrl.nn.tabular import TabularPolicy, TabularValue
from stitchrl.types import NumpyArray, PyTree

__all__ = ["SPIBB", "SPIBBState", "improved"]

MOST_ROUNDS = 1000
FAILURE = 0.05
"""The delta of equation (4) that `remarks` uses."""


class SPIBBState(NamedTuple):
    """Nothing is trained."""


def improved(
    q: Float[NumpyArray, "S A"], behavior: Float[NumpyArray, "S A"], certain: Bool[NumpyArray, "S A"]
) -> Float[NumpyArray, "S A"]:
    """Equations (1) and (2)."""
    probs = np.where(certain, 0.0, behavior)
    best = np.argmax(np.where(certain, q, -np.inf), axis=1)
    free = np.where(certain.any(1), 1.0 - probs.sum(1), 0.0)
    probs[np.arange(len(q)), best] += np.maximum(free, 0.0)
    return probs


@dataclasses.dataclass(frozen=True)
class SPIBB(Algorithm):
    """Safe policy improvement with baseline bootstrapping, on logs with the role `observation_id`."""

    irregular_time: ClassVar[bool] = True
    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    closed_form: ClassVar[bool] = True

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.", static=True)
    least_count: int = setting(
        10,
        "at least 1",
        "Times a pair of state and action must have been tried before the policy may choose it more often than the behaviour; "
        "larger stays nearer to the behaviour.",
    )

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        model = TabularModel.of(log, scaling, gamma=self.gamma, name=self.name)
        certain = (model.count >= self.least_count) & model.allowed
        probs, v = model.behavior, np.zeros(len(model.count))
        behavior_v = policy_value(model, model.behavior, self.gamma)
        for _ in range(MOST_ROUNDS):
            v = policy_value(model, probs, self.gamma, start=v)
            new = improved(model.q(v, self.gamma), model.behavior, certain)
            if np.array_equal(new, probs):
                break
            probs = new
        first = model.state[log.episode_start[:-1]]
        gain = float((v[first] - behavior_v[first]).mean()) / scaling.reward_scale
        given = {
            "table": model.table,
            "log_probabilities": log_table(probs),
            "q": model.q(v, self.gamma).astype(np.float32),
            "certain_share": np.float32(certain[model.count > 0].mean()),
            "model_gain": np.float32(gain),
            "zeta": np.float32(self._zeta(model, log) / scaling.reward_scale - gain),
            "value_range": np.float32((model.highest - model.lowest) / scaling.reward_scale),
        }
        return Prepared(log, given=given)

    def _zeta(self, model: TabularModel, log: Dataset) -> float:
        """The first term of equation (4), in scaled units; infinite where it is not proved: at gamma 1, and where gamma is per
        unit of time."""
        if self.gamma >= 1.0 or log.elapsed is not None:
            return math.inf
        states, actions = model.count.shape
        largest = float(np.abs(model.reward).max(initial=0.0)) / (1.0 - self.gamma)
        logarithm = math.log(2 * states * actions / FAILURE) + states * math.log(2)
        return 4 * largest / (1.0 - self.gamma) * math.sqrt(2 / self.least_count * logarithm)

    def remarks(self, given: PyTree) -> tuple[str, ...]:
        share, zeta = float(given["certain_share"]), float(given["zeta"])
        departs = (
            f"SPIBB may depart from the behaviour on {share:.0%} of the logged pairs of state and action, those seen at "
            f"least {self.least_count} times."
        )
        if not math.isfinite(zeta):
            bound = (
                "Its bound on the loss against the behaviour is not proved for gamma 1, nor for a gamma per unit of time: it "
                "promises nothing here."
            )
        elif zeta >= float(given["value_range"]):
            bound = (
                f"Its proved bound on the loss against the behaviour is {zeta:.4g}, more than the range of this log's "
                "values: it promises nothing here."
            )
        else:
            bound = (
                f"With probability {1 - FAILURE:.0%} it loses no more than {zeta:.4g} against the behaviour (proved)."
            )
        return (departs, f"{bound} Judge the policy by its evaluation.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> SPIBBState:
        return SPIBBState()

    def update(self, state: SPIBBState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[Any, Metrics]:
        return state, {}

    def policy(self, state: SPIBBState, given: PyTree) -> TabularPolicy:
        return TabularPolicy(given["table"], given["log_probabilities"])

    def value(self, state: SPIBBState, given: PyTree) -> TabularValue:
        return TabularValue(given["table"], given["q"], self.policy(state, given))
