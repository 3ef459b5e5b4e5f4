"""Why do IQL's scores differ from a peer's? One change at a time, on the same logs, played in the same environments.

    cd benchmarks && python iql_changes.py --data FOLDER --peer-python ../.bench/bin/python

FOLDER holds the logs named in `ENVIRONMENTS` as Parquet files. Every row of the table is IQL with one thing exchanged,
trained on `--seeds` (one program), and played by its mode; the last rows are d3rlpy's IQL on the same transitions, and ours
with everything exchanged at once for which d3rlpy differs. Every finished training is appended to `--state`, so a run that was
stopped goes on where it was; `--table` only writes the table from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stitchrl as st
from environment import describe
from scores import PLAY_SEED, RANDOM_EPISODES, State, UniformPolicy, export, train_peer
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.heads import create_actor, create_critics
from stitchrl.algorithms.iql import IQLState
from stitchrl.algorithms.losses import MAX_WEIGHT, expectile_loss, td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.nn.continuous_policy import GaussianPolicy
from stitchrl.nn.distributions import Normal
from stitchrl.nn.networks import Start, create_network
from stitchrl.rollouts import episode_seeds, rollout

ENVIRONMENTS = {
    "hopper_mixed": ("Hopper-v5", 3600.0),
    "hopper_medium_replay": ("Hopper-v5", 3600.0),
    "halfcheetah_medium_replay": ("HalfCheetah-v5", 8907.0),
}
"""Log -> environment and the return that scores 100."""
PEER = "d3rlpy"
NOTES = """
Mean normalised return of the policy's mode over {episodes} episodes a training seed, after {updates:,} updates: 0 is the uniform
random policy, 100 is 3,600 in Hopper-v5 and 8,907 in HalfCheetah-v5. *SE* is the standard error of the mean over training seeds.
Every row but the first and the last two changes one thing of IQL as it is shipped.

