"""Do the algorithms learn as well as a peer's in JAX? stitchrl and Unifloral on the same logs, with learning curves.

    cd benchmarks && python jax_scores.py --data FOLDER --unifloral CHECKOUT --unifloral-python PY [--updates 200000]

FOLDER holds the logs of `LOGS` as Parquet files, CHECKOUT is a checkout of github.com/EmptyJackson/unifloral, whose code is
imported, never copied, and PY is a Python with its packages and `gymnasium[mujoco]`. The seeds of a side train in one program.
Each finished side of an algorithm and a log is kept in `--state`; `--table` only writes the results.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from environment import describe
from scores import PLAY_SEED, State, UniformPolicy, export
from stitchrl.rollouts import episode_seeds, rollout

HERE = Path(__file__).resolve().parent
LOGS = {"halfcheetah_medium": ("HalfCheetah-v5", 6, 8907.0), "hopper_medium_replay": ("Hopper-v5", 3, 3600.0)}
"""Log -> environment, numbers of an action, and the return that scores 100."""
ALGORITHMS: dict[str, tuple[st.Algorithm, dict[str, Any], int, float]] = {
    "IQL": (st.IQL(), {}, 1, 1.0),
    "TD3BC": (st.TD3BC(), {}, 2, 1.0),
    "ReBRAC": (st.ReBRAC(), {"batch_size": 256}, 2, 1.0),
    "CQL": (st.CQL(), {}, 1, 0.25),
}
"""Name -> our settings, theirs, critic updates in one of their steps, and the share of the updates that is made."""
PUBLISHED = {
    "halfcheetah_medium": {"IQL": 48.3, "TD3BC": 48.1, "ReBRAC": 64.0, "CQL": 47.0},
    "hopper_medium_replay": {"IQL": 97.4, "TD3BC": 64.4, "ReBRAC": 95.0, "CQL": 95.1},
}
"""CORL's last scores after a million updates on D4RL's logs of the same names: only their order is shown."""
WEIGHTS = {"halfcheetah_medium": (0.001, 0.01), "hopper_medium_replay": (0.05, 0.5)}
"""ReBRAC's published weights of the two penalties, the actor's first, for D4RL's logs of the same names."""
RANDOM_EPISODES = 100
NOTES = """
Mean normalised return of the policy's mode over {episodes} episodes a seed, {seeds} seeds a side, both with the same reset
seeds. 0 is the uniform random policy, 100 is 8,907 in HalfCheetah-v5 and 3,600 in Hopper-v5.

Same on both sides: transitions, batch 256, critic updates, gamma 0.99, targets moved by 0.005. IQL: expectile 0.7, inverse
temperature 3, 3e-4, two layers of 256. TD3+BC: weight 2.5, 3e-4, two layers of 256, an actor update for every two of the critics.
ReBRAC: its published weights for D4RL's log of the same name, 1e-3, three layers of 256, layer normalisation in the critics.

Not the same: first weights; Adam's epsilon (1e-5 there). In TD3+BC and ReBRAC one batch serves both updates of the critics and
that of the actor there, and each update draws its own here. ReBRAC's observations are standardised here and as they are there;
where an episode was cut, its penalty uses the first action of the next episode there, and leaves the row out here. IQL's step
sizes fall by a cosine over a million updates there, of which these are a part, and stay here. **Their CQL is another algorithm**,
so it gets no verdict: ten critics of three layers, one action of each of three kinds in the penalty, the logarithm of the sum
taken over critics too, weight 10, raw observations, an actor's step of 3e-5. Ours is CQL(H) with two critics, ten actions of each
of three kinds, weight 5. Seconds hold compilation, and here the checkpoints between the points of a curve as well.
"""


def normalised(returns: Any, log: str, floor: float) -> np.ndarray:
    """Scores: 0 is the random policy's mean, 100 the log's top."""
    return 100 * (np.asarray(returns) - floor) / (LOGS[log][2] - floor)


