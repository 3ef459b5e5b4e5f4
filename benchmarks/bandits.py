"""Logs of single decisions: real clicks against the other policy's own log, coverage by side, and a peer on the same arrays.

    python benchmarks/bandits.py --log DIR [--peer DIR] [--minutes 20] [--out benchmarks/results/bandits.md]

`--log` is a folder with random/all.csv and bts/all.csv of the Open Bandit Dataset (its small sample). `--peer` is a folder into
which obp 0.5.7 was installed:

    pip install --target DIR --no-deps --ignore-requires-python obp==0.5.7
    pip install --target DIR scikit-learn pandas tqdm pyyaml

Its estimators are imported without the rest of the package, which needs PyTorch.
"""

from __future__ import annotations

import argparse
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

import stitchrl as st
from environment import describe
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.estimators.contextual_bandits import (
    doubly_robust,
    optimistic,
    self_normalised,
    sub_gaussian,
    switched,
)
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.reward_model import RewardValues, fit_reward
from stitchrl.evaluation.units import Units

ESTIMATORS = ("reward-dr", "snips", "ips", "switch-dr", "dros", "sg-ips", "sg-dr")
SIZES = {1_000: 600, 10_000: 300}
"""Decisions of a log -> replicates, where the time suffices."""
SHARE = {1_000: 1, 10_000: 4}
"""How the time is shared out among them."""
KINDS, FEATURES = 400, 5


# --- real logs -------------------------------------------------------------------------------------------------


class ByPosition:
    """A policy that looks at the position alone: (3, items) probabilities. The position is the first three columns."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table.astype(np.float32)

    def probs(self, obs: Any, action_mask: Any = None) -> np.ndarray:
        return self.table[np.asarray(obs)[:, :3].argmax(1)]


def real_logs(folder: Path) -> list[str]:
    """The value of each logging policy from the other's log, beside the mean of its own."""
    logs = {name: st.read(folder / name / "all.csv") for name in ("random", "bts")}
    items = logs["random"].num_actions
    assert items is not None
    shares = np.zeros((3, items))
    np.add.at(shares, (logs["bts"].observation[:, :3].argmax(1), logs["bts"].action), 1.0)
    policies = {
        "random": ByPosition(np.full((3, items), 1 / items)),
        "bts": ByPosition(shares / shares.sum(1, keepdims=True)),
    }
    lines = []
    for log_of, policy_of in (("random", "bts"), ("bts", "random")):
        own = logs[policy_of].reward
        clicks = int(own.sum())
        low, high = stats.binomtest(clicks, len(own)).proportion_ci()
        lines += [
            f"**{policy_of}, estimated from the log of {log_of}** ({int(logs[log_of].reward.sum())} clicks in "
            f"{len(logs[log_of].reward):,} decisions). In its own log it got {clicks} clicks: {own.mean():.4f} "
            f"[{low:.4f}, {high:.4f}] (Clopper and Pearson).",
            "",
            "| estimator | click rate | 95% interval | effective decisions | healthy | own mean inside | intervals meet |",
            "|---|---|---|---|---|---|---|",
        ]
        start = time.perf_counter()
        found = st.evaluate(policies[policy_of], logs[log_of], estimators=(*ESTIMATORS, "wdr"), seed=0)
        seconds = time.perf_counter() - start
        for name, estimate in found.estimates.items():
            if estimate.value is None or estimate.lower is None or estimate.upper is None:
                lines.append(f"| {name} | - | - | - | no | - | - |")
                continue
            ess = "-" if estimate.ess is None else f"{estimate.ess:,.0f}"
            inside = estimate.lower <= own.mean() <= estimate.upper
            meet = estimate.lower <= high and low <= estimate.upper
            lines.append(
                f"| {name} | {estimate.value:.4f} | [{estimate.lower:.4f}, {estimate.upper:.4f}] | {ess} | "
                f"{_yes(estimate.healthy)} | {_yes(inside)} | {_yes(meet)} |"
            )
        primary = found.verdict.primary
        assert primary is not None
        gain = found.gain[primary]
        why = " ".join(found.estimates[primary].reasons) or "Every check holds."
        lines += [
            "",
            f"Primary: {primary}, gain over {log_of} {gain.value:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}], "
            f"**{found.verdict.decision}**. {why} ({seconds:.0f} s)",
            "",
        ]
    return lines


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


# --- a world whose values are exact ----------------------------------------------------------------------------


