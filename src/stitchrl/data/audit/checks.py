"""The checks: each takes a log and gives the findings of one kind. `CHECKS` lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from stitchrl.data.audit.finding import Finding
from stitchrl.data.dataset import Dataset

__all__ = ["CHECKS"]

RARE_SHARE = 0.001
"""Actions logged less often than this share of rows are called rare."""
CALIBRATION_Z = 6.0
"""Standard errors by which an action's logged count may differ from its propensities' sum."""


def logged_action_outside_mask(log: Dataset) -> Iterator[Finding]:
    """A logged action that its own mask forbids: mask or action is wrong."""
    if log.action_mask is None:
        return
    outside = ~np.take_along_axis(log.action_mask, log.action[:, None].astype(np.int64), 1)[:, 0]
    if outside.any():
        rows = np.flatnonzero(outside)
        yield Finding(
            "action-outside-mask",
            "error",
            f"action, action_mask: row {rows[0]} and {len(rows) - 1:,} more",
            f"{outside.mean():.1%} of logged actions are forbidden by their own mask",
            "every logged action to be allowed",
            "Correct the mask: learned policies may never take what the log took there.",
        )


def empty_mask(log: Dataset) -> Iterator[Finding]:
    """A row that allows no action."""
    if log.action_mask is None:
        return
    empty = ~log.action_mask.any(1)
    if empty.any():
        yield Finding(
            "empty-mask",
            "error",
            f"action_mask: row {np.flatnonzero(empty)[0]}",
            f"{int(empty.sum()):,} rows allow no action",
            "at least one allowed action a row",
            "Correct the mask.",
        )


def propensities_missing(log: Dataset) -> Iterator[Finding]:
    """No behaviour probabilities: they will be fitted."""
    if log.behavior_log_prob is None:
        yield Finding(
            "propensities-missing",
            "info",
            "behavior_log_prob",
            "the log does not say how likely its actions were",
            "the logging policy's probabilities, where they exist",
            "They are fitted by behaviour cloning, and every estimate says so. Log them in future.",
        )


def propensities_impossible(log: Dataset) -> Iterator[Finding]:
    """Logged actions with probability 0, or above 1."""
    if log.behavior_log_prob is None:
        return
    wrong = ~np.isfinite(log.behavior_log_prob) | (log.behavior_log_prob > 1e-5)
    if wrong.any():
        yield Finding(
            "propensity-impossible",
            "error",
            f"behavior_log_prob: row {np.flatnonzero(wrong)[0]} and {int(wrong.sum()) - 1:,} more",
            f"{int(wrong.sum()):,} logged actions have probability 0 or above 1",
            "log-probabilities at most 0 and finite: the action was taken",
            "Correct the propensities, or drop the column and let them be fitted.",
        )


def propensities_disagree(log: Dataset) -> Iterator[Finding]:
    """behavior_log_prob is not the logged action's entry of behavior_probs."""
    if log.behavior_log_prob is None or log.behavior_probs is None:
        return
    chosen = np.take_along_axis(log.behavior_probs, log.action[:, None].astype(np.int64), 1)[:, 0]
    gap = np.abs(np.exp(log.behavior_log_prob.astype(np.float64)) - chosen)
    if (gap > 1e-3).any():
        row = int(gap.argmax())
        yield Finding(
            "propensities-disagree",
            "error",
            f"behavior_log_prob, behavior_probs: row {row}",
            f"{(gap > 1e-3).mean():.1%} of rows differ, by up to {gap.max():.3f}",
            "the same probability in both columns",
            "Find out which is right and drop the other.",
        )


def propensities_uncalibrated(log: Dataset) -> Iterator[Finding]:
    """Actions logged far more or less often than their propensities say."""
    if log.behavior_probs is None or log.num_actions is None:
        return
    probs = log.behavior_probs.astype(np.float64)
    expected, variance = probs.sum(0), (probs * (1 - probs)).sum(0)
    counts = np.bincount(log.action, minlength=log.num_actions)
    z = (counts - expected) / np.sqrt(np.maximum(variance, 1.0))
    worst = int(np.abs(z).argmax())
    if abs(z[worst]) > CALIBRATION_Z:
        yield Finding(
            "propensities-uncalibrated",
            "error",
            f"behavior_probs: action {worst}",
            f"logged {counts[worst]:,} times where the propensities expect {expected[worst]:,.0f} ({z[worst]:+.0f} SE)",
            f"counts within {CALIBRATION_Z:g} standard errors",
            "These are not the probabilities the actions were drawn with; correct or drop them.",
        )


def actions_unused(log: Dataset) -> Iterator[Finding]:
    """Actions of the declared space that are never or hardly ever taken."""
    if log.num_actions is None:
        return
    share = np.bincount(log.action, minlength=log.num_actions) / log.num_transitions
    unused, rare = np.flatnonzero(share == 0), np.flatnonzero((share > 0) & (share < RARE_SHARE))
    for code, which, text in (
        ("action-unused", unused, "never taken"),
        ("action-rare", rare, f"in under {RARE_SHARE:.1%} of rows"),
    ):
        if len(which):
            yield Finding(
                code,
                "warning" if code == "action-unused" and log.action_mask is None else "info",
                f"action: {', '.join(map(str, which[:10]))}{' ...' if len(which) > 10 else ''}",
                f"{len(which)} of {log.num_actions} actions {text}",
                "some rows for every action a policy may take",
                "Nothing can be learned about them; forbid them with an action_mask, or collect some.",
            )


