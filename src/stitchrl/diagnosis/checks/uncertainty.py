"""The check of how far critics disagree about the policy's actions, compared with the logged ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.knobs import nearer_to_log
from stitchrl.diagnosis.subject import NO_CRITICS, NotLookedAtError, Subject
from stitchrl.diagnosis.support import check_acts_alone
from stitchrl.types import NumpyArray

__all__ = ["critics_disagree", "uncertainty_numbers"]

TIMES = 3.0
"""Disagreement about the policy's actions, as a multiple of that about logged ones, above which it is a finding."""


class Spread(NamedTuple):
    """(N,) standard deviation of the critics' claims about the logged action, and about the policy's most probable one."""

    logged: Float[NumpyArray, " N"]
    policy: Float[NumpyArray, " N"]

    @property
    def times(self) -> float:
        """The mean of `policy` as a multiple of the mean of `logged`."""
        return float(self.policy.mean() / max(float(self.logged.mean()), 1e-12))


def spread_of(subject: Subject) -> Spread:
    """The disagreement. Raises `NotLookedAtError` where there are not several critics."""
    value = subject.member.value
    if value is None:
        raise NotLookedAtError(NO_CRITICS)
    check_acts_alone(subject)
    action = subject.actions.astype(np.int32 if subject.rows.num_actions is not None else np.float32)
    try:
        found = [np.asarray(value.spread(subject.obs, one), np.float64) for one in (subject.rows.action, action)]
    except TypeError as why:
        raise NotLookedAtError(str(why)) from None
    if not any(one.any() for one in found):
        raise NotLookedAtError(f"{subject.member.heading} has only one critic, so no disagreement can be measured.")
    return Spread(*found)


def uncertainty_numbers(subject: Subject) -> dict[str, Any]:
    """The disagreement as plain numbers."""
    spread = subject.once(spread_of)
    return {
        "spread_logged": float(spread.logged.mean()),
        "spread_policy": float(spread.policy.mean()),
        "times": spread.times,
        "reward_noise": float(getattr(subject.member.algorithm, "reward_noise", 0.0)),
    }


def critics_disagree(subject: Subject) -> Iterator[Finding]:
    """The critics disagree about the policy's actions several times as much as about logged ones."""
    spread = subject.once(spread_of)
    if spread.times <= TIMES:
        return
    noisy = float(getattr(subject.member.algorithm, "reward_noise", 0.0)) > 0
    rows = f"; by the noise on rewards, as if the log had 1/{spread.times**2:.0f} of the rows for them" if noisy else ""
    yield Finding(
        "critics-disagree",
        "warning",
        "claimed values",
        f"the critics disagree by {spread.policy.mean():.2g} (standard deviation) about the policy's actions, {spread.times:.1f} "
        f"times as much as about the logged ones ({spread.logged.mean():.2g}){rows}",
        f"at most {TIMES:g} times as much",
        "The values of what the policy does are guesses. Lower the values by the critics' disagreement (`deviations`, or more "
        f"critics). {nearer_to_log(subject.member.algorithm)}",
    )
