"""Every estimator of episodes beside the exact value: bias, spread and misses by side, failures first.

    python benchmarks/families.py [--replicates 60] [--minutes 30] [--sizes 2000 8000] [--without NAME ...] [--work runs/families]

Worlds: two random tabular ones and the hospital, propensities known. Of each log .6 fit the models and .4 carry the estimate, as
in the main job. The policy is a tilt of the behaviour towards advantages that are known with noise (`benchmarks/coverage.py`).
Every replicate draws a new log and fits every model anew on it: nothing is shared between replicates but the policy.

Estimators that need at most one fitted Q and one fitted behaviour take seconds a log and go first, all replicates of them.
Those that fit networks of their own, `DEAR`, follow for as long as the clock allows. Replicates are kept in the folder `--work`
as they are made, and the same command continues them; empty that folder after a change of the code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.settings import FitSettings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from evaluation_worlds import OF_EPISODES
from exact_worlds import HOSPITAL, TABULAR, World, of_rows, tilted, world_named

NOMINAL = 0.95
DEAR = ("model-dr", "dualdice", "bestdice")
"""Estimators that fit networks of their own: 5 to 20 seconds each on a log, where all others together take 2 to 6."""
CHEAP = tuple(name for name in OF_EPISODES if name not in DEAR)
Cell = tuple[str, int]
Kept = dict[Cell, dict[str, list[dict[str, Any]]]]
"""Cell -> estimator -> what it said on each log."""


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
    world: World, table: np.ndarray, episodes: int, replicate: int, names: list[str], *, updates: int
) -> dict[str, dict[str, Any]]:
    """Estimator -> value, ends of the interval and health on a fresh log."""
    rest, log = logs(world, episodes, replicate)
    found = evaluate(
        world.policy(table),
        log,
        estimators=names,
        fit_on=rest,
        settings=FitSettings(seed=replicate, updates=updates, hidden_sizes=(64, 64)),
    )
    return {
        name: {
            "value": one.value,
            "lower": one.lower,
            "upper": one.upper,
            "failed": [check.key for check in one.checks if not check.passed],
            "why": None if one.value is not None else one.reasons[0],
        }
        for name, one in found.estimates.items()
    }


def summary(truth: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bias, spread and misses by side of one estimator in one cell; of all logs, and of those on which it is healthy."""
    found = [row for row in rows if row["value"] is not None and row["lower"] is not None]
    if not found:
        return {"n": 0, "logs": len(rows), "why": rows[0]["why"]}
    value, lower, upper = (np.array([row[key] for row in found], float) for key in ("value", "lower", "upper"))
    healthy = np.array([not row["failed"] for row in found])
    above, below = lower > truth, upper < truth
    failed = Counter(key for row in found for key in row["failed"])
    return {
        "n": len(found),
        "bias": float(value.mean() - truth),
        "spread": float(value.std(ddof=1)) if len(found) > 1 else 0.0,
        "width": float((upper - lower).mean()),
        "above": int(above.sum()),
        "below": int(below.sum()),
        "healthy": int(healthy.sum()),
        "healthy_above": int((above & healthy).sum()),
        "healthy_below": int((below & healthy).sum()),
        "failed": failed.most_common(1)[0] if failed else None,
        "misses": too_often(int((above | below).sum()), len(found)),
        "healthy_misses": too_often(int(((above | below) & healthy).sum()), int(healthy.sum())),
    }


def too_often(misses: int, n: int) -> bool:
    """Whether fewer than 1 in 200 sets of n right intervals would miss so often."""
    return n > 0 and bool(stats.binom.sf(misses - 1, n, 1 - NOMINAL) < 1 / 200)


