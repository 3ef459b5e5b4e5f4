"""Checks of the past: whether it predicts actions or outcomes beyond the observation, because something is not in the log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.history import HistoryGain
from stitchrl.auditing.history_facts import history_of
from stitchrl.data.dataset import Dataset
from stitchrl.messages import likelier, likelier_between

__all__ = ["history_decides_actions", "history_decides_outcomes", "history_numbers"]


def history_numbers(facts: Facts) -> dict[str, Any]:
    """The gains as plain numbers, with the sentence that says what they mean."""
    return history_of(facts).to_dict()


def history_decides_actions(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """The past predicts the logged action beyond the observation: something that decided it is not in the observation."""
    for gain in history_of(facts).targets:
        if gain.target == "action" and gain.passed is False:
            yield Finding(
                "history-decides-actions",
                _severity(log),
                ", ".join(gain.columns),
                f"something that decided the actions is not in the observation: the past predicts them, and {_seen(gain)}",
                "the past to say nothing about the action that the observation does not say",
                "Add to the observation what the decision maker saw, or the columns named here. Until then fitted probabilities "
                "and values learned from this log may mistake a hidden cause for the effect of an action.",
            )


def history_decides_outcomes(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """The past predicts the reward or the next observation beyond the observation and the action: the observation is not the
    whole state."""
    failed = [g for g in history_of(facts).targets if g.target != "action" and g.passed is False]
    if failed:
        yield Finding(
            "history-decides-outcomes",
            _severity(log),
            ", ".join(dict.fromkeys(name for gain in failed for name in gain.columns)),
            "the observation does not hold the whole state: the past predicts "
            + ", and ".join(f"the {gain.target}, and {_seen(gain)}" for gain in failed),
            "the observation and the action to say all that the log knows of what comes next",
            "Add the columns named here to the observation; values that are learned from it rest on its being the whole state.",
        )


def _severity(log: Dataset) -> str:
    return "warning" if log.behavior_log_prob is None else "info"


def _seen(gain: HistoryGain) -> str:
    return (
        f"held out, {'they are' if gain.target == 'action' else 'it is'} {likelier(gain.gain)} on average under a model that "
        f"also knows the past (99% interval: {likelier_between(gain.lower, gain.upper)})"
    )
