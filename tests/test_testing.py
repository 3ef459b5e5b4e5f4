"""The checks that users run against what they add: sound ones pass, and each planted fault is seen for its own reason."""

from __future__ import annotations

import faulty_estimators as faulty
import pytest

from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.testing import check_estimator

CONTINUOUS_ONLY = ("lstdq",)
"""These refuse the discrete worlds of the check; `tests/evaluation/test_continuous.py` holds them against exact values."""


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in CONTINUOUS_ONLY])
def test_every_registered_estimator_passes(name: str) -> None:
    # These carry the noise of their own fit along linearly, while the check fits anew.
    slack = {"ris": 0.35, "samis": 0.5, "magic": 0.35}
    check_estimator(ESTIMATORS[name], resample_slack=slack.get(name, 0.2))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faulty.NoTitle, "`title` must be text"),
        (faulty.RankedByWord, "`primary_rank` must be a whole number"),
        (faulty.RequestsAList, r"requests\(\) must give a tuple"),
        (faulty.RefusesWithAWord, r"refusal\(\) must give None or a whole sentence"),
        (faulty.RefusesEverything, "refuses a plain log"),
        (faulty.AsksForWhatItDidNotName, r"asks for FitQ\(\), but requests\(\) names \(\)"),
        (faulty.ChangesItsCase, "changed the arrays of its case"),
        (faulty.SaysNothing, "must say a sentence"),
        (faulty.AlwaysHealthy, "passes every health check"),
        (faulty.InfluenceNotCentred, "must sum to 0"),
        (faulty.ValueBesideItsReplicates, "every episode counted once must give the value"),
        (faulty.DividesByTheWholeSample, "must normalise anew"),
        (faulty.ResamplesNothing, "the spread of 400 resamples is 0.00"),
        (faulty.NormalisedByTheWholeInReplicatesOnly, "must normalise anew"),
        (faulty.ForgetsTheDiscount, "must be worth the mean logged return"),
        (faulty.ForgetsTheLastRatio, "off on average"),
        (faulty.TooSure, "must normalise anew"),
        (faulty.IgnoresTheHorizon, "respect the horizon, or refuse it"),
        (faulty.ClaimsTheNetworksValue, "mean logged return|off on average|standard error"),
        (faulty.Remembers, "must keep no state"),
        (faulty.HidesABiasBehindTheUnknown, "off on average"),
        (faulty.HidesItBehindEverything, "off on average"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_planted_fault_fails_for_its_own_reason(fault: type, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_estimator(fault())


def test_the_estimator_that_the_faults_are_planted_in_is_sound() -> None:
    check_estimator(faulty.Sound())
