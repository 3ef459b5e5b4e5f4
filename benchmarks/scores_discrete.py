"""Do the algorithms for discrete actions learn as well as a peer's? stitchrl and d3rlpy on a hospital log and on CartPole's.

    cd benchmarks && python scores_discrete.py --peer-python ../.bench/bin/python

The hospital's policies are judged exactly, CartPole's are played from the same reset seeds on both sides. `--peer-python`
belongs to an environment with d3rlpy and gymnasium. Every finished training is appended to `--state`, so a run that was stopped
goes on where it was; `--table` only writes the table from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from scores import PLAY_SEED, State, export, finish, train_peer
from stitchrl.mdp.icu_sepsis import DEATH, ExactValues, demo_log, icu_sepsis
from stitchrl.rollouts import episode_seeds, rollout

ALGORITHMS: dict[str, tuple[st.Algorithm, str]] = {
    "BC": (st.BC(), "BC discrete"),
    "CQL": (st.CQL(num_critics=1, cql_weight=2.0), "CQL discrete"),
    "BCQ": (st.BCQ(), "BCQ discrete"),
}
"""Name -> settings here, and what the peer's worker calls it."""
HOSPITAL, CARTPOLE, ENVIRONMENT = "hospital", "cartpole", "CartPole-v1"
CARTPOLE_EPISODES = 1_000
EPISODES = 20
NOTES = """
Mean over training seeds of the greedy policy, after {updates:,} updates: exact survival in percent on the hospital log (all
20,000 stays; the clinicians' is {behavior:.2f}), mean return of {episodes} episodes from the same reset seeds on CartPole, whose
log is {cartpole_episodes:,} episodes of uniform actions: what a policy gets beyond them is what its values know. Neither side is
told which treatments a state allows; another one acts there as the mean of those that are allowed, as ICU-Sepsis defines it.

Same on both sides: transitions, batch 256, two hidden layers of 256, Adam at 3e-4, gamma 0.99, standardised observations, raw
rewards. CQL: one critic; weight 2 beside a squared error here, 1 beside half of it there, which is the same. BCQ: threshold 0.3,
0.01 of the squared logits, networks of their own for behaviour and critic.

Not the same: targets move by 0.005 every update here and are copied every 200 updates there; first weights are orthogonal here,
PyTorch's there; CQL's target is the slow copy's maximum here and double Q-learning's there, and its error counts squared here and
as a Huber loss there. Of the other algorithms for discrete actions d3rlpy has only DQN and SAC, which are failures here.

"2 SE" is two standard errors of the difference from the spread of the seeds. Verdict: "at or above" where the difference is not
negative, "within" where it is by less than 2 SE, else "below".
"""


def log_of(name: str, data: Path) -> st.Dataset:
    """The log, without masks and propensities."""
    if name == HOSPITAL:
        log = demo_log(propensities=False)
        columns = {role: column for role, column in log.schema.columns.items() if role != "action_mask"}
        return dataclasses.replace(log, action_mask=None, schema=dataclasses.replace(log.schema, columns=columns))
    path = data / f"{CARTPOLE}_{CARTPOLE_EPISODES}"
    if not path.exists():
        made = st.collect(ENVIRONMENT, recipe="random", episodes=CARTPOLE_EPISODES, seed=0)
        data.mkdir(parents=True, exist_ok=True)
        st.convert(made, path)
    return st.read(path)


def survival(action: np.ndarray) -> float:
    """Exact survival, in percent, of taking these actions in the states of the hospital."""
    table = np.zeros(icu_sepsis().clinicians.shape)
    table[np.arange(DEATH), action] = 1.0
    return 100.0 * icu_sepsis().mdp.policy_value(table)


def states() -> np.ndarray:
    """Observations of all states in which a treatment is chosen."""
    return icu_sepsis().features[:DEATH].astype(np.float32)


