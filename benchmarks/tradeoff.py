"""What a policy gains against what a log can show of it: IQL by inverse temperature, as trained and greedy, exactly.

    python benchmarks/tradeoff.py [--out benchmarks/results/tradeoff.md]

Exact gain from the known world; standard error and effective sample size of the best possible marginal estimate on 8,000
stays: exact Q and exact ratio of state visits, so nothing of an estimator's own error is in them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from environment import describe
from stitchrl.algorithms.iql import IQL
from stitchrl.data.scaling import unit_return_scale
from stitchrl.evaluation.units import effective_sample_size
from stitchrl.mdp.icu_sepsis import ExactValues, demo_log, icu_sepsis
from stitchrl.training.fit import fit


def visits(table: np.ndarray) -> np.ndarray:
    """(S,) expected visits of each live state in an episode; 0 in the terminal ones."""
    mdp = icu_sepsis().mdp
    live = ~mdp.terminal
    step = np.einsum("sa,sat->st", table[live], mdp.transition[live])[:, live]
    found = np.zeros(mdp.num_states)
    found[live] = np.linalg.solve(np.eye(live.sum()) - step.T, mdp.initial[live])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tradeoff.md")
    args = parser.parse_args()
    world, exact = icu_sepsis(), ExactValues()
    train, _, test = demo_log().split((0.5, 0.1, 0.4), seed=0)
    state, action, start = test.observation_id, test.action, test.episode_start[:-1]
    assert state is not None
    behavior_visits = np.maximum(visits(world.clinicians), 1e-300)
    lines = [
        "# What a policy gains against what a log can show of it\n",
        describe("python benchmarks/tradeoff.py"),
        "\nIQL, expectile 0.8, 2,000 updates, three seeds (means) on the shipped log's training part.\n",
        "| inverse temperature | acts | exact gain | standard error at best | gain / error | ESS share |",
        "|---|---|---|---|---|---|",
    ]
    for inverse_temperature in (3.0, 10.0, 30.0):
        iql = IQL(
            gamma=1.0, expectile=0.8, inverse_temperature=inverse_temperature, target_rate=0.02, learning_rate=1e-3,
            hidden_sizes=(128, 128),
        )  # fmt: skip
        run = fit(iql, train, updates=2000, seeds=3, reward_scale=unit_return_scale(train))
        for acts in ("as trained", "greedy"):
            rows = []
            for policy in run.policies:
                table = exact.table(policy if acts == "as trained" else policy.greedy())
                v, q = world.mdp.state_values(table), world.mdp.action_values(table)
                weight = visits(table)[state] / behavior_visits[state] * table[state, action]
                weight /= world.clinicians[state, action]
                following = np.where(test.terminated, 0.0, v[np.append(state[1:], 0)])
                correction = np.add.reduceat(weight * (test.reward + following - q[state, action]), start)
                error = (v[state[start]] + correction - test.episode_returns()).std() / np.sqrt(len(start))
                gain = world.mdp.policy_value(table) - exact.behavior()
                rows.append((gain, error, gain / error, effective_sample_size(weight) / len(weight)))
            gain, error, ratio, share = np.mean(rows, axis=0)
            lines.append(
                f"| {inverse_temperature:g} | {acts} | {gain:+.4f} | {error:.4f} | {ratio:.1f} | {share:.2f} |"
            )
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
