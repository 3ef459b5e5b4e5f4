"""Checks of the discount against the length of the logged episodes, and against where their rewards are paid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stitchrl.auditing.finding import Finding
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.subject import NO_RUN, NotLookedAtError, Subject

__all__ = ["gamma_too_large", "gamma_too_small", "horizon_numbers"]

MOSTLY = 0.5
"""Share of cut episodes above which the ends are mostly unknown."""
BEYOND = 0.9
"""Largest share of a value that may lie beyond the end of cut episodes, where nothing was seen. It is reached where gamma looks
some ten times as far as the episodes go."""
FAINT = 0.05
"""Least weight, at its start, of a reward that comes at the end of an episode of mean length."""
AT_END, LAST_PART = 0.8, 0.1
"""Rewards come at the end where 80% of their size is paid in the last tenth of the episodes."""


def gamma_too_large(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """Most of a value lies beyond the end of episodes that were cut."""
    if not _has_gamma(subjects[0]):
        return
    gamma, log = _gamma(subjects[0]), subjects[0].shared.log
    cut, after = _cut(log), _weight_after(log, gamma)
    if cut.mean() <= MOSTLY or after <= BEYOND:
        return
    steps = float(log.episode_lengths[cut].mean())
    yield Finding(
        "gamma-too-large",
        "warning",
        "`gamma`",
        f"gamma {gamma:g} looks {_steps_ahead(gamma)} ahead, but {cut.mean():.0%} of the logged episodes were cut, after "
        f"{steps:,.0f} steps on average: {after:.0%} of a value at their start is about what was never seen",
        f"at most {BEYOND:.0%}",
        "Values that are learned there rest on other guesses and not on rewards that were seen. Lower gamma (to about "
        f"{1 - 1 / max(steps, 2):.3g}, which looks as far as these episodes go), or log longer ones. Where cuts fall at random "
        "places of one unending task, whose later states other episodes show, this is harmless.",
    )


def gamma_too_small(subjects: Sequence[Subject]) -> Iterator[Finding]:
    """Rewards come at the end, and the discount leaves next to nothing of them at the start."""
    if not _has_gamma(subjects[0]):
        return
    gamma, log = _gamma(subjects[0]), subjects[0].shared.log
    share, left = _share_at_end(log), _weight_at_end(log, gamma)
    if share < AT_END or left >= FAINT or not log.reward.any():
        return
    length = float(log.episode_lengths.mean())
    yield Finding(
        "gamma-too-small",
        "warning",
        "`gamma`",
        f"{share:.0%} of the rewards are paid at the end of the episodes, which have {length:,.0f} steps on average; at gamma "
        f"{gamma:g} such a reward counts {left:.2g} of itself at the start",
        f"at least {FAINT:g} of itself",
        "The first decisions then hardly differ in value, and errors of the critics decide between them: raise gamma (to "
        f"{0.5 ** (1 / max(length, 1)):.4g} or more, at which half of it is left, or to 1 where episodes end by themselves).",
    )


def horizon_numbers(subject: Subject) -> dict[str, Any]:
    """The discount against the episodes, as plain numbers."""
    if not _has_gamma(subject):
        raise NotLookedAtError("What was learned has no discount (`gamma`).")
    gamma, log = _gamma(subject), subject.shared.log
    return {
        "gamma": gamma,
        "mean_length": float(log.episode_lengths.mean()),
        "cut_share": float(_cut(log).mean()),
        "weight_beyond_cuts": _weight_after(log, gamma) if _cut(log).any() else None,
        "reward_share_at_end": _share_at_end(log),
        "weight_at_end": _weight_at_end(log, gamma),
    }


def _has_gamma(subject: Subject) -> bool:
    """Whether what was learned has a discount; imitation has none."""
    if subject.member.algorithm is None:
        raise NotLookedAtError(NO_RUN)
    return hasattr(subject.member.algorithm, "gamma")


def _gamma(subject: Subject) -> float:
    return float(getattr(subject.member.algorithm, "gamma", 1.0))


def _steps_ahead(gamma: float) -> str:
    return "without end" if gamma == 1 else f"some {1 / (1 - gamma):,.0f} steps"


def _cut(log: Dataset) -> Any:
    """(E,) whether each episode was cut."""
    return ~log.terminated[log.episode_start[1:] - 1]


def _weight_after(log: Dataset, gamma: float) -> float:
    """gamma to the power of the length of the cut episodes, on average: the weight of what lies beyond them at their start."""
    last = log.reward_discount(gamma)[log.episode_start[1:] - 1] * gamma
    cut = _cut(log)
    return float(last[cut].mean()) if cut.any() else 0.0


def _weight_at_end(log: Dataset, gamma: float) -> float:
    """gamma to the power of the mean number of steps before the last; with times of decisions, their mean weight."""
    if log.elapsed is None:
        return float(gamma ** (log.episode_lengths.mean() - 1))
    return float(log.reward_discount(gamma)[log.episode_start[1:] - 1].mean())


def _share_at_end(log: Dataset) -> float:
    """The share of the size of all rewards that is paid in the last tenth of their episode, or its last step."""
    size = np.abs(log.reward.astype(np.float64))
    length = np.repeat(log.episode_lengths, log.episode_lengths)
    late = length - log.position <= np.maximum(LAST_PART * length, 1)
    return float(size[late].sum() / size.sum()) if size.any() else 0.0
