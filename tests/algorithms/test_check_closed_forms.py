"""`check_algorithm` on algorithms in closed form: those of the library pass, and each planted fault is told."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pytest

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Prepared
from stitchrl.checking.algorithms import check_algorithm
from stitchrl.checking.ends import check_closed_form
from stitchrl.checking.subject import Subject


@dataclasses.dataclass(frozen=True)
class BootstrapsPastTheEnd(st.VILCB):
    """Goes on from where an episode ended."""

    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        never = np.zeros_like(log.terminated)
        return super().prepare(
            dataclasses.replace(log, terminated=never, truncated=log.terminated | log.truncated), scaling, key=key
        )


@dataclasses.dataclass(frozen=True)
class TakesCutsForEnds(st.VILCB):
    """Values a row that was cut as if nothing came after it."""

    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        never = np.zeros_like(log.truncated)
        return super().prepare(
            dataclasses.replace(log, terminated=log.terminated | log.truncated, truncated=never), scaling, key=key
        )


@dataclasses.dataclass(frozen=True)
class LooksPastTheEnd(Algorithm):
    """Has no discount as a setting, and goes on from where an episode ended."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    closed_form: ClassVar[bool] = True

    @property
    def _inner(self) -> Algorithm:
        return BootstrapsPastTheEnd(gamma=0.9)

    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        return self._inner.prepare(log, scaling, key=key)

    def init(self, key: Any, spec: Any, given: Any) -> Any:
        return self._inner.init(key, spec, given)

    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        return state, {}

    def policy(self, state: Any, given: Any) -> Any:
        return self._inner.policy(state, given)


@dataclasses.dataclass(frozen=True)
class DiscountsTheReward(st.VILCB):
    """Takes no step past the end, and yet the reward of a last step depends on the discount."""

    def value(self, state: Any, given: Any) -> Any:
        value = super().value(state, given)
        return dataclasses.replace(value, q_table=value.q_table * self.gamma)


FAULTS = {
    BootstrapsPastTheEnd: "a row that terminated must not bootstrap; what was seen after rows",
    LooksPastTheEnd: "a row that terminated must not bootstrap; what was seen after rows",
    DiscountsTheReward: "a row that terminated must not bootstrap; `gamma` changes what `prepare` makes",
    TakesCutsForEnds: "a truncated row must bootstrap; `gamma` does not change what `prepare` makes",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
def test_a_fault_at_ends_and_cuts_is_told(fault: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        check_algorithm(fault())
    assert str(caught.value).startswith(f"{fault.__name__}, discrete actions: {FAULTS[fault]}")


@pytest.mark.parametrize(
    "algorithm",
    [st.VILCB(), st.VILCB(gamma=1.0, penalty_weight=0.0), st.SPIBB(), st.SPIBB(gamma=1.0, least_count=1)],
    ids=repr,
)
def test_the_closed_forms_of_the_library_pass(algorithm: Algorithm) -> None:
    check_closed_form(Subject(algorithm, "discrete"))
