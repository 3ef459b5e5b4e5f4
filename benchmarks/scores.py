"""Do the algorithms learn as well as a peer's? stitchrl and d3rlpy on the same logs, played in the same environments.

    cd benchmarks && python scores.py --data FOLDER --peer-python ../.bench/bin/python

FOLDER holds the logs of `ENVIRONMENTS` as Parquet files (columns: episode, step, observation, action,
reward, terminated, truncated, next_observation). `--peer-python` belongs to an environment with d3rlpy and the same
`gymnasium[mujoco]`. Every finished training is appended to `--state`, so a run that was stopped goes on where it was;
`--table` only writes the table from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.nn.networks import Network
from stitchrl.rollouts import episode_seeds, rollout

ENVIRONMENTS = {
    "halfcheetah_medium_replay": ("HalfCheetah-v5", 8907.0),
    "hopper_medium_replay": ("Hopper-v5", 3600.0),
    "hopper_mixed": ("Hopper-v5", 3600.0),
}
"""Log -> environment and the return that scores 100."""
THREE, TWO = tuple(ENVIRONMENTS), ("halfcheetah_medium_replay", "hopper_medium_replay")
ALGORITHMS: dict[str, tuple[st.Algorithm, int, tuple[str, ...], int]] = {
    "BC": (st.BC(), 20_000, THREE, 4),
    "IQL": (st.IQL(), 20_000, THREE, 4),
    "TD3BC": (st.TD3BC(), 20_000, THREE, 4),
    "AWAC": (st.AWAC(hidden_sizes=(256, 256)), 20_000, THREE, 4),
    "ReBRAC": (st.ReBRAC(network=Network((256, 256))), 20_000, THREE, 4),
    "CQL": (st.CQL(), 5_000, TWO, 3),
    "BCQ": (st.BCQ(acting_candidates=10), 5_000, TWO, 3),
    "BEAR": (st.BEAR(warm_start_updates=0), 5_000, TWO, 3),
}
"""Name -> settings, updates, logs, and seeds of the peer. Settings are the defaults but for what the peer cannot have: its
networks have one width and no layer normalisation, BCQ acts by as many candidates as it learns from, and BEAR, in so few
updates, has no warm start."""
RANDOM_EPISODES, PLAY_SEED = 100, 10_000
WORKER = Path(__file__).resolve().parent / "d3rlpy_worker.py"
NOTES = """
Every cell is the mean normalised return of the policy's mode (of drawn candidates in BCQ and BEAR) over
{episodes} episodes a training seed; {seeds} seeds of ours, 4 of the peer's, 3 where an update
is dear. 0 is the uniform random policy, 100 is 8,907 in HalfCheetah-v5 and 3,600 in Hopper-v5.
These are v5 physics and logs made for this project: no score published for D4RL applies.

Random policy, mean return of {random_episodes} episodes: {random}.

Same on both sides: transitions, batch 256, two hidden layers of 256, Adam, gamma 0.99, targets moved by 0.005,
standardised observations, raw rewards, updates, and the reset seeds of the episodes. IQL: expectile 0.7, inverse
temperature 3, 3e-4, no decay. TD3+BC: weight 2.5, 3e-4. BC: 3e-4. AWAC: 3e-4. ReBRAC: both weights 0.01, 1e-3, no layer
normalisation. CQL: weight 5, actor 1e-4, critics 3e-4, 10 samples from each of three distributions, no Lagrange term. BCQ: 10
candidates in targets and in acting, 3e-4. BEAR: 1e-3, 10 candidates, 5 actions in the discrepancy, no warm start.

