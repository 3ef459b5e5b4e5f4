"""Ranking by the lower end that the test part is predicted to give."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation import confirmation
from stitchrl.evaluation.confirmation import can_confirm
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.ranking import passed_over, rank
from stitchrl.evaluation.results import Estimate
from stitchrl.pipeline import stages
from stitchrl.pipeline.race_judging import Jury
from stitchrl.pipeline.race_settings import RaceSettings
from stitchrl.pipeline.settings import PipelineSettings
from stitchrl.pipeline.workspace import Workspace

DISCRETE: dict[str, Any] = {"fitted": False, "continuous": False, "decisions": False}


def gain(value: float | None, error: float | None, *, healthy: bool = True, checks: tuple[Check, ...] = ()) -> Estimate:
    checks = checks or (Check("range", 1.0, 2.0, healthy, "Plain."),)
    ends = (None, None) if value is None or error is None else (value - 1.96 * error, value + 1.96 * error)
    return Estimate(
        "fqe", value, *ends, error, 0.95, Estimand(1.0), primary_rank=0, checks=checks,
        healthy=all(check.passed for check in checks),
    )  # fmt: skip


def test_eligible_before_not_healthy_before_not_then_by_the_predicted_lower_end() -> None:
    sure, noisy, sick, none, warning = (
        gain(0.02, 0.002), gain(0.02, 0.1), gain(0.3, 0.01, healthy=False), gain(None, None), gain(0.5, 0.01),
    )  # fmt: skip
    everyone = [sure, noisy, sick, none, warning]
    for order in itertools.permutations(range(5)):
        gains = [everyone[i] for i in order]
        rows = rank([{"fqe": g} for g in gains], [g is not warning for g in gains])
        assert [gains[row.index] for row in rows] == [sure, noisy, sick, none, warning]


def test_by_hand() -> None:
    gains = [{"fqe": gain(0.03, 0.01)}, {"fqe": gain(0.02, 0.002)}]
    rows = rank(gains, [True, True], size=100, test_size=400)
    assert [row.index for row in rows] == [1, 0]
    assert [row.predicted_lower for row in rows] == pytest.approx([0.02 - 1.479982 * 0.002, 0.03 - 1.479982 * 0.01])
    # On a test part as small as the validation part the noisy one falls further behind.
    assert rank(gains, [True, True])[1].predicted_lower == pytest.approx(0.03 - 2.459964 * 0.01)


def test_shares_of_one_episode_are_those_of_the_larger_part() -> None:
    def with_share(share: float) -> Estimate:
        return gain(0.1, 0.01, checks=(Check("influence", share, 0.1, share <= 0.1, "Share."),))

    gains = [{"fqe": with_share(0.3)}, {"fqe": with_share(0.5)}]
    assert [row.healthy for row in rank(gains, [True, True])] == [False, False]
    found = {row.index: row.healthy for row in rank(gains, [True, True], size=100, test_size=400)}
    assert found == {0: True, 1: False}

    def with_units(seen: float, limit: float) -> dict[str, Estimate]:
        return {"fqe": gain(0.1, 0.01, checks=(Check("effective-units", seen, limit, seen >= limit, "Units."),))}

    # Ten times the units are worth ten times as many; 500 of 5,000 are needed, however many that were of 500.
    for seen, healthy in [(49.0, False), (51.0, True)]:
        assert rank([with_units(seen, 100.0)], [True], size=500, test_size=5000)[0].healthy is healthy
    for seen, healthy in [(4900.0, False), (5100.0, True)]:
        assert rank([with_units(seen, 1000.0)], [True], size=50_000, test_size=5000)[0].healthy is healthy


def test_what_it_selects_is_shown_better_on_the_test_part_than_what_the_lower_end_selects() -> None:
    """Ten candidates, true gains beside their errors: near the behaviour little gain and little error."""
    rng = np.random.default_rng(0)
    true, error = np.linspace(0.0, 0.03, 10), np.linspace(0.002, 0.016, 10)
    shown = {"predicted": [], "validation": []}
    for _ in range(1500):
        seen = true + error * rng.normal(size=10)
        predicted = rank(
            [{"fqe": gain(v, s)} for v, s in zip(seen, error, strict=True)], [True] * 10, size=1, test_size=4
        )
        for way, k in (("predicted", predicted[0].index), ("validation", int((seen - 1.96 * error).argmax()))):
            shown[way].append(true[k] - 1.96 * error[k] / 2)
    assert np.mean(shown["predicted"]) > np.mean(shown["validation"]) + 0.0003


def test_a_gain_that_no_verdict_could_confirm_stands_behind_those_that_one_could_and_that_are_above_the_margin() -> (
    None
):
    def weighed(estimator: str, one: Estimate) -> bool:
        return estimator == "fqe" and can_confirm(estimator, one, **DISCRETE)

    greedy = dataclasses.replace(gain(3.0, 0.5), weighs_actions=False)
    rung, loss = gain(1.0, 0.2), gain(-1.0, 0.2)
    rows = rank([{"lstdq": greedy}, {"fqe": rung}, {"fqe": loss}], [True] * 3, confirms=weighed)
    assert [row.index for row in rows] == [1, 0, 2]  # the loss, which could be confirmed as well, does not go before it
    assert [row.confirmable for row in rows] == [True, False, True]
    assert [passed_over(row, rows[:place]) for place, row in enumerate(rows)] == [False, True, False]
    # A gain below the margin is not worth a place, and one that is predicted to be unhealthy cannot be confirmed either.
    assert rank([{"lstdq": greedy}, {"fqe": rung}], [True] * 2, margin=0.6, confirms=weighed)[0].index == 0
    sick = gain(1.0, 0.2, healthy=False)
    assert rank([{"lstdq": greedy}, {"fqe": sick}], [True] * 2, confirms=weighed)[0].index == 0
    assert rank([{"lstdq": greedy}, {"fqe": rung}], [True] * 2)[0].index == 0


def test_what_a_verdict_could_confirm() -> None:
    weighed, other = gain(1.0, 0.2), dataclasses.replace(gain(1.0, 0.2), weighs_actions=False)
    assert can_confirm("fqe", weighed, **DISCRETE)
    assert not can_confirm("fqe", other, **DISCRETE)
    assert can_confirm("fqe", weighed, **DISCRETE | {"fitted": True}) is confirmation.FITTED_COVERED
    assert can_confirm("wdr", weighed, **DISCRETE)
    continuous = DISCRETE | {"continuous": True}
    assert can_confirm("fqe", weighed, **continuous)
    assert not can_confirm("wdr", weighed, **continuous)
    assert not can_confirm("fqe", weighed, **continuous | {"decisions": True})
    assert can_confirm("reward-dr", weighed, **continuous | {"decisions": True})


def planted(kind: type, **attributes: Any) -> Any:
    """Something of a kind that has these attributes and no others."""
    return object.__new__(type(f"Planted{kind.__name__}", (kind,), attributes))


def evaluation(name: str, one: Estimate) -> Any:
    return planted(Evaluation, gain={name: one})


def continuous_log(*, logged: bool) -> Any:
    known = np.zeros(2) if logged else None
    return planted(Dataset, behavior_log_prob=known, num_actions=None, num_transitions=2, num_episodes=1)


GREEDY = evaluation("lstdq", dataclasses.replace(gain(3.0, 0.5), weighs_actions=False))
RUNG = evaluation("fqe", gain(1.0, 0.2))


@pytest.mark.parametrize(
    ("logged", "margin", "estimators", "acts"),
    [
        (True, 0.0, ("fqe", "lstdq"), True),
        (True, 0.65, ("fqe", "lstdq"), True),
        (True, 0.8, ("fqe", "lstdq"), False),  # the rung's predicted lower end is below the margin
        (False, 0.0, ("fqe", "lstdq"), False),  # a fitted behaviour confirms nothing
        (True, 0.0, ("lstdq",), False),  # the verdict would not rest on the estimator that could be confirmed
    ],
)
def test_a_run_ranks_by_what_its_verdict_could_confirm(
    logged: bool, margin: float, estimators: tuple[str, ...], acts: bool
) -> None:
    job = planted(
        Workspace,
        log=continuous_log(logged=logged),
        settings=planted(PipelineSettings, margin=margin, horizon=None),
        estimators=estimators,
        units_of=lambda _, part: {"validation": 100, "test": 400}[part],
    )
    first = stages._in_order(job, [GREEDY, RUNG], [True, True])[0].index
    assert first == (1 if acts else 0)


@pytest.mark.parametrize("logged", [True, False])
def test_a_race_ranks_by_what_a_verdict_could_confirm(logged: bool) -> None:
    validation = continuous_log(logged=logged)
    jury = Jury(validation, validation, 400, 100, RaceSettings())
    assert jury._order([GREEDY, RUNG])[0].index == (1 if logged else 0)
