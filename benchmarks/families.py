"""Every estimator of episodes beside the exact value: bias, spread and coverage, failures first.

    python benchmarks/families.py [--replicates 30] [--minutes 30] [--without NAME ...] [--updates 2000]

Worlds: two random tabular ones and the hospital, propensities known. Of each log .6 fit the models and .4 carry the estimate, as
in the main job. The policy is a tilt of the behaviour towards advantages that are known with noise (`benchmarks/coverage.py`).
Every replicate draws a new log and fits every model anew on it: nothing is shared between replicates but the policy.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.settings import FitSettings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from evaluation_worlds import OF_EPISODES
from exact_worlds import HOSPITAL, TABULAR, World, of_rows, tilted, world_named

NOMINAL = 0.95
Cell = tuple[str, int]


def policy_table(world: World) -> np.ndarray:
    """The behaviour, tilted towards its advantages with half their spread of noise."""
    b = world.behavior[: world.live]
    q = world.mdp.action_values(world.behavior)[: world.live]
    advantage = q - (b * q).sum(1, keepdims=True)
    spread = float(advantage[b > 0].std())
    noise = 0.5 * spread * np.random.default_rng(3).normal(size=q.shape)
    return tilted(b, 0.75 * (advantage + noise) / spread, floor=0.02)


def value_of(world: World, table: np.ndarray) -> float:
    """The exact value of a policy over the live states."""
    whole = np.array(world.behavior)
    whole[: world.live] = table
    return world.mdp.policy_value(whole)


def logs(world: World, episodes: int, replicate: int) -> tuple[Dataset, Dataset]:
    """Episodes to fit on, cut to a common number of rows so that programs are compiled once, and those of the estimate."""
    log = world.log(episodes, 40_000 + replicate)
    fitted = int(0.6 * episodes)
    rest = log.select_episodes(np.arange(fitted))
    lengths = rest.episode_lengths
    rows = int(world.log(2000, 1).episode_lengths.mean() * fitted - 4 * lengths.std() * np.sqrt(fitted)) // 500 * 500
    return of_rows(rest, rows), log.select_episodes(np.arange(fitted, episodes))


def one_replicate(
    world: World, table: np.ndarray, episodes: int, replicate: int, *, without: list[str], updates: int
) -> dict[str, tuple[float, ...]]:
    """Estimator -> value, ends of the interval and health on a fresh log."""
    rest, log = logs(world, episodes, replicate)
    found = evaluate(
        world.policy(table),
        log,
        estimators=[name for name in OF_EPISODES if name not in without],
        fit_on=rest,
        settings=FitSettings(seed=replicate, updates=updates, hidden_sizes=(64, 64)),
    )
    nothing = float("nan")
    return {
        name: (nothing, nothing, nothing, 0.0)
        if one.value is None or one.lower is None or one.upper is None
        else (one.value, one.lower, one.upper, float(one.healthy))
        for name, one in found.estimates.items()
    }


def summary(truth: float, rows: list[tuple[float, ...]]) -> dict[str, Any]:
    """Bias, spread and coverage of one estimator in one cell."""
    found = np.array([row for row in rows if np.isfinite(row[0])])
    if not len(found):
        return {"n": 0, "failed": True}
    inside = (found[:, 1] <= truth) & (truth <= found[:, 2])
    healthy = found[:, 3] > 0
    bias, spread = float(found[:, 0].mean() - truth), float(found[:, 0].std(ddof=1)) if len(found) > 1 else 0.0
    # Fewer than 1 in 200 right intervals would miss so often by chance.
    limit = NOMINAL - 2.6 * np.sqrt(NOMINAL * (1 - NOMINAL) / len(found))
    return {
        "n": len(found),
        "bias": bias,
        "spread": spread,
        "width": float((found[:, 2] - found[:, 1]).mean()),
        "coverage": float(inside.mean()),
        "healthy": float(healthy.mean()),
        "healthy_coverage": float(inside[healthy].mean()) if healthy.any() else None,
        "failed": bool(inside.mean() < limit),
    }


def report(kept: dict[Cell, list[dict[str, tuple[float, ...]]]], truth: dict[str, float], command: str) -> str:
    """The page: cells in which an interval misses too often first, then all."""
    header = (
        "| world | episodes | estimator | logs | bias | spread | width | coverage | healthy | coverage where healthy |"
    )
    rule = "|---|---|---|---|---|---|---|---|---|---|"
    failures, rest = [], []
    for (world, episodes), replicates in kept.items():
        for name in OF_EPISODES:
            if name not in replicates[0]:
                continue
            one = summary(truth[world], [replicate[name] for replicate in replicates])
            if not one["n"]:
                failures.append(f"| {world} | {episodes:,} | {name} | 0 | no estimate | - | - | - | - | - |")
                continue
            sure = "-" if one["healthy_coverage"] is None else f"{one['healthy_coverage']:.0%}"
            line = (
                f"| {world} | {episodes:,} | {name} | {one['n']} | {one['bias']:+.4f} | {one['spread']:.4f} | "
                f"{one['width']:.4f} | {one['coverage']:.0%} | {one['healthy']:.0%} | {sure} |"
            )
            (failures if one["failed"] else rest).append(line)
    values = ", ".join(f"{name} {value:.4f}" for name, value in truth.items())
    return "\n".join(
        [
            "# Families of estimators beside exact values",
            "",
            describe(command),
            "",
            f"Exact values: {values}. Intervals are of 95%. Every log fits its own models.",
            "",
            "## Intervals that miss too often",
            "",
            "Coverage below what 1 in 200 right intervals would show by chance with so many logs, healthy or not.",
            "",
            *([header, rule, *failures] if failures else ["None."]),
            "",
            "## All others",
            "",
            header,
            rule,
            *rest,
            "",
        ]
    )


def main() -> None:
    """Replicates in turns over the cells, so that whenever time is up all cells have about as many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2000, 8000])
    parser.add_argument("--without", nargs="*", default=[], help="estimators that are left out, as slow ones")
    parser.add_argument("--updates", type=int, default=2000, help="of the fits of networks, which have 64 and 64 units")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "families.md")
    args = parser.parse_args()
    began = time.monotonic()
    worlds = {name: world_named(name) for name in [*TABULAR, HOSPITAL]}
    tables = {name: policy_table(world) for name, world in worlds.items()}
    truth = {name: value_of(world, tables[name]) for name, world in worlds.items()}
    kept: dict[Cell, list[dict[str, tuple[float, ...]]]] = {(n, s): [] for s in args.sizes for n in worlds}
    command = f"python benchmarks/families.py {' '.join(sys.argv[1:])}"
    for replicate in range(args.replicates):
        for (name, size), found in kept.items():
            if time.monotonic() - began > 60 * args.minutes:
                break
            settings = {"without": args.without, "updates": args.updates}
            found.append(one_replicate(worlds[name], tables[name], size, replicate, **settings))
            done = {cell: rows for cell, rows in kept.items() if rows}
            args.out.write_text(report(done, truth, command), encoding="utf-8")
            print(f"{name}, {size:,}: replicate {replicate}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