Not the same: first weights (here as each paper's official code: orthogonal for IQL, PyTorch's uniform for TD3+BC; BC and
CQL orthogonal; PyTorch's uniform for all there); BC is a Gaussian likelihood here and a
deterministic network with squared error there (the modes are compared); CQL's target takes a sampled action here, as
its official code, and the mean action there; in BEAR what each side has made of the paper's text. AWAC is as shipped here,
with an inverse temperature of 3 and weights capped at 100; there rows weigh by a softmax over the batch with lambda 1.

Few updates, few seeds: a check that both learn alike, not what either can reach. "2 SE, seeds" is two standard errors
of the difference from the spread of the seeds' means. "2 SE, seeds and
episodes" adds in quadrature the error of finitely many episodes with the policies held fixed. Verdict, by the first:
"at or above" where the difference is not negative, "within" where it is by less than 2 SE, else "below".
"""
PRECISION_NOTES = """
## bfloat16 beside float32

stitchrl alone, with `precision="bfloat16"` and without, from the same first weights on the same batches. A rounding
soon makes two trainings as different as two seeds, so seeds are compared as groups, not one by one.
"""


class UniformPolicy(eqx.Module):
    """Every action in [-1, 1] alike."""

    action_size: int

    def sample(self, obs: Any, *, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (obs.shape[0], self.action_size), minval=-1.0, maxval=1.0)


class State:
    """Finished pieces of work, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.records: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, **record: Any) -> None:
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def find(self, **key: Any) -> dict[str, Any] | None:
        return next((r for r in self.records if all(r.get(k) == v for k, v in key.items())), None)


def export(log: st.Dataset, path: Path) -> None:
    """The log as the peer's worker reads it."""
    np.savez(
        path,
        observations=log.observation,
        next_observations=log.next_observation,
        actions=log.action,
        rewards=log.reward,
        terminated=log.terminated,
        truncated=log.truncated,
    )


def train_ours(
    name: str, log: st.Dataset, environment: str, *, precision: str, updates: int, seeds: list[int], episodes: int
) -> Iterator[dict[str, Any]]:
    """All seeds in one program; then one result a seed."""
    start = time.perf_counter()
    algorithm = dataclasses.replace(ALGORITHMS[name][0], precision=precision)
    run = st.fit(algorithm, log, updates=updates, seeds=seeds, progress=False)
    seconds = time.perf_counter() - start
    for seed, policy in zip(seeds, run.policies, strict=True):
        # The peer's BCQ and BEAR draw their candidates, and so do ours.
        found = rollout(
            policy,
            environment,
            episodes=episodes,
            seed=PLAY_SEED + seed,
            num_envs=episodes,
            mode=algorithm.acts != "sample",
        )
        yield {"seed": seed, "returns": found.returns.tolist(), "seconds": seconds, "seeds_together": len(seeds)}


