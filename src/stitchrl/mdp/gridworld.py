"""A grid world that is drawn as text and known exactly: values by linear solve, logs by simulation.

    GridWorld(("S..#", ".#.X", "...G"))

    .  a free cell               #  a wall, which is no state
    S  a cell to start in        G  a goal, where an episode ends with `goal_reward`
                                 X  a pit, where an episode ends with `pit_reward`

The actions 0 to 3 go up, right, down and left. Where a wall or the edge is in the way the agent stays where it is. With
probability `slip` a move goes to one of the two sides instead, half of it to each. States are numbered row by row, walls
left out: `cells[state]` is a state's row and column, and `state_of(row, column)` is the number of a cell.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.finite_log import draw_log
from stitchrl.types import NumpyArray

__all__ = ["ACTION_NAMES", "GridWorld"]

ACTION_NAMES = ("up", "right", "down", "left")
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Action -> the change of row and column."""
SIGNS = ".S#GX"


@dataclasses.dataclass(frozen=True)
class GridWorld:
    """A grid of cells.

    Attributes:
        rows: one text for each row of cells, all of one length; the signs are explained above.
        slip: probability that a move goes to one of its two sides, in [0, 1].
        gamma: discount of every value below, in [0, 1].
        step_reward: paid for every move, the last one too.
        goal_reward, pit_reward: paid on top on arrival at a goal or in a pit.

    Raises:
        ConfigurationError: the text is no grid, has no start or no goal, or a number is outside its range.
    """

    rows: tuple[str, ...]
    slip: float = 0.0
    gamma: float = 0.95
    step_reward: float = 0.0
    goal_reward: float = 1.0
    pit_reward: float = -1.0

    def __post_init__(self) -> None:
        text = "".join(self.rows)
        if not text or {len(row) for row in self.rows} != {len(self.rows[0])} or set(text) - set(SIGNS):
            raise ConfigurationError(
                f"`rows` of GridWorld must be texts of one length made of the signs {' '.join(SIGNS)}; got {self.rows!r}."
            )
        if "S" not in text or "G" not in text:
            raise ConfigurationError(
                f"`rows` of GridWorld must hold an S to start in and a G to reach; got {self.rows!r}."
            )
        for name in ("slip", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"`{name}` of GridWorld must be in [0, 1]; got {getattr(self, name)!r}.")

    # --- cells and states ----------------------------------------------------------------------------------------

    @cached_property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """The row and the column of each state."""
        return tuple((i, j) for i, row in enumerate(self.rows) for j, sign in enumerate(row) if sign != "#")

    @property
    def num_states(self) -> int:
        """How many cells are not walls."""
        return len(self.cells)

    def state_of(self, row: int, column: int) -> int:
        """The number of a cell. Raises ConfigurationError where there is a wall or no cell."""
        if (row, column) not in self._states:
            raise ConfigurationError(f"Row {row}, column {column} of this GridWorld is a wall or outside of it.")
        return self._states[row, column]

    def on_grid(self, values: Float[NumpyArray, " S"]) -> Float[NumpyArray, "rows columns"]:
        """One number per state, laid out as the grid is; walls are NaN."""
        laid_out = np.full((len(self.rows), len(self.rows[0])), np.nan)
        laid_out[tuple(np.transpose(self.cells))] = values
        return laid_out

    @cached_property
    def _states(self) -> dict[tuple[int, int], int]:
        return {cell: state for state, cell in enumerate(self.cells)}

    def _signs(self, sign: str) -> Bool[NumpyArray, " S"]:
        return np.array([self.rows[i][j] == sign for i, j in self.cells])

    # --- the world, solved -----------------------------------------------------------------------------------------

    @cached_property
    def mdp(self) -> FiniteMDP:
        """The exact world; an episode starts in every S equally often."""
        count, goal, pit = self.num_states, self._signs("G"), self._signs("X")
        reward = np.full((count, len(MOVES), count), self.step_reward, np.float64)
        reward += np.where(goal, self.goal_reward, np.where(pit, self.pit_reward, 0.0))
        transition = np.zeros((count, len(MOVES), count))
        for state, (row, column) in enumerate(self.cells):
            for action in range(len(MOVES)):
                for turn, share in ((0, 1 - self.slip), (1, self.slip / 2), (-1, self.slip / 2)):
                    down, right = MOVES[(action + turn) % len(MOVES)]
                    transition[state, action, self._states.get((row + down, column + right), state)] += share
        start = self._signs("S")
        return FiniteMDP(transition, reward, start / start.sum(), goal | pit)

    def state_values(self, probs: Float[NumpyArray, "S A"]) -> Float[NumpyArray, " S"]:
        """(S,) exact V of a policy; 0 in goals and pits."""
        return self.mdp.state_values(probs, gamma=self.gamma)

    def action_values(self, probs: Float[NumpyArray, "S A"]) -> Float[NumpyArray, "S A"]:
        """(S, A) exact Q of a policy; 0 in goals and pits."""
        return self.mdp.action_values(probs, gamma=self.gamma)

    def optimal_policy(self, allowed: Bool[NumpyArray, "S A"] | None = None) -> Float[NumpyArray, "S A"]:
        """(S, A) a best policy, or a best one among the allowed actions."""
        return self.mdp.optimal_policy(gamma=self.gamma, allowed=allowed)

    # --- logs --------------------------------------------------------------------------------------------------------

    def draw(self, behavior: Float[NumpyArray, "S A"], episodes: int, *, seed: int, max_steps: int = 200) -> Dataset:
        """A log under a policy, with its probabilities; observations are 1 at the number of the state and 0 elsewhere.

        Args:
            behavior: (S, A) probabilities of the actions.
            episodes: how many; those that still run after `max_steps` are truncated.
            seed: of the simulation.
            max_steps: in one episode.
        """
        return draw_log(self.mdp, behavior, episodes, seed=seed, gamma=self.gamma, max_steps=max_steps)
