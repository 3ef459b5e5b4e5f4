"""How well the power curve of a verdict predicts the chance of GO on larger logs, by actually drawing them from exact worlds.

    python benchmarks/power.py [--out benchmarks/results/power.md] [--pilots 20] [--logs 60]

From each of many small pilot logs the chance of GO is predicted for logs 1 to 16 times as large, and such logs are drawn. A
log counts as GO where the lower end of the primary gain is above 0 and every health check of it holds: the other lines of a
verdict do not depend on the size. "Predicted" supposes the exact gain, and tests the simulation alone; "as printed"
supposes what the pilot's own estimate says, as a verdict does, and holds the error of that estimate as well. Q is exact in
the world of several steps, so that nothing is fitted.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from environment import describe

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from bandit_worlds import BanditWorld
from exact_worlds import TableQ, tilted, world_named
from known_fits import KnownFits

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.cases import cases_of, draft_of, logged_draft
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.estimating import estimates_of
from stitchrl.evaluation.estimator import Draft, Estimator
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.power import SIZES, power_of
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import Units

SHOWN = (1.0, 2.0, 4.0, 8.0, 16.0)


class Cell(NamedTuple):
    """A world with a policy: draws logs, and gives what an evaluation knows about them."""

    name: str
    units: int
    exact: float
    estimator: str
    log: Callable[[int, int], Dataset]
    fits: Callable[[Dataset], Fits]


def gain_of(cell: Cell, log: Dataset) -> tuple[Draft, Estimate, Units]:
    """The primary gain on a log."""
    fits, units = cell.fits(log), Units(log.num_episodes)
    (case,) = cases_of(fits, units)
    estimator: Estimator = ESTIMATORS[cell.estimator]
    draft = draft_of(estimator, case).over(logged_draft(case))
    resampler = Resampler(units, resamples=1000)
    return draft, estimates_of([[draft]], [estimator], case, resampler)[0][cell.estimator], units


def tabular(units: int, power: float) -> Cell:
    """The world of 12 states, with a policy that prefers what is worth more under the behaviour."""
    world = world_named("tabular, 12 states")
    live, behavior = world.live, world.behavior[: world.live]
    values = world.mdp.state_values(world.behavior)
    reward = (world.mdp.transition * world.mdp.reward).sum(-1)
    q = (reward + world.mdp.transition @ np.where(world.mdp.terminal, 0.0, values))[:live]
    table = tilted(behavior, power * (q - values[:live, None]), floor=0.05)
    whole = np.array(world.behavior)
    whole[:live] = table
    own = world.mdp.state_values(whole)
    exact_q = (reward + world.mdp.transition @ np.where(world.mdp.terminal, 0.0, own))[:live]
    features = np.repeat(np.eye(live)[:, None, :], behavior.shape[1], axis=1)

    def fits(log: Dataset) -> Fits:
        return KnownFits(world, [table], log, log, models=[TableQ(features, exact_q)], rows=0, settings=FitSettings())

    return Cell("tabular, 12 states", units, world.gain(table), "fqe", lambda n, seed: world.log(n, seed), fits)


def bandit(units: int, pull: float) -> Cell:
    """Single decisions, judged by weights alone."""
    world = BanditWorld(level=0.5, pull=pull)

    def fits(log: Dataset) -> Fits:
        return Fits([world.acting()], log, log, estimand=Estimand(1.0), settings=FitSettings())

    exact = world.value(world.policy) - world.value(world.behavior)
    return Cell("single decisions", units, exact, "snips", lambda n, seed: world.log(n, seed), fits)


def observed(cell: Cell, size: float, logs: int) -> float:
    """Share of fresh logs of one size that give GO."""
    hits = 0
    for k in range(logs):
        log = cell.log(round(size * cell.units), 1_000_000 + 10_000 * round(size) + k)
        _, gain, _ = gain_of(cell, log)
        hits += bool(gain.healthy and gain.lower is not None and gain.lower > 0)
    return hits / logs


def predicted(cell: Cell, pilots: int) -> tuple[np.ndarray, np.ndarray, list[int | None]]:
    """(pilots, sizes) chances if the gain is the exact one, the same as printed (NaN where nothing is), and the sizes printed."""
    exact, printed, needed = [], [], []
    for k in range(pilots):
        draft, gain, units = gain_of(cell, cell.log(cell.units, k))
        known = power_of(draft, dataclasses.replace(gain, value=cell.exact), units, 0.0, "a")
        own = power_of(draft, gain, units, 0.0, "a")
        assert known is not None
        assert own is not None
        nothing = (np.nan,) * len(SIZES)
        exact.append(known.at_estimate or (0.0,) * len(SIZES))
        printed.append(own.at_estimate or nothing)
        needed.append(own.needed)
    return np.array(exact), np.array(printed), needed


def rows_of(cell: Cell, pilots: int, logs: int) -> list[str]:
    """The rows of the table of one cell."""
    exact, printed, _ = predicted(cell, pilots)
    told = ~np.isnan(printed[:, 0])
    rows = []
    for size in SHOWN:
        k = int(np.argmin(np.abs(np.array(SIZES) - size)))
        seen = observed(cell, size, logs)
        low, high = np.quantile(exact[:, k], [0.1, 0.9])
        shown = np.quantile(printed[told, k], [0.1, 0.5, 0.9])
        rows.append(
            f"| {cell.name} | {cell.exact:+.4f} | {round(size * cell.units):,} | {seen:.0%} | "
            f"{exact[:, k].mean():.0%} ({low:.0%} to {high:.0%}) | {shown[1]:.0%} ({shown[0]:.0%} to {shown[2]:.0%}) |"
        )
    said = f"Of {pilots} pilots of {cell.units:,} units ({cell.name}), {int(told.sum())} had an estimate above 0."
    print("\n".join(rows), said, sep="\n", flush=True)
    return [*rows, said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "power.md")
    parser.add_argument("--pilots", type=int, default=20)
    parser.add_argument("--logs", type=int, default=60)
    args = parser.parse_args()
    cells = [tabular(400, 0.12), bandit(150, 0.12)]
    found = [rows_of(cell, args.pilots, args.logs) for cell in cells]
    command = f"python benchmarks/power.py --pilots {args.pilots} --logs {args.logs}"
    head = (
        "| world | exact gain | units | GO observed | predicted, at the exact gain: mean (10% to 90% of pilots) | as printed: "
        "median (10% to 90%) |\n|---|---|---|---|---|---|"
    )
    table = "\n".join([head, *(row for rows in found for row in rows[:-1])])
    notes = "\n".join(f"- {rows[-1]}" for rows in found)
    text = f"# The power curve against larger logs\n\n{(__doc__ or '').split(chr(10) * 2, 2)[2].strip()}\n\n{table}\n\n{notes}\n"
    args.out.write_text(f"{text}\n{describe(command)}\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
