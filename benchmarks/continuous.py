"""Coverage of intervals over continuous actions: a linear system with exact values, and MuJoCo logs against rollouts.

    cd benchmarks && python continuous.py --worlds linear                    # minutes
    cd benchmarks && python continuous.py --worlds hopper halfcheetah --data FOLDER   # an hour; needs gymnasium[mujoco]

Every log is cut, or ends by itself, and carries the exact density of each action. Networks are fitted on other episodes than
the estimates are made on, `--fits` times anew; each fit serves `--logs` test logs. FOLDER holds hopper_medium.parquet and
halfcheetah_medium.parquet, from which a policy is cloned; its noisy version is rolled out and logs, other noise levels, the
policy without noise and one learned by IQL are judged. What is counted are misses of 95% intervals of the gain, by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import stitchrl as st
from environment import describe
from scores import State
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.nn.smoothed import SmoothedPolicy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import linear_worlds as lw

RESULTS = Path(__file__).resolve().parent / "results" / "continuous.md"
NAMES = ("fqe", "lstdq")
MUJOCO = {"hopper": ("hopper_medium", "Hopper-v5", 400), "halfcheetah": ("halfcheetah_medium", "HalfCheetah-v5", 100)}
"""World -> log it is cloned from, environment, episodes of a log."""
NOISE = 0.3
ROLLOUTS = 200
ENVIRONMENTS = 50


class World(NamedTuple):
    """What is judged, and on what.

    Attributes:
        gamma: discount.
        policies: name -> policy.
        truth: name -> exact gain, and the standard error of it.
        draw: (episodes, seed) -> a log.
        episodes: of a log of estimates; as many for the fits.
    """

    gamma: float
    policies: dict[str, Any]
    truth: dict[str, tuple[float, float]]
    draw: Callable[[int, int], st.Dataset]
    episodes: int


def linear(args: argparse.Namespace) -> World:
    """A linear system: gains are exact."""
    still = np.zeros(2)
    middle = lw.BEHAVIOR + 0.3 * (lw.BETTER - lw.BEHAVIOR)
    found = {
        "same, less noise": (lw.BEHAVIOR, 0.6 * lw.STD),
        "same, more noise": (lw.BEHAVIOR, 1.2 * lw.STD),
        "near": (middle, lw.STD),
        "better": (lw.BETTER, lw.STD),
        "better, no noise": (lw.BETTER, still),
        "same, no noise": (lw.BEHAVIOR, still),
    }
    own = lw.value(lw.BEHAVIOR, lw.STD)
    return World(
        lw.GAMMA,
        {name: lw.policy(*one) for name, one in found.items()},
        {name: (lw.value(*one) - own, 0.0) for name, one in found.items()},
        lambda episodes, seed: lw.log(episodes, 60, seed),
        args.episodes or 300,
    )


def mujoco(name: str, args: argparse.Namespace) -> World:
    """A cloned policy with noise logs; gains are differences of rollouts."""
    source, environment, episodes = MUJOCO[name]
    log = st.read(args.data / f"{source}.parquet")
    small: dict[str, Any] = {"hidden_sizes": (128, 128), "learning_rate": 1e-3}
    cloned = st.fit(st.BC(**small), log, updates=6000, progress=False).policy
    learned = st.fit(st.IQL(expectile=0.8, **small), log, updates=6000, progress=False).policy
    policies: dict[str, Any] = {
        f"clone, noise {s:g}": SmoothedPolicy(cloned, s, -1.0, 1.0) for s in (0.2, 0.25, 0.35, 0.4)
    }
    policies |= {"IQL, noise 0.3": SmoothedPolicy(learned, NOISE, -1.0, 1.0), "clone, no noise": cloned.greedy()}
    behavior = SmoothedPolicy(cloned, NOISE, -1.0, 1.0)
    pool = args.pool or 6 * episodes
    columns = played(behavior, environment, pool, 1, keep=True)[1]
    whole = st.read(columns)
    own = whole.episode_returns(0.99)
    truth = {}
    for label, policy in policies.items():
        returns = played(policy, environment, ROLLOUTS, 7)[0]
        error = np.hypot(returns.std() / np.sqrt(len(returns)), own.std() / np.sqrt(len(own)))
        truth[label] = (float(returns.mean() - own.mean()), float(error))
        print(name, label, f"gain {truth[label][0]:+.2f} (SE {error:.2f}) over {own.mean():.2f}", flush=True)

    def draw(count: int, seed: int) -> st.Dataset:
        # Fits and estimates come from different halves of the pool.
        half = pool // 2
        rng = np.random.default_rng(seed)
        rows = rng.choice(half, count, replace=False) + (half if seed >= 1000 else 0)
        return whole.select_episodes(np.sort(rows))

    return World(0.99, policies, truth, draw, args.episodes or episodes)


def played(
    policy: Any, environment: str, episodes: int, seed: int, *, keep: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Discounted returns of episodes, and with `keep` their columns."""
    import gymnasium as gym
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    sample = jax.jit(lambda p, obs, key: p.sample(obs, key=key))
    density = jax.jit(lambda p, obs, action: p.log_prob(obs, action))
    found: list[float] = []
    kept: list[list[tuple[Any, ...]]] = []
    key = jax.random.key(seed)
    for first in range(0, episodes, ENVIRONMENTS):
        envs = SyncVectorEnv(
            [lambda: gym.make(environment) for _ in range(ENVIRONMENTS)], autoreset_mode=AutoresetMode.DISABLED
        )
        obs, _ = envs.reset(seed=[100_003 * seed + first + k for k in range(ENVIRONMENTS)])
        alive, returns, time = np.ones(ENVIRONMENTS, bool), np.zeros(ENVIRONMENTS), 0
        rows: list[list[tuple[Any, ...]]] = [[] for _ in range(ENVIRONMENTS)]
        while alive.any():
            key, own = jax.random.split(key)
            seen = obs.astype(np.float32)
            action = np.asarray(sample(policy, seen, own))
            log_prob = np.asarray(density(policy, seen, action)) if policy.has_density else np.zeros(ENVIRONMENTS)
            following, reward, terminated, truncated, _ = envs.step(np.clip(action, -1, 1))
            for k in np.flatnonzero(alive):
                returns[k] += 0.99**time * reward[k]
                if keep:
                    row = (seen[k], action[k], reward[k], following[k].astype(np.float32), terminated[k], truncated[k])
                    rows[k].append((*row, log_prob[k]))
            ended = terminated | truncated
            alive &= ~ended
            time += 1
            obs = following
            if ended.any() and alive.any():
                again, _ = envs.reset(options={"reset_mask": ended})
                obs = np.where(ended[:, None], again, following)
        envs.close()
        found += returns.tolist()
        kept += rows
    if not keep:
        return np.array(found), {}
    flat = [(e, *row) for e, rows in enumerate(kept) for row in rows]
    names = ("episode", "observation", "action", "reward", "next_observation", "terminated", "truncated")
    columns = {
        name: np.asarray(column)
        for name, column in zip((*names, "behavior_log_prob"), zip(*flat, strict=True), strict=True)
    }
    columns["reward"] = columns["reward"].astype(np.float32)
    return np.array(found), columns