HEADER = (
    "| world | episodes | estimator | logs | bias | spread | width | too high | too low | healthy | too high where healthy "
    "| too low where healthy | commonest failed check |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def line(world: str, episodes: int, name: str, one: dict[str, Any]) -> str:
    """A row of the tables."""
    spread = f"{one['spread']:.4f}" if one["n"] > 1 else "-"
    check = "-" if one["failed"] is None else f"{one['failed'][0]} {one['failed'][1]}"
    return (
        f"| {world} | {episodes:,} | {name} | {one['n']} | {one['bias']:+.4f} | {spread} | {one['width']:.4f} | "
        f"{one['above']} | {one['below']} | {one['healthy']} | {one['healthy_above']} | {one['healthy_below']} | {check} |"
    )


def in_words(world: str, episodes: int, name: str, one: dict[str, Any]) -> str:
    """A sentence about an estimator that misses too often."""
    missed = one["above"] + one["below"]
    sure = one["healthy_above"] + one["healthy_below"]
    seen = (
        f"it calls itself healthy on {one['healthy']} of the logs, and misses on {sure} of these"
        if one["healthy"]
        else "its health checks fail on every log"
    )
    return (
        f"- `{name}`, {world}, {episodes:,} episodes: {missed} of {one['n']} intervals miss the exact value, {one['above']} lie "
        f"above it and {one['below']} below; its bias is {one['bias']:+.3f}; {seen}."
    )


def tables(kept: Kept, truth: dict[str, float]) -> list[str]:
    """Failures in words and rows, those that health does not see first; then all others."""
    unseen, seen, rest, silent = [], [], [], []
    for (world, episodes), by_name in kept.items():
        for name in [one for one in OF_EPISODES if one in by_name]:
            one = summary(truth[world], by_name[name])
            if not one["n"]:
                silent.append(f"- `{name}`, {world}, {episodes:,} episodes, {one['logs']} logs: {one['why']}")
            elif one["healthy_misses"]:
                unseen.append((world, episodes, name, one))
            else:
                (seen if one["misses"] else rest).append((world, episodes, name, one))
    found = []
    for title, what, these in (
        ("Intervals that miss too often where every health check passes", "Nothing warns of these.", unseen),
        (
            "Intervals that miss too often, and the health checks say so",
            "An estimate that fails a check decides nothing.",
            seen,
        ),
    ):
        found += [f"## {title}", ""]
        found += (
            [what, "", *(in_words(*one) for one in these), "", HEADER, *(line(*one) for one in these), ""]
            if these
            else ["None.", ""]
        )
    found += ["## No estimate", "", *(silent or ["None."]), ""]
    return [*found, "## All others", "", HEADER, *(line(*one) for one in rest), ""]


def report(kept: Kept, truth: dict[str, float], command: str) -> str:
    """The page."""
    values = ", ".join(f"{name} {value:.4f}" for name, value in truth.items())
    return "\n".join(
        [
            "# Families of estimators beside exact values",
            "",
            describe(command),
            "",
            f"Exact values: {values}.",
            "",
            "Intervals are of 95%. Every log fits its own models, and replicates of earlier calls of the same command are kept.",
            '"Too high" counts the logs on which the whole interval lies above the exact value, which could make a false GO;',
            '"too low" those on which it lies below. An interval misses too often where fewer than 1 in 200 sets of right',
            "intervals would miss as often: 3 misses of 3, 4 of 10, 7 of 40, 9 of 60. Few logs show gross failures only.",
            "",
            *tables(kept, truth),
        ]
    )


class Store:
    """Replicates on disk, one line each, so that the same command goes on where it stopped."""

    def __init__(self, folder: Path, updates: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._updates = folder / "replicates.jsonl", updates
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        self._rows = [row for row in map(json.loads, text.splitlines()) if row["updates"] == updates]

    def lacks(self, cell: Cell, replicate: int, names: list[str]) -> list[str]:
        """Which of the estimators have not been run on a log."""
        done = {
            name
            for row in self._rows
            if (row["world"], row["episodes"], row["replicate"]) == (*cell, replicate)
            for name in row["found"]
        }
        return [name for name in names if name not in done]

    def add(self, cell: Cell, replicate: int, found: dict[str, dict[str, Any]]) -> None:
        """Keep what estimators said on a log."""
        row = {"world": cell[0], "episodes": cell[1], "replicate": replicate, "updates": self._updates, "found": found}
        self._rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def kept(self, cells: list[Cell], without: list[str]) -> Kept:
        """All replicates of some cells."""
        found: Kept = {cell: {} for cell in cells}
        for row in self._rows:
            of_cell = found.get((row["world"], row["episodes"]))
            for name, one in row["found"].items() if of_cell is not None else ():
                if name not in without:
                    of_cell.setdefault(name, []).append(one)
        return {cell: by_name for cell, by_name in found.items() if by_name}


def main() -> None:
    """Cheap estimators first, then dear ones, each in turns over the cells: when time is up all cells have about as many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2000, 8000])
    parser.add_argument("--without", nargs="*", default=[], help="estimators that are left out")
    parser.add_argument("--updates", type=int, default=2000, help="of the fits of networks, which have 64 and 64 units")
    parser.add_argument(
        "--work", type=Path, default=Path("runs") / "families", help="folder in which replicates are kept"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "families.md")
    args = parser.parse_args()
    began = time.monotonic()
    worlds = {name: world_named(name) for name in [*TABULAR, HOSPITAL]}
    policies = {name: policy_table(world) for name, world in worlds.items()}
    truth = {name: value_of(world, policies[name]) for name, world in worlds.items()}
    cells = [(name, size) for size in args.sizes for name in worlds]
    command = f"python benchmarks/families.py {' '.join(sys.argv[1:])}"
    store = Store(args.work, args.updates)
    turns = [(group, k, cell) for group in (CHEAP, DEAR) for k in range(args.replicates) for cell in cells]
    for group, replicate, cell in turns:
        names = store.lacks(cell, replicate, [name for name in group if name not in args.without])
        if not names:
            continue
        if time.monotonic() - began > 60 * args.minutes:
            break
        name, size = cell
        store.add(
            cell, replicate, one_replicate(worlds[name], policies[name], size, replicate, names, updates=args.updates)
        )
        args.out.write_text(report(store.kept(cells, args.without), truth, command), encoding="utf-8")
        print(
            f"{name}, {size:,}: replicate {replicate}, {len(names)} estimators, {time.monotonic() - began:.0f} s",
            flush=True,
        )
    args.out.write_text(report(store.kept(cells, args.without), truth, command), encoding="utf-8")


if __name__ == "__main__":
    main()
