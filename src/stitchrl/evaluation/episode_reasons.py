"""Why an episode stands out, in words: the step that the other episodes predict worst, or a number that no other episode has."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.episode_scores import EpisodeScores
from stitchrl.evaluation.log_models import ACTIONS, OBSERVATIONS, VALUES
from stitchrl.types import NumpyArray

__all__ = ["Ranges", "reason"]

RARE = 0.05
"""Probability below which an action counts as rare."""
NOTICED = 0.5
"""How many standard deviations outside the range of its column a number must lie to be mentioned."""


class Ranges:
    """The ranges of rewards and observation columns over the ordinary episodes of a log.

    Args:
        log: the log.
        ordinary: (n,) the episodes that are neither listed nor stand apart.
    """

    def __init__(self, log: Dataset, ordinary: Bool[NumpyArray, " n"]) -> None:
        rows = ordinary[log.episode_of_transition]
        rows = rows if rows.any() else np.ones(len(rows), bool)
        seen = log.observation_table[np.unique(log.observation_index[rows])]
        self._names = log.observation_names or tuple(f"observation[{j}]" for j in range(seen.shape[1]))
        self._low, self._high = seen.min(0).astype(np.float64), seen.max(0).astype(np.float64)
        self._spread = seen.std(0, dtype=np.float64)
        self._reward = float(log.reward[rows].min()), float(log.reward[rows].max())

    def reward_beyond(self, log: Dataset, rows: slice) -> str:
        """The reward of an episode that lies furthest outside those of ordinary episodes, in words; empty where none does."""
        low, high = self._reward
        reward = log.reward[rows]
        wild = int(np.argmax(np.maximum(low - reward, reward - high)))
        if low <= reward[wild] <= high:
            return ""
        place = log.step[rows][wild]
        return f"its reward {reward[wild]:.4g} at step {place} lies outside the {low:.4g} to {high:.4g} of ordinary episodes"

    def column_beyond(self, log: Dataset, rows: slice) -> str:
        """The observation of an episode that lies furthest outside the range of its column, in words; empty where none does."""
        seen = log.observation_table[log.observation_index[rows]].astype(np.float64)
        out = np.maximum(self._low - seen, seen - self._high) / np.where(self._spread > 0, self._spread, 1.0)
        step, column = np.unravel_index(int(np.argmax(out)), out.shape)
        if not out[step, column] > NOTICED:
            return ""
        return (
            f"{self._names[column]} is {seen[step, column]:.4g} at step {log.step[rows][step]}, outside the "
            f"{self._low[column]:.4g} to {self._high[column]:.4g} of ordinary episodes"
        )

    def steepest(self, change: Float[NumpyArray, " D"]) -> tuple[int, str]:
        """The column that changes most for its spread, and its name."""
        column = int(np.argmax(np.abs(change) / np.where(self._spread > 0, self._spread, 1.0)))
        return column, self._names[column]


def reason(log: Dataset, scores: EpisodeScores, ranges: Ranges, episode: int) -> str:
    """Why an episode stands out, in one or two clauses."""
    rows = slice(int(log.episode_start[episode]), int(log.episode_start[episode + 1]))
    worst = int(np.argmax(scores.out[episode]))
    model, missed = scores.models[worst], scores.influence[worst].held_out[rows]
    step = int(np.argmax(scores.excess[worst][rows]))
    row = rows.start + step
    said = {
        VALUES: lambda: _of_value(log, missed, row, step),
        ACTIONS: lambda: _of_actions(log, missed, rows, step),
        OBSERVATIONS: lambda: _of_observation(log, ranges, row),
    }[model.name]()
    reward, column = ranges.reward_beyond(log, rows), ranges.column_beyond(log, rows)
    plain = model.name == VALUES and reward  # the reward says it all
    return "; ".join(text for text in (reward, column, "" if plain else said) if text)


def _of_value(log: Dataset, missed: Float[NumpyArray, "T K"], row: int, step: int) -> str:
    where = "at the last step" if row + 1 in log.episode_start else f"at step {log.step[row]}"
    return (
        f"{where} the reward {log.reward[row]:.4g}, with the change of state that came with it, is worth "
        f"{abs(missed[step, 0]):.3g} {'more' if missed[step, 0] > 0 else 'less'} than other episodes predict"
    )


def _of_actions(log: Dataset, missed: Float[NumpyArray, "T K"], rows: slice, step: int) -> str:
    place = log.step[rows][step]
    if log.num_actions is None:
        column = int(np.argmax(np.abs(missed[step])))
        given = log.action[rows.start + step, column]
        return (
            f"its action {given:.4g} at step {place} is {abs(missed[step, column]):.2g} standard deviations from what other "
            "episodes predict"
        )
    taken = log.action[rows].astype(np.int64)
    probs = 1.0 - missed[np.arange(len(taken)), taken]
    rare = int((probs < RARE).sum())
    names = log.schema.action_names
    name = names[taken[step]] if names else taken[step]
    rarest = f"{name} at step {place} ({max(probs[step], 0.0):.1%})"
    if rare == 0:
        return f"judged by other episodes, its actions as a whole are less probable than usual, least of all {rarest}"
    return (
        f"{rare} of its {len(taken)} actions {'has' if rare == 1 else 'have'} less than {RARE:.0%} probability judged by other "
        f"episodes, such as {rarest}"
    )


def _of_observation(log: Dataset, ranges: Ranges, row: int) -> str:
    assert log.next_observation_index[row] != NO_OBSERVATION
    here = log.observation_table[log.observation_index[row]].astype(np.float64)
    after = log.observation_table[log.next_observation_index[row]].astype(np.float64)
    column, name = ranges.steepest(after - here)
    return (
        f"the observation after step {log.step[row]} is not what other episodes predict: {name} goes from "
        f"{here[column]:.4g} to {after[column]:.4g}"
    )
