"""From images to scores: logs collected in a game of MinAtar, learned from by stitchrl and d3rlpy, and played.

    cd benchmarks && python pixels.py --peer-python ../.bench/bin/python

Both environments need MinAtar: `pip install --no-deps minatar` (what else it asks for only draws). The logs are made by
`st.collect` and kept in `--data`; every finished training is appended to `--state`, so a run that was stopped goes on where it
was; `--table` only writes the table from it. For a trial:

    python pixels.py --steps 4000 --updates 50 --seeds 1 --episodes 3 --logs mixed --state trial.jsonl --out trial.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl as st
from games import GAMES
from scores import PLAY_SEED, State, export, finish, report, train_peer
from stitchrl.nn.networks import Network
from stitchrl.rollouts import episode_seeds, rollout

NETWORK, BATCH, RANDOM_EPISODES = Network((128,), channels=(16,)), 128, 200
ALGORITHMS: dict[str, tuple[st.Algorithm, str | None]] = {
    "BC": (st.BC(network=NETWORK), "BC discrete"),
    "CQL": (st.CQL(network=NETWORK, num_critics=1, cql_weight=2.0), "CQL discrete"),
    "BCQ": (st.BCQ(network=NETWORK), "BCQ discrete"),
    "IQL": (st.IQL(network=NETWORK), None),
}
"""Name -> settings here, and what the peer's worker calls it; None where d3rlpy has none for discrete actions."""
LOGS = ("mixed", "medium-replay")
NOTES = """
Mean return of the policy's mode over {episodes} episodes a training seed, the same reset seeds on both sides, after {updates:,}
updates with batches of {batch}. The game is {game} of MinAtar: images of 10 x 10 truth values, and in place of an action the one
before it is taken with probability 0.1; an episode is cut after 1,000 steps. The logs are `st.collect`'s, by a DQN of {steps:,}
steps that takes a uniform action in a tenth of the steps: *mixed* has {log_episodes:,} episodes, half of a medium policy and half
of the last one; *medium-replay* is all that the DQN did until it was medium, at first with more uniform actions. Uniform actions
alone return {random}.

Same on both sides: transitions, bytes divided by 255, updates, batch, one convolution of 16 filters (3 x 3, stride 2) that keeps
the border (the peer's images are padded, since its convolutions would not see the last row and column, where the paddle is), one
hidden layer of 128, Adam at 3e-4, gamma 0.99, raw rewards. CQL: one critic; weight 2 beside a squared error here, 1 beside half
of it there, which is the same. BCQ: threshold 0.3, 0.01 of the squared logits, networks of their own for behaviour and critic.

Not the same: targets move by 0.005 every update here and are copied every 200 updates there; first weights are orthogonal here,
PyTorch's there; CQL's target is the slow copy's maximum here and double Q-learning's there, and its error counts squared here and
as a Huber loss there. d3rlpy has no IQL for discrete actions.

"2 SE" is two standard errors of the difference from the spread of the seeds' means. Verdict: "at or above" where the difference
is not negative, "within" where it is by less than 2 SE, else "below".
"""


def environment(args: argparse.Namespace) -> str:
    """The id of the game, by which both sides make it."""
    return f"games:Pixels/{args.game}-v0"


def collected(args: argparse.Namespace, recipe: str) -> st.Dataset:
    """The log of a recipe, from its folder or from the environment."""
    path = args.data / f"{args.game}_{recipe}_{args.steps}"
    if not path.exists():
        log = st.collect(environment(args), recipe=recipe, episodes=args.log_episodes, steps=args.steps, seed=0)
        args.data.mkdir(parents=True, exist_ok=True)
        st.convert(log, path)
    return st.read(path)


def returns_of(log: st.Dataset) -> dict[str, float]:
    """Source -> mean return of its episodes."""
    returns = np.add.reduceat(log.reward.astype(np.float64), log.episode_start[:-1])
    assert log.source is not None
    source = np.asarray(log.source)[log.episode_start[:-1]]
    return {str(name): float(returns[source == name].mean()) for name in np.unique(source)}


