"""Is the standard error right where the behaviour was fitted? Fresh logs for the fit and for the estimate, exact truths.

    python benchmarks/behavior.py [--replicates 100] [--hospital 24; 0 leaves it out] [--out benchmarks/results/behavior.md]

Each replicate draws two logs: the behaviour (and Q) is fitted to one, the gain estimated on the other. So the spread over
replicates has the noise of both. Worlds: a random one of 20 states and 4 actions, and the hospital. "known" uses the true
probabilities; the difference in spread is what fitting costs. Regression importance sampling (ris) fits to the log of the
estimate.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.settings import FitSettings
from stitchrl.mdp.finite import FiniteMDP
from stitchrl.mdp.icu_sepsis import compact_table, demo_log, draw_log, icu_sepsis
from stitchrl.reading.read import read

WEIGHTS, ALL = ("is", "pdis", "wis", "pdwis", "ris"), ("is", "wis", "ris", "wdr", "fqe")
"""Estimators: those that fit no Q, which compile nothing anew for each log, and some of all."""


class Table:
    """A policy by its probabilities in each state, which it finds by the observation."""

    def __init__(self, probs: np.ndarray, table: np.ndarray) -> None:
        self._probs = probs
        self._state = {row.tobytes(): k for k, row in enumerate(table)}

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        """The rows of the table."""
        del action_mask
        return self._probs[[self._state[row.tobytes()] for row in np.asarray(obs)]]


def random_world() -> tuple[Callable[[int, int], Dataset], Table, float]:
    """(a log of so many episodes and a seed, a policy, its gain) of a random world."""
    rng = np.random.default_rng(5)
    transition = 0.8 * rng.dirichlet(np.full(21, 0.3), size=(21, 4))
    transition[..., 20] += 0.2
    world = FiniteMDP(transition, rng.normal(size=(21, 4, 21)), np.r_[np.full(20, 0.05), 0], np.arange(21) == 20)
    behavior = rng.dirichlet(np.full(4, 2.0), size=21)
    policy = 0.75 * behavior + 0.25 * rng.dirichlet(np.full(4, 0.5), size=21)
    table = np.eye(21, dtype=np.float32)

    def draw(episodes: int, seed: int) -> Dataset:
        e = world.draw(behavior, episodes, seed=seed)
        columns = {
            "episode": e.episode,
            "step": e.step,
            "observation": table[e.state],
            "action": e.action,
            "reward": e.reward,
            "terminated": e.terminated,
            "truncated": e.truncated,
            "behavior_probs": behavior[e.state],
        }
        return read(columns, Schema.infer(list(columns), num_actions=4, gamma=1.0))

    return draw, Table(policy, table), world.policy_value(policy) - world.policy_value(behavior)


def hospital() -> tuple[Callable[[int, int], Dataset], Table, float]:
    """The same of the hospital: a quarter of the way from the clinicians to the best policy."""
    world = icu_sepsis()
    best = world.mdp.optimal_policy(allowed=world.mask)
    policy = np.where(world.mask.any(1, keepdims=True), 0.75 * world.clinicians + 0.25 * best, world.clinicians)
    table = world.features.astype(np.float32)
    gain = world.mdp.policy_value(policy) - world.mdp.policy_value(world.clinicians)
    return lambda stays, seed: demo_log(compact_table(draw_log(stays, seed=seed))), Table(policy, table), gain


def rows_of(
    world: tuple[Callable[[int, int], Dataset], Table, float],
    episodes: int,
    replicates: int,
    model: str,
    names: tuple[str, ...],
) -> list[str]:
    """A row of the table for each estimator."""
    draw, policy, gain = world
    settings = FitSettings(updates=1000, behavior="auto" if model == "known" else model)
    found = []
    for seed in range(replicates):
        logs = [draw(episodes, 1000 * part + seed) for part in (1, 2)]
        if model != "known":
            logs = [dataclasses.replace(log, behavior_log_prob=None, behavior_probs=None) for log in logs]
        (one,) = evaluate_all(
            [policy],
            logs[0],
            fit_on=logs[1],
            settings=dataclasses.replace(settings, seed=seed),
            estimators=names,
            confirm=False,
            resamples=1000,
        )
        gains = [one.gain[name] for name in names]
        found.append([(g.value, g.standard_error, g.behavior_error or 0.0, g.lower, g.upper) for g in gains])
    lines = []
    for k, name in enumerate(names):
        value, error, fit, lower, upper = np.array(found, np.float64)[:, k].T
        lines.append(
            f"{model} | {name} | {gain:+.4f} | {value.mean() - gain:+.4f} | {value.std(ddof=1):.4f} | "
            f"{np.sqrt((error**2).mean()):.4f} | {np.sqrt((error**2 - fit**2).mean()):.4f} | "
            f"{(lower > gain).mean():.1%} | {(upper < gain).mean():.1%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--hospital", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "behavior.md")
    args = parser.parse_args()
    lines = [
        "# The standard error where the behaviour was fitted\n",
        describe(f"python benchmarks/behavior.py --replicates {args.replicates} --hospital {args.hospital}"),
        f"\n{args.replicates} replicates of 800 + 800 episodes of the random world, {args.hospital} of 4,000 + 4,000 stays "
        "of the hospital. The spread of `r` replicates is itself known to about 1 / sqrt(2 r): 7% for 100, 14% for 24.\n",
        "| world | behaviour | estimator | gain | bias | spread | printed SE | without the fit | too high | too low |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    plan = [
        ("random", random_world(), 800, args.replicates, model, WEIGHTS) for model in ("known", "counts", "logistic")
    ]
    plan += [("hospital", hospital(), 4000, args.hospital, model, ALL) for model in ("known", "counts")]
    for name, world, episodes, replicates, model, names in plan:
        if not replicates:
            continue
        new = [f"| {name} | {row}" for row in rows_of(world, episodes, replicates, model, names)]
        print("\n".join(new), flush=True)
        lines += new
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
