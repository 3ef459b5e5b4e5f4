"""The one rule, line by line."""

from __future__ import annotations

import dataclasses

import pytest

from stitchrl.auditing.history import HistoryCheck, HistoryGain
from stitchrl.evaluation.confirmation import COUNTED_WHERE, COUNTED_WHERE_OF_DECISIONS, Confirmation
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.primary import choose_primary
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.sensitivity import Sensitivity
from stitchrl.evaluation.verdict import decide

RANKS = {"fqe": 0, "wdr": 1, "reward-dr": -2, "snips": -1}
CALIBRATED = Check("calibration", 0.01, 0.02, True, "The ratios are calibrated.")
LOGGED = Confirmation(False, CALIBRATED)
SEEN = HistoryGain("action", 0.0, -0.001, 0.001, 20_000, (), True)
NO_TRACE = HistoryCheck(True, "The past adds nothing.", (SEEN,))
FITTED = Confirmation(True, CALIBRATED, NO_TRACE, Sensitivity(1.8, 2), covered=True)


def gain(lower: float | None, upper: float | None, *, name: str = "fqe", healthy: bool = True, **kwargs) -> Estimate:
    middle = None if lower is None or upper is None else (lower + upper) / 2
    check = Check("episodes", 3.0, 5.0, healthy, "Episodes are enough." if healthy else "Episodes are few: 3.")
    shared = {"healthy": healthy, "reasons": () if healthy else (check.sentence,), "checks": (check,)} | kwargs
    rank = RANKS.get(name)
    return Estimate(name, middle, lower, upper, 0.01, 0.95, Estimand(1.0), primary_rank=rank, **shared)


def test_go_needs_every_line() -> None:
    verdict = decide({"fqe": gain(0.01, 0.03)}, audit_verdict="usable", confirmation=LOGGED)
    assert verdict.decision == "GO"
    assert verdict.headline.endswith("It rests on logged propensities that fit the logged actions.")
    assert [line.passed for line in verdict.lines] == [True, None, True, True, True]
    assert verdict.lines[2].seen == "Episodes are enough."
    assert any("confounding cannot be ruled out" in caveat for caveat in verdict.caveats)


@pytest.mark.parametrize(("horizon", "words"), [(1, "the first step"), (2000, "the first 2,000 steps")])
def test_a_verdict_says_which_steps_it_is_about(horizon: int, words: str) -> None:
    of_first = dataclasses.replace(gain(0.01, 0.03), estimand=Estimand(1.0, horizon))
    verdict = decide({"fqe": of_first}, audit_verdict="usable")
    assert verdict.lines[0].seen == f"fqe +0.0200 [+0.0100, +0.0300] in {words}"
    counts, them = ("counts", "it") if horizon == 1 else ("count", "them")
    assert verdict.caveats[0] == f"Only {words} of an episode {counts}: what comes after {them} is not judged."


@pytest.mark.parametrize(
    ("gains", "audit", "margin", "decision", "failed"),
    [
        ({"fqe": gain(-0.01, 0.03)}, "usable", 0.0, "CANNOT TELL", "a"),
        ({"fqe": gain(0.01, 0.03)}, "usable", 0.02, "CANNOT TELL", "a"),
        ({"fqe": gain(-0.03, -0.01)}, "usable", 0.0, "NO-GO", "a"),
        ({"fqe": gain(0.01, 0.03)}, "usable", 0.05, "NO-GO", "a"),
        ({"fqe": gain(0.01, 0.03, healthy=False)}, "usable", 0.0, "CANNOT TELL", "c"),
        ({"fqe": gain(-0.03, -0.01, healthy=False)}, "usable", 0.0, "CANNOT TELL", "ac"),
        (
            {"fqe": gain(0.01, 0.03), "wis": gain(-0.2, -0.1, name="wis", ess=500.0)},
            "usable",
            0.0,
            "CANNOT TELL",
            "b",
        ),
        ({"fqe": gain(0.01, 0.03)}, "not usable", 0.0, "CANNOT TELL", "d"),
        ({"fqe": gain(-0.03, -0.01)}, "not usable", 0.0, "CANNOT TELL", "ad"),
        ({"fqe": gain(-0.03, -0.01)}, "not audited", 0.0, "NO-GO", "a"),
        ({"fqe": gain(None, None)}, "usable", 0.0, "CANNOT TELL", "a"),
        ({}, "usable", 0.0, "CANNOT TELL", "a"),
    ],
)
def test_what_fails_is_named(gains: dict[str, Estimate], audit: str, margin: float, decision: str, failed: str) -> None:
    verdict = decide(gains, audit_verdict=audit, margin=margin, confirmation=LOGGED)
    assert verdict.decision == decision
    assert [line.key for line in verdict.lines if line.passed is False] == list(failed)
    if decision == "CANNOT TELL":
        assert all(f"line ({key}) failed" in verdict.headline for key in failed)


