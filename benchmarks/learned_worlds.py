"""What every algorithm for discrete actions learns in worlds that are solved exactly: the tables behind docs/algorithms.

    cd benchmarks && python learned_worlds.py            # minutes, most of them compiling

tests/support/learning_worlds.py describes the worlds and trains the algorithms; tests hold what is said here in words.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from environment import describe

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "support"))

import learning_worlds as worlds  # noqa: E402 - after its folder
from continuous_loop import share_of_growth  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "learned_worlds.md"
SEEDS = range(8)


def grown() -> list[str]:
    """What an error eps about an untried action becomes, over (1 - gamma), in units of eps: 1 is eps / (1 - gamma)."""
    rows = ["| algorithm | " + " | ".join(f"gamma {gamma:g}" for gamma in worlds.GAMMAS) + " |", "|---|---|---|---|"]
    for name in worlds.names():
        if not worlds.KINDS[worlds.kind_of(name)].values.startswith("TD"):
            continue
        cells = []
        for gamma in worlds.GAMMAS:
            learned = [worlds.overestimated(name, gamma, seed) for seed in SEEDS]
            upward = [found for found in learned if found.eps > 0.02]
            shares = [found.error * (1 - gamma) / found.eps for found in upward]
            cells.append(f"{min(shares):.3f} to {max(shares):.3f} ({len(upward)})" if shares else "its eps is below 0")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


CONTINUOUS = ("IQL", "AWAC", "EQL", "XQL", "BCQ", "BEAR", "IDQL", "FQL", "TD3BC", "TD3", "SAC", "DDPG")


def grown_continuous() -> list[str]:
    """The same over continuous actions."""
    rows = ["| algorithm | " + " | ".join(f"gamma {gamma:g}" for gamma in worlds.GAMMAS) + " |", "|---|---|---|---|"]
    for name in CONTINUOUS:
        shares = [[share_of_growth(name, gamma, seed) for seed in (0, 1)] for gamma in worlds.GAMMAS]
        rows.append(f"| {name} | {' | '.join(f'{min(pair):.2f} to {max(pair):.2f}' for pair in shares)} |")
        print(rows[-1], flush=True)
    return rows


def gone(random: int) -> list[str]:
    """How far every algorithm goes in random worlds and in the grid."""
    named = [f"random {number}" for number in range(random)]
    head = ["algorithm", f"{random} random worlds: mean", "least", "most", "claimed", "grid", "claimed", "Q(s1, to s3)"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in worlds.names():
        learned = [worlds.improved(name, world) for world in named]
        shares, claims = ([getattr(found, field) for found in learned] for field in ("gone", "claimed"))
        grid, q = worlds.improved(name, "grid"), worlds.stitched(name).q
        numbers = [np.mean(shares), min(shares), max(shares), np.mean(claims), grid.gone, grid.claimed, q]
        rows.append(f"| {name} | {' | '.join('' if math.isnan(n) else f'{n:.2f}' for n in numbers)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=20, help="random worlds")
    count = parser.parse_args().random
    text = f"""# Learned worlds

{describe(f"cd benchmarks && python learned_worlds.py --random {count}")}

Tables (networks without hidden layers), {worlds.ROWS} rows a log, {worlds.UPDATES} updates; the worlds are described in
tests/support/learning_worlds.py.

## An error about an action that nobody took

In the overestimation world a critic extrapolates to an untried action with an error eps that no row of the log moves, and all
that is claimed above 0 is error. The claimed value of the state, less the exact value of the learned policy, times
(1 - gamma) / eps: 1 is eps / (1 - gamma), 0 is no growth. Smallest and largest over those of {len(SEEDS)} seeds whose eps is
above 0.02, and how many these are. Of several critics eps is their mean, while targets take the smallest. What is
below 1 for DQN at 0.99 is a large eps, whose claim still rises when the updates end.

{chr(10).join(grown())}

## The same over continuous actions

One state without end, in which every action pays 0 and the log holds one action alone; tests/support/continuous_loop.py
describes it. The claimed value of what the policy does, which is worth 0, in units of eps / (1 - gamma); two seeds.

{chr(10).join(grown_continuous())}

## How far it goes from the behaviour to the best policy among the logged actions

0 is the exact value of the behaviour, 1 that of the best policy that takes only actions of the log; the policy acts as its
algorithm means it to. What its critic claims, in the same units, is beside it. In a random world two of four actions are in the
log of each state, the worse of the two seven times in ten, and the two others cost 3 more on average. The last column is Q of the
way from s1 to s3 in the stitching world.

{chr(10).join(gone(count))}
"""
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
