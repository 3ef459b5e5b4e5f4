"""Does choosing among settings of FQE without the truth beat the default? Finite worlds with exact values.

    python benchmarks/selecting_fqe.py [--logs 6] [--out benchmarks/results/selecting_fqe.md]

Candidates are plain FQE networks, whose value is E[V(s0)] with no correction, under several numbers of updates, widths and
step sizes. Each is fitted on .6 of a log and judged on the other .4, without the truth, by

- Bellman: the projected Bellman error of Q in the class of linear functions of one-hot state-action pairs: the mean over
  pairs of the squared mean TD error, each without its own noise (half of the rows of a pair times the other half);
- LSTD tournament (in the manner of Liu, Jiang and others 2025, arXiv 2502.08021; its loss may differ in details): two
  candidates meet in the equation E[phi (phi - gamma phi')^T] theta = E[phi r] with phi = (Q_i, Q_j) of the pair; Q_i loses by
  how far theta = e_i violates it, in units of its norm; a candidate's score is its worst loss, and the least wins.

Squared errors of the value are compared with those of the default (2,000 updates of 128 x 128), of the average candidate, and
of the best in hindsight, over logs. An estimate that a verdict rests on is corrected by a refit, and needs this choice less.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.fitted_q import fit_q
from stitchrl.evaluation.settings import FitSettings

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from exact_worlds import TABULAR, World, of_rows, tilted, world_named

DEFAULT = "2,000 updates, 128 x 128"
CANDIDATES = {
    "100 updates, 128 x 128": FitSettings(updates=100),
    "500 updates, 128 x 128": FitSettings(updates=500),
    DEFAULT: FitSettings(),
    "2,000 updates, 16": FitSettings(hidden_sizes=(16,)),
    "2,000 updates, 128 x 128, step .01": FitSettings(learning_rate=1e-2),
    "2,000 updates, 128 x 128, step .0001": FitSettings(learning_rate=1e-4),
}
ROWS = {"fit": 3000, "judge": 2000}


class Judged(NamedTuple):
    """A candidate's Q on the judging rows: of the logged action, of the policy at the next state, and its value."""

    q: np.ndarray
    next_v: np.ndarray
    value: float


def bellman_error(log: Dataset, actions: int, one: Judged) -> float:
    """The weighted mean over state-action pairs of the squared mean TD error, from two halves of each pair's rows."""
    state = log.observation_id
    assert state is not None
    pair = state.astype(np.int64) * actions + log.action
    error = log.reward + (1.0 - log.terminated) * one.next_v - one.q
    half = np.arange(len(pair)) % 2
    sums = [np.bincount(pair[half == k], error[half == k], minlength=pair.max() + 1) for k in (0, 1)]
    counts = [np.bincount(pair[half == k], minlength=pair.max() + 1) for k in (0, 1)]
    both = (counts[0] > 0) & (counts[1] > 0)
    product = sums[0][both] * sums[1][both] / (counts[0][both] * counts[1][both])
    weight = (counts[0] + counts[1])[both]
    return float((weight * product).sum() / weight.sum())


def tournament(log: Dataset, found: list[Judged]) -> list[float]:
    """The worst loss of each candidate against the others."""
    go_on, worst = 1.0 - log.terminated, np.zeros(len(found))
    for i, one in enumerate(found):
        for j, other in enumerate(found):
            if i == j:
                continue
            phi = np.stack([one.q, other.q], axis=1)
            error = log.reward + go_on * one.next_v - one.q  # (phi - phi') e_i against r
            scale = np.sqrt((phi**2).mean(0)) + 1e-8
            worst[i] = max(worst[i], float(np.linalg.norm((phi * error[:, None]).mean(0) / scale)))
    return worst.tolist()


def run(world: World, table: np.ndarray, seed: int) -> tuple[list[float], list[float], list[float]]:
    """Errors of all candidates on one log, and their scores by both judges."""
    log = world.log(1500, seed)
    parts = np.arange(log.num_episodes)
    fit = of_rows(log.select_episodes(parts[:900]), ROWS["fit"])
    judge = of_rows(log.select_episodes(parts[900:]), ROWS["judge"])
    policy, found = world.policy(table), []
    truth = world.mdp.policy_value(world.behavior) + world.gain(table)
    for settings in CANDIDATES.values():
        ((fitted,),) = fit_q(fit, [_next_probs(policy, fit)], 1, gamma=1.0, settings=settings)
        here = policy.probs(judge.observation)
        read = fitted.on(judge, here, _next_probs(policy, judge))
        found.append(Judged(read["q"], read["next_v"], float(read["v"][judge.episode_start[:-1]].mean())))
    errors = [one.value - truth for one in found]
    return errors, [bellman_error(judge, world.mdp.num_actions, one) for one in found], tournament(judge, found)


def _next_probs(policy: object, log: Dataset) -> np.ndarray:
    here: np.ndarray = policy.probs(log.observation)  # type: ignore[attr-defined]
    following = np.roll(here, -1, axis=0)  # of rows that end an episode it is multiplied by 0
    return following


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/selecting_fqe.md"))
    arguments = parser.parse_args()
    names, lines = list(CANDIDATES), ["# Choosing the settings of FQE without the truth", ""]
    command = f"python benchmarks/selecting_fqe.py --logs {arguments.logs}"
    lines += [describe(command), ""]
    for name in TABULAR:
        world = world_named(name)
        live = world.live
        table = tilted(world.behavior[:live], np.random.default_rng(0).normal(size=(live, world.mdp.num_actions)))
        runs = [run(world, table, seed) for seed in range(arguments.logs)]
        square = np.array([errors for errors, _, _ in runs]) ** 2
        picks = {
            "default": np.full(len(runs), names.index(DEFAULT)),
            "Bellman": np.array([int(np.argmin(scores)) for _, scores, _ in runs]),
            "LSTD tournament": np.array([int(np.argmin(scores)) for _, _, scores in runs]),
            "best setting in hindsight": np.full(len(runs), int(square.mean(0).argmin())),
            "best of each log in hindsight": square.argmin(1),
        }
        rows = np.arange(len(runs))
        base = square[rows, picks["default"]]
        lines += [f"## {name}: {len(runs)} logs", "", "| candidate | root mean squared error |", "|---|---|"]
        lines += [f"| {one} | {np.sqrt(value):.4f} |" for one, value in zip(names, square.mean(0), strict=True)]
        lines += [
            "",
            "| chosen by | root mean squared error | less than the default in | p (Wilcoxon) | chosen |",
            "|---|---|---|---|---|",
        ]
        lines.append(f"| average candidate | {np.sqrt(square.mean()):.4f} | | | |")
        for who, pick in picks.items():
            mine = square[rows, pick]
            differs = mine != base
            p = f"{stats.wilcoxon(mine[differs], base[differs]).pvalue:.2f}" if differs.sum() > 1 else ""
            counted = ", ".join(f"{names[k]}: {int((pick == k).sum())}" for k in np.unique(pick))
            lines.append(
                f"| {who} | {np.sqrt(mine.mean()):.4f} | {int((mine < base).sum())} of {len(runs)} | {p} | {counted} |"
            )
        lines.append("")
        arguments.out.write_text("\n".join(lines), encoding="utf-8")
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