def train_ours(name: str, dataset: str, log: st.Dataset, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All seeds in one program; then one result a seed."""
    start = time.perf_counter()
    run = st.fit(ALGORITHMS[name][0], log, updates=args.updates, seeds=args.seeds, progress=False)
    seconds = time.perf_counter() - start
    for seed, policy in enumerate(run.policies):
        if dataset == HOSPITAL:
            score = survival(np.asarray(policy.greedy().mode(states())))
        else:
            found = rollout(policy.greedy(), ENVIRONMENT, episodes=EPISODES, seed=PLAY_SEED + seed, num_envs=EPISODES)
            score = float(found.returns.mean())
        yield {"seed": seed, "score": score, "seconds": seconds, "seeds_together": args.seeds}


def train_theirs(name: str, dataset: str, log: st.Dataset, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One training of the peer, in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        export(log, Path(folder) / "log.npz")
        job: dict[str, Any] = {
            "mode": "score",
            "algorithm": ALGORITHMS[name][1],
            "npz": str(Path(folder) / "log.npz"),
            "updates": args.updates,
            "seed": seed,
        }
        if dataset == HOSPITAL:
            np.save(Path(folder) / "states.npy", states())
            found = train_peer(args.peer_python, job | {"states": str(Path(folder) / "states.npy")})
            score = survival(np.array(found.pop("actions")))
        else:
            played = {"environment": ENVIRONMENT, "episode_seeds": episode_seeds(PLAY_SEED + seed, EPISODES)}
            found = train_peer(args.peer_python, job | played)
            score = float(np.mean(found.pop("returns")))
        return {"seed": seed, "score": score} | found


def work(args: argparse.Namespace, state: State) -> None:
    """Everything that `state` does not hold yet."""
    for dataset in args.logs:
        log = log_of(dataset, args.data)
        if not state.find(side="log", dataset=dataset):
            mean = float(log.episode_returns().mean())
            state.add(side="log", dataset=dataset, transitions=log.num_transitions, mean=mean)
        for name in ALGORITHMS:
            key = {"algorithm": name, "dataset": dataset, "updates": args.updates}
            if not state.find(side="ours", seed=args.seeds - 1, **key):
                for result in train_ours(name, dataset, log, args):
                    state.add(side="ours", **key, **result)
                    print("ours", name, dataset, f"{result['score']:.2f}, {result['seconds']:.0f} s", flush=True)
            for seed in range(args.peer_seeds):
                if not state.find(side="d3rlpy", seed=seed, **key):
                    result = train_theirs(name, dataset, log, seed, args)
                    state.add(side="d3rlpy", **key, **result)
                    print("d3rlpy", name, dataset, f"{result['score']:.2f}, {result['seconds']:.0f} s", flush=True)


def table(args: argparse.Namespace, state: State) -> list[str]:
    """The results as Markdown."""
    rows = [
        "| log | algorithm | ours: mean (a seed) | d3rlpy: mean (a seed) | difference | 2 SE | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    versions, missing = "not run yet", list[str]()
    logs = [state.find(side="log", dataset=dataset) for dataset in args.logs]
    for dataset in args.logs:
        for name in ALGORITHMS:
            key = {"algorithm": name, "dataset": dataset, "updates": args.updates}
            found = {
                side: [state.find(side=side, seed=seed, **key) for seed in range(count)]
                for side, count in (("ours", args.seeds), ("d3rlpy", args.peer_seeds))
            }
            if any(None in records for records in found.values()):
                missing.append(f"{name} on {dataset}")
                continue
            ours, theirs = (np.array([r["score"] for r in found[side]]) for side in ("ours", "d3rlpy"))
            versions = ", ".join(f"{package} {number}" for package, number in found["d3rlpy"][0]["versions"].items())
            difference = ours.mean() - theirs.mean()
            bound = 2 * np.sqrt(sum(np.var(x, ddof=1) / len(x) for x in (ours, theirs)))
            verdict = "at or above" if difference >= 0 else "within" if difference >= -bound else "below"
            rows.append(
                f"| {dataset} | {name} | {_seeds(ours)} | {_seeds(theirs)} | {difference:+.2f} | {bound:.2f} | {verdict} |"
            )
    if missing:
        rows += ["", f"Not run yet: {', '.join(missing)}."]
    begun = state.find(side="about")
    notes = NOTES.format(
        updates=args.updates, behavior=100 * ExactValues().behavior(), episodes=EPISODES,
        cartpole_episodes=CARTPOLE_EPISODES,
    )  # fmt: skip
    made = [
        f"- {log['dataset']}: {log['transitions']:,} transitions, mean return {log['mean']:.3g}" for log in logs if log
    ]
    about = begun["text"] if begun else ""
    return ["# Scores beside d3rlpy's, discrete actions\n", about, f"- peer: {versions}", *made, notes, *rows]


def _seeds(scores: np.ndarray) -> str:
    return f"{scores.mean():.2f} ({', '.join(f'{score:.2f}' for score in scores)})"


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", nargs="*", choices=(HOSPITAL, CARTPOLE), default=[HOSPITAL, CARTPOLE])
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=8, help="of ours")
    parser.add_argument("--peer-seeds", type=int, default=4)
    parser.add_argument("--peer-python", type=Path, default=here.parent / ".bench" / "bin" / "python")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "stitchrl_scores_discrete")
    parser.add_argument("--state", type=Path, default=here / "results" / "scores_discrete.jsonl")
    parser.add_argument("--table", action="store_true", help="train nothing; write the table from the state file")
    parser.add_argument("--out", type=Path, default=here / "results" / "scores_discrete.md")
    args = parser.parse_args()
    finish(args, "python benchmarks/scores_discrete.py", work, table)


if __name__ == "__main__":
    main()
