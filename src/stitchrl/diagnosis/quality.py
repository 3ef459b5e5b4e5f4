"""Second part of the advice: is the log good enough? What its audit found, its size, and what there is to gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.diagnosis.log_facts import LogFacts
from stitchrl.diagnosis.starting_algorithms import FEW_EPISODES
from stitchrl.diagnosis.statement import Statement

__all__ = ["quality_of"]

MOST_FINDINGS = 5
"""The most warnings of the audit that are repeated; all errors are."""
OF_THE_TREATMENT = ("observation-made-of-action", "observation-leaks-action")
"""Codes of the audit for columns that hold what was done in their own row."""
VALIDATION = 0.1
"""Share of the episodes that chooses among candidates in the main job."""


def quality_of(facts: LogFacts, verdict: str, findings: Sequence[Mapping[str, Any]]) -> tuple[Statement, ...]:
    """Whether the log is good enough.

    Args:
        facts: of the log.
        verdict: of its audit.
        findings: of its audit, as plain content, the most harmful first.
    """
    found = [_verdict(verdict, findings)]
    made = [finding for finding in findings if finding["code"] in OF_THE_TREATMENT]
    found += [_to_drop(finding) for finding in made]
    findings = [finding for finding in findings if finding not in made]
    errors = [finding for finding in findings if finding["severity"] == "error"]
    warnings = [finding for finding in findings if finding["severity"] == "warning"][:MOST_FINDINGS]
    for finding in (*errors, *warnings):
        found.append(
            Statement(
                f"{finding['seen'][:1].upper()}{finding['seen'][1:]}. {finding['action']}",
                f"found in {finding['where']}; expected {finding['expected']}",
                f"the audit's check {finding['code']!r}",
                "st.audit",
            )
        )
    if "few-episodes" not in {finding["code"] for finding in findings}:  # which says the same
        found.append(_size(facts))
    return (*found, *_to_gain(facts))


def _to_drop(finding: Mapping[str, Any]) -> Statement:
    """Advice to drop a column that is made of the treatment."""
    return Statement(
        f"Drop {finding['where'].removeprefix('observation: ')} before anything is learned, unless it was known before the "
        "action was chosen: it is made of the treatment, so that imitation reads the answer there, and when a policy is in use "
        "the value is not known yet.",
        f"{finding['seen']}; expected {finding['expected']}",
        f"the audit's check {finding['code']!r}",
        "st.audit",
    )


def _verdict(verdict: str, findings: Sequence[Mapping[str, Any]]) -> Statement:
    words = {
        "not usable": "Correct the log before anything is learned from it: numbers computed from it as it is can be wrong.",
        "usable with care": "The log can be used, with the care that the warnings below ask for.",
        "usable": "The audit found nothing that forbids learning from this log.",
    }
    count = {severity: sum(f["severity"] == severity for f in findings) for severity in ("error", "warning")}
    return Statement(
        words[verdict],
        f"{_counted(count['error'], 'error')} and {_counted(count['warning'], 'warning')} of the audit",
        "one error makes a log not usable, one warning makes it usable with care",
        "st.audit",
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _size(facts: LogFacts) -> Statement:
    number = f"{facts.episodes:,} episodes, {facts.transitions:,} decisions"
    if facts.episodes < FEW_EPISODES:
        return Statement(
            "Try few candidates, or log more: so few episodes cannot tell a good candidate from a lucky one.",
            number,
            f"with fewer than {FEW_EPISODES} episodes the validation part has fewer than {FEW_EPISODES * VALIDATION:.0f}",
            "the default of `stitchrl run`",
        )
    return Statement(
        "The size allows several candidates to be compared on a validation part.",
        number,
        f"from {FEW_EPISODES} episodes on, the validation part has at least {FEW_EPISODES * VALIDATION:.0f}",
        "the default of `stitchrl run`",
    )


def _to_gain(facts: LogFacts) -> tuple[Statement, ...]:
    found = []
    if facts.return_spread == 0:
        found.append(
            Statement(
                "There is nothing to learn: every episode returned the same. Check whether the reward column is the right one.",
                f"a standard deviation of returns of 0 about {facts.mean_return:.4g}",
                "without a difference between outcomes no action can be told from another",
                "arithmetic",
            )
        )
    if facts.modes is not None:
        (better, high), (worse, low) = facts.modes
        found.append(
            Statement(
                "The better episodes are a target to aim at: filtering or weighting by return raises their share.",
                f"{better:.0%} of episodes return about {high:.4g}, the other {worse:.0%} about {low:.4g}",
                "two modes of the returns are two kinds of behaviour, or two kinds of task",
                "st.audit",
            )
        )
    if facts.outcome_noise is not None and facts.outcome_noise >= 0.95 and facts.return_spread > 0:
        found.append(
            Statement(
                "Expect small gains, and trust no single run: what follows a decision is hardly predicted by it.",
                f"{facts.outcome_noise:.0%} of the variance of the return to go stays unexplained by a regression on observation "
                "and action",
                "where outcomes are mostly chance, differences between policies are small against the noise",
                "arithmetic",
            )
        )
    return tuple(found)
