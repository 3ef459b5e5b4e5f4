"""An output for each combination or for each choice? Exact survival on small hospital logs, whose action is two doses.

    python benchmarks/factored_actions.py [--seeds 8] [--out benchmarks/results/factored_actions.md]

The treatments of ICU-Sepsis are five levels of fluids times five of a vasopressor. `outputs="factored"` gives policies and
critics ten outputs in place of 25. Each seed has a log of its own, drawn afresh, which both kinds learn from.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.mdp.icu_sepsis import ExactValues, compact_table, demo_log, draw_log

COUNTS = (5, 5)
STAYS = (250, 1_000, 4_000)
UPDATES = 2_000
ALGORITHMS = {
    "BC": st.BC(),
    "IQL": st.IQL(gamma=1.0),
    "CQL": st.CQL(gamma=1.0),
    "BCQ": st.BCQ(gamma=1.0),
    "BCQ, joint model of the behaviour": st.BCQ(gamma=1.0, behavior_network=st.Network()),
}


def hospital_log(stays: int, seed: int) -> Dataset:
    """Fresh stays, whose action is declared as two components."""
    log = demo_log(compact_table(draw_log(stays, seed=seed)))
    return dataclasses.replace(log, schema=dataclasses.replace(log.schema, num_actions=None, action_counts=COUNTS))


def survival(algorithm: st.Algorithm, outputs: str, log: Dataset) -> float:
    """Exact survival under the policy as it would be deployed: drawn for BC, greedy for the others."""
    asked = dataclasses.replace(algorithm, network=st.Network(outputs=outputs))
    policy = st.fit(asked, log, updates=UPDATES, progress=False).policy
    return ExactValues().value(policy if asked.name == "BC" else policy.greedy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "factored_actions.md")
    args = parser.parse_args()
    behavior = ExactValues().behavior()
    lines = [
        "# Outputs for combinations and for choices\n",
        describe(f"python benchmarks/factored_actions.py --seeds {args.seeds}"),
        "",
        f"Exact survival under policies learned from fresh hospital logs, {UPDATES:,} updates; means of {args.seeds} logs a row.",
        f"The clinicians' is {behavior:.4f}. The difference is paired by log; ± is its standard error.",
        "",
        "| algorithm | stays | joint | factored | factored - joint | better on |",
        "|---|---|---|---|---|---|",
    ]
    began = time.monotonic()
    for stays in STAYS:
        logs = [hospital_log(stays, seed) for seed in range(args.seeds)]
        for name, algorithm in ALGORITHMS.items():
            found = np.array([[survival(algorithm, kind, log) for kind in ("joint", "factored")] for log in logs])
            change = found[:, 1] - found[:, 0]
            error = change.std(ddof=1) / np.sqrt(len(change))
            lines.append(
                f"| {name} | {stays:,} | {found[:, 0].mean():.4f} | {found[:, 1].mean():.4f} "
                f"| {change.mean():+.4f} ± {error:.4f} | {(change > 0).sum()} of {len(change)} |"
            )
            print(lines[-1], f"({time.monotonic() - began:.0f} s)", flush=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
