"""Would a fitted behaviour give GO where a cause is hidden in every decision? Whole verdicts on fresh logs of a known world.

    python benchmarks/weak_causes.py [--logs 8] [--work runs/weak_causes] [--out benchmarks/results/weak_causes.md]

In each decision a hidden number, drawn anew, leans the choice of the action and moves the reward by `strength` a standard
deviation: one standard deviation of it multiplies the odds of neighbouring actions by exp(strength). It leaves no trace in the
past, which the history check could find. The candidate takes the middle action less often than the behaviour; its true gain is
found by simulation of `SIMULATED` episodes. Propensities are not logged: .6 of each log fit the behaviour and the values, .4
make the verdict. "Would be GO" means that every line of the rule holds but for the one sentence that a fitted behaviour gives
no GO (`evaluation.confirmation.FITTED_COVERED`). Replicates are kept in the folder `--work`, and the same command continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from environment import describe
from hidden_candidates import HEEDED, Logits
from stitchrl.evaluation.confirmation import NOT_COVERED

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import hidden_worlds

CELLS = ((0.25, 1, 8000), (0.5, 1, 8000), (0.25, 12, 5000), (0.5, 12, 5000), (0.25, 40, 3000), (0.5, 40, 3000))
"""(strength, decisions an episode, episodes of a log)."""
LESS_IN_THE_MIDDLE = np.array([0.25, 0.0, 0.45])
SIMULATED = 60_000


def drawn(strength: float, steps: int, episodes: int, seed: int, act: Any = None) -> st.Dataset:
    """A log of the world, its cause hidden; of the candidate in place of the behaviour where `act` is given."""
    return hidden_worlds.walk(
        episodes,
        seed,
        False,
        start=lambda rng, n: rng.normal(size=n),
        move=lambda rng, cause: rng.normal(size=len(cause)),
        on_action=strength,
        on_reward=strength,
        steps=steps,
        act=act,
    )


def true_gain(policy: Logits, strength: float, steps: int) -> tuple[float, float]:
    """The candidate's gain over the behaviour, and its standard error."""
    with_policy = drawn(strength, steps, SIMULATED, 1, policy.logits).episode_returns()
    without = drawn(strength, steps, SIMULATED, 2).episode_returns()
    error = float(np.hypot(with_policy.std(), without.std()) / np.sqrt(SIMULATED))
    return float(with_policy.mean() - without.mean()), error


def judged(policy: Logits, cell: tuple[float, int, int], seed: int) -> dict[str, Any]:
    """The verdict on one log: which lines hold, and the estimated gain."""
    log = drawn(*cell, 1000 + seed)
    fit_on, test = log.split((0.6, 0.4), seed=seed)
    found = st.evaluate(policy, test, fit_on=fit_on, audit_verdict="usable")
    verdict = found.verdict
    gain = None if verdict.primary is None else found.gain[verdict.primary]
    failed = [part.sentence for line in verdict.lines for part in line.parts if not part.passed]
    opened = all(line.passed is not False or line.key == "e" for line in verdict.lines) and failed == [NOT_COVERED]
    return {
        "cell": list(cell),
        "seed": seed,
        "opened": opened,
        "failed": [sentence for sentence in failed if sentence != NOT_COVERED],
        "gain": None if gain is None else [gain.value, gain.lower, gain.upper],
    }


def report(rows: list[dict[str, Any]], gains: dict[str, tuple[float, float]]) -> str:
    """The results as a page."""
    lines = [
        "# Weak hidden causes and a fitted behaviour",
        "",
        describe("python benchmarks/weak_causes.py"),
        "",
        (__doc__ or "").split("\n\n", 2)[2],
        "| strength | decisions | episodes | true gain (standard error) | estimated gain, mean of logs | would be GO "
        "| commonest other reason |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        own = [row for row in rows if tuple(row["cell"]) == cell]
        if not own:
            continue
        gain, error = gains[str(cell)]
        estimated = [row["gain"][0] for row in own if row["gain"]]
        reasons = [row["failed"][0] for row in own if row["failed"]]
        first = max(set(reasons), key=reasons.count)[:110] if reasons else ""
        lines.append(
            f"| {cell[0]:g} | {cell[1]} | {cell[2]:,} | {gain:+.3f} ({error:.3f}) | {np.mean(estimated):+.3f} | "
            f"{sum(row['opened'] for row in own)} of {len(own)} | {first} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path("runs/weak_causes"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "weak_causes.md")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "replicates.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    policy = Logits(lambda seen: seen[:, :3] @ HEEDED + LESS_IN_THE_MIDDLE)
    for seed in range(options.logs):
        for cell in CELLS:
            if not any(tuple(row["cell"]) == cell and row["seed"] == seed for row in rows):
                rows.append(judged(policy, cell, seed))
                with file.open("a") as handle:
                    handle.write(json.dumps(rows[-1]) + "\n")
    gains = {str(cell): true_gain(policy, *cell[:2]) for cell in CELLS}
    options.out.write_text(report(rows, gains), encoding="utf-8")


if __name__ == "__main__":
    main()
