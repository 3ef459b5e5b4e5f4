"""MinAtar's games (Young and Tian 2019, arXiv 1903.03176) as Gymnasium environments that both sides of a benchmark play.

    gymnasium.make("games:Pixels/Breakout-v0")

Observations are truth values of (10, 10, channels), and in place of an action the one before it is taken with a probability of
0.1. Two things differ from MinAtar's own registration: an episode is cut after 1,000 steps, and the action before is forgotten
at a reset, so that an episode depends on its reset seed and its actions alone. Needs `pip install minatar`, and nothing of
stitchrl.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from minatar.environment import Environment

GAMES = {"Asterix": "asterix", "Breakout": "breakout", "Freeway": "freeway", "SpaceInvaders": "space_invaders"}
"""Name here -> name in MinAtar."""
MOST_STEPS = 1_000


class Game(gymnasium.Env):
    """One game, with the actions that mean something in it."""

    def __init__(self, game: str) -> None:
        self._game = Environment(game)
        self._actions = self._game.minimal_action_set()
        self.observation_space = gymnasium.spaces.Box(0, 1, tuple(self._game.state_shape()), bool)
        self.action_space = gymnasium.spaces.Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._game.seed(seed)
        self._game.last_action = 0
        self._game.reset()
        return self._game.state(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, over = self._game.act(self._actions[int(action)])
        return self._game.state(), float(reward), bool(over), False, {}


for name, game in GAMES.items():
    gymnasium.register(f"Pixels/{name}-v0", entry_point=Game, max_episode_steps=MOST_STEPS, kwargs={"game": game})
