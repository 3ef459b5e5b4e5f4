"""Logs of single decisions, as a contextual bandit leaves them: every episode has one step, and nothing follows it."""

from __future__ import annotations

from stitchrl.data.dataset import Dataset

__all__ = ["judged_as_decisions", "of_decisions", "unit_noun", "weights_suffice"]


def of_decisions(log: Dataset, horizon: int | None = None) -> bool:
    """Whether every episode of a log is one decision whose reward is all that follows.

    Args:
        log: the episodes; with a horizon only their first steps.
        horizon: how many steps are counted; an episode of one step that was cut is complete under a horizon of one.
    """
    single = log.num_transitions == log.num_episodes
    return single and (bool(log.terminated.all()) or horizon == 1)


def weights_suffice(log: Dataset, horizon: int | None = None) -> bool:
    """Whether every episode is one decision, and the probability or the density of its action was logged."""
    return of_decisions(log, horizon) and log.behavior_log_prob is not None


def judged_as_decisions(log: Dataset, horizon: int | None = None) -> bool:
    """Whether a verdict rests on the estimators of single decisions.

    Over continuous actions they need logged densities: ratios to a fitted one say little.
    """
    return of_decisions(log, horizon) and (log.num_actions is not None or log.behavior_log_prob is not None)


def unit_noun(log: Dataset, horizon: int | None = None) -> str:
    """What one episode of a log is called in messages: "decision" where it is a single one, else "episode"."""
    return "decision" if of_decisions(log, horizon) else "episode"
