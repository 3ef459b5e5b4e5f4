"""The one rule, line by line."""

from __future__ import annotations

import itertools

import pytest

from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.ranking import rank
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.verdict import choose_primary, decide


def gain(lower: float | None, upper: float | None, *, name: str = "fqe", healthy: bool = True, **kwargs) -> Estimate:
    middle = None if lower is None or upper is None else (lower + upper) / 2
    shared = {"healthy": healthy, "reasons": () if healthy else ("too few episodes.",)} | kwargs
    return Estimate(name, middle, lower, upper, 0.01, 0.95, Estimand(1.0), weight_based=name != "fqe", **shared)


def test_go_needs_every_line() -> None:
    verdict = decide({"fqe": gain(0.01, 0.03)}, episodes=1000, audit_verdict="usable")
    assert verdict.decision == "GO"
    assert [line.passed for line in verdict.lines] == [True, None, None, True]
    assert any("confounding is not tested" in caveat for caveat in verdict.caveats)


@pytest.mark.parametrize(
    ("gains", "audit", "margin", "decision", "failed"),
    [
        ({"fqe": gain(-0.01, 0.03)}, "usable", 0.0, "CANNOT TELL", "a"),
        ({"fqe": gain(0.01, 0.03)}, "usable", 0.02, "CANNOT TELL", "a"),
        ({"fqe": gain(-0.03, -0.01)}, "usable", 0.0, "NO-GO", "a"),
        ({"fqe": gain(0.01, 0.03)}, "usable", 0.05, "NO-GO", "a"),
        ({"fqe": gain(0.01, 0.03, healthy=False)}, "usable", 0.0, "CANNOT TELL", "a"),
        ({"fqe": gain(-0.03, -0.01, healthy=False)}, "usable", 0.0, "CANNOT TELL", "a"),
        (
            {"fqe": gain(0.01, 0.03), "wis": gain(-0.2, -0.1, name="wis", ess=500.0)},
            "usable",
            0.0,
            "CANNOT TELL",
            "b",
        ),
        ({"fqe": gain(0.01, 0.03)}, "not usable", 0.0, "CANNOT TELL", "d"),
        ({"fqe": gain(None, None)}, "usable", 0.0, "CANNOT TELL", "a"),
        ({}, "usable", 0.0, "CANNOT TELL", "a"),
    ],
)
def test_what_fails_is_named(gains: dict[str, Estimate], audit: str, margin: float, decision: str, failed: str) -> None:
    verdict = decide(gains, episodes=1000, audit_verdict=audit, margin=margin)
    assert verdict.decision == decision
    assert [line.key for line in verdict.lines if line.passed is False] == [failed]
    if decision == "CANNOT TELL":
        assert f"line ({failed}) failed" in verdict.headline


def test_an_unhealthy_estimate_below_zero_does_not_veto() -> None:
    gains = {"fqe": gain(0.01, 0.03), "wis": gain(-0.2, -0.1, name="wis", healthy=False)}
    assert decide(gains, episodes=1000).decision == "GO"


@pytest.mark.parametrize(("ess", "share", "passed"), [(150.0, 0.01, True), (99.0, 0.01, False), (150.0, 0.03, False)])
def test_weights_must_be_spread_where_the_primary_is_weight_based(ess: float, share: float, passed: bool) -> None:
    gains = {"wdr": gain(0.01, 0.03, name="wdr", ess=ess, max_weight_share=share)}
    verdict = decide(gains, episodes=1000)
    assert verdict.lines[2].passed is passed
    assert verdict.decision == ("GO" if passed else "CANNOT TELL")


def test_primary_is_refitted_fqe_where_healthy_else_weighted_dr() -> None:
    fqe, wdr = gain(0.0, 0.1), gain(0.0, 0.1, name="wdr")
    sick = gain(0.0, 0.1, healthy=False)
    assert choose_primary({"wdr": wdr, "fqe": fqe}) == "fqe"
    assert choose_primary({"wdr": wdr, "fqe": sick}) == "wdr"
    assert choose_primary({"wis": gain(0.0, 0.1, name="wis")}) is None


def test_ranking_by_the_lower_end_and_never_a_warning_example_first() -> None:
    lucky, sure, sick, warning = (
        gain(-0.1, 0.3),
        gain(0.01, 0.02),
        gain(0.2, 0.3, healthy=False),
        gain(0.5, 0.6),
    )
    for order in itertools.permutations(range(4)):
        gains = [[lucky, sure, sick, warning][i] for i in order]
        rows = rank([{"fqe": g} for g in gains], [g is not warning for g in gains])
        assert [gains[row.index] for row in rows] == [sure, lucky, sick, warning]
