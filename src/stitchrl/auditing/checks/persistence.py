"""Checks of habits: whether repeating the last action, or the last reward, predicts the log as well as the observation does."""

from __future__ import annotations

from collections.abc import Iterator

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.persistence import action_persistence, reward_persistence
from stitchrl.data.dataset import Dataset

__all__ = ["action_repeats", "reward_repeats"]


def action_repeats(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """The last action predicts the next one as well as a model of the whole observation does."""
    found = action_persistence(facts)
    if found is None or not found.as_good:
        return
    if log.num_actions is not None:
        seen = (
            f"{found.last:.0%} of the actions repeat the last one, and a model of the whole observation names "
            f"{found.observed:.0%} of them (the commonest action alone: {found.constant:.0%}); by likelihood the last action is "
            "as good a predictor"
        )
    else:
        seen = (
            f"the last action explains {found.last:.0%} of the variance of the next one, and a model of the whole observation "
            f"{max(found.observed, 0):.0%}"
        )
    yield Finding(
        "action-repeats",
        "warning",
        "action",
        seen,
        "actions that follow what was observed, beyond going on as before",
        "A policy learned by imitation from this log will mostly repeat its last action if it sees it, and otherwise guess; the "
        "few rows where the action changes carry what there is to learn. See whether decisions are taken less often than rows "
        "are logged (keep the rows where one was taken), and whether what moved the decision maker is in the observation.",
    )


def reward_repeats(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """The last reward predicts the next one as well as the observation and the action do."""
    found = reward_persistence(facts)
    if found is not None and found.as_good:
        yield Finding(
            "reward-repeats",
            "warning",
            "reward",
            f"the last reward explains {found.last:.0%} of the variance of the next one, and a model of observation and action "
            f"{max(found.observed, 0):.0%}",
            "rewards that follow from the observation and the action",
            "What sets the level of the reward is not in the observation, so that values learned from it mix cases that differ. "
            "Add it, or the last reward, to the observation; where the reward is a running total, log what each step adds.",
        )
