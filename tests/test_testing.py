"""The checks that users run against what they add: sound ones pass, and each planted fault is seen for its own reason."""

from __future__ import annotations

from functools import cache
from typing import Any

import faulty_estimators as faulty
import numpy as np
import pytest

from stitchrl.checking import estimators as checks
from stitchrl.checking.estimator_worlds import EPISODES, Worlds
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.estimator import Case
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.testing import check_estimator

CONTINUOUS_ONLY = ("lstdq",)
"""These refuse the discrete worlds of the check; `tests/evaluation/test_continuous.py` holds them against exact values."""


def unchangeable(log: Dataset) -> Dataset:
    """The log, whose arrays raise where they are written to."""
    for array in vars(log).values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return log


class SharedWorlds(Worlds):
    """The worlds of the check, whose logs and fits are made once for all estimators that are checked on them.

    The plain log is made anew, for on it the check looks whether an estimator changes what it is given; the others cannot
    be written to.
    """

    def __init__(self, *, single: bool = False) -> None:
        super().__init__(single=single)
        self._logs: dict[Any, Any] = {}
        self._cases: dict[Any, Case] = {}

    def log(self, rows: dict[str, np.ndarray]) -> Dataset:
        key = self.behavior.tobytes(), *(column.tobytes() for column in rows.values())
        if key not in self._logs:
            self._logs[key] = unchangeable(super().log(rows))
        found: Dataset = self._logs[key]
        return found

    def logs(self, world: FiniteMDP, episodes: int, count: int, seed: int) -> list[Dataset]:
        key = id(world), episodes, count, seed
        if key not in self._logs:
            self._logs[key] = [unchangeable(log) for log in super().logs(world, episodes, count, seed)]
        found: list[Dataset] = self._logs[key]
        return found

    def plain(self) -> Case:
        return Worlds.case(self, Worlds.log(self, self.rows(self.uneven, EPISODES, seed=1)))

    def case(self, log: Dataset, policy: np.ndarray | None = None, horizon: int | None = None) -> Case:
        key = id(log), None if policy is None else policy.tobytes(), horizon  # every log is kept above
        if key not in self._cases:
            self._cases[key] = super().case(log, policy, horizon)
        return self._cases[key]


@pytest.fixture(scope="module")
def shared_worlds() -> Any:
    """Makes each of the two kinds of worlds once."""
    return cache(SharedWorlds)


DEAR = ("model", "model-dr", "dualdice", "ris", "bestdice", "magic", "samis", "smis", "drl", "dr")
"""Estimators whose checks take as long as those of many others; each has a file of tests of its own."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name
        for name in ESTIMATORS
        if name not in CONTINUOUS_ONLY
    ],
)
def test_every_registered_estimator_passes(name: str, shared_worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "Worlds", shared_worlds)
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
        (faulty.SaysNothing, "must end with a full stop"),
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