- *uniform first weights*: PyTorch's, in all three networks, in place of orthogonal ones with gain sqrt 2.
- *std starts at .22*: the standard deviation starts at exp(-1.5), as d3rlpy's does, in place of 1.
- *std through a sigmoid*: its logarithm is -5 + 7 sigmoid(parameter), as in d3rlpy, in place of a clipped parameter.
- *mean without tanh*: the mean of the normal is the output of the network; the mode is clipped when played.
- *observations as they are*: not standardised.
- *V before its step*: advantage and TD target take V before its update, as d3rlpy (the target) and CORL (both) do.
- *targets moved by .01*: in place of .005.
- *weights of mean 1*: advantage weights are divided by their mean in the batch.
- *as d3rlpy's*: uniform first weights, the sigmoid, and the TD target from V before its step, together.
- *sampled*: the policies of the first row, played by drawing actions.
"""


class _Sigmoid(GaussianPolicy):
    """The log standard deviation is -5 + 7 sigmoid(parameter)."""

    def __call__(self, obs: Any, *, action_mask: Any = None, key: Any = None) -> Normal:
        mean = jnp.tanh(self.network(obs, key=key))
        return Normal(mean, jnp.broadcast_to(-5.0 + 7.0 * jax.nn.sigmoid(self.log_std), mean.shape))


class _NoTanh(GaussianPolicy):
    """The mean is what the network puts out."""

    def __call__(self, obs: Any, *, action_mask: Any = None, key: Any = None) -> Normal:
        mean = self.network(obs, key=key)
        return Normal(mean, jnp.broadcast_to(jnp.clip(self.log_std, -5.0, 2.0), mean.shape))


@dataclasses.dataclass(frozen=True)
class ChangedIQL(st.IQL):
    """IQL with one thing exchanged."""

    start: Start = "orthogonal"
    actor: str = "clipped"
    first_log_std: float = 0.0
    adv_before: bool = False
    target_before: bool = False
    mean_weight: bool = False

    def init(self, key: Any, spec: Spec, given: Any) -> IQLState:
        v_key, a_key, q_key = jax.random.split(key, 3)
        start: dict[str, Any] = {"final_gain": 2.0**0.5, "start": self.start}
        value = create_network(spec.observation.shape, self.network, 1, key=v_key, **start)
        body = create_actor(spec, self.network, key=a_key, **start).network
        kind = {"clipped": GaussianPolicy, "sigmoid": _Sigmoid, "no tanh": _NoTanh}[self.actor]
        actor = kind(body, jnp.full(spec.action_size, self.first_log_std, jnp.float32))
        critics = create_critics(spec, self.num_critics, self.network, key=q_key, **start)
        trained = (Trainable.create(part, self._optimizer) for part in (value, actor, critics))
        return IQLState(*trained, jax.tree.map(jnp.copy, critics))

    def update(self, state: IQLState, batch: Any, given: Any, key: Any, step: Any) -> tuple[IQLState, Any]:
        obs, action, td_weight = batch["obs"], batch["action"], batch["td_weight"]
        q_data = jnp.min(state.target_critics(obs, action), axis=0)

        def value_loss(value: Any) -> Any:
            return jnp.mean(td_weight * expectile_loss(q_data - value(obs)[:, 0], self.expectile))

        loss_v, gradients = jax.value_and_grad(value_loss)(state.value.model)
        value = state.value.step(self._optimizer, gradients)
        adv_from = state.value if self.adv_before else value
        target_from = state.value if self.target_before else value
        adv = q_data - adv_from.model(obs)[:, 0]
        weight = jnp.minimum(jnp.exp(self.inverse_temperature * adv), MAX_WEIGHT)
        weight = jnp.where(td_weight > 0, weight / jnp.mean(weight) if self.mean_weight else weight, 1.0)

        def actor_loss(actor: Any) -> Any:
            return -jnp.mean(weight * actor(obs).log_prob(action))

        loss_pi, gradients = jax.value_and_grad(actor_loss)(state.actor.model)
        actor = state.actor.step(self._actor_optimizer, gradients)
        reward, discount = self.td_return(batch)
        td_target = reward + discount * target_from.model(batch["next_obs"])[:, 0]

        def critic_loss(critics: Any) -> Any:
            return td_loss(critics(obs, action), td_target, td_weight)

        loss_q, gradients = jax.value_and_grad(critic_loss)(state.critics.model)
        critics = state.critics.step(self._optimizer, gradients)
        target_critics = polyak(state.target_critics, critics.model, self.target_rate)
        metrics = {"loss/value": loss_v, "loss/actor": loss_pi, "loss/critic": loss_q}
        return IQLState(value, actor, critics, target_critics), metrics


BASE, SAMPLED = "as shipped", "as shipped, sampled"
PEERS = {"start": "uniform", "actor": "sigmoid", "target_before": True}
CHANGES: dict[str, tuple[st.Algorithm, dict[str, Any]]] = {
    BASE: (st.IQL(), {}),
    "as d3rlpy's": (ChangedIQL(**PEERS), {}),
    "uniform first weights": (ChangedIQL(start="uniform"), {}),
    "V before its step": (ChangedIQL(adv_before=True, target_before=True), {}),
    "std through a sigmoid": (ChangedIQL(actor="sigmoid"), {}),
    "std starts at .22": (ChangedIQL(first_log_std=-1.5), {}),
    "mean without tanh": (ChangedIQL(actor="no tanh"), {}),
    "observations as they are": (ChangedIQL(), {"standardize": False}),
    "targets moved by .01": (ChangedIQL(target_rate=0.01), {}),
    "weights of mean 1": (ChangedIQL(mean_weight=True), {}),
    "nothing changed (a check of this program)": (ChangedIQL(), {}),
}
"""Name -> the algorithm, and options of `fit`."""


def played(policy: Any, environment: str, seed: int, episodes: int, *, mode: bool = True) -> list[float]:
    found = rollout(policy, environment, episodes=episodes, seed=PLAY_SEED + seed, num_envs=episodes, mode=mode)
    return found.returns.tolist()


def ours(args: argparse.Namespace, state: State, log: st.Dataset, dataset: str, change: str) -> None:
    """All seeds that are missing, in one program."""
    key = {"dataset": dataset, "change": change, "updates": args.updates}
    seeds = [seed for seed in args.seeds if not state.find(seed=seed, **key)]
    if not seeds:
        return
    algorithm, options = CHANGES[change]
    run = st.fit(algorithm, log, updates=args.updates, seeds=seeds, progress=False, **options)
    for seed, policy in zip(seeds, run.policies, strict=True):
        environment = ENVIRONMENTS[dataset][0]
        state.add(**key, seed=seed, returns=played(policy, environment, seed, args.episodes))
        if change == BASE:
            drawn = played(policy, environment, seed, args.episodes, mode=False)
            state.add(**key | {"change": SAMPLED}, seed=seed, returns=drawn)
    print(dataset, change, flush=True)


def peers(args: argparse.Namespace, state: State, log: st.Dataset, dataset: str) -> None:
    """d3rlpy's IQL, a seed after the other."""
    key = {"dataset": dataset, "change": PEER, "updates": args.updates}
    for seed in args.seeds:
        if state.find(seed=seed, **key):
            continue
        with tempfile.TemporaryDirectory() as folder:
            export(log, Path(folder) / "log.npz")
            job = {"mode": "score", "algorithm": "IQL", "npz": str(Path(folder) / "log.npz"), "updates": args.updates,
                   "seed": seed, "environment": ENVIRONMENTS[dataset][0],
                   "episode_seeds": episode_seeds(PLAY_SEED + seed, args.episodes)}  # fmt: skip
            state.add(**key, seed=seed, **train_peer(args.peer_python, job))
        print(dataset, PEER, seed, flush=True)


