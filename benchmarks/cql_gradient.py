"""CQL's penalty with all of its gradient against a few sampled candidates: speed, and score.

    cd benchmarks && python cql_gradient.py --speed                       # ratios of update rates, minutes
    cd benchmarks && python cql_gradient.py --data FOLDER                 # scores, hours; needs gymnasium[mujoco]

FOLDER holds halfcheetah_medium_replay.parquet and hopper_mixed.parquet, as for `scores.py`. Every finished training is
appended to `--state` (kept beside the results), so a run that was stopped goes on where it was; `--table` only writes
the results from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from environment import describe
from scores import ENVIRONMENTS, PLAY_SEED, RANDOM_EPISODES, State, UniformPolicy
from stitchrl.rollouts import rollout

VARIANTS = {"whole": 0, "4 sampled": 4, "1 sampled": 1}
"""Name -> `gradient_samples`."""
RESULTS = Path(__file__).resolve().parent / "results" / "cql_gradient.md"


def random_log(rows: int = 20_000) -> st.Dataset:
    """A log of the sizes of HalfCheetah (17 numbers seen, 6 of an action) without meaning."""
    rng = np.random.default_rng(0)
    length = 100
    end = np.arange(rows) % length == length - 1
    columns = {
        "episode": np.arange(rows) // length,
        "observation": rng.normal(size=(rows, 17)).astype(np.float32),
        "action": rng.uniform(-1, 1, (rows, 6)).astype(np.float32),
        "reward": rng.normal(size=rows).astype(np.float32),
        "terminated": end,
    }
    return st.read(columns)


def speed(rounds: int, updates: int) -> list[str]:
    """Update rates of every variant, one after another in turn, `rounds` times; medians and ranges."""
    log, rates = random_log(), {name: [] for name in VARIANTS}  # type: ignore[var-annotated]
    for turn in range(rounds + 1):
        for name, samples in VARIANTS.items():
            clock: list[tuple[float, int]] = []
            st.fit(
                st.CQL(gradient_samples=samples),
                log,
                updates=updates,
                log_every_updates=updates // 4,
                callbacks=(lambda done, total, metrics, clock=clock: clock.append((time.perf_counter(), done)),),
                progress=False,
            )
            (first, begun), (last, done) = clock[0], clock[-1]
            if turn:  # the first turn compiles
                rates[name].append((done - begun) / (last - first))
            print(name, f"{(done - begun) / (last - first):.1f} updates/s", flush=True)
    rows = ["| gradient | updates/s: median (range) | times the whole gradient: median (range) |", "|---|---|---|"]
    whole = np.array(rates["whole"])
    for name, found in rates.items():
        ratio = np.array(found) / whole
        rows.append(
            f"| {name} | {np.median(found):.1f} ({min(found):.1f} to {max(found):.1f}) "
            f"| {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}) |"
        )
    return rows


def scores(args: argparse.Namespace, state: State) -> None:
    """Train and play what `state` does not hold yet."""
    for dataset in args.logs:
        environment = ENVIRONMENTS[dataset][0]
        log = st.read(args.data / f"{dataset}.parquet")
        if not state.find(variant="random", dataset=dataset):
            policy = UniformPolicy(log.action.shape[1])
            found = rollout(policy, environment, episodes=RANDOM_EPISODES, seed=0, mode=False)
            state.add(variant="random", dataset=dataset, returns=found.returns.tolist())
        for name, samples in VARIANTS.items():
            key: dict[str, Any] = {"variant": name, "dataset": dataset, "updates": args.updates}
            missing = [seed for seed in args.seeds if not state.find(seed=seed, **key)]
            if not missing:
                continue
            algorithm = dataclasses.replace(st.CQL(), gradient_samples=samples)
            begun = time.perf_counter()
            run = st.fit(algorithm, log, updates=args.updates, seeds=missing)
            seconds = time.perf_counter() - begun
            for seed, policy in zip(missing, run.policies, strict=True):
                found = rollout(
                    policy, environment, episodes=args.episodes, seed=PLAY_SEED + seed, num_envs=args.episodes
                )
                state.add(**key, seed=seed, returns=found.returns.tolist(), seconds=seconds)
                print(name, dataset, seed, f"mean return {found.returns.mean():.1f}", flush=True)


def score_table(args: argparse.Namespace, state: State) -> list[str]:
    """Scores of every variant beside the whole gradient's; those not run yet are named."""
    rows = [
        "| log | gradient | score: mean (a seed) | minus the whole gradient's | 2 SE, seeds |",
        "|---|---|---|---|---|",
    ]
    for dataset in args.logs:
        floor = state.find(variant="random", dataset=dataset)
        top = ENVIRONMENTS[dataset][1]
        means: dict[str, np.ndarray] = {}
        for name in VARIANTS:
            found = [state.find(variant=name, dataset=dataset, updates=args.updates, seed=seed) for seed in args.seeds]
            if floor is None or None in found:
                rows.append(f"| {dataset} | {name} | not run | | |")
                continue
            low = np.mean(floor["returns"])
            means[name] = np.array([100 * (np.mean(r["returns"]) - low) / (top - low) for r in found if r])
            shown = f"{means[name].mean():.1f} ({', '.join(f'{m:.1f}' for m in means[name])})"
            difference = error = ""
            if name != "whole" and "whole" in means and len(args.seeds) > 1:
                difference = f"{means[name].mean() - means['whole'].mean():+.1f}"
                parts = [np.var(means[side], ddof=1) / len(args.seeds) for side in ("whole", name)]
                error = f"{2 * np.sqrt(sum(parts)):.1f}"
            rows.append(f"| {dataset} | {name} | {shown} | {difference} | {error} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="measure update rates only")
    parser.add_argument("--data", type=Path, help="folder of the logs")
    parser.add_argument("--logs", nargs="+", default=list(ENVIRONMENTS), choices=list(ENVIRONMENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="turns of the measurement of speed")
    parser.add_argument("--speed-updates", type=int, default=120)
    parser.add_argument("--state", type=Path, default=RESULTS.with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true", help="only write the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    state = State(args.state)
    if args.speed:
        state.add(speed=speed(args.rounds, args.speed_updates), about=describe(f"python {' '.join(sys.argv)}"))
    elif not args.table:
        if args.data is None:
            parser.error("give --data FOLDER, or --speed")
        scores(args, state)
    measured = [record for record in state.records if "speed" in record]
    about = measured[-1]["about"] if measured else describe(f"python {' '.join(sys.argv)}")
    lines = ["# CQL: the penalty's gradient by sampled candidates\n", about, ""]
    lines += ["## Speed", ""]
    lines += measured[-1]["speed"] if measured else ["Not measured yet."]
    lines += ["", f"## Score after {args.updates:,} updates", ""]
    lines += ["100 is the return that `scores.py` names for each environment, 0 a uniform random policy.", ""]
    lines += score_table(args, state)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