BY_WEIGHTS = {"wdr": gain(-0.01, 0.05, name="wdr", weight_based=True)}


def test_a_fitted_behaviour_gives_go_only_where_all_three_tests_confirm_it() -> None:
    gains = {"fqe": gain(0.01, 0.03)} | BY_WEIGHTS
    verdict = decide(gains, audit_verdict="usable", confirmation=FITTED)
    assert verdict.decision == "GO"
    assert (
        "rests on a fitted behaviour to which the past adds nothing, wdr on other assumptions, and a gain that withstands"
        in verdict.headline
    )
    assert "a hidden cause with an odds ratio of 1.80" in verdict.headline
    assert any("by a factor of 1.80, in the decision at step 2 alone" in caveat for caveat in verdict.caveats)


@pytest.mark.parametrize(
    ("confirmation", "others", "says"),
    [
        (None, BY_WEIGHTS, "nothing is known about the behaviour"),
        (dataclasses.replace(FITTED, history=None), BY_WEIGHTS, "It was not checked whether the past"),
        (dataclasses.replace(FITTED, history=HistoryCheck(False, "The past adds.")), BY_WEIGHTS, "The past adds."),
        (dataclasses.replace(FITTED, history=HistoryCheck(None, "One step.")), BY_WEIGHTS, "One step."),
        (
            dataclasses.replace(FITTED, history=HistoryCheck(True, "Few.", (dataclasses.replace(SEEN, rows=900),))),
            BY_WEIGHTS,
            "In fewer than 10,000 decisions that have a past the history check would miss most hidden causes, though it found "
            "none: few.",
        ),
        (
            dataclasses.replace(FITTED, sensitivity=Sensitivity(1.4, 0)),
            BY_WEIGHTS,
            "a hidden cause with an odds ratio of 1.40",
        ),
        (dataclasses.replace(FITTED, sensitivity=None), BY_WEIGHTS, "is not known; an odds ratio of 1.5 is needed"),
        (dataclasses.replace(FITTED, minimum_odds_ratio=2.0), BY_WEIGHTS, "2 is needed"),
        (dataclasses.replace(FITTED, calibration=dataclasses.replace(CALIBRATED, passed=False)), BY_WEIGHTS, "calibr"),
        (dataclasses.replace(LOGGED, calibration=dataclasses.replace(CALIBRATED, passed=False)), {}, "calibr"),
        (FITTED, {}, "nothing confirms the first"),
        (dataclasses.replace(FITTED, covered=False), BY_WEIGHTS, "a weak cause that is hidden in every decision"),
        (FITTED, {"wdr": gain(-0.01, 0.05, name="wdr")}, "nothing confirms the first"),  # on the same assumptions
        (FITTED, {"wdr": gain(0.01, 0.05, name="wdr", weight_based=True, healthy=False)}, "nothing confirms the first"),
        (
            FITTED,
            {"magic": gain(0.01, 0.05, name="magic", weight_based=True, trusts_values=True)},
            "nothing confirms the first",
        ),
    ],
)
def test_without_confirmation_there_is_no_go(confirmation: Confirmation | None, others: dict, says: str) -> None:
    verdict = decide({"fqe": gain(0.01, 0.03)} | others, audit_verdict="usable", confirmation=confirmation)
    assert verdict.decision == "CANNOT TELL"
    assert [line.key for line in verdict.lines if line.passed is False] == ["e"]
    assert says in verdict.lines[-1].seen


def test_the_strength_of_a_cause_in_every_decision_is_said_and_decides_nothing() -> None:
    gains = {"fqe": gain(0.01, 0.03)} | BY_WEIGHTS
    for weak in (1.004, 1.09):
        known = Sensitivity(1.8, 2, weak)
        fitted = decide(gains, audit_verdict="usable", confirmation=dataclasses.replace(FITTED, sensitivity=known))
        assert fitted.decision == "GO"
        strengths = f"odds ratio of 1.80 in any single decision and of {weak:.2f} in every decision"
        assert f"a hidden cause with an {strengths}" in fitted.headline
        strength = f"a hidden cause with an odds ratio of {weak:.2f} in every decision"
        said = f"The gain withstands {strength}, if the cause has no memory."
        assert said in [part.sentence for part in fitted.lines[-1].parts]
        logged = decide(gains, audit_verdict="usable", confirmation=dataclasses.replace(LOGGED, sensitivity=known))
        assert logged.decision == "GO"
        assert said in logged.lines[-1].seen
        for verdict in (fitted, logged):
            caveat = next(one for one in verdict.caveats if "step 2 alone" in one)
            assert f"One that acts in every decision would overturn it with a factor of {weak:.2f}." in caveat
            assert "no memory" in caveat
        assert "Propensities that the acting policy itself recorded leave no room" in " ".join(logged.caveats)
        assert "leave no room" not in " ".join(fitted.caveats)


