"""Do the 95% intervals cover? Fresh hospital logs from the known world, policies whose exact gain is known.

    python benchmarks/coverage.py [--replicates 100] [--stays 8000] [--out benchmarks/results/coverage.md]

One log of 12,000 stays trains the policies and fits the nuisance models, as training + validation do in the product;
each replicate is a fresh log of `--stays` stays on which gains are estimated. So coverage is conditional on one
training log. Compared: FQE refitted with ratios (the product), refitted without ratios, and the spread of the fitted
network's V(s0) over episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from environment import describe
from stitchrl.algorithms.behavior import BC
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.dqn import DQN
from stitchrl.algorithms.iql import IQL
from stitchrl.data.scaling import unit_return_scale
from stitchrl.evaluation.fitted_q import FittedQ, fit_q
from stitchrl.evaluation.probabilities import action_probabilities
from stitchrl.evaluation.refit import refit
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import effective_sample_size
from stitchrl.mdp.icu_sepsis import DEATH, compact_table, demo_log, draw_log, icu_sepsis
from stitchrl.training.fit import fit


def on_every_pair(fitted_q: FittedQ, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """psi (S, H), v (S,) and q (S, A) of a fitted Q, by asking it about a log that holds every pair once."""
    pairs = icu_sepsis().clinicians.size
    state, action = np.divmod(np.arange(pairs), table.shape[1])
    live = state < DEATH
    state, action = state[live].astype(np.int32), action[live].astype(np.int32)
    everything = dataclasses.replace(
        demo_log().select_episodes([0]),
        **dict.fromkeys(("behavior_log_prob", "behavior_probs", "action_mask", "observation_id")),
        observation_index=state,
        next_observation_index=state,
        action=action,
        reward=np.zeros(len(state), np.float32),
        terminated=np.ones(len(state), bool),
        truncated=np.zeros(len(state), bool),
        step=np.zeros(len(state), np.int32),
        episode_start=np.arange(len(state) + 1),
        episode_id=np.arange(len(state)),
    )
    probs = table[state].astype(np.float32)
    found = fitted_q.on(everything, probs, probs)
    first = slice(None, None, table.shape[1])
    return found["psi"][first], found["v"][first], found["q"].reshape(DEATH, table.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--stays", type=int, default=8000)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.md")
    args = parser.parse_args()

    world = icu_sepsis()
    train = demo_log(compact_table(draw_log(12_000, seed=10_000)))
    common = {"hidden_sizes": (128, 128), "learning_rate": 1e-3}
    value = common | {"gamma": 1.0, "target_rate": 0.02}
    scale = unit_return_scale(train)
    algorithms = {
        "BC": BC(**common),
        "IQL as trained": IQL(expectile=0.8, inverse_temperature=10.0, **value),
        "IQL greedy": IQL(expectile=0.8, inverse_temperature=10.0, **value),
        "CQL": CQL(cql_weight=0.2, **value),
        "DQN": DQN(**value),
    }
    policies = {}
    for name, algorithm in algorithms.items():
        policy = fit(algorithm, train, updates=args.updates, seeds=1, reward_scale=scale).policy
        policies[name] = policy.greedy() if name.endswith("greedy") else policy
    raw, mask = world.features[:DEATH].astype(np.float32), world.mask[:DEATH]
    tables = {}
    for name, policy in policies.items():
        table = np.zeros(world.clinicians.shape)
        table[:DEATH] = policy.probs(raw, action_mask=mask)
        tables[name] = table / np.maximum(table.sum(1, keepdims=True), 1e-12)
    exact = {name: world.mdp.policy_value(table) for name, table in tables.items()}
    clinicians = world.mdp.policy_value(world.clinicians)
    next_probs = [action_probabilities(policy, train)[1] for policy in policies.values()]
    fits = fit_q(train, next_probs, len(policies), gamma=1.0, settings=FitSettings(updates=args.updates))

    fitted_tables = {name: on_every_pair(f, tables[name]) for name, f in zip(tables, fits, strict=True)}
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for replicate in range(args.replicates):
        log = demo_log(compact_table(draw_log(args.stays, seed=20_000 + replicate)))
        returns, root = log.episode_returns(), np.sqrt(log.num_episodes)
        first = log.episode_start[:-1]
        state, following = log.observation_id, np.append(log.observation_id[1:], 0)
        for name, table in tables.items():
            psi, v, q = fitted_tables[name]
            fitted = {
                "q": q[state, log.action],
                "v": v[state],
                "next_v": v[following],
                "psi": psi[state],
                "next_psi": psi[following],
            }
            ratio = table[log.observation_id, log.action] / world.clinicians[log.observation_id, log.action]
            ways = {
                "refitted, with ratios": refit(log, fitted, ratio, gamma=1.0),
                "refitted, no ratios": refit(log, fitted, np.ones_like(ratio), gamma=1.0),
            }
            for way, found in ways.items():
                gain = found.contributions - returns
                ess = effective_sample_size(found.weights) / log.num_transitions
                rows.setdefault((name, way), []).append((gain.mean(), gain.std() / root, ess))
            gain = fitted["v"][first] - returns
            rows.setdefault((name, "network V(s0)"), []).append((gain.mean(), fitted["v"][first].std() / root, 1.0))

    lines = [
        "# Coverage of the 95% intervals of the gain\n",
        describe("python benchmarks/coverage.py"),
        f"\n{args.replicates} fresh logs of {args.stays:,} stays; normal intervals, estimate ± 1.96 standard errors.\n",
        "| policy | exact gain | interval | mean estimate | bias / spread | spread | mean SE | ESS share | coverage |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, way), found in rows.items():
        truth = exact[name] - clinicians
        value, error, ess = np.array(found).T
        covered = np.abs(value - truth) <= 1.96 * error
        lines.append(
            f"| {name} | {truth:+.4f} | {way} | {value.mean():+.4f} | {(value.mean() - truth) / value.std():+.2f} "
            f"| {value.std():.4f} | {error.mean():.4f} | {ess.mean():.2f} | {covered.mean():.0%} |"
        )
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
