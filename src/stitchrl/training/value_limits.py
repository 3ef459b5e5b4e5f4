"""What a claimed value can be, given the rewards of a log: one judgement for red flags in training and for later diagnosis.

    (1)  low <= V <= high                      what logged rewards can add up to (`data.attainable`)
    (2)  alpha H sum_t gamma^t,   t >= 1       what an entropy bonus adds to it at most, H the largest entropy of a decision

(2) is for soft actor-critic and its relatives alone (Haarnoja et al. 2018, arXiv 1812.05905), whose values hold the
entropy of every later decision, weighted by the temperature alpha. Entropies below 0, which densities can have, lower
values instead.

A mean of claims may lie outside by a tenth of the range (1): critics are approximate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.returns import returns_to_go
from stitchrl.data.attainable import attainable_returns
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling

__all__ = ["SLACK", "ValueLimits", "largest_entropy"]

SLACK = 0.1
"""Share of the attainable range by which a mean value may lie outside of it: critics are approximate."""
FRESH_SLACK = 0.5
"""The same while networks are fresh: early in sound runs, mean claims were up to a third of the range beyond it."""
CONSTANT = 0.01
"""Claimed values do not tell states apart where their spread over states is less than this share of the spread of the returns
that followed."""
ENTROPY_SHARE = 0.5
"""Share of the attainable range above which an entropy bonus makes values tell more of entropy than of rewards."""


@dataclasses.dataclass(frozen=True)
class ValueLimits:
    """What the rewards of a log allow a value to be, in the log's unit of reward.

    Attributes:
        gamma: discount of one step; with a `time_unit` the largest of any step.
        scale: what rewards were multiplied by for training, above 0.
        reward: the largest absolute reward.
        low, high: equation (1); infinite where they are not known.
        seen: the largest return that followed any logged decision; cut episodes count as they are.
        spread: standard deviation of the returns that followed the logged decisions.
        entropy: H of equation (2), nats; 0 where values hold no entropy.
        steps: the discounted number of later decisions, sum_t gamma^t over t >= 1; infinite where it is not known.
    """

    gamma: float
    reward: float
    scale: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    seen: float = 0.0
    spread: float = 0.0
    entropy: float = 0.0
    steps: float = math.inf

    @classmethod
    def of(
        cls, log: Dataset, gamma: float, *, scale: float = 1.0, shift: float = 0.0, entropy: float = 0.0
    ) -> ValueLimits:
        """The limits that the rewards of a log set.

        Args:
            log: at least one row.
            gamma: the discount of training, in [0, 1].
            scale: see the class; it changes no other number.
            shift: what training added to every reward; the sum over an episode then depends on its length too.
            entropy: see the class.
        """
        ends = (float(log.reward.min()), float(log.reward.max()))
        reward = max(abs(end + shift) for end in ends)
        one_step = log.largest_discount(gamma)
        longest = math.inf if log.truncated.any() else float(log.episode_lengths.max(initial=0))
        in_all = min(1.0 / (1.0 - one_step) if one_step < 1.0 else math.inf, longest)
        followed = returns_to_go(log, Scaling.identity(0), gamma).astype(np.float64)
        limits = cls(
            one_step, reward, scale, entropy=entropy, steps=max(in_all - 1.0, 0.0), spread=float(followed.std())
        )
        if shift:
            reach = reward * in_all if math.isfinite(in_all) else math.inf
            return dataclasses.replace(limits, low=-reach, high=reach)
        low, high = attainable_returns(log, one_step, by_time=log.schema.time_unit is not None)
        return dataclasses.replace(limits, low=low, high=high, seen=float(followed.max()))

    @classmethod
    def of_algorithms(
        cls, log: Dataset, algorithms: list[Algorithm], *, scale: float, shift: float = 0.0
    ) -> ValueLimits:
        """The widest limits of several settings of one algorithm on a log: by the largest discount among them."""
        gamma = max(float(getattr(algorithm, "gamma", 1.0)) for algorithm in algorithms)
        entropy = max(largest_entropy(algorithm, log) for algorithm in algorithms)
        return cls.of(log, gamma, scale=scale, shift=shift, entropy=entropy)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ValueLimits:
        """Inverse of `to_dict`; reads what older versions kept, in units of training, as well.

        Raises KeyError, TypeError or ValueError on other content.
        """
        if "reward_bound" in content:
            value, lowest = content.get("value_bound"), content.get("lowest_value")
            gamma, reward = float(content["gamma"]), float(content["reward_bound"])
            if value is None:
                value = reward / (1 - gamma) if gamma < 1 else math.inf
            return cls(gamma, reward, 1.0, -float(value) if lowest is None else float(lowest), float(value))
        found = {name: float(number) for name, number in content.items() if number is not None}
        return cls(**found)

    def to_dict(self) -> dict[str, float | None]:
        """Plain content for JSON, in which an infinite limit is None."""
        return {name: number if math.isfinite(number) else None for name, number in dataclasses.asdict(self).items()}

    @property
    def width(self) -> float:
        """The size of the attainable range, by its finite ends and the largest return; where all returns are equal, their size.

        0 where all rewards are 0.
        """
        ends = [end for end in (self.low, self.high, self.seen) if math.isfinite(end)]
        return max(ends) - min(ends) or max(map(abs, ends), default=0.0)

    def highest(self, bonus: float = 0.0, *, fresh: bool = False) -> float:
        """The largest mean claim that is possible: the end of (1), what entropy adds, and a slack, wider for fresh networks.

        Infinite where the end is not known, and where all rewards are 0 and give no unit for an error.
        """
        slack = FRESH_SLACK if fresh else SLACK
        return self.high + bonus + slack * self.width if self.width else math.inf

    def lowest(self, loss: float = 0.0) -> float:
        """The least mean claim that is possible; `loss` is what entropies below 0 take away at most."""
        return self.low - loss - SLACK * self.width if self.width else -math.inf

    @property
    def least_spread(self) -> float:
        """The least standard deviation of claims over states; 0 where returns do not differ."""
        return CONSTANT * self.spread

    def entropy_bonus(self, temperature: float) -> float:
        """Equation (2) at a temperature in the log's unit of reward; infinite where the number of decisions is not known."""
        return temperature * self.entropy * self.steps if temperature and self.entropy else 0.0

    def entropy_loss(self, temperature: float, entropy: float) -> float:
        """How much a value may be lowered by decisions of this entropy, where it is below 0."""
        return temperature * -entropy * self.steps if temperature and self.entropy and entropy < 0 else 0.0

    @property
    def largest_bonus(self) -> float:
        """The entropy bonus above which values tell more of entropy than of rewards."""
        return ENTROPY_SHARE * self.width


def largest_entropy(algorithm: Algorithm, log: Dataset) -> float:
    """The largest entropy of one decision, in nats, where the values of an algorithm hold it; else 0.

    The logarithm of the number of actions; of continuous ones, inside [-1, 1], that of the volume.
    """
    if not algorithm.values_hold_entropy:
        return 0.0
    return math.log(log.num_actions) if log.num_actions is not None else math.log(2.0) * int(log.action.shape[1])