def test_a_fitted_behaviour_gives_no_go_before_its_coverage_is_published() -> None:
    assert not Confirmation(True, CALIBRATED, NO_TRACE, Sensitivity(1.8, 2)).covered


@pytest.mark.parametrize(
    ("name", "decisions", "says"),
    [
        ("fqe", False, None),
        ("wdr", False, "verdicts of fqe alone have been counted against the truth"),
        ("reward-dr", True, None),
        ("snips", True, "verdicts of reward-dr alone have been counted against the truth"),
    ],
)
def test_over_continuous_actions_go_is_for_what_was_counted(name: str, decisions: bool, says: str | None) -> None:
    confirmation = dataclasses.replace(LOGGED, continuous=True, decisions=decisions)
    verdict = decide({name: gain(0.01, 0.03, name=name)}, audit_verdict="usable", confirmation=confirmation)
    where = COUNTED_WHERE_OF_DECISIONS if decisions else COUNTED_WHERE
    assert (where in verdict.caveats) is (says is None)
    if says is None:
        assert verdict.decision == "GO"
        return
    assert verdict.decision == "CANNOT TELL"
    assert [line.key for line in verdict.lines if line.passed is False] == ["e"]
    assert says in verdict.lines[-1].seen
    # Over discrete actions both kinds of logs and both estimators were counted.
    discrete = dataclasses.replace(confirmation, continuous=False)
    found = decide({name: gain(0.01, 0.03, name=name)}, audit_verdict="usable", confirmation=discrete)
    assert found.decision == "GO"


def test_no_go_needs_no_confirmation() -> None:
    assert decide({"fqe": gain(-0.03, -0.01)}, audit_verdict="usable").decision == "NO-GO"


def test_an_unhealthy_estimate_below_zero_does_not_veto() -> None:
    gains = {"fqe": gain(0.01, 0.03), "wis": gain(-0.2, -0.1, name="wis", healthy=False)}
    assert decide(gains, confirmation=LOGGED).decision == "GO"


def test_a_log_that_nobody_audited_does_not_block_and_is_named() -> None:
    verdict = decide({"fqe": gain(0.01, 0.03)}, confirmation=LOGGED)
    assert verdict.decision == "GO"
    assert verdict.lines[3].passed is None
    assert verdict.lines[3].seen == "the log was not audited: `st.audit(log)` gives an `audit_verdict` to hand in"
    assert "[n/a ] (d) the audit does not call the log unusable: the log was not audited" in str(verdict)


def test_where_only_estimates_were_asked_for_that_no_verdict_rests_on_it_says_so() -> None:
    verdict = decide({"wis": gain(0.1, 0.2, name="wis"), "pdwis": gain(0.1, 0.2, name="pdwis")})
    assert verdict.decision == "CANNOT TELL"
    assert verdict.primary is None
    assert verdict.lines[0].seen == "a verdict cannot rest on wis or pdwis alone: ask for fqe or wdr or lstdq as well"
    assert verdict.lines[2].passed is None
    # One that could bear it, and has no interval, is another matter.
    refused = decide({"wis": gain(0.1, 0.2, name="wis"), "fqe": gain(None, None, healthy=False)})
    assert refused.lines[0].seen == "no estimate that a verdict may rest on has an interval. Episodes are few: 3."


def test_the_primary_s_failed_checks_are_what_line_c_says() -> None:
    verdict = decide({"fqe": gain(0.01, 0.03, healthy=False)}, audit_verdict="usable", confirmation=LOGGED)
    assert verdict.lines[2].seen == "Episodes are few: 3."
    assert verdict.headline.endswith("line (c) failed, episodes are few.")


