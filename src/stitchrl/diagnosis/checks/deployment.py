"""The check of an evaluation against the returns of the deployed policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.deployed import (
    AS_ESTIMATED,
    BAND,
    CANNOT_TELL,
    OPTIMISTIC,
    DeployedGap,
    deployed_gap,
)
from stitchrl.diagnosis.subject import NotLookedAtError, Subject

__all__ = ["deployed_numbers", "estimate_against_deployed"]

EXPECTED = f"a gap of at most {BAND:.0%} of the estimate, or one that chance explains"


def deployed_numbers(subject: Subject) -> dict[str, Any]:
    """The gap as plain numbers."""
    return subject.once(_gap).to_dict()


def estimate_against_deployed(subject: Subject) -> Iterator[Finding]:
    """The deployed policy returns more, or less, than its evaluation said."""
    if subject.member.deployed is None:
        raise NotLookedAtError("No deployed returns were given to compare the estimate with (`deployed=`).")
    gap = subject.once(_gap)
    if gap.verdict == AS_ESTIMATED:
        return
    if gap.verdict == CANNOT_TELL:
        half = (gap.upper - gap.lower) / 2
        small = f" {BAND:.0%} of the estimate are {gap.band:.3g}, less than the {half:.3g} by which chance may move the gap."
        yield Finding(
            "deployed-cannot-tell",
            "info",
            "deployed returns",
            gap.sentence,
            EXPECTED,
            "So few episodes cannot tell whether the estimate held: go on counting deployed returns."
            + (small if gap.band < half else ""),
        )
    elif gap.verdict == OPTIMISTIC:
        yield Finding(
            "estimate-optimistic",
            "warning",
            "deployed returns",
            gap.sentence,
            EXPECTED,
            "The estimate was optimistic: the policy does worse than it said. Trust the deployed returns. See what changed "
            "since the log was recorded (`newer=` of diagnose), add the deployed episodes to the log, audit, train and evaluate "
            "again, and hold the policy nearer to the log (more pessimism).",
        )
    else:
        yield Finding(
            "estimate-pessimistic",
            "info",
            "deployed returns",
            gap.sentence,
            EXPECTED,
            "The estimate was pessimistic: the policy does better than it said. See whether something else improved too "
            "(`newer=` of diagnose); if not, less pessimism may find a better policy still.",
        )


def _gap(subject: Subject) -> DeployedGap:
    deployed, estimate = subject.member.deployed, subject.member.estimate
    if deployed is None:
        raise NotLookedAtError(
            "No returns of the deployed policy were given (`deployed=`) to compare its estimate with."
        )
    if estimate is None or estimate.lower is None:
        raise NotLookedAtError(
            "There is no estimate with an interval to compare deployed returns with; `st.evaluate` makes one."
        )
    return deployed_gap(estimate, deployed)
