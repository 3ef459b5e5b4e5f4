"""Evaluation against its peers on the same arrays: SCOPE-RL on episodes of equal length, skdr-eval on single decisions.

    python benchmarks/peers_ope.py --peer-python PEERS/bin/python [--out benchmarks/results/peers_ope.md]

PEERS is a virtual environment of its own: `python -m venv PEERS`, `PEERS/bin/pip install -r requirements-peers-ope.txt` (or, for
importance sampling alone, scope-rl and pytorch-revgrad with `--no-deps`, beside torch, d3rlpy, gym, pandas, matplotlib, seaborn).

Numbers: a finite world whose values are known by a linear solve. The same rewards, propensities, probabilities, Q and ratios of
visits go into both packages. Where they differ, the exact value says which is right. Defects: each is planted and run, so that a
version that mends it shows. Speed: both packages take turns, each in a process of its own, and medians stand beside the spread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from environment import describe
from stitchrl.evaluation.contributions import Contributions, Episodes
from stitchrl.evaluation.estimators import contextual_bandits as bandits
from stitchrl.evaluation.estimators.doubly_robust import doubly_robust, weighted_doubly_robust
from stitchrl.evaluation.estimators.importance_sampling import (
    importance_sampling,
    per_decision,
    weighted,
    weighted_per_decision,
)
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.lower_bounds import bound_of
from stitchrl.evaluation.refit import FittedValues
from stitchrl.evaluation.reward_model import RewardValues
from stitchrl.evaluation.units import Units
from stitchrl.evaluation.weights import cumulative_weights
from stitchrl.mdp.finite import FiniteMDP

HERE = Path(__file__).parent
GAMMA, STEPS, EPISODES = 0.9, 8, 40_000
STATES, ACTIONS = 6, 3
SPEED = {"episodes": 10_000, "steps": 100, "actions": 4, "states": 16}
OURS = ("is", "pdis", "wis", "pdwis")


class Log(NamedTuple):
    """Episodes of equal length of a finite world, (n, T) each, and what both packages are given.

    Attributes:
        state, action, reward: as drawn.
        behavior, policy: (states, actions) probabilities.
        q: (T, states, actions) a Q that is off by noise; the steps that are left matter.
        visits: (T, states) ratio of the policy's visits of a state at a step to the behaviour's, exact.
        exact: the policy's value.
    """

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    behavior: np.ndarray
    policy: np.ndarray
    q: np.ndarray
    visits: np.ndarray
    exact: float


def world() -> tuple[FiniteMDP, np.ndarray, np.ndarray]:
    """Six live states that never end by themselves, three actions; a behaviour and another policy."""
    rng = np.random.default_rng(3)
    transition = np.zeros((STATES + 1, ACTIONS, STATES + 1))
    transition[:STATES, :, :STATES] = rng.dirichlet(np.ones(STATES) * 0.5, size=(STATES, ACTIONS))
    transition[STATES, :, STATES] = 1.0
    reward = rng.normal(1.0, 1.0, size=transition.shape)
    initial = np.append(rng.dirichlet(np.ones(STATES)), 0.0)
    behavior, policy = rng.dirichlet([3] * ACTIONS, size=STATES + 1), rng.dirichlet([3] * ACTIONS, size=STATES + 1)
    return (
        FiniteMDP(transition, reward, initial, np.arange(STATES + 1) == STATES),
        behavior,
        0.4 * behavior + 0.6 * policy,
    )


def draw(episodes: int, seed: int, steps: int = STEPS) -> Log:
    """A log of the world, with a noisy Q of each step and exact ratios of visits."""
    mdp, behavior, policy = world()
    drawn = mdp.draw(behavior, episodes, seed=seed, max_steps=steps)
    q, noise = np.zeros((steps, STATES, ACTIONS)), np.random.default_rng(4)
    visits, mine, theirs = np.zeros((steps, STATES)), mdp.initial, mdp.initial
    for t in range(steps):
        follows = mdp.state_values(policy, gamma=GAMMA, horizon=steps - t - 1)
        q[t] = (mdp.expected_reward + GAMMA * mdp.transition @ follows)[:STATES]
        visits[t] = (mine / np.where(theirs > 0, theirs, 1.0))[:STATES]
        mine = np.einsum("s,sa,sat->t", mine, policy, mdp.transition)
        theirs = np.einsum("s,sa,sat->t", theirs, behavior, mdp.transition)
    q += noise.normal(0.0, 0.5, size=q.shape)
    shape = (episodes, steps)
    parts = (drawn.state.reshape(shape), drawn.action.reshape(shape), drawn.reward.reshape(shape))
    exact = mdp.policy_value(policy, gamma=GAMMA, horizon=steps)
    return Log(*parts, behavior[:STATES], policy[:STATES], q, visits, exact)


def ratios(log: Log) -> np.ndarray:
    """(n, T) probability ratios of the logged actions."""
    return log.policy[log.state, log.action] / log.behavior[log.state, log.action]


def padded(reward: np.ndarray, gamma: float) -> Episodes:
    """Complete episodes of equal length as the product holds them."""
    n, steps = reward.shape
    index = np.arange(n * steps).reshape(n, steps)
    return Episodes(reward, np.ones((n, steps), bool), np.ones(n, bool), index, gamma ** np.arange(steps))


def our_numbers(log: Log) -> dict[str, Contributions]:
    """Every estimate as a statistic of its episodes."""
    episodes, rho = padded(log.reward, GAMMA), ratios(log)
    weight = cumulative_weights(episodes, np.log(rho).reshape(-1))
    time_of = np.arange(log.state.shape[1])
    v = (log.q * log.policy).sum(-1)[time_of, log.state]
    fitted = FittedValues(log.q[time_of, log.state, log.action].reshape(-1), v.reshape(-1))
    ratio = log.visits[time_of, log.state]
    mu = ratio * rho
    before = np.concatenate([np.ones((len(mu), 1)), mu[:, :-1]], axis=1)
    terms = mu * (log.reward - fitted.q.reshape(mu.shape)) + before * v
    return {
        "is": importance_sampling(episodes, weight),
        "pdis": per_decision(episodes, weight),
        "wis": weighted(episodes, weight),
        "pdwis": weighted_per_decision(episodes, weight),
        "dm": Contributions.average(v[:, 0]),
        "dr": doubly_robust(episodes, weight, fitted),
        "wdr": weighted_doubly_robust(episodes, weight, fitted),
        "smis, n_step_pdis=0": Contributions.average(episodes.discounted(mu * log.reward)),
        "smis, n_step_pdis=1": Contributions.average(episodes.discounted(mu * log.reward)),
        "drl": Contributions.average(episodes.discounted(terms)),
    }


# --- the peers, each in a process of its own ---------------------------------------------------------------------


def ask(python: str, task: str, arrays: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """One job of the peers' worker."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "arrays.npz")
        np.savez(path, **arrays)
        return _in_process(
            [python, str(HERE / "peers_ope_worker.py")], {"task": task, "arrays": str(path)}, threads, plain=True
        )