def test_the_primary_is_the_first_that_applies_and_is_not_exchanged_where_it_fails_a_check() -> None:
    fqe, wdr = gain(0.0, 0.1), gain(0.0, 0.1, name="wdr")
    sick = gain(0.0, 0.1, healthy=False)
    assert choose_primary({"wdr": wdr, "fqe": fqe}) == "fqe"
    assert choose_primary({"wdr": wdr, "fqe": sick}) == "fqe"
    assert choose_primary({"wdr": wdr, "fqe": gain(None, None)}) == "wdr"
    assert choose_primary({"wdr": dataclasses.replace(wdr, healthy=False), "fqe": sick}) == "fqe"
    assert choose_primary({"wis": gain(0.0, 0.1, name="wis")}) is None
    # By rank, whatever the name.
    first = dataclasses.replace(wdr, name="mine", primary_rank=-1)
    assert choose_primary({"wdr": wdr, "fqe": fqe, "mine": first}) == "mine"


def test_a_headline_gives_each_reason_once_and_counts_the_others() -> None:
    wrong = dataclasses.replace(
        CALIBRATED, passed=False, sentence="The ratios are off (p = 0.001): the model is wrong."
    )
    primary = dataclasses.replace(gain(0.01, 0.03), healthy=False, reasons=(wrong.sentence,), checks=(wrong,))
    confirmation = dataclasses.replace(FITTED, calibration=wrong, sensitivity=Sensitivity(1.2, 0))
    verdict = decide({"fqe": primary}, confirmation=confirmation)
    assert verdict.headline == (
        "the log does not prove the policy better than the behaviour: line (c) failed, the ratios are off (p = 0.001); "
        "line (e) failed, the gain withstands a hidden cause with an odds ratio of 1.20 in its worst single decision, and 1.5 is "
        "needed (and 2 more)."
    )


def test_a_headline_leaves_out_a_parenthesis_that_it_would_cut() -> None:
    past = HistoryCheck(False, "The past predicts the action, through glucose (held out: action 3.0% likelier).")
    verdict = decide({"fqe": gain(0.01, 0.03)}, confirmation=dataclasses.replace(FITTED, history=past))
    assert "line (e) failed, the past predicts the action, through glucose (and 1 more)." in verdict.headline


def test_a_line_of_many_checks_says_what_failed_and_keeps_them_all() -> None:
    checks = [Check(f"check-{k}", 1.0, 2.0, k != 1, f"Check {k} was made.") for k in range(3)]
    sick = dataclasses.replace(gain(0.01, 0.03), healthy=False, reasons=("Check 1 was made.",), checks=tuple(checks))
    line = decide({"fqe": sick}, confirmation=LOGGED).lines[2]
    assert [(part.passed, part.sentence) for part in line.parts] == [
        (True, "Check 0 was made."),
        (False, "Check 1 was made."),
        (True, "Check 2 was made."),
    ]
    assert str(line) == "  [FAIL] (c) every health check of the primary gain holds:\n         - Check 1 was made."
    well = dataclasses.replace(gain(0.01, 0.03), checks=tuple(dataclasses.replace(one, passed=True) for one in checks))
    assert decide({"fqe": well}, confirmation=LOGGED).lines[2].seen == "all 3 checks hold"


def test_a_printed_verdict_fits_into_a_terminal_of_100_columns() -> None:
    long = Check("long", None, None, False, "A sentence that goes on and on " * 12)
    sick = dataclasses.replace(gain(0.01, 0.03), healthy=False, reasons=(long.sentence,), checks=(long,))
    verdict = decide({"fqe": sick}, confirmation=LOGGED, notes=("Looked at twice. " * 20,))
    lines = str(verdict).splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(str(verdict).split()).count("goes on and on") == 24  # in the headline and in its line, whole
    assert [line for line in lines if line.startswith("  note: Looked at twice.")]


def test_a_stored_verdict_is_the_same_and_older_ones_have_no_parts() -> None:
    verdict = decide({"fqe": gain(0.01, 0.03)} | BY_WEIGHTS, confirmation=FITTED)
    stored = verdict.to_dict()
    assert type(verdict).from_dict(stored) == verdict
    older = [{key: line[key] for key in ("key", "rule", "seen", "passed")} for line in stored["lines"]]
    read = type(verdict).from_dict(stored | {"lines": older})
    assert [line.parts for line in read.lines] == [()] * 5
    assert [line.seen for line in read.lines] == [line.seen for line in verdict.lines]


def test_a_stored_history_check_says_what_the_verdict_makes_of_it() -> None:
    few = HistoryCheck(True, "The past adds nothing.")  # a pass that rests on no decision at all
    stored = dataclasses.replace(FITTED, history=few).to_dict()["history"]
    assert stored["sentence"].startswith("In fewer than 10,000 decisions that have a past")
    assert stored["sentence"].endswith("though it found none: the past adds nothing.")
    assert FITTED.to_dict()["hidden_cause"]["needed"] == 1.5
    assert dataclasses.replace(FITTED, sensitivity=None).to_dict()["hidden_cause"] is None