def table(args: argparse.Namespace, state: State) -> list[str]:
    """The table, a block for each log."""
    begun = state.find(about=True)
    lines = [
        "# IQL, one change at a time",
        "",
        begun["text"] if begun else describe("python benchmarks/iql_changes.py"),
    ]
    lines.append(NOTES.format(episodes=args.episodes, updates=args.updates))
    for dataset, (_, top) in ENVIRONMENTS.items():
        random = state.find(random=True, dataset=dataset)
        rows = []
        for change in (*CHANGES, SAMPLED, PEER):
            key = {"dataset": dataset, "change": change, "updates": args.updates}
            found = [r for seed in range(100) if (r := state.find(seed=seed, **key))]
            if not found or random is None:
                continue
            floor = float(np.mean(random["returns"]))
            means = np.array([100 * (np.mean(r["returns"]) - floor) / (top - floor) for r in found])
            error = f"{np.std(means, ddof=1) / len(means) ** 0.5:.1f}" if len(means) > 1 else "-"
            rows.append(f"| {change} | {means.mean():.1f} | {error} | {', '.join(f'{m:.1f}' for m in means)} |")
        if rows:
            lines += [f"## {dataset}", "", "| IQL | mean | SE | each seed |", "|---|---|---|---|", *rows, ""]
    return lines


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the logs")
    parser.add_argument("--peer-python", type=Path, default=here.parent / ".bench" / "bin" / "python")
    parser.add_argument("--logs", nargs="+", choices=ENVIRONMENTS, default=["hopper_mixed", "hopper_medium_replay"])
    parser.add_argument("--changes", nargs="+", choices=[*CHANGES, PEER], default=[*CHANGES, PEER])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "stitchrl_iql_changes.jsonl")
    parser.add_argument("--table", action="store_true", help="train nothing; write the table from the state file")
    parser.add_argument("--out", type=Path, default=here / "results" / "iql_changes.md")
    args = parser.parse_args()
    state = State(args.state)
    if not args.table:
        if args.data is None:
            sys.exit("Name the folder of the logs: --data FOLDER")
        if not state.find(about=True):
            state.add(about=True, text=describe("python benchmarks/iql_changes.py --data FOLDER"))
        for dataset in args.logs:
            log, environment = st.read(args.data / f"{dataset}.parquet"), ENVIRONMENTS[dataset][0]
            if not state.find(random=True, dataset=dataset):
                found = rollout(
                    UniformPolicy(log.action.shape[1]), environment, episodes=RANDOM_EPISODES, seed=0, mode=False
                )
                state.add(random=True, dataset=dataset, returns=found.returns.tolist())
            for change in args.changes:
                if change == PEER:
                    peers(args, state, log, dataset)
                else:
                    ours(args, state, log, dataset, change)
    lines = table(args, state)
    args.out.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
