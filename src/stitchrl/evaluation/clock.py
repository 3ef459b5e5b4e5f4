"""A finite horizon: the log of the first H steps, and observations that tell the step.

The value of the first H steps of an episode depends on how many of them are left, so a Q of observations alone cannot
represent it, however long it is fitted. Three changes of the log make the finite horizon an ordinary problem, to which
fitted Q evaluation, its refit and the doubly robust estimates apply as they are (Sutton and Barto 2018, section 3.4):

    (1)  rows after the first H steps are dropped: nothing that is estimated depends on them
    (2)  the row at step H - 1 is terminated: nothing after it is counted, so there is nothing to bootstrap
    (3)  every observation gets columns that tell the step, so that Q(s, t, a) and the weights of (s, t) may differ by step

With t the step and H - t the steps that are left, the columns are t / H and 2^{-(H - t) / h} for h = 1, 2, 4, 8. The
first is for what changes at the same pace throughout. The others are for the final steps, in which the value of a state
falls to 0 at a pace that depends on the world and not on H.

The policy and a fitted behaviour never see these columns: they are asked with the observations of the log.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stitchrl.data.columns import NO_OBSERVATION, PER_TRANSITION
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["clock", "first_steps", "with_clock"]

HALVINGS = (1, 2, 4, 8)
"""h: steps in which a column for the final steps doubles."""


def first_steps(log: Dataset, horizon: int | None) -> Dataset:
    """The log without the rows after the first `horizon` steps of each episode; the log itself where there are none.

    Where the last row that is kept did not truly end its episode, it is truncated, and its next observation is known as
    before. None keeps everything.
    """
    if horizon is None or int(log.episode_lengths.max()) <= horizon:
        return log
    kept = log.position < horizon
    lengths = np.minimum(log.episode_lengths, horizon)
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = {name: getattr(log, name) for name in PER_TRANSITION}
    taken: dict[str, Any] = {name: None if column is None else column[kept] for name, column in columns.items()}
    last = start[1:] - 1
    taken["truncated"][last] |= ~taken["terminated"][last]
    return dataclasses.replace(log, **taken, episode_start=start)


def with_clock(log: Dataset, horizon: int | None) -> Dataset:
    """A log of first steps whose observations tell the time and whose rows at the horizon are terminated.

    An observation that several rows share is stored once for each of them, since they may stand at different steps.
    None gives the log itself.

    Args:
        log: a log that `first_steps` gave, whose observations are vectors.
        horizon: H, at least the length of every episode.
    """
    if horizon is None:
        return log
    rows, time = log.num_transitions, log.position
    complete = time == horizon - 1
    known = (log.next_observation_index != NO_OBSERVATION) & ~complete
    alone = np.flatnonzero(known & ~log.continues)  # the next observation is no row's own
    following = np.full(rows, NO_OBSERVATION, np.int64)
    following[log.continues] = np.flatnonzero(log.continues) + 1
    following[alone] = rows + np.arange(len(alone))
    stored = np.concatenate([log.observation_index, log.next_observation_index[alone]])
    told = clock(np.concatenate([time, time[alone] + 1]), horizon)
    kind = log.observation_index.dtype
    return dataclasses.replace(
        log,
        observation_table=np.concatenate([log.observation_table[stored], told], axis=1),
        observation_index=np.arange(rows, dtype=kind),
        next_observation_index=following.astype(kind),
        terminated=log.terminated | complete,
        truncated=log.truncated & ~complete,
        observation_names=(),
    )


def clock(step: Int[NumpyArray, " n"], horizon: int) -> Float[NumpyArray, "n columns"]:
    """(n, 5) float32 columns that tell the step, from 0 to H, of a horizon of H steps."""
    final = [np.exp2((step - horizon) / steps) for steps in HALVINGS]
    return np.stack([step / horizon, *final], axis=1).astype(np.float32)