def measure(name: str, world: World, args: argparse.Namespace, state: State) -> None:
    """Evaluate what the state does not hold yet."""
    estimand = Estimand(world.gamma)
    labels = list(world.policies)
    for fit in range(args.fits):
        # Another processor rounds otherwise, and trains and rolls out other policies: their gains tell the logs apart.
        truth = {label: list(one) for label, one in world.truth.items()}
        key: dict[str, Any] = {
            "world": name, "fit": fit, "episodes": world.episodes, "networks": args.networks, "truth": truth
        }  # fmt: skip
        missing = [number for number in range(args.logs) if not state.find(**key, log=number)]
        if not missing:
            continue
        settings = st.FitSettings(updates=args.updates, seed=10 * fit, networks=args.networks)
        fit_on = world.draw(world.episodes, fit)
        fits = Fits(
            list(world.policies.values()),
            world.draw(world.episodes, 1000),
            fit_on,
            estimand=estimand,
            settings=settings,
        )
        for number in missing:
            log = world.draw(world.episodes, 1000 + 100 * fit + number)
            found = evaluate_fits(fits.on(log), [ESTIMATORS[one] for one in NAMES], resamples=100, confirm=False)
            rows = {
                label: {
                    one: [gain.value, gain.lower, gain.upper, gain.standard_error, gain.model_error, gain.healthy]
                    for one, gain in evaluation.gain.items()
                }
                for label, evaluation in zip(labels, found, strict=True)
            }
            state.add(**key, log=number, gains=rows)
            print(name, fit, number, flush=True)