def _in_process(command: list[str], job: dict[str, Any], threads: int | None, *, plain: bool) -> dict[str, Any]:
    env = dict(os.environ)
    if plain:  # nothing of this process's path goes to a peer but what was set for it
        env.pop("PYTHONPATH", None)
        env["PYTHONPATH"] = env.get("PEERS_PATH", "")
    if threads is not None:
        env["OPENBLAS_NUM_THREADS"] = env["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def as_arrays(log: Log) -> dict[str, Any]:
    """A log as the peers take it."""
    time_of = np.arange(log.state.shape[1])
    actions = log.q.shape[-1]
    visits = log.visits[time_of, log.state]
    return {
        "steps": log.state.shape[1], "gamma": GAMMA, "action": log.action.reshape(-1), "reward": log.reward.reshape(-1),
        "pscore": log.behavior[log.state, log.action].reshape(-1), "policy": log.policy[log.state].reshape(-1, actions),
        "q": log.q[time_of, log.state].reshape(-1, actions), "visits": visits.reshape(-1),
        "pairs": (visits * ratios(log)).reshape(-1),
    }  # fmt: skip


def equal_numbers(python: str) -> tuple[list[str], dict[str, str]]:
    """The table of values, and the versions of the peers."""
    log = draw(EPISODES, 0)
    theirs = ask(python, "numbers", as_arrays(log))
    lines = [
        f"{EPISODES:,} episodes of {STEPS} steps, gamma {GAMMA:g}; exact value {log.exact:.5f}. The Q is off by noise of .5; the "
        "ratios of visits are exact. z: how many standard errors a number lies from the exact value.",
        "",
        "| estimator | stitchrl | z | SCOPE-RL | z | difference | who is right |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in our_numbers(log).items():
        mine, other = one.value(), theirs[name]
        error = float(one.influence().std(ddof=1) / np.sqrt(one.n))
        z = [(number - log.exact) / error for number in (mine, other)]
        same = abs(mine - other) <= 1e-8 * abs(mine)
        says = "equal" if same else _who(*z)
        if name == "dm":
            says += "; both as wrong as the Q"
        lines.append(f"| {name} | {mine:.8f} | {z[0]:+.1f} | {other:.8f} | {z[1]:+.1f} | {mine - other:.1e} | {says} |")
    return lines, theirs["versions"]


def _who(mine: float, other: float) -> str:
    """Which of two numbers the exact value bears out, by their z."""
    near = [abs(z) <= 3.5 for z in (mine, other)]
    return {(True, False): "stitchrl", (False, True): "SCOPE-RL", (True, True): "the exact value does not tell"}.get(
        (near[0], near[1]), "neither"
    )


# --- defects, planted and run ----------------------------------------------------------------------------------------


def defects(python: str) -> list[str]:
    """Each known defect with what both packages give."""
    return [
        "| planted | right | SCOPE-RL | stitchrl |",
        "|---|---|---|---|",
        *_interval_defects(python),
        _long(python),
        _small(python),
    ]


def _interval_defects(python: str, logs: int = 300, size: int = 200) -> list[str]:
    rng = np.random.default_rng(5)
    samples = rng.normal(1.0, 1.0, size=(4000, 8))
    large = rng.random((1, 1000))
    weights = {"policy": np.array([0.7, 0.3]), "behavior": np.array([0.3, 0.7])}
    action = (rng.random((logs, size)) < 0.7).astype(int)
    reward = 5.0 + action + rng.normal(0.0, 0.5, size=action.shape)
    arrays = {
        "logs_action": action, "logs_reward": reward, "logs_pscore": weights["behavior"][action],
        "logs_policy": np.tile(weights["policy"], (logs, size, 1)),
    }  # fmt: skip
    none = {key: value[:0] for key, value in arrays.items()}
    student = np.array(ask(python, "intervals", {"samples": samples, **none})["ttest"])
    found = ask(python, "intervals", {"samples": large, **arrays})
    hoeffding = found["hoeffding"][0]
    reach = float(np.sqrt(np.log(2 / 0.05) / 2000))
    our_reach = float(large[0].mean()) - bound_of(large[0], 1.0, 0.0, 0.025, "hoeffding")
    ours = [Resampler(Units(8)).interval(Contributions.average(one)) for one in samples]
    covered = float(np.mean([one.lower <= 1.0 <= one.upper for one in ours]))
    theirs = float(((student[:, 0] <= 1.0) & (student[:, 1] >= 1.0)).mean())
    normalised = np.array(found["self-normalised"])
    mine = []
    for k in range(logs):
        weight = (weights["policy"] / weights["behavior"])[action[k]]
        one = Resampler(Units(size), resamples=500, seed=k).interval(bandits.self_normalised(weight, reward[k]))
        mine.append((one.value, one.lower, one.upper))
    ends = np.array(mine)
    right = 2 * 1.96 * ends[:, 0].std(ddof=1)
    return [
        f"| Hoeffding's half width, 1,000 numbers in [0, 1], 95% | {reach:.4f} | {(hoeffding[1] - hoeffding[0]) / 2:.2f} | "
        f"{our_reach:.4f} |",
        f"| Student's two-sided 95%, 8 normal numbers, 4,000 times: coverage | 95% | {theirs:.1%} | {covered:.1%} |",
        f"| mean width of the 95% interval of self-normalised values, rewards far from 0, {logs} logs of {size} decisions | "
        f"{right:.3f} | {(normalised[:, 1] - normalised[:, 0]).mean():.3f} | {(ends[:, 2] - ends[:, 1]).mean():.3f} |",
    ]


def _constant(steps: int, n: int, policy: float, behavior: float) -> dict[str, Any]:
    """Episodes whose every action has one probability, and whose returns are 1 to n."""
    reward = np.zeros((n, steps))
    reward[:, -1] = np.arange(1.0, n + 1)
    table = np.tile([policy, 1 - policy], (n * steps, 1))
    same = np.full(n * steps, behavior)
    return {
        "steps": steps, "gamma": 1.0, "action": np.zeros(n * steps, np.int64), "reward": reward.reshape(-1), "pscore": same,
        "policy": table, "q": np.zeros_like(table), "visits": np.ones(n * steps), "pairs": np.ones(n * steps),
    }  # fmt: skip


def _pair(python: str, steps: int, policy: float, behavior: float) -> tuple[dict[str, Any], float]:
    arrays = _constant(steps, 4, policy, behavior)
    episodes = padded(arrays["reward"].reshape(4, steps), 1.0)
    weight = cumulative_weights(episodes, np.full(4 * steps, np.log(policy) - np.log(behavior)))
    return ask(python, "numbers", arrays), weighted(episodes, weight).value()


def _long(python: str) -> str:
    theirs, mine = _pair(python, 1000, 0.3, 0.3)
    return (
        f"| 1,000 steps, policy and behaviour both .3, four returns 1 to 4: wis | 2.5 | {theirs['wis']:.4g} (is: "
        f"{theirs['is']:.4g}) | {mine:.4g} |"
    )


def _small(python: str) -> str:
    theirs, mine = _pair(python, 40, 0.25, 0.75)
    return (
        f"| weights of 3^-40 each, four returns 1 to 4: wis (1e-10 is added to the denominator) | 2.5 | {theirs['wis']:.4g} | "
        f"{mine:.4g} |"
    )


# --- single decisions --------------------------------------------------------------------------------------------------


def single_decisions(python: str, n: int = 20_000) -> list[str]:
    """skdr-eval's doubly robust family on decisions of a world with a known value."""
    rng = np.random.default_rng(6)
    _, behavior, policy = world()
    state = rng.integers(0, STATES, n)
    action = (rng.random(n)[:, None] > behavior[state].cumsum(1)).sum(1).clip(0, ACTIONS - 1)
    mean = rng.normal(1.0, 1.0, size=(STATES, ACTIONS))
    reward = mean[state, action] + rng.normal(size=n)
    exact = float((policy[:STATES] * mean).sum(1).mean())
    q = mean + rng.normal(0.0, 0.5, size=mean.shape)
    given = {
        "propensities": behavior[state], "policy": policy[state], "reward": reward, "action": action, "q": q[state],
    }  # fmt: skip
    theirs = ask(python, "one_step", given)
    weight = policy[state, action] / behavior[state, action]
    values = RewardValues(q[state, action], (policy[state] * q[state]).sum(1))
    ours = {
        "reward-dr": bandits.doubly_robust(weight, reward, values),
        "switch-dr, limit 3": bandits.doubly_robust(bandits.switched(weight, 3.0).weight, reward, values),
        "dros, limit 20": bandits.doubly_robust(bandits.optimistic(weight, 20.0).weight, reward, values),
    }
    lines = [
        f"{n:,} decisions, {ACTIONS} actions, exact value {exact:.5f}; the same model of the reward of every action.",
        "",
        "| estimator | stitchrl | z | skdr-eval | z | difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in ours.items():
        error = float(one.influence().std(ddof=1) / np.sqrt(n))
        mine, other = one.value(), theirs[name][0]
        lines.append(
            f"| {name} | {mine:.8f} | {(mine - exact) / error:+.1f} | {other:.8f} | {(other - exact) / error:+.1f} | "
            f"{mine - other:.1e} |"
        )
    told = theirs["dr_value_with_clip"]
    said = f"raises `{told[:120]}`" if isinstance(told, str) else f"gives {told:.5f}"
    marginal = theirs["marginal"]
    return [
        *lines,
        "",
        f"Its default path, `dr_value_with_clip`, {said} for a model of every action, though its comments say that both "
        f"shapes are supported. There the standard error of SNDR is that of DR by construction: {marginal['SNDR'][1]:.5f} and "
        f"{marginal['DR'][1]:.5f}.",
    ]


# --- speed ---------------------------------------------------------------------------------------------------------


def speed_arrays() -> dict[str, Any]:
    """One million transitions of equal length."""
    rng = np.random.default_rng(0)
    n, steps, actions = SPEED["episodes"], SPEED["steps"], SPEED["actions"]
    behavior = rng.dirichlet(np.ones(actions) * 5, size=SPEED["states"])
    policy = behavior**1.02
    policy /= policy.sum(1, keepdims=True)
    state = rng.integers(SPEED["states"], size=n * steps)
    action = (rng.random(n * steps)[:, None] > behavior.cumsum(1)[state]).sum(1).clip(0, actions - 1)
    reward = (rng.random(n * steps) < 0.3).astype(np.float64)
    return {
        "steps": steps, "gamma": 0.99, "action": action, "reward": reward, "pscore": behavior[state, action],
        "policy": policy[state], "state": state,
    }  # fmt: skip


class _Rows:
    """A policy whose observation is the number of a state."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table.astype(np.float32)

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return self.table[np.asarray(obs)[:, 0].astype(np.int64)]


def held_now() -> float:
    """Kilobytes of memory that this process holds; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def our_speed(job: dict[str, Any]) -> dict[str, Any]:
    """The whole evaluation by the four estimators: probabilities, weights, health, values, gains, intervals."""
    import stitchrl as st
    from stitchrl.evaluation.evaluate import evaluate_all

    with np.load(job["arrays"]) as file:
        arrays = dict(file)
    n, steps = len(arrays["action"]) // int(arrays["steps"]), int(arrays["steps"])
    last = np.tile(np.arange(steps) == steps - 1, n)
    columns = {
        "episode": np.repeat(np.arange(n, dtype=np.int32), steps), "step": np.tile(np.arange(steps, dtype=np.int32), n),
        "observation": arrays["state"][:, None].astype(np.float32), "action": arrays["action"], "reward": arrays["reward"],
        "terminated": last, "truncated": np.zeros(n * steps, bool), "behavior_log_prob": np.log(arrays["pscore"]),
    }  # fmt: skip
    inputs = sum(one.nbytes for one in columns.values()) + arrays["policy"].nbytes
    table = np.zeros((SPEED["states"], SPEED["actions"]))
    table[arrays["state"]] = arrays["policy"]
    log, policy = st.read(columns), _Rows(table)
    del arrays, columns
    few = log.select_episodes(np.arange(50))
    evaluate_all(
        [policy], few, gamma=0.99, estimators=OURS, confirm=False, resamples=10
    )  # imports, and what is compiled
    before = held_now()
    wall, used = time.perf_counter(), sum(os.times()[:2])
    found = evaluate_all([policy], log, gamma=0.99, estimators=OURS, confirm=job["confirm"])[0]
    wall, used = time.perf_counter() - wall, sum(os.times()[:2]) - used
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    values = {name: [one.value, one.lower, one.upper] for name, one in found.estimates.items()}
    return {
        "seconds": wall, "cpu_seconds": used, "megabytes": held, "input_megabytes": inputs / 2**20, "values": values,
    }  # fmt: skip


def speed(python: str, repeats: int, threads: int | None) -> list[str]:
    """Both in turns; medians and spread."""
    arrays = speed_arrays()
    runs: dict[str, list[dict[str, Any]]] = {"SCOPE-RL": [], "stitchrl": [], "stitchrl, all of `st.evaluate`": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "arrays.npz")
        np.savez(path, **arrays)
        for _ in range(repeats):
            for name, found in runs.items():
                worker = HERE / ("peers_ope_worker.py" if name == "SCOPE-RL" else "peers_ope.py")
                command = [python if name == "SCOPE-RL" else sys.executable, str(worker)]
                command += [] if name == "SCOPE-RL" else ["--worker"]
                job = {"task": "speed", "arrays": str(path), "confirm": name.endswith("`")}
                found.append(_in_process(command, job, threads, plain=name == "SCOPE-RL"))
    base = statistics.median(run["seconds"] for run in runs["SCOPE-RL"])
    lines = [
        "| | seconds, median (least to most) | CPU seconds | times faster | memory added, of the inputs | 95% interval of wis |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        seconds = [run["seconds"] for run in found]
        middle, cpu = statistics.median(seconds), statistics.median(run["cpu_seconds"] for run in found)
        memory = statistics.median(run["megabytes"] / run["input_megabytes"] for run in found)
        _, low, high = found[0]["values"]["wis"]
        lines.append(
            f"| {name} | {middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {cpu:.2f} | {base / middle:.1f} | "
            f"{memory:.1f} times {found[0]['input_megabytes']:.0f} MB | {low:.4f} to {high:.4f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python")
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of the matrix products of both; None: as they come")
    parser.add_argument("--out", default=str(HERE / "results" / "peers_ope.md"))
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(our_speed(json.loads(sys.stdin.read()))))
        return
    if options.peer_python is None:
        parser.error("--peer-python is needed: the Python in which the peers are installed.")
    python, threads = options.peer_python, options.threads
    table, versions = equal_numbers(python)
    pages = [
        "# Evaluation against its peers",
        describe(
            "python benchmarks/peers_ope.py --peer-python PEERS/bin/python"
            + (f" --threads {threads}" if threads else "")
        )
        + "\n- peers, in a process of their own: "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "## The same arrays",
        "\n".join(table),
        "`smis` and `drl` of stitchrl are their formulas with the given ratios, which the product fits. SCOPE-RL's estimators by "
        "the ratio of states leave the ratio of the present action out at `n_step_pdis=0`; at k they multiply the ratio of the "
        "state k steps ago by the last k ratios of actions, where their documentation has k + 1. Its `drl` does not discount.",
        "## Defects of the peers, planted and run",
        "\n".join(defects(python)),
        "## Single decisions",
        "\n".join(single_decisions(python)),
        "## Speed and memory",
        f"is, pdis, wis and pdwis of {SPEED['episodes']:,} episodes of {SPEED['steps']} steps, with 95% intervals of 10,000 "
        "resamples; stitchrl also checks health and computes gains over the behaviour, and its last row adds calibration, lower "
        "bounds from clipped weights, consistency and the verdict. Plain averages (is, pdis) have Student's interval in "
        "stitchrl and need no resamples; its self-normalised ones are normalised anew in each. Imports and reading are left "
        f"out of both. {options.repeats} turns"
        + (f", matrix products in {threads} thread{'s' if threads > 1 else ''}." if threads else "."),
        "\n".join(speed(python, options.repeats, threads)),
    ]
    Path(options.out).write_text("\n\n".join(pages) + "\n")
    print("\n\n".join(pages))


if __name__ == "__main__":
    main()
