"""What every other test rests on: a call with a wrong shape or type fails, here and in each test anew."""

from __future__ import annotations

import checker
import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from stitchrl.evaluation.estimators.magic import blend
from stitchrl.evaluation.settings import FitSettings
from stitchrl.messages import listed


def test_functions_of_the_package_are_checked() -> None:
    with pytest.raises(TypeCheckError, match="covariance"):
        blend(np.zeros(2), np.eye(3))  # both are arrays of floats, and only together they are wrong
    with pytest.raises(TypeCheckError, match="violates type hint"):
        listed(7)
    with pytest.raises(TypeCheckError, match="updates"):
        FitSettings(updates="many")  # type: ignore[arg-type]
    assert FitSettings(updates=1).updates == 1
    assert listed(("a", "b"))


@checker.checked
def twice(numbers: Float[np.ndarray, " n"], times: float = 2) -> Float[np.ndarray, " n"]:
    """As long as its argument, unless the argument is long."""
    return (times * numbers)[:3]


@checker.checked
def named(count: int) -> str:
    """A name for a number, unless the number is large."""
    return "few" if count < 10 else count  # type: ignore[return-value]


def test_arguments_and_results_are_checked_at_the_first_calls_of_a_test_and_at_those_of_the_next() -> None:
    for _ in range(2):
        assert twice(np.ones(3)).tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(TypeCheckError):
            twice(np.ones((3, 1)))
        with pytest.raises(TypeCheckError):
            twice(np.ones(4))
        assert named(3) == "few"
        for wrong in ("many", 11):
            with pytest.raises(TypeCheckError, match="violates type hint"):
                named(wrong)  # type: ignore[arg-type]
        for _ in range(checker.CALLS):
            twice(np.ones(2))
            named(1)
        assert len(twice(np.ones(4))) == 3
        assert named(11) == 11
        checker.begin_test()
