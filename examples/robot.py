"""Continuous actions: learn to steer a robot from the log of a clumsy, noisy controller.

    python examples/robot.py

The robot is a point in the plane, which pays for distance from the origin, for speed and for force, its action. A clock cuts
each episode after 60 steps: the robot could go on, so the last row is `truncated`, not `terminated`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import stitchrl as st

STEPS, RNG = 60, np.random.default_rng(1)


def simulate(controller: Callable[..., Any], episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Let a controller, observations (n, 4) -> forces (n, 2), steer robots at once; every array is (episodes, STEPS, ...)."""
    rng, steps = np.random.default_rng(seed), []
    obs = np.hstack([rng.uniform(-2, 2, (episodes, 2)), rng.normal(0, 0.5, (episodes, 2))])
    for _ in range(STEPS):
        force = np.clip(np.asarray(controller(obs.astype(np.float32))), -1, 1)
        speed = 0.98 * obs[:, 2:] + 0.1 * (4 * force + rng.normal(0, 0.05, (episodes, 2)))
        after = np.hstack([obs[:, :2] + 0.1 * speed, speed])
        cost = (after[:, :2] ** 2).sum(1) + 0.1 * (speed**2).sum(1) + 0.1 * (force**2).sum(1)
        steps.append({"observation": obs, "action": force, "reward": -cost, "next_observation": after})
        obs = after
    return {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}


def clumsy(obs: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """The controller behind the log: it pulls too weakly and hardly brakes; in the log it is also very noisy."""
    return -0.15 * obs[:, :2] - 0.1 * obs[:, 2:] + RNG.normal(0, noise, (len(obs), 2))


def main(updates: int = 5_000, episodes: int = 400, seed: int = 0) -> dict[str, float]:
    """Run the example and return the mean return of every controller."""
    noisy = partial(clumsy, noise=0.4)
    made = {name: np.concatenate(value) for name, value in simulate(noisy, episodes, seed).items()}
    made["episode"] = np.repeat(np.arange(episodes), STEPS)
    made["truncated"] = np.tile(np.arange(STEPS), episodes) == STEPS - 1
    bounds = {"action_low": (-1.0, -1.0), "action_high": (1.0, 1.0)}
    log = st.read(made, st.Schema({role: role for role in made}, gamma=0.99, name="point robot", **bounds))
    print(f"{log}\n{st.audit(log)}")
    # "without noise" is the fair comparison: taking the noise away is an improvement that needs no learning.
    controllers: dict[str, Callable[..., Any]] = {"as logged, noisy": noisy, "without noise": clumsy}
    for algorithm in (st.TD3BC(hidden_sizes=(64, 64)), st.IQL(hidden_sizes=(64, 64))):
        controllers[f"learned by {algorithm.name}"] = st.fit(algorithm, log, updates=updates, seeds=[seed]).policy.mode
    means = {name: float(simulate(one, 200, seed + 3)["reward"].sum(1).mean()) for name, one in controllers.items()}
    print("\nMean return in 200 new episodes with the same starts for all; nearer to 0 is better:")
    print("\n".join(f"  {name:20} {mean:7.1f}" for name, mean in means.items()))
    return means


if __name__ == "__main__":
    main()
