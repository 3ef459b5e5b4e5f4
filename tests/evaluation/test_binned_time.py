"""Bins of time make an estimate too good: an exact world in which the behaviour reacts to what happens inside a bin."""

from __future__ import annotations

import numpy as np
import pytest
from binned_worlds import TREATS, Treat, any_treatment, binned_log, gain_in_the_bins, true_gain, value

from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.settings import FitSettings


def test_without_bins_nothing_is_lost() -> None:
    assert gain_in_the_bins(1) == pytest.approx(true_gain(1), abs=1e-10)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_bins_make_a_harmful_policy_look_better_than_it_is(width: int) -> None:
    assert true_gain(width) < -0.1
    assert gain_in_the_bins(width) > true_gain(width) + 0.3
    # The behaviour's own value is the same, however its log is binned.
    assert value(TREATS, TREATS, width) == pytest.approx(value(TREATS, TREATS, 1))


def test_the_estimate_from_a_binned_log_is_too_good() -> None:
    """The estimate finds the gain in the bins, which is above 0, and the true gain lies below its interval."""
    log, other = binned_log(8, 1500, 1), binned_log(8, 1500, 2)
    share = np.array([log.action[log.observation[:, k] == 1].mean() for k in range(3)])
    np.testing.assert_allclose(share, any_treatment(8), atol=0.05)
    settings = FitSettings(updates=600, hidden_sizes=(16,))
    gain = evaluate(Treat(), log, estimators=("fqe",), fit_on=other, settings=settings).gain["fqe"]
    assert gain.value is not None
    assert gain.standard_error is not None
    assert gain.lower is not None
    assert abs(gain.value - gain_in_the_bins(8)) < 3 * gain.standard_error
    assert gain.lower > true_gain(8)