class Table:
    """A policy over kinds of visitors; the kind is found by the first, unique feature."""

    def __init__(self, features: np.ndarray, table: np.ndarray) -> None:
        self._order = np.argsort(features[:, 0])
        self._keys, self.table = features[self._order, 0], table

    def probs(self, obs: Any, action_mask: Any = None) -> np.ndarray:
        found: np.ndarray = self.table[self._order[np.searchsorted(self._keys, np.asarray(obs)[:, 0])]]
        return found.astype(np.float32)


class World(NamedTuple):
    """Kinds of visitors, equally frequent, whose rewards are 0 or 1."""

    name: str
    features: np.ndarray
    rate: np.ndarray
    behavior: np.ndarray
    policies: dict[str, np.ndarray]

    def value(self, table: np.ndarray) -> float:
        return float((table * self.rate).sum(1).mean())

    def log(self, decisions: int, seed: int) -> Dataset:
        rng = np.random.default_rng(seed)
        kind = rng.integers(KINDS, size=decisions)
        action = (rng.random((decisions, 1)) > self.behavior[kind].cumsum(1)[:, :-1]).sum(1)
        columns = {
            "visitor": self.features[kind],
            "action": action,
            "reward": (rng.random(decisions) < self.rate[kind, action]).astype(np.float32),
            "propensities": self.behavior[kind],
        }
        roles = {
            "observation": "visitor",
            "action": "action",
            "reward": "reward",
            "behavior_probs": "propensities",
        }
        actions = self.rate.shape[1]
        return st.read(columns, st.Schema(roles, num_actions=actions, bandit=True, gamma=1.0, name=self.name))


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = odds / odds.sum(1, keepdims=True)
    return found


def world(name: str, actions: int, level: float) -> World:
    """The behaviour is half right about what visitors like; policies are nearer to it or further away."""
    rng = np.random.default_rng(actions)
    features = rng.normal(size=(KINDS, FEATURES)).astype(np.float32)
    appeal = features @ rng.normal(size=(FEATURES, actions)) / np.sqrt(FEATURES)
    appeal = appeal + 0.7 * np.sin(3 * features[:, :1] + np.arange(actions))  # no linear model is right
    behavior = softmax(0.5 * appeal + 0.7 * rng.normal(size=(KINDS, actions)))
    policies = {
        "near": softmax(np.log(behavior) + 0.5 * appeal),
        "far": softmax(1.5 * appeal),
        "the behaviour": behavior,
    }
    return World(name, features, level / (1 + np.exp(-appeal)), behavior, policies)


def coverage(worlds: Sequence[World], minutes: float) -> list[str]:
    """How often 95% intervals of values and of gains miss, by side."""
    lines = [
        "| world | decisions | logs | policy | estimator | healthy | value: low, high | gain: low, high | "
        "gain, healthy only: low, high | bias | root of the mean squared error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells = [(one, size) for one in worlds for size in SIZES]
    for number, (one, size) in enumerate(cells):
        share = SHARE[size] / sum(SHARE[other] for _, other in cells)
        end = time.perf_counter() + 60 * minutes * share
        rows: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
        count = 0
        while count < SIZES[size] and (count < 5 or time.perf_counter() < end):
            tables = list(one.policies.values())[:2]
            found = evaluate_all(
                [Table(one.features, table) for table in tables],
                one.log(size, 1000 * number + count),
                estimators=ESTIMATORS,
                resamples=1000,
                confirm=False,
                settings=st.FitSettings(seed=count),
            )
            for policy, evaluation in zip(one.policies, found, strict=False):
                for name in ESTIMATORS:
                    pair = evaluation.estimates[name], evaluation.gain[name]
                    rows.setdefault((policy, name), []).append(pair)
            count += 1
        for (policy, name), pairs in rows.items():
            lines.append(_row(one, size, policy, name, pairs))
        print(f"{one.name}, {size:,} decisions: {count} logs", flush=True)
    return lines


def _row(one: World, size: int, policy: str, name: str, pairs: list[tuple[Any, Any]]) -> str:
    truth = one.value(one.policies[policy])
    gained = truth - one.value(one.behavior)
    values = np.asarray([value.value for value, _ in pairs])
    healthy = [(value, gain) for value, gain in pairs if gain.healthy]
    return (
        f"| {one.name} | {size:,} | {len(pairs):,} | {policy} | {name} | {len(healthy) / len(pairs):.0%} | "
        f"{_misses([value for value, _ in pairs], truth)} | {_misses([gain for _, gain in pairs], gained)} | "
        f"{_misses([gain for _, gain in healthy], gained)} | {values.mean() - truth:+.5f} | "
        f"{np.sqrt(((values - truth) ** 2).mean()):.5f} |"
    )


def _misses(found: Sequence[Any], truth: float) -> str:
    """Shares of intervals that lie above the truth (low misses) and below it (high ones)."""
    if not found:
        return "-"
    low = np.mean([one.lower > truth for one in found])
    high = np.mean([one.upper < truth for one in found])
    return f"{low:.1%}, {high:.1%} of {len(found):,}"


# --- a peer ----------------------------------------------------------------------------------------------------


def peer_estimators(site: str) -> Any:
    """obp's estimators, imported without the rest of the package."""
    torch = types.ModuleType("torch")
    torch.Tensor = type("Tensor", (), {})  # type: ignore[attr-defined]
    torch.tensor = torch.Tensor  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    for name in ("obp", "obp.ope"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(site, *name.split(".")))]
        sys.modules[name] = module
    sys.path.append(site)
    import importlib

    return importlib.import_module("obp.ope.estimators")