def settings_of(name: str, log: str) -> tuple[st.Algorithm, dict[str, Any]]:
    """Our algorithm and their settings, on a log."""
    algorithm, theirs_, _, _ = ALGORITHMS[name]
    if not isinstance(algorithm, st.ReBRAC):
        return algorithm, theirs_
    actor, critic = WEIGHTS[log]
    weighted = dataclasses.replace(algorithm, actor_bc_weight=actor, critic_bc_weight=critic)
    return weighted, theirs_ | {"actor_bc_coef": actor, "critic_bc_coef": critic}


def ours(
    name: str, dataset: str, log: st.Dataset, points: list[int], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The returns of each seed at each point of the curve."""
    seeds, seconds, algorithm = list(range(args.seeds)), 0.0, settings_of(name, dataset)[0]
    with tempfile.TemporaryDirectory() as folder:
        for point in points:
            began = time.perf_counter()
            run = st.fit(algorithm, log, updates=point, seeds=seeds, out=folder, progress=False)
            seconds += time.perf_counter() - began
            for seed, policy in zip(seeds, run.policies, strict=True):
                found = rollout(
                    policy, LOGS[dataset][0], episodes=args.episodes, seed=PLAY_SEED + seed, num_envs=args.episodes
                )
                yield {"seed": seed, "update": point, "returns": found.returns.tolist(), "seconds": seconds}


def theirs(
    name: str, dataset: str, log: st.Dataset, points: list[int], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The same of the peer, in its own process."""
    critics, settings = ALGORITHMS[name][2], settings_of(name, dataset)[1]
    with tempfile.TemporaryDirectory() as folder:
        export(log, Path(folder) / "log.npz")
        job = {
            "algorithm": name,
            "settings": settings,
            "npz": str(Path(folder) / "log.npz"),
            "steps": [point // critics for point in points],
            "seeds": list(range(args.seeds)),
            "environment": LOGS[dataset][0],
            "episode_seeds": [episode_seeds(PLAY_SEED + seed, args.episodes) for seed in range(args.seeds)],
        }
        done = subprocess.run(
            [str(args.unifloral_python), str(HERE / "unifloral_scores_worker.py"), str(args.unifloral)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"The peer's worker failed:\n{done.stderr[-2000:]}")
    *found, about = [json.loads(line) for line in done.stdout.strip().splitlines()]
    for one in found:
        yield {"update": one.pop("step") * critics} | one | about


def curve(records: list[dict[str, Any]], log: str, floor: float) -> list[np.ndarray]:
    """The score of each seed at each point."""
    points = sorted({one["update"] for one in records})
    return [
        np.array([normalised(one["returns"], log, floor).mean() for one in records if one["update"] == point])
        for point in points
    ]


def table(args: argparse.Namespace, state: State) -> list[str]:
    """The page."""
    lines = ["# Scores beside Unifloral's\n"]
    about, peer = state.find(side="about"), next((one["versions"] for one in state.records if "versions" in one), {})
    lines += [about["text"] if about else describe("python benchmarks/jax_scores.py")]
    lines += [
        f"- peer: Unifloral {about.get('peer', '') if about else ''}, {', '.join(f'{k} {v}' for k, v in peer.items())}"
    ]
    lines += [NOTES.format(episodes=about["episodes"], seeds=about["seeds"]) if about else ""]
    rows = [
        "| log | algorithm | critic updates | ours: mean (a seed) | Unifloral: mean (a seed) | difference | 2 SE, seeds "
        "| verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    curves = [
        "| log | algorithm | side | seconds of training | "
        + " | ".join(f"{k}/{args.points}" for k in range(1, args.points + 1))
        + " |"
    ]
    curves += ["|---" * (4 + args.points) + "|"]
    ranks = []
    for log in LOGS:
        random = state.find(side="random", log=log)
        if random is None:
            continue
        floor, ordered = float(np.mean(random["returns"])), {}
        for name in ALGORITHMS:
            sides = {}
            for side in ("ours", "unifloral"):
                own = [
                    one
                    for one in state.records
                    if (one["side"], one.get("algorithm"), one.get("log")) == (side, name, log)
                ]
                if own:
                    sides[side] = curve(own, log, floor)
                    shown = " | ".join(f"{point.mean():.1f}" for point in sides[side])
                    curves.append(f"| {log} | {name} | {side} | {max(one['seconds'] for one in own):.0f} | {shown} |")
            if len(sides) < 2:
                continue
            updates = max(one["update"] for one in own)
            mine, peers = (sides[side][-1] for side in ("ours", "unifloral"))
            difference = mine.mean() - peers.mean()
            bound = 2 * np.sqrt(sum(np.var(x, ddof=1) / len(x) for x in (mine, peers)))
            verdict = "at or above" if difference >= 0 else "within" if difference >= -bound else "below"
            verdict = "another algorithm" if name == "CQL" else verdict
            if ALGORITHMS[name][3] == 1:
                ordered[name] = (mine.mean(), peers.mean(), PUBLISHED[log][name])
            told = [f"{x.mean():.1f} ({', '.join(f'{m:.1f}' for m in x)})" for x in (mine, peers)]
            rows.append(
                f"| {log} | {name} | {updates:,} | {told[0]} | {told[1]} | {difference:+.1f} | {bound:.1f} | {verdict} |"
            )
        for column, side in enumerate(("ours", "Unifloral", "published")):
            order = sorted(ordered, key=lambda name, column=column: -ordered[name][column])
            ranks.append(f"- {log}, {side}: {' > '.join(order)}")
    order_of = (
        "The order of those that made all updates, best first; as published by CORL after a million updates on D4RL's logs of "
        "the same names, with another physics:"
    )
    return [*lines, *rows, "", order_of, "", *ranks, "", "## Learning curves\n", *curves]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the two logs")
    parser.add_argument("--unifloral", type=Path, help="a checkout")
    parser.add_argument("--unifloral-python", type=Path, help="a Python with its packages")
    parser.add_argument("--updates", type=int, default=200_000, help="of the critics; CQL makes a quarter of them")
    parser.add_argument("--points", type=int, default=5, help="of a learning curve")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS), choices=list(ALGORITHMS))
    parser.add_argument("--logs", nargs="*", default=list(LOGS), choices=list(LOGS))
    parser.add_argument("--sides", nargs="*", default=["ours", "unifloral"], choices=["ours", "unifloral"])
    parser.add_argument("--state", type=Path, default=HERE / "results" / "jax_scores.jsonl")
    parser.add_argument("--table", action="store_true", help="only write the results")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "jax_scores.md")
    args = parser.parse_args()
    state = State(args.state)
    if not args.table:
        if not state.find(side="about"):
            commit = subprocess.run(
                ["git", "-C", str(args.unifloral), "rev-parse", "--short", "HEAD"],
                capture_output=True,
                text=True,
                check=True,
            )
            command = f"python jax_scores.py --updates {args.updates} --data FOLDER --unifloral CHECKOUT --unifloral-python PY"
            state.add(
                side="about",
                text=describe(command),
                peer=commit.stdout.strip(),
                seeds=args.seeds,
                episodes=args.episodes,
            )
        for log in args.logs:
            environment, size, _ = LOGS[log]
            if not state.find(side="random", log=log):
                found = rollout(UniformPolicy(size), environment, episodes=RANDOM_EPISODES, seed=0, mode=False)
                state.add(side="random", log=log, returns=found.returns.tolist())
            read = st.read(args.data / f"{log}.parquet")
            for name in args.algorithms:
                step = round(args.updates * ALGORITHMS[name][3] / args.points)
                points = [step * k for k in range(1, args.points + 1)]
                for side, train in (("ours", ours), ("unifloral", theirs)):
                    if side not in args.sides or state.find(side=side, algorithm=name, log=log):
                        continue
                    for record in list(train(name, log, read, points, args)):
                        state.add(side=side, algorithm=name, log=log, **record)
                    last = state.records[-1]
                    print(
                        side,
                        name,
                        log,
                        f"{last['seconds']:.0f} s",
                        f"mean return {np.mean(last['returns']):.0f}",
                        flush=True,
                    )
    args.out.write_text("\n".join(table(args, state)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
