"""The power curve under CANNOT TELL: exact where the chance of GO is known, honest where nothing is known to suffice."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from bandit_worlds import BanditWorld
from scipy import stats

from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.estimator import Draft
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.power import SIZES, Power, power_of
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.verdict import Verdict


def asked(
    value: float, *, n: int = 400, failed: str = "a", margin: float = 0.0, checks: tuple = (), **draft: Any
) -> Power:
    """The power where every unit has a standard normal influence value, so that the error is 1 / sqrt(n)."""
    drawn = np.random.default_rng(0).normal(size=n)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1)
    error = 1 / np.sqrt(n)
    gain = Estimate(
        "fqe", value, value - 2 * error, value + 2 * error, error, 0.95, Estimand(1.0), primary_rank=0, checks=checks
    )
    found = power_of(Draft(Contributions.average(drawn), **draft), gain, Units(n), margin, failed)
    assert found is not None
    return found


def test_the_chance_is_that_of_a_normal_mean() -> None:
    """Exact: P(v + z s - 1.96 s > 0) = Phi(v / s - 1.96)."""
    found = asked(0.1)
    for curve, value in ((found.at_estimate, 0.1), (found.at_half, 0.05)):
        exact = [stats.norm.cdf(value * np.sqrt(size * 400) - 1.96) for size in SIZES]
        np.testing.assert_allclose(curve, exact, atol=0.07)  # three standard errors of 400 draws
    # Phi(x) = .8 at x = .8416: (1.96 + .8416)^2 / value^2 units.
    assert found.needed == pytest.approx(2.8016**2 / 0.1**2, rel=0.12)
    assert found.needed_half == pytest.approx(2.8016**2 / 0.05**2, rel=0.12)


def test_an_error_that_is_expected_to_be_larger_needs_more_units() -> None:
    twice = asked(0.1, predictable_variance=4 / 400)
    exact = [stats.norm.cdf(0.1 * np.sqrt(size * 400) / 2 - 1.96) for size in SIZES]
    np.testing.assert_allclose(twice.at_estimate, exact, atol=0.07)


def test_what_does_not_shrink_with_the_log_is_kept() -> None:
    """Cut episodes widen the interval by a number of their own: where it is as large as the gain no log suffices."""
    found = asked(0.1, unknown=(-0.11, 0.11))
    assert found.needed is None
    assert found.at_estimate[-1] < 0.05


def test_the_sentence_says_what_is_known_and_no_more() -> None:
    assert asked(0.1).sentence.startswith("With about ")
    assert "(there are 400) GO would be 80% likely, if the gain is what the estimate says; if it is half of that" in (
        asked(0.1).sentence
    )
    assert "half as far above the margin" in asked(0.2, margin=0.1).sentence
    below = asked(-0.01)
    assert (below.sizes, below.at_estimate) == ((), ())
    assert below.sentence.endswith("no size of log is known to suffice for GO.")
    assert asked(0.0).sizes == asked(0.1, margin=0.1).sizes == ()
    assert "Even 6,400 units".replace("units", "episodes") in asked(0.001).sentence
    several = asked(0.1)
    assert several.needed is not None
    once = dataclasses.replace(several, needed_half=several.needed)
    number = f"{several.needed:,}"
    assert several.sentence.count(number) == once.sentence.count(number) == 1
    assert "GO would be 80% likely, whether the gain is what the estimate says or half of that." in once.sentence
    assert "or half as far above the margin." in dataclasses.replace(once, margin=0.01).sentence
    also = asked(0.1, failed="abe").sentence
    assert also.endswith("Lines (b) and (e) would have to hold as well, which no size alone brings about.")


def test_checks_hold_only_where_they_would_at_that_size() -> None:
    few = Check("effective-units", 30.0, 100.0, False, "Too few.")
    found = asked(0.5, checks=(few,))
    # 30 f effective units of 400 f are at least clip(40 f, 100, 1000) from 1,000 on: f = 34 is beyond the sizes.
    assert found.unmended == ("Too few.",)
    enough = dataclasses.replace(few, seen=80.0)
    found = asked(0.5, checks=(enough,))
    needed = [min(max(40 * size, 100), 1000) for size in SIZES]
    for size, limit, chance in zip(SIZES, needed, found.at_estimate, strict=True):
        assert (chance > 0.9) == (80 * size >= limit)
    wrong = Check("calibration", 0.5, 0.02, False, "The propensities are wrong: they are not those of the log.")
    unmended = asked(0.5, checks=(wrong,))
    assert unmended.sizes == ()
    assert unmended.sentence == f"No larger log of this kind is known to suffice for GO: {wrong.sentence}"


def test_a_verdict_that_cannot_tell_says_it_and_a_decided_one_does_not() -> None:
    world = BanditWorld(pull=0.1)
    policy = world.acting()
    open_ = evaluate(policy, world.log(150, 1), estimators=("snips",), audit_verdict="usable").verdict
    assert open_.decision == "CANNOT TELL"
    assert open_.power is not None
    assert open_.power.units == 150
    assert f"size: {open_.power.sentence}"[:40] in str(open_)
    stored = json.loads(json.dumps(open_.to_dict(), allow_nan=False))
    assert stored["power"]["sentence"] == open_.power.sentence
    assert Verdict.from_dict(stored) == open_
    older = {key: value for key, value in stored.items() if key != "power"}
    assert Verdict.from_dict(older).power is None
    sure = evaluate(policy, world.log(60_000, 1), estimators=("snips",), audit_verdict="usable").verdict
    assert sure.decision == "GO"
    assert sure.power is None