def train_ours(args: argparse.Namespace, name: str, log: st.Dataset, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """All seeds in one program; then one result a seed."""
    start = time.perf_counter()
    run = st.fit(ALGORITHMS[name][0], log, updates=args.updates, seeds=seeds, batch_size=BATCH, progress=False)
    seconds = time.perf_counter() - start
    for seed, policy in zip(seeds, run.policies, strict=True):
        found = rollout(policy, environment(args), episodes=args.episodes, seed=PLAY_SEED + seed)
        yield {"seed": seed, "returns": found.returns.tolist(), "seconds": seconds, "seeds_together": len(seeds)}


def train_theirs(args: argparse.Namespace, name: str, log: st.Dataset, seed: int) -> dict[str, Any]:
    """One training of the peer, in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        export(log, Path(folder) / "log.npz")
        job = {
            "mode": "score",
            "algorithm": ALGORITHMS[name][1],
            "npz": str(Path(folder) / "log.npz"),
            "updates": args.updates,
            "batch": BATCH,
            "hidden": list(NETWORK.hidden_sizes),
            "filters": [[filters, 3, 2] for filters in NETWORK.channels],
            "seed": seed,
            "environment": environment(args),
            "episode_seeds": episode_seeds(PLAY_SEED + seed, args.episodes),
        }
        return {"seed": seed} | train_peer(args.peer_python, job)


def key_of(args: argparse.Namespace, name: str, recipe: str) -> dict[str, Any]:
    """What a result of the state file must agree in."""
    return {"algorithm": name, "dataset": recipe} | settings_of(args)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("game", "steps", "log_episodes", "updates", "episodes")}


def work(args: argparse.Namespace, state: State) -> None:
    """Everything that `state` does not hold yet."""
    if not state.find(side="random", game=args.game):
        log = st.collect(environment(args), recipe="random", episodes=RANDOM_EPISODES, seed=0, progress=False)
        state.add(side="random", game=args.game, mean=returns_of(log)["random"])
    for recipe in args.logs:
        log = collected(args, recipe)
        about = {"game": args.game, "steps": args.steps, "log_episodes": args.log_episodes, "dataset": recipe}
        if not state.find(side="log", **about):
            state.add(side="log", **about, transitions=log.num_transitions, returns=returns_of(log))
        for name, (_, peer) in ALGORITHMS.items():
            key = key_of(args, name, recipe)
            wanted = {
                side: [seed for seed in range(args.seeds) if not state.find(side=side, seed=seed, **key)]
                for side in ("ours", "d3rlpy")
            }
            for result in train_ours(args, name, log, wanted["ours"]) if wanted["ours"] else ():
                state.add(side="ours", **key, **result)
                report(state.records[-1])
            for seed in wanted["d3rlpy"] if peer else ():
                state.add(side="d3rlpy", **key, **train_theirs(args, name, log, seed))
                report(state.records[-1])


def table(args: argparse.Namespace, state: State) -> list[str]:
    """The results as Markdown."""
    rows = [
        "| log | algorithm | ours: mean (a seed) | d3rlpy: mean (a seed) | difference | 2 SE | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    versions, missing, made = "not run yet", list[str](), list[str]()
    for recipe in args.logs:
        about = {"game": args.game, "steps": args.steps, "log_episodes": args.log_episodes, "dataset": recipe}
        if log := state.find(side="log", **about):
            returns = ", ".join(f"{source} {mean:.2f}" for source, mean in log["returns"].items())
            made.append(f"- {recipe}: {log['transitions']:,} transitions, mean return of its episodes: {returns}")
        for name, (_, peer) in ALGORITHMS.items():
            found = {
                side: [state.find(side=side, seed=seed, **key_of(args, name, recipe)) for seed in range(args.seeds)]
                for side in (("ours", "d3rlpy") if peer else ("ours",))
            }
            if any(None in records for records in found.values()):
                missing.append(f"{name} on {recipe}")
                continue
            means = {side: np.array([np.mean(r["returns"]) for r in records]) for side, records in found.items()}
            ours = _seeds(means["ours"])
            if not peer:
                rows.append(f"| {recipe} | {name} | {ours} | - | - | - | - |")
                continue
            versions = ", ".join(f"{package} {number}" for package, number in found["d3rlpy"][0]["versions"].items())
            difference = means["ours"].mean() - means["d3rlpy"].mean()
            bound = 2 * np.sqrt(sum(np.var(m, ddof=1) / len(m) for m in means.values())) if args.seeds > 1 else np.nan
            verdict = "at or above" if difference >= 0 else "within" if difference >= -bound else "below"
            rows.append(
                f"| {recipe} | {name} | {ours} | {_seeds(means['d3rlpy'])} | {difference:+.2f} | {bound:.2f} | {verdict} |"
            )
    if missing:
        rows += ["", f"Not run yet: {', '.join(missing)}."]
    random, begun = state.find(side="random", game=args.game), state.find(side="about")
    notes = NOTES.format(
        batch=BATCH, random=f"{random['mean']:.2f}" if random else "(not run yet)", **settings_of(args)
    )
    return ["# From images to scores\n", begun["text"] if begun else "", f"- peer: {versions}", *made, notes, *rows]


def _seeds(means: Any) -> str:
    return f"{means.mean():.2f} ({', '.join(f'{mean:.2f}' for mean in means)})"


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), default="Breakout")
    parser.add_argument("--logs", nargs="*", choices=LOGS, default=list(LOGS))
    parser.add_argument("--steps", type=int, default=100_000, help="of the game, on which the DQN is trained")
    parser.add_argument("--log-episodes", type=int, default=1_000)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=100, help="played with each policy")
    parser.add_argument("--peer-python", type=Path, default=here.parent / ".bench" / "bin" / "python")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "stitchrl_pixels")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "stitchrl_pixels.jsonl")
    parser.add_argument("--table", action="store_true", help="train nothing; write the table from the state file")
    parser.add_argument("--out", type=Path, default=here / "results" / "pixels.md")
    args = parser.parse_args()
    finish(args, f"python benchmarks/pixels.py {' '.join(sys.argv[1:])}".strip(), work, table)


if __name__ == "__main__":
    main()