def table(state: State) -> list[str]:
    """Misses by side of every policy and estimator, of all estimates and of the healthy ones."""
    rows = [
        "| world | episodes | networks | policy | true gain | estimator | logs | mean gain | SE (of it, the model's) "
        "| lower end above | upper end below | healthy | of these: above | below |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], dict[tuple[int, int], dict[str, Any]]] = {}
    pools: dict[str, list[Any]] = {}
    for record in state.records:
        pool = pools.setdefault(record["world"], [])
        if record["truth"] not in pool:
            pool.append(record["truth"])
        group = groups.setdefault(
            (record["world"], pool.index(record["truth"]), record["episodes"], record["networks"]), {}
        )
        group.setdefault((record["fit"], record["log"]), record)  # a log counts once, however often it was measured
    for (world, pool_number, episodes, networks), by_log in groups.items():
        records = list(by_log.values())
        if len(pools[world]) > 1:
            world = f"{world}, pool {pool_number + 1}"
        for label in records[0]["gains"]:
            truth, error = records[0]["truth"][label]
            for name in NAMES:
                found = [record["gains"][label][name] for record in records]
                found = [one for one in found if one[0] is not None]
                if not found:
                    continue
                value, lower, upper, spread = (np.array([one[k] for one in found], float) for k in range(4))
                model = np.array([one[4] or 0.0 for one in found])
                healthy = np.array([one[5] for one in found], bool)
                above, below = lower > truth + 2 * error, upper < truth - 2 * error
                shown = f"{truth:+.3g}" + (f" ± {error:.2g}" if error else "")
                rows.append(
                    f"| {world} | {episodes} | {networks} | {label} | {shown} | {name} | {len(found)} | {value.mean():+.3g} "
                    f"| {np.median(spread):.2g} ({np.median(model):.2g}) | {above.sum()} | {below.sum()} | {healthy.sum()} "
                    f"| {(above & healthy).sum()} | {(below & healthy).sum()} |"
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="+", default=["linear"], choices=["linear", *MUJOCO])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fits", type=int, default=4)
    parser.add_argument("--logs", type=int, default=10, help="test logs of each fit")
    parser.add_argument("--episodes", type=int, help="of a log")
    parser.add_argument("--pool", type=int, help="episodes rolled out of the behaviour")
    parser.add_argument("--updates", type=int, default=st.FitSettings().updates)
    parser.add_argument("--networks", type=int, default=st.FitSettings().networks)
    parser.add_argument("--state", type=Path, default=RESULTS.with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true", help="only write the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    state = State(args.state)
    for name in [] if args.table else args.worlds:
        if name != "linear" and args.data is None:
            parser.error("give --data FOLDER")
        measure(name, linear(args) if name == "linear" else mujoco(name, args), args, state)
    lines = ["# Coverage over continuous actions", "", describe(f"python {' '.join(sys.argv)}"), ""]
    lines += [
        "Misses of nominal 95% intervals of the gain over the behaviour. Where the truth is from rollouts, a miss is one by more "
        "than two standard errors of the truth. Logs of one fit share its networks, and are not independent.",
        "",
        *table(state),
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
