"""How well FQE knows the first H steps, by what its observations tell of the time, against the exact Q of every step.

    python benchmarks/clock.py [--out benchmarks/results/clock.md]

Four random worlds of eight states that hardly ever end: two forget their state at once, in two it stays for five steps.
Q is fitted on 3,000 episodes cut at H and read on 800 others; the policy is not the behaviour.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation import clock as clock_module
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.refit import FitQ
from stitchrl.evaluation.settings import FitSettings
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.reading.read import read

STATES = 8


def _halving(*steps: int) -> Callable[[np.ndarray, int], list[np.ndarray]]:
    return lambda t, h: [t / h, *(np.exp2((t - h) / k) for k in steps)]


CLOCKS: dict[str, Callable[[np.ndarray, int], list[np.ndarray]]] = {
    "nothing": lambda t, h: [0.0 * t],
    "t / H": lambda t, h: [t / h],
    "t / H and 3 cosines": lambda t, h: [t / h, *(np.cos(np.pi * k * t / h) for k in (1, 2, 3))],
    "t / H and 2^-(left / 2, 8)": _halving(2, 8),
    "t / H and 2^-(left / 1, 2, 4, 8)": _halving(1, 2, 4, 8),
    "all of these": lambda t, h: [*_halving(1, 2, 4, 8)(t, h), *(np.cos(np.pi * k * t / h) for k in (1, 2, 3))],
}


class Table:
    """A policy by its probabilities in each state; observations are one-hot."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return self.table[np.asarray(obs).argmax(1)]


def world(seed: int, stay: float) -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """Random rewards and transitions, an end with probability .02, a behaviour and a policy."""
    rng = np.random.default_rng(seed)
    move = rng.dirichlet(np.full(STATES, 0.3), size=(STATES + 1, 2))
    move = (1 - stay) * move + stay * np.eye(STATES + 1)[:, None, :STATES]
    transition = np.concatenate([0.98 * move, np.full((STATES + 1, 2, 1), 0.02)], axis=2)
    reward = rng.normal(size=transition.shape)
    initial = np.append(rng.dirichlet(np.ones(STATES)), 0.0)
    mdp = FiniteMDP(transition, reward, initial, np.arange(STATES + 1) == STATES)
    return mdp, rng.dirichlet([3, 3], size=STATES + 1), rng.dirichlet([2, 4], size=STATES + 1)


def draw(mdp: FiniteMDP, behavior: np.ndarray, episodes: int, seed: int, horizon: int) -> Dataset:
    """Episodes of the behaviour, cut at the horizon."""
    e = mdp.draw(behavior, episodes, seed=seed, max_steps=horizon)
    columns = {
        "episode": e.episode, "observation": np.eye(STATES + 1, dtype=np.float32)[e.state],
        "next_observation": np.eye(STATES + 1, dtype=np.float32)[e.next_state], "observation_id": e.state,
        "action": e.action, "reward": e.reward, "terminated": e.terminated, "truncated": e.truncated,
        "behavior_probs": behavior[e.state],
    }  # fmt: skip
    return read(columns, Schema.infer(list(columns), num_actions=2, gamma=1.0))


def errors(seed: int, stay: float, horizon: int, updates: int) -> np.ndarray:
    """(clocks, 3) error of Q over all steps and over the last three, and the spread of the contributions."""
    mdp, behavior, policy = world(seed, stay)
    exact = np.zeros((horizon + 1, *mdp.expected_reward.shape))
    for left in range(1, horizon + 1):
        values = np.where(mdp.terminal, 0.0, (policy * exact[left - 1]).sum(1))
        exact[left] = mdp.expected_reward + mdp.transition @ values
    log, other = draw(mdp, behavior, 800, 5, horizon), draw(mdp, behavior, 3000, 6, horizon)
    assert log.observation_id is not None
    spread = log.episode_returns().std()
    target, last = exact[horizon - log.position, log.observation_id, log.action], log.position >= horizon - 3
    rows = []
    for columns in CLOCKS.values():
        clock_module.clock = lambda t, h, columns=columns: np.stack(columns(t, h), axis=1).astype(np.float32)
        fits = Fits([Table(policy)], log, other, estimand=Estimand(1.0, horizon), settings=FitSettings(updates=updates))
        found = fits.of(0).get(FitQ())
        off = found.values.q - target
        rows.append([np.sqrt((off**2).mean()), np.sqrt((off[last] ** 2).mean()), found.refit.contributions.std()])
    return np.array(rows) / spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "clock.md")
    args = parser.parse_args()
    lines = [
        "# What the observations tell of the time, and how well FQE then knows the first H steps\n",
        describe("python benchmarks/clock.py"),
        "\nIn standard deviations of the return, means over four worlds: root mean squared error of the fitted Q over all "
        "steps and over the last three, and the standard deviation of the refit's contributions.\n",
        "| H | updates | told | error | error, last 3 steps | contributions |",
        "|---|---|---|---|---|---|",
    ]
    for horizon in (20, 60):
        for updates in (2000, 8000):
            found = np.mean(
                [errors(k, s, horizon, updates) for k, s in ((1, 0.0), (2, 0.0), (3, 0.8), (4, 0.8))], axis=0
            )
            lines += [
                f"| {horizon} | {updates:,} | {name} | {all_steps:.3f} | {last:.3f} | {spread:.3f} |"
                for name, (all_steps, last, spread) in zip(CLOCKS, found, strict=True)
            ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
