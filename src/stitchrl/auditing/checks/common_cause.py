"""The check for traces that a lasting hidden cause of actions and outcomes would leave: a hint of confounding, and no proof."""

from __future__ import annotations

from collections.abc import Iterator

from stitchrl.auditing.common_cause import CommonCause, common_cause
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.history_facts import history_of, rows_with_past
from stitchrl.data.dataset import Dataset

__all__ = ["common_cause_hinted"]


def common_cause_hinted(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Unexplained actions and outcomes that are related across the rows of an episode, in both directions of time.

    It is asked only where the history check found that the past predicts actions beyond the observation, and that the models
    of the observation are good enough to say so: without it there is no lasting cause of the actions to look for.
    """
    if not any(gain.target == "action" and gain.passed is False for gain in history_of(facts).targets):
        return
    found = facts.once(_common_cause)
    if found is not None and found.hinted:
        yield Finding(
            "hidden-common-cause",
            "info",
            "action, reward",
            "a hint that something unseen decides both actions and outcomes: what the observation leaves unexplained of them is "
            f"related across the rows of an episode, earlier outcomes with later actions (correlation {found.reaction:.2f}) and "
            f"earlier actions with later outcomes ({found.late:.2f})",
            "what is left unexplained to be chance, and chance in one row to say nothing about another",
            "This is a hint and no proof: someone who reacts to earlier outcomes, with a treatment whose effect shows late, "
            "looks the same. Ask what the decision maker knew that the log does not hold, and add it to the observation. "
            "Until then read estimates beside the smallest hidden strength that would change the verdict.",
        )


def _common_cause(facts: Facts) -> CommonCause | None:
    rows = rows_with_past(facts)
    return None if rows is None else common_cause(rows)