def against_peer(one: World, site: str) -> list[str]:
    """Equal arrays into both: numbers, seconds, and whose interval has the right width."""
    obp = peer_estimators(site)
    log, table = one.log(10_000, 7), one.policies["far"]
    policy = Table(one.features, table)
    probs = policy.probs(log.observation).astype(np.float64)
    model = fit_reward(one.log(10_000, 8))
    actions = one.rate.shape[1]
    every = np.stack([model.of_actions(log.observation, np.full(log.num_transitions, a)) for a in range(actions)], 1)
    rows = np.arange(log.num_transitions)
    assert log.behavior_log_prob is not None
    pscore, reward = np.exp(log.behavior_log_prob.astype(np.float64)), log.reward.astype(np.float64)
    weight = probs[rows, log.action] / pscore

    def fitted() -> RewardValues:
        return RewardValues(every[rows, log.action], (probs * every).sum(1))

    nothing = RewardValues(np.zeros(len(rows)), np.zeros(len(rows)))
    ours: dict[str, Callable[[], float]] = {
        "ips": lambda: doubly_robust(weight, reward, nothing).value(),
        "snips": lambda: self_normalised(weight, reward).value(),
        "reward-dr": lambda: doubly_robust(weight, reward, fitted()).value(),
        "switch-dr, limit 3": lambda: doubly_robust(switched(weight, 3.0).weight, reward, fitted()).value(),
        "dros, limit 20": lambda: doubly_robust(optimistic(weight, 20.0).weight, reward, fitted()).value(),
        "sg-ips, limit .05": lambda: doubly_robust(sub_gaussian(weight, 0.05).weight, reward, nothing).value(),
        "sg-dr, limit .05": lambda: doubly_robust(sub_gaussian(weight, 0.05).weight, reward, fitted()).value(),
    }
    given = {
        "reward": reward,
        "action": log.action.astype(np.int64),
        "pscore": pscore,
        "action_dist": probs[:, :, None],
        "estimated_rewards_by_reg_model": every[:, :, None],
    }
    theirs: dict[str, Any] = {
        "ips": obp.InverseProbabilityWeighting(),
        "snips": obp.SelfNormalizedInverseProbabilityWeighting(),
        "reward-dr": obp.DoublyRobust(),
        "switch-dr, limit 3": obp.SwitchDoublyRobust(lambda_=3.0),
        "dros, limit 20": obp.DoublyRobustWithShrinkage(lambda_=20.0),
        "sg-ips, limit .05": obp.SubGaussianInverseProbabilityWeighting(lambda_=0.05),
        "sg-dr, limit .05": obp.SubGaussianDoublyRobust(lambda_=0.05),
    }
    lines = [
        f"{one.name}, {log.num_transitions:,} decisions, {actions} actions, the policy that is far; exact value "
        f"{one.value(table):.6f}. The same weights and the same model of the reward go into both.",
        "",
        "| estimator | stitchrl | obp 0.5.7 | difference | stitchrl, ms | obp, ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, ask in ours.items():
        mine, my_time = _timed(ask)
        other, their_time = _timed(lambda name=name: theirs[name].estimate_policy_value(**given))
        lines.append(
            f"| {name} | {mine:.8f} | {other:.8f} | {mine - other:.1e} | {1e3 * my_time:.2f} | {1e3 * their_time:.2f} |"
        )
    return [*lines, "", *_widths(obp, world("reward .9", 10, 1.8))]


def _timed(ask: Callable[[], float]) -> tuple[float, float]:
    """A number, and the least of five times."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        value = ask()
        times.append(time.perf_counter() - start)
    return float(value), min(times)


def _widths(obp: Any, one: World, replicates: int = 300, size: int = 1000) -> list[str]:
    """The 95% interval of the self-normalised estimate, where rewards lie far from 0."""
    one = one._replace(rate=np.minimum(one.rate, 0.97))
    table = one.policies["near"]
    policy, truth = Table(one.features, table), one.value(table)
    values, ends, times = [], {"stitchrl": [], "obp": []}, {"stitchrl": 0.0, "obp": 0.0}  # type: ignore[var-annotated]
    for seed in range(replicates):
        log = one.log(size, 50_000 + seed)
        probs = policy.probs(log.observation).astype(np.float64)
        assert log.behavior_log_prob is not None
        pscore, reward = np.exp(log.behavior_log_prob.astype(np.float64)), log.reward.astype(np.float64)
        weight = probs[np.arange(size), log.action] / pscore
        start = time.perf_counter()
        found = Resampler(Units(size), resamples=1000, seed=seed).interval(self_normalised(weight, reward))
        times["stitchrl"] += time.perf_counter() - start
        values.append(found.value)
        ends["stitchrl"].append((found.lower, found.upper))
        start = time.perf_counter()
        theirs = obp.SelfNormalizedInverseProbabilityWeighting().estimate_interval(
            reward=reward, action=log.action.astype(np.int64), pscore=pscore, action_dist=probs[:, :, None],
            n_bootstrap_samples=1000, random_state=seed,
        )  # fmt: skip
        times["obp"] += time.perf_counter() - start
        ends["obp"].append((theirs["95.0% CI (lower)"], theirs["95.0% CI (upper)"]))
    spread = 2 * 1.96 * float(np.std(values))
    lines = [
        f"Intervals of snips at 95%, 1,000 resamples, {replicates} logs of {size:,} decisions whose mean reward is "
        f"{truth:.2f}. The estimates themselves spread so that an interval of {spread:.4f} is right. obp resamples the terms "
        "w r / mean w with the denominator of the whole log.",
        "",
        "| | mean width | width / right width | misses: low, high | ms a log |",
        "|---|---|---|---|---|",
    ]
    for name, pairs in ends.items():
        both = np.asarray(pairs)
        width = float((both[:, 1] - both[:, 0]).mean())
        lines.append(
            f"| {name} | {width:.4f} | {width / spread:.2f} | {(both[:, 0] > truth).mean():.1%}, "
            f"{(both[:, 1] < truth).mean():.1%} | {1e3 * times[name] / replicates:.0f} |"
        )
    return lines


# --- the page --------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--peer", default=None)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bandits.md"))
    given = parser.parse_args()
    worlds = [
        world("rare clicks, 10 actions", 10, 0.01),
        world("clicks, 10 actions", 10, 0.1),
        world("rewards, 100 actions", 100, 1.0),
    ]
    real = real_logs(given.log)
    print("\n".join(real), flush=True)
    peer = ["obp was not at hand."] if given.peer is None else against_peer(worlds[2], given.peer)
    print("\n".join(peer), flush=True)
    covered = coverage(worlds, given.minutes)
    truths = "; ".join(
        f"{one.name}: " + ", ".join(f"{name} {one.value(table):.4f}" for name, table in one.policies.items())
        for one in worlds
    )
    page = [
        "# Logs of single decisions",
        "",
        describe(f"python benchmarks/bandits.py --log DIR{' --peer DIR' if given.peer else ''}"),
        "",
        "## Real clicks: each policy from the other's log",
        "",
        'The Open Bandit Dataset, small sample of the campaign "all": two policies showed 80 items at 3 positions to visitors '
        "of the same week, at random, and each log has the probability of what it showed. `random` shows every item alike. "
        "`bts`, Bernoulli Thompson sampling, changed from hour to hour; estimated is the policy that shows each item as often "
        "as `bts` did over the week, at each position. Models are cross-fitted within the log.",
        "",
        *real,
        "## Coverage by side",
        "",
        f"Rewards are 0 or 1, propensities are known, exact values: {truths}. *Low* misses have their lower end above the "
        "truth (what makes a false GO), *high* ones their upper end below it; 2.5% of each are promised. Gains are over the "
        "mean logged reward, 1,000 resamples. The limits of switch-dr, dros, sg-ips and sg-dr are chosen on the other half of "
        "the log, and the bias that the other half shows widens their intervals.",
        "",
        *covered,
        "",
        "## obp on the same arrays",
        "",
        *peer,
        "",
    ]
    given.out.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