def observation_constant(log: Dataset) -> Iterator[Finding]:
    """Observation columns that never change."""
    used = log.observation_table[np.unique(log.observation_index)]
    constant = np.flatnonzero(used.max(0) == used.min(0))
    if len(constant):
        yield Finding(
            "observation-constant",
            "warning",
            f"observation: columns {', '.join(map(str, constant[:10]))}",
            f"{len(constant)} of {log.observation_size} columns have one value",
            "columns that tell states apart",
            "Drop them, or find out why they are empty.",
        )


def returns_constant(log: Dataset) -> Iterator[Finding]:
    """All episodes have the same return: there is nothing to learn from."""
    returns = log.episode_returns()
    if log.num_episodes > 1 and returns.min() == returns.max():
        yield Finding(
            "returns-constant",
            "error",
            "reward",
            f"every episode returns {returns[0]:g}",
            "returns that differ between episodes",
            "Check that the reward column is the outcome.",
        )


def cut_without_next(log: Dataset) -> Iterator[Finding]:
    """Truncated ends whose next observation is unknown: no TD target there."""
    lost = int((~log.can_bootstrap).sum())
    if lost:
        yield Finding(
            "cut-without-next-observation",
            "warning",
            "truncated, next_observation",
            f"{lost:,} of {int(log.truncated.sum()):,} cut episodes lack what came next (or its action mask)",
            "the observation after the cut",
            "Those rows stay for imitation and have weight 0 in every TD loss. Log one more observation.",
        )


def rows_missing(log: Dataset) -> Iterator[Finding]:
    """next_observation is not the next row's observation: rows are missing in between, or the columns disagree."""
    inside = np.ones(log.num_transitions, bool)
    inside[log.episode_start[1:] - 1] = False
    gaps = np.flatnonzero(inside & ~log.continues)
    if len(gaps):
        yield Finding(
            "rows-missing",
            "warning",
            f"next_observation: row {gaps[0]} and {len(gaps) - 1:,} more",
            f"{len(gaps) / max(inside.sum(), 1):.1%} of rows inside episodes are not followed by what they say follows",
            "each next_observation to be the next row's observation",
            "Each row's own next_observation is used; weights over whole episodes miss what was between.",
        )


def weights_unused(log: Dataset) -> Iterator[Finding]:
    """A weight column, which nothing uses yet."""
    if log.weight is not None:
        yield Finding(
            "weight-unused",
            "warning",
            "weight",
            "the log weighs its rows",
            "no weights, so far",
            "Training and evaluation count every row alike; resample the log by its weights if they matter.",
        )


def episodes_of_one_step(log: Dataset) -> Iterator[Finding]:
    """Many one-step episodes: a contextual bandit, or a broken episode column."""
    share = float((log.episode_lengths == 1).mean())
    if share > 0.5:
        yield Finding(
            "episodes-of-one-step",
            "warning",
            "episode",
            f"{share:.0%} of episodes have one step",
            "episodes of several decisions",
            "If decisions follow each other, check the episode column.",
        )


def few_episodes(log: Dataset) -> Iterator[Finding]:
    """So few episodes that no interval means much."""
    if log.num_episodes < 100:
        yield Finding(
            "few-episodes",
            "warning",
            "episode",
            f"{log.num_episodes} episodes",
            "at least some hundreds, for intervals to mean what they say",
            "Collect more before deciding anything.",
        )


def duplicated_episodes(log: Dataset) -> Iterator[Finding]:
    """Long episodes that are equal in every action, reward and observation."""
    digests = set()
    twice = 0
    for start, end in zip(log.episode_start[:-1], log.episode_start[1:], strict=True):
        if end - start < 3:
            continue
        rows = slice(start, end)
        seen = log.observation_table[log.observation_index[rows]].tobytes()
        digest = hash((log.action[rows].tobytes(), log.reward[rows].tobytes(), seen))
        twice += digest in digests
        digests.add(digest)
    if twice > max(3, 0.01 * log.num_episodes):
        yield Finding(
            "episodes-duplicated",
            "warning",
            "episode",
            f"{twice:,} episodes of 3 or more steps equal an earlier one",
            "each episode once",
            "Copies in training and test make estimates too sure; drop them.",
        )


CHECKS: tuple[Callable[[Dataset], Iterator[Finding]], ...] = (
    logged_action_outside_mask,
    empty_mask,
    propensities_missing,
    propensities_impossible,
    propensities_disagree,
    propensities_uncalibrated,
    actions_unused,
    observation_constant,
    returns_constant,
    cut_without_next,
    rows_missing,
    weights_unused,
    episodes_of_one_step,
    few_episodes,
    duplicated_episodes,
)
"""Every check, in the order they run."""
