"""What the ladder over continuous actions gains, and what of it can be shown, on logs of a system whose values are known.

    python benchmarks/continuous_ladder.py [--fits 4] [--table]
    python benchmarks/continuous_ladder.py --data FOLDER      # the second table; needs gymnasium[mujoco]

The world and the logs are those of `false_go_continuous.py` with quadratic rewards: 500 episodes, of which .6 train the policies
and fit the models and .4 make the verdict; each fit is judged on five fresh test parts, whose verdicts are not independent.
Each fit trains IQL and TD3+BC anew, with the main job's 2,000 updates, and judges them as they act and on rungs of their
ladders, by the estimators of a log with propensities; greedy policies have no density, hence no estimate among them.

True gains are means over simulated episodes, the policy's and the behaviour's with the same first states and disturbances.
Verdicts are the product's without `lstdq`, which can only forbid a GO. Every log is kept in `--state`; the same command goes on
where it stopped.

The second table is of hopper_medium.parquet in FOLDER, a log of a robot with the exact density of each action: what the model of
the behaviour and rungs on it are truly worth, by rollouts, and how large their ratios to the logged densities are.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np

import stitchrl as st
from continuous import played
from environment import describe
from false_go_continuous import FITTING, WORLDS, judged, lw
from scores import State
from stitchrl.evaluation.settings import FitSettings
from stitchrl.pipeline.candidates import Candidate
from stitchrl.pipeline.ladder import foot_of_ladder, on_rung
from stitchrl.pipeline.rungs import ContinuousRung

RESULTS = Path(__file__).parent / "results" / "continuous_ladder.md"
EPISODES, UPDATES = 500, 2_000
RUNGS = (ContinuousRung(0.25, 1.0), ContinuousRung(0.5, 0.8), ContinuousRung(1.0, 0.8))
TESTS = 5
"""Test parts of a fit."""
ROLLED_OUT = 200
PLAYED, STEPS = 4_000, 200
"""Simulated episodes, and their steps; what follows is discounted by 4e-5."""


def policies_of(train: st.Dataset, number: int) -> dict[str, Any]:
    """Name -> policy: as trained, greedy, and on some rungs of the ladder."""
    found: dict[str, Any] = {}
    behavior = foot_of_ladder(train, FitSettings(seed=number))
    for algorithm in (st.IQL(gamma=lw.GAMMA), st.TD3BC(gamma=lw.GAMMA)):
        policy = st.fit(algorithm, train, updates=UPDATES, seeds=[number], progress=False).policy
        if policy.has_density:
            found[f"{algorithm.name}, as trained"] = policy
        found[f"{algorithm.name}, greedy"] = policy.greedy()
        candidate = Candidate(algorithm.name, algorithm, number, policy, None, policy)
        for rung in RUNGS:
            on = on_rung(candidate, rung, behavior)
            found[on.title.replace(f" seed {number}", "")] = on.policy
    return found


def discounted(policy: Any, seed: int) -> np.ndarray:
    """(episodes,) simulated returns; the same seed gives the same first states and disturbances to every policy."""
    world, rng = lw.WORLD, np.random.default_rng(seed)
    sample = jax.jit(lambda obs, key: policy.sample(obs, key=key))
    state = world.initial * rng.normal(size=(PLAYED, len(world.transition)))
    total = np.zeros(PLAYED)
    for step in range(STEPS):
        key = jax.random.fold_in(jax.random.key(seed), step)
        action = np.asarray(sample(state.astype(np.float32), key), np.float64)
        cost = np.einsum("ni,ij,nj->n", state, world.state_cost, state)
        cost += np.einsum("ni,ij,nj->n", action, world.action_cost, action)
        total -= lw.GAMMA**step * cost
        state = state @ world.transition.T + action @ world.control.T + world.noise * rng.normal(size=state.shape)
    return total


def work(args: argparse.Namespace, state: State) -> None:
    """Every fit that `state` does not hold yet."""
    world = WORLDS["quadratic"]
    for number in range(args.fits):
        if state.find(fit=number):
            continue
        policies = policies_of(world.log(int(FITTING * EPISODES), 50_000 + number), number)
        own = discounted(lw.policy(lw.BEHAVIOR, lw.STD), number)
        gains = {name: discounted(policy, number) - own for name, policy in policies.items()}
        state.add(
            fit=number,
            names=list(policies),
            true=[float(gain.mean()) for gain in gains.values()],
            error=[float(gain.std() / len(gain) ** 0.5) for gain in gains.values()],
            simulated=[float(own.mean()), lw.value(lw.BEHAVIOR, lw.STD)],
            tests=list(judged(world, list(policies.values()), EPISODES, number, TESTS)),
        )
        print(
            json.dumps({"fit": number, "true": dict(zip(policies, state.records[-1]["true"], strict=True))}), flush=True
        )


def work_on_hopper(data: Path, state: State) -> None:
    """Rollouts of the fitted behaviour and of rungs of behaviour cloning; ratios on the half of the log that fitted neither."""
    if state.find(side="hopper"):
        return
    log = st.read(data / "hopper_medium.parquet")
    train, held_out = log.split((0.5, 0.5), seed=0)
    foot = foot_of_ladder(train, FitSettings())
    cloned = st.fit(st.BC(), train, updates=5_000, progress=False).policy
    candidate = Candidate("BC", st.BC(), 0, cloned, None, cloned)
    policies: dict[str, Any] = {"the model of the behaviour": foot}
    policies |= {on_rung(candidate, rung, foot).title: on_rung(candidate, rung, foot).policy for rung in RUNGS}
    own = log.episode_returns(0.99)
    rows = []
    for name, policy in policies.items():
        returns = played(policy, "Hopper-v5", ROLLED_OUT, 7)[0]
        density = np.asarray(policy.log_prob(held_out.observation, held_out.action), np.float64)
        ratio = np.exp(density - held_out.behavior_log_prob)
        rows.append(
            {
                "name": name,
                "gain": float(returns.mean() - own.mean()),
                "error": float(np.hypot(returns.std() / len(returns) ** 0.5, own.std() / len(own) ** 0.5)),
                "mean_ratio": float(ratio.mean()),
                "second_moment": float((ratio**2).mean()),
                "largest": float(ratio.max()),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    short = held_out.behavior_log_prob - np.asarray(foot.log_prob(held_out.observation, held_out.action))
    inner = foot.policy
    state.add(
        side="hopper", text=describe("python benchmarks/continuous_ladder.py --data FOLDER"), rows=rows,
        own=float(own.mean()), short=float(short.mean()), kind=inner.kind, components=inner.components,
    )  # fmt: skip


def table_of_hopper(found: dict[str, Any]) -> list[str]:
    """A row a policy."""
    lines = [
        "\n## On a robot's log\n",
        found["text"],
        f"\nhopper_medium, whose behaviour is worth {found['own']:.1f}, discounted by .99. The model of the behaviour "
        f"({found['kind']}, {found['components']} component) is {found['short']:.2f} nats an action short of the logged density. "
        f"{ROLLED_OUT} rollouts each.\n",
        "| policy | true gain | its SE | mean ratio to the logged density | second moment | largest |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} | {row['gain']:+.1f} | {row['error']:.1f} | {row['mean_ratio']:.2f} | {row['second_moment']:,.1f} "
        f"| {row['largest']:,.0f} |"
        for row in found["rows"]
    ]
    return lines


def table(state: State) -> list[str]:
    """A row a policy."""
    fits = [record for record in state.records if "fit" in record]
    lines = [
        "| policy | true gain, mean over fits (each) | estimate / its standard error, median | verdicts | lower end above 0 "
        "| healthy | GO | lower end above the truth | upper end below | of the healthy: above | below | checks that fail |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for place, name in enumerate(fits[0]["names"]):
        verdicts = [(fit["true"][place], test["verdicts"][place]) for fit in fits for test in fit["tests"]]
        known = [(truth, one) for truth, one in verdicts if one["gain"] is not None and one["gain"][1] is not None]
        gain = np.array([one["gain"] for _, one in known], float).reshape(-1, 4)
        truth = np.array([truth for truth, _ in known])
        healthy, above, below = gain[:, 3] > 0, gain[:, 1] > truth, gain[:, 2] < truth
        ratio = f"{np.median(gain[:, 0] / ((gain[:, 2] - gain[:, 1]) / (2 * 1.96))):.1f}" if len(gain) else "none"
        failing = Counter(check for _, one in known for check in one["checks"])
        each = ", ".join(f"{fit['true'][place]:+.2f}" for fit in fits)
        lines.append(
            f"| {name} | {np.mean([fit['true'][place] for fit in fits]):+.2f} ({each}) | {ratio} | {len(verdicts)} "
            f"| {(gain[:, 1] > 0).sum()} | {healthy.sum()} | {sum(one['decision'] == 'GO' for _, one in verdicts)} "
            f"| {above.sum()} | {below.sum()} | {(above & healthy).sum()} | {(below & healthy).sum()} "
            f"| {', '.join(f'{check} {count}' for check, count in failing.most_common())} |"
        )
    error = max(number for fit in fits for number in fit["error"])
    simulated = [fit["simulated"] for fit in fits]
    lines += [
        "",
        f"The standard error of a true gain is at most {error:.2f}. The behaviour's value is exactly {simulated[0][1]:.2f}; the "
        f"simulations give {', '.join(f'{own:.2f}' for own, _ in simulated)}.",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=4)
    parser.add_argument("--data", type=Path, help="folder of hopper_medium.parquet: only the second table is made")
    parser.add_argument("--state", type=Path, default=RESULTS.with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true", help="judge nothing; write the table from the state file")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    state = State(args.state)
    if not args.table:
        if not state.find(side="about"):
            state.add(side="about", text=describe("python benchmarks/continuous_ladder.py"))
        if args.data is None:
            work(args, state)
        else:
            work_on_hopper(args.data, state)
    about = state.find(side="about")
    lines = ["# The ladder over continuous actions\n", about["text"] if about else "", "", *table(state)]
    hopper = state.find(side="hopper")
    lines += table_of_hopper(hopper) if hopper else []
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
