"""Continuous actions: learn to steer a robot from the log of a clumsy, noisy controller.

    python examples/continuous_control.py

The script makes the world, the log and the comparison itself. The robot is a point with a position and a velocity in the
plane; the action is the force on it, two numbers from -1 to 1. It pays for being far from the origin, for speed and for
force. An episode is cut after 60 steps: the robot could go on, so its last row is `truncated`, not `terminated`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import stitchrl as st

Controller = Callable[[np.ndarray], Any]  # observations (n, 4) -> forces (n, 2)
STEPS, TIME_STEP = 60, 0.1
SCHEMA = """
[columns]
episode = "episode"
step = "step"
observation = ["x", "y", "x_speed", "y_speed"]
next_observation = ["next_x", "next_y", "next_x_speed", "next_y_speed"]
action = ["x_force", "y_force"]
reward = "reward"
truncated = "cut"

[action]
kind = "continuous"
low = [-1.0, -1.0]
high = [1.0, 1.0]

[task]
gamma = 0.99
name = "point robot"
"""


def simulate(controller: Controller, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Let a controller steer `episodes` robots at once; every array is (episodes, STEPS, ...)."""
    rng = np.random.default_rng(seed)
    obs = np.concatenate([rng.uniform(-2, 2, (episodes, 2)), rng.normal(0, 0.5, (episodes, 2))], axis=1)
    rows: dict[str, list[np.ndarray]] = {"observation": [], "action": [], "reward": [], "next_observation": []}
    for _ in range(STEPS):
        force = np.clip(np.asarray(controller(obs.astype(np.float32))), -1, 1)
        wind = rng.normal(0, 0.05, (episodes, 2))
        speed = 0.98 * obs[:, 2:] + TIME_STEP * (4 * force + wind)
        following = np.concatenate([obs[:, :2] + TIME_STEP * speed, speed], axis=1)
        cost = (following[:, :2] ** 2).sum(1) + 0.1 * (speed**2).sum(1) + 0.1 * (force**2).sum(1)
        for name, value in zip(rows, (obs, force, -cost, following), strict=True):
            rows[name].append(value)
        obs = following
    return {name: np.stack(values, axis=1) for name, values in rows.items()}


def clumsy(obs: np.ndarray) -> np.ndarray:
    """The controller behind the log: it pulls too weakly and hardly brakes."""
    return -0.15 * obs[:, :2] - 0.1 * obs[:, 2:]


def noisy(seed: int) -> Controller:
    """What really made the log: the clumsy controller with a lot of noise on its forces."""
    rng = np.random.default_rng(seed)
    return lambda obs: clumsy(obs) + rng.normal(0, 0.4, (len(obs), 2))


def write_log(path: Path, episodes: int, seed: int) -> None:
    """Write the log as Parquet, one row a step, and its schema beside it under the same name."""
    made = simulate(noisy(seed), episodes, seed + 1)
    columns = {"episode": np.repeat(np.arange(episodes), STEPS), "step": np.tile(np.arange(STEPS), episodes)}
    names = {"observation": "x y x_speed y_speed", "action": "x_force y_force"}
    names["next_observation"] = "next_x next_y next_x_speed next_y_speed"
    for role, words in names.items():
        columns |= dict(zip(words.split(), made[role].reshape(episodes * STEPS, -1).T, strict=True))
    columns |= {"reward": made["reward"].ravel(), "cut": columns["step"] == STEPS - 1}
    pq.write_table(pa.table(columns), path)
    path.with_suffix(".toml").write_text(SCHEMA, encoding="utf-8")


def main(updates: int = 5_000, episodes: int = 400, seed: int = 0) -> dict[str, float]:
    """Run the example and return the mean return of every controller."""
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder) / "robot.parquet", episodes, seed)
        log = st.read(Path(folder) / "robot.parquet")
    print(log)
    print(st.audit(log))

    # The second line is the fair opponent: taking the noise away is an improvement that needs no learning.
    controllers: dict[str, Controller] = {
        "clumsy and noisy, as logged": noisy(seed + 2),
        "clumsy without noise": clumsy,
    }
    for algorithm in (st.TD3BC(hidden_sizes=(64, 64)), st.IQL(hidden_sizes=(64, 64))):
        run = st.fit(algorithm, log, updates=updates, seeds=[seed])
        controllers[f"learned by {type(algorithm).__name__}"] = run.policy.mode

    print(
        "\nMean return (and its standard error) in 200 new episodes with the same starts for all; nearer to 0 is better:"
    )
    means = {}
    for name, controller in controllers.items():
        returns = simulate(controller, 200, seed + 3)["reward"].sum(1)
        means[name] = float(returns.mean())
        print(f"  {name:28} {returns.mean():7.1f} ({returns.std() / len(returns) ** 0.5:.1f})")
    return means


if __name__ == "__main__":
    main()
