"""An output for each combination or for each choice? Exact survival on small hospital logs, whose action is two doses.

    python benchmarks/factored_actions.py [--seeds 8] [--out benchmarks/results/factored_actions.md]
    python benchmarks/factored_actions.py --why --seeds 3        prints what BCQ claims, and what sums of two are without error

The treatments of ICU-Sepsis are five levels of fluids times five of a vasopressor. `outputs="factored"` gives policies and
critics ten outputs in place of 25. Each seed has a log of its own, drawn afresh, which both kinds learn from.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.mdp.icu_sepsis import ExactValues, compact_table, demo_log, draw_log, icu_sepsis

COUNTS = (5, 5)
STAYS = (250, 1_000, 4_000)
UPDATES = 2_000
JOINT_BEHAVIOR = "BCQ, joint model of the behaviour"
ALGORITHMS = {
    "BC": st.BC(),
    "IQL": st.IQL(gamma=1.0),
    "CQL": st.CQL(gamma=1.0),
    "BCQ": st.BCQ(gamma=1.0),
    JOINT_BEHAVIOR: st.BCQ(gamma=1.0, behavior_network=st.Network()),
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


def claims(seeds: int) -> list[str]:
    """What BCQ's critics claim for its own policy at the first states of the hospital, beside the exact survival."""
    world, exact = icu_sepsis(), ExactValues()
    live = ~world.mdp.terminal
    seen, mask = jnp.asarray(world.features[live], jnp.float32), jnp.asarray(world.mask[live])
    rows = ["| updates | outputs | claimed survival, each log | exact survival, each log |", "|---|---|---|---|"]
    logs = [hospital_log(1_000, seed) for seed in range(seeds)]
    for updates in (500, 2_000):
        for outputs in ("joint", "factored"):
            asked = dataclasses.replace(ALGORITHMS[JOINT_BEHAVIOR], network=st.Network(outputs=outputs))
            claimed, truth = [], []
            for log in logs:
                run = st.fit(asked, log, updates=updates, progress=False)
                policy = run.policy.greedy()
                action = np.asarray(policy.mode(seen, action_mask=mask))
                q = np.asarray(run.values[0].q_all(seen))[np.arange(len(action)), action]
                claimed.append(float(world.mdp.initial[live] @ q))
                truth.append(exact.value(policy))
            said = (
                ", ".join(f"{number:.{digits}f}" for number in found) for found, digits in ((claimed, 2), (truth, 4))
            )
            rows.append(f"| {updates:,} | {outputs} | {' | '.join(said)} |")
    return rows


def best_of_sums() -> list[str]:
    """Exact survival of BCQ's choice, and what it claims, where data have no end and Q is any number, or the sum of two that
    fits the clinicians' actions best."""
    world = icu_sepsis()
    mdp, behavior = world.mdp, world.clinicians
    admitted = behavior / np.maximum(behavior.max(1, keepdims=True), 1e-12) > st.BCQ().threshold
    admitted[mdp.terminal] = True
    first, second = np.divmod(np.arange(mdp.num_actions), COUNTS[1])
    parts = np.hstack([np.eye(COUNTS[0])[first], np.eye(COUNTS[1])[second]])
    weighted = behavior[:, :, None] * parts[None]  # (S, A, 10): the fit counts an action as often as it is taken
    fit = parts @ np.linalg.pinv(np.einsum("sak,al->skl", weighted, parts)) @ weighted.transpose(0, 2, 1)
    rows = ["| Q | claimed survival | exact survival |", "|---|---|---|"]
    for name, joined in (("any", None), ("sums of two", fit)):
        q = np.zeros_like(behavior)
        for _ in range(400):
            v = np.where(mdp.terminal, 0.0, np.where(admitted, q, -np.inf).max(1))
            q = mdp.expected_reward + mdp.transition @ v
            q = q if joined is None else np.einsum("sab,sb->sa", joined, q)
        chosen = np.eye(mdp.num_actions)[np.where(admitted, q, -np.inf).argmax(1)]
        rows.append(f"| {name} | {mdp.initial @ v:.4f} | {mdp.policy_value(chosen):.4f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "factored_actions.md")
    parser.add_argument("--why", action="store_true", help="why BCQ loses by it, in place of the table")
    args = parser.parse_args()
    if args.why:
        print("\n".join([*claims(args.seeds), "", *best_of_sums()]))
        return
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