def train_peer(python: Path, job: dict[str, Any]) -> dict[str, Any]:
    """One training of the peer, in its own process."""
    done = subprocess.run(
        [str(python), str(WORKER)], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"The peer's worker failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def work(args: argparse.Namespace, state: State) -> None:
    """Everything that `state` does not hold yet."""
    for dataset in ENVIRONMENTS:
        environment = ENVIRONMENTS[dataset][0]
        if not state.find(side="random", dataset=dataset):
            size = 6 if environment.startswith("HalfCheetah") else 3
            found = rollout(UniformPolicy(size), environment, episodes=RANDOM_EPISODES, seed=0, mode=False)
            state.add(side="random", dataset=dataset, returns=found.returns.tolist())
    logs: dict[str, st.Dataset] = {}
    for name, (_, full, datasets, peers) in ALGORITHMS.items():
        for dataset in datasets:
            if args.jobs and not {name, f"{name}/{dataset}"} & set(args.jobs):
                continue
            environment, updates = ENVIRONMENTS[dataset][0], args.updates or full
            key = {"algorithm": name, "dataset": dataset, "updates": updates, "episodes": args.episodes}
            asked = {
                "ours": sorted({*range(args.seeds), *args.precision_seeds}),
                "d3rlpy": list(range(args.peer_seeds or peers)),
            }
            asked["bfloat16"] = args.precision_seeds
            missing = {
                side: [s for s in seeds if not state.find(side=side, seed=s, **key)] for side, seeds in asked.items()
            }
            if not any(missing.values()):
                continue
            if dataset not in logs:
                logs[dataset] = st.read(args.data / f"{dataset}.parquet")
            for side, precision in (("ours", "float32"), ("bfloat16", "bfloat16")):
                if not missing[side]:
                    continue
                for result in train_ours(
                    name, logs[dataset], environment,
                    precision=precision, updates=updates, seeds=missing[side], episodes=args.episodes,
                ):  # fmt: skip
                    state.add(side=side, **key, **result)
                    report(state.records[-1])
            for seed in missing["d3rlpy"]:
                with tempfile.TemporaryDirectory() as folder:
                    export(logs[dataset], Path(folder) / "log.npz")
                    job = {
                        "mode": "score",
                        "algorithm": name,
                        "npz": str(Path(folder) / "log.npz"),
                        "updates": updates,
                        "seed": seed,
                        "environment": environment,
                        "episode_seeds": episode_seeds(PLAY_SEED + seed, args.episodes),
                    }
                    state.add(side="d3rlpy", **key, seed=seed, **train_peer(args.peer_python, job))
                report(state.records[-1])


def finish(
    args: argparse.Namespace,
    command: str,
    work: Callable[[argparse.Namespace, State], None],
    table: Callable[[argparse.Namespace, State], list[str]],
) -> None:
    """Everything that the state does not hold yet, unless only the table is asked for; then the page from the state."""
    state = State(args.state)
    if not args.table:
        if not state.find(side="about"):
            state.add(side="about", text=describe(command))
        work(args, state)
    lines = table(args, state)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def report(record: dict[str, Any]) -> None:
    """One line on what was just finished."""
    names = ("side", "algorithm", "dataset", "seed")
    mean = np.mean(record["returns"])
    print(*(record[n] for n in names), f"mean return {mean:.1f}, {record['seconds']:.0f} s", flush=True)


def table(args: argparse.Namespace, state: State) -> list[str]:
    """The results as Markdown; a pair with a side missing is left out."""
    random = {d: state.find(side="random", dataset=d) for d in ENVIRONMENTS}
    floor = {d: np.mean(r["returns"]) for d, r in random.items() if r}
    error = {d: np.std(r["returns"], ddof=1) / np.sqrt(len(r["returns"])) for d, r in random.items() if r}
    rows = [
        "| dataset | algorithm | updates | ours: mean (a seed) | d3rlpy: mean (a seed) | difference | 2 SE, seeds "
        "| 2 SE, seeds and episodes | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    versions: dict[str, str] = {}
    missing: list[str] = []
    differences: dict[str, list[tuple[float, float]]] = {}
    for name, (_, full, datasets, peers) in ALGORITHMS.items():
        for dataset in datasets:
            key = {"algorithm": name, "dataset": dataset, "updates": args.updates or full, "episodes": args.episodes}
            of_peer = peers
            while state.find(side="d3rlpy", seed=of_peer, **key):  # more seeds than usual
                of_peer += 1
            asked = {"ours": args.seeds, "d3rlpy": of_peer}
            found = {side: [state.find(side=side, seed=s, **key) for s in range(n)] for side, n in asked.items()}
            if None in found["ours"] or None in found["d3rlpy"]:
                missing.append(f"{name} on {dataset}")
                continue
            versions = found["d3rlpy"][0]["versions"]
            scores = {side: normalised(records, dataset, floor[dataset]) for side, records in found.items()}
            ours, peer = (scores[side].mean(axis=1) for side in ("ours", "d3rlpy"))
            difference = ours.mean() - peer.mean()
            seeds_variance = sum(np.var(x, ddof=1) / len(x) for x in (ours, peer)) if len(ours) > 1 else np.nan
            episodes_variance = sum(
                np.var(x, axis=1, ddof=1).mean() / x.size if x.shape[1] > 1 else np.nan for x in scores.values()
            )
            differences.setdefault(name, []).append((difference, seeds_variance))
            bound = 2 * np.sqrt(seeds_variance)
            verdict = "at or above" if difference >= 0 else "within" if difference >= -bound else "below"
            rows.append(
                f"| {dataset} | {name} | {key['updates']:,} | {_seeds(ours)} | {_seeds(peer)} | {difference:+.1f} "
                f"| {bound:.1f} | {2 * np.sqrt(seeds_variance + episodes_variance):.1f} | {verdict} |"
            )
    if differences:
        rows += [
            "",
            "| algorithm | logs | mean difference | SE | at least 0 within one SE | no log below -2 SE |",
            "|---|---|---|---|---|---|",
        ]
    for name, cells in differences.items():
        mean, of_mean = np.mean([d for d, _ in cells]), np.sqrt(sum(v for _, v in cells)) / len(cells)
        worst = all(d >= -2 * np.sqrt(v) for d, v in cells)
        answers = ["yes" if fine else "NO" for fine in (mean >= -of_mean, worst)]
        rows.append(f"| {name} | {len(cells)} | {mean:+.1f} | {of_mean:.1f} | {' | '.join(answers)} |")
    if missing:
        rows += ["", f"Not run yet: {', '.join(missing)}."]
    begun = state.find(side="about")
    peer_versions = ", ".join(f"{package} {number}" for package, number in versions.items())
    shown = ", ".join(dict.fromkeys(f"{floor[d]:,.0f} ± {error[d]:,.0f} in {ENVIRONMENTS[d][0]}" for d in floor))
    notes = NOTES.format(episodes=args.episodes, seeds=args.seeds, random_episodes=RANDOM_EPISODES, random=shown)
    about = begun["text"] if begun else describe("python benchmarks/scores.py")
    peer = f"- peer: {peer_versions or 'not run yet'}"
    return ["# Scores beside d3rlpy's\n", about, peer, notes, *rows, *precision_table(args, state, floor)]


def precision_table(args: argparse.Namespace, state: State, floor: dict[str, Any]) -> list[str]:
    """The second table: our two precisions."""
    rows = [
        "| dataset | algorithm | updates | float32: mean (a seed) | bfloat16: mean (a seed) | difference | 2 SE, seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (_, full, datasets, _) in ALGORITHMS.items():
        for dataset in datasets:
            key = {"algorithm": name, "dataset": dataset, "updates": args.updates or full, "episodes": args.episodes}
            pairs = [[state.find(side=side, seed=s, **key) for side in ("ours", "bfloat16")] for s in range(100)]
            found = [pair for pair in pairs if None not in pair]
            if len(found) < 2:
                continue
            single, half = (
                normalised(list(records), dataset, floor[dataset]).mean(axis=1) for records in zip(*found, strict=True)
            )
            error = np.sqrt(sum(np.var(x, ddof=1) / len(x) for x in (single, half)))
            rows.append(
                f"| {dataset} | {name} | {key['updates']:,} | {_seeds(single)} | {_seeds(half)} "
                f"| {half.mean() - single.mean():+.1f} | {2 * error:.1f} |"
            )
    return [PRECISION_NOTES, *rows] if len(rows) > 2 else []


def normalised(records: list[Any], dataset: str, floor: float) -> np.ndarray:
    """(seeds, episodes) scores: 0 is the random policy's mean, 100 the dataset's top."""
    returns = np.array([record["returns"] for record in records])
    return 100 * (returns - floor) / (ENVIRONMENTS[dataset][1] - floor)


def _seeds(means: np.ndarray) -> str:
    return f"{means.mean():.1f} ({', '.join(f'{m:.1f}' for m in means)})"


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the two logs")
    parser.add_argument("--peer-python", type=Path, default=here.parent / ".bench" / "bin" / "python")
    parser.add_argument("--jobs", nargs="*", default=[], metavar="JOB", help="IQL or IQL/hopper_mixed; all by default")
    parser.add_argument("--seeds", type=int, default=8, help="of ours; the peer's are 4, or 3 where an update is dear")
    parser.add_argument("--peer-seeds", type=int, help="of the peer; all there are enter the table")
    parser.add_argument("--precision-seeds", nargs="*", type=int, default=[], help="of the second table")
    parser.add_argument("--updates", type=int, help="instead of each algorithm's own number (for a trial)")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "stitchrl_scores.jsonl")
    parser.add_argument("--table", action="store_true", help="train nothing; write the table from the state file")
    parser.add_argument("--out", type=Path, default=here / "results" / "scores.md")
    args = parser.parse_args()
    if args.data is None and not args.table:
        sys.exit("Name the folder of the logs: --data FOLDER")
    finish(args, "python benchmarks/scores.py --data FOLDER", work, table)


if __name__ == "__main__":
    main()
