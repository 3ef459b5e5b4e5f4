"""How often is GO said over continuous actions, of policies that are no better and of policies that are? Whole verdicts.

    python benchmarks/false_go_continuous.py [--rewards quadratic bounded decisions doses] [--episodes 500 2000] [--fits 30]

The worlds are the linear system of `tests/support/linear_worlds.py`: discounted, every episode cut, gains exact, the density of
every action logged. Its rewards are the quadratic -c, of which single episodes may have very large ones, or the bounded
exp(-c / 2), which were meant to leave more estimates healthy. Two more worlds have single decisions: the first states alone,
after which the episode is over. With d = |a - A s|^2 and A the better matrix, rewards are -d, which the model of the reward can
represent, or "doses" that work with a probability of exp(-d / 2), which it cannot.

Of a log .6 of the episodes fit the models and .4 make the verdict, as in the main job; the models of one fit serve several
fresh test parts, whose verdicts are not independent. Verdicts are the product's, but that it also asks `lstdq`, which can only
forbid a GO. Until decisions 0057 and 0058 it gave no GO over continuous actions: verdicts of then are counted without that rule.
Each log is kept in `--state`, and the same command goes on where it stopped. Single decisions have a page of their own, and their
logs are too many to keep:

    python benchmarks/false_go_continuous.py --rewards decisions doses --state FILE --out benchmarks/results/false_go_doses.md
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
from scipy import linalg, optimize, stats

import stitchrl as st
from environment import describe
from scores import State
from stitchrl.auditing.audit import audit
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.judge import Judge
from stitchrl.evaluation.registry import DEFAULT, DEFAULT_OF_DECISIONS, chosen_estimators

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import dose_worlds as doses
import linear_worlds as lw

TITLES = {
    "quadratic": "Quadratic rewards",
    "bounded": "Bounded rewards",
    "decisions": "Single decisions, quadratic rewards",
    "doses": "Single decisions, doses that work or do not",
}
RESULTS = Path(__file__).parent / "results" / "false_go_continuous.md"
BEFORE = RESULTS.with_name("false_go_continuous_before.jsonl")
"""Records of the verdicts before decision 0052, when an episode's share was one of the variance of sampling alone."""
STEPS = 60
UNTIL = 1_000
"""Steps of an exact value of bounded rewards; what follows is discounted by 5e-23."""
FITTING = 0.6
NEAR, FAR, QUIET = "near", "far", "less noise"
ASIDE = {NEAR: (0.3, 1.0), FAR: (1.0, 1.0), QUIET: (0.3, 0.7)}
"""Family -> how far its gain matrix lies aside of the behaviour's, and its standard deviation in those of the behaviour."""
GAINS = {NEAR: (-0.025, 0.0, 0.05), FAR: (0.0, 0.1), QUIET: (0.0,)}
"""True gains of the candidates, in standard deviations of an episode's discounted return; .025 of them is as hard to see as .01
of survival in the hospital."""
TESTS, TESTS_OF_DECISIONS = 14, 40
"""Test parts that the models of one fit serve; those of single decisions are small."""
FULL = (5, 10, TESTS)
"""How many test parts a whole fit of episodes has: the first nine have five, the next two ten."""
RESAMPLES = 1_000
"""Of the weighted estimates, which only confirm."""
AUDITED = 2
"""Fits of a size whose first test part is audited."""


@dataclasses.dataclass(frozen=True)
class World:
    """The linear system with one kind of rewards.

    Attributes:
        bounded: whether rewards are exp(-c / 2), c being the quadratic cost; else they are -c.
    """

    bounded: bool
    tests: ClassVar[int] = TESTS
    nearness: ClassVar[float] = 1.0

    def value(self, gain: np.ndarray, std: np.ndarray) -> float:
        """Exact, at the discount of these worlds.

        z = (s, a) is normal about 0 at every step, with a covariance C_t that is known, so that for the bounded rewards
        E[exp(-z^T W z / 2)] = det(I + C_t W)^(-1/2), W being the matrix of the costs.
        """
        if not self.bounded:
            return lw.value(gain, std)
        system, total = lw.WORLD, 0.0
        cost = linalg.block_diag(system.state_cost, system.action_cost)
        state = system.initial**2 * np.eye(len(system.transition))
        for step in range(UNTIL):
            joint = np.block([[state, state @ gain.T], [gain @ state, gain @ state @ gain.T + np.diag(std**2)]])
            total += lw.GAMMA**step / np.sqrt(np.linalg.det(np.eye(len(joint)) + joint @ cost))
            both = np.hstack([system.transition, system.control])
            state = both @ joint @ both.T + system.noise**2 * np.eye(len(state))
        return float(total)

    def log(self, episodes: int, seed: int) -> Dataset:
        """Episodes of the behaviour, all cut."""
        log = lw.log(episodes, STEPS, seed)
        return dataclasses.replace(log, reward=np.exp(0.5 * log.reward)) if self.bounded else log


class Decisions(World):
    """Single decisions about the first states; rewards fall with the squared distance from what the better matrix says.

    Candidates lie less far aside, since aside no action is good here.
    """

    tests: ClassVar[int] = TESTS_OF_DECISIONS
    nearness: ClassVar[float] = 0.45

    def value(self, gain: np.ndarray, std: np.ndarray) -> float:
        """Exact: -E|(K - A) s + noise|^2 = -v tr (K - A)(K - A)^T - sum std^2, v being the variance of each number of s."""
        return float(-(lw.WORLD.initial**2) * ((gain - lw.BETTER) ** 2).sum() - (std**2).sum())

    def log(self, episodes: int, seed: int) -> Dataset:
        """Decisions of the behaviour; nothing follows them."""
        log = lw.log(episodes, 1, seed)
        return doses.alone(log, -doses.distance(log))


class Doses(Decisions):
    """Doses that work, a reward of 1, with a probability of exp(-|a - A s|^2 / 2), or do not, 0."""

    def value(self, gain: np.ndarray, std: np.ndarray) -> float:
        """Exact."""
        return doses.value(gain, std)

    def log(self, episodes: int, seed: int) -> Dataset:
        """Doses of the behaviour."""
        return doses.log(episodes, seed)


NAMES = [f"{wanted:+.3f}, {family}" for family, gains in GAINS.items() for wanted in gains]
"""Candidates in the order of a record's verdicts."""
WORLDS = {"quadratic": World(False), "bounded": World(True), "decisions": Decisions(False), "doses": Doses(False)}


def candidates(world: World, spread: float) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Name -> gain matrix, standard deviation and exact gain over the behaviour.

    A random direction aside, then towards the better policy, or away from it, until the gain is as wanted.
    """
    aside = np.random.default_rng(0).normal(size=lw.BEHAVIOR.shape)
    aside /= np.linalg.norm(aside)
    own = world.value(lw.BEHAVIOR, lw.STD)
    found = {}
    for family, gains in GAINS.items():
        distance, noise = world.nearness * ASIDE[family][0], ASIDE[family][1]
        for wanted in gains:

            def missing(
                along: float, wanted: float = wanted, distance: float = distance, noise: float = noise
            ) -> float:
                gain = lw.BEHAVIOR + distance * aside + along * (lw.BETTER - lw.BEHAVIOR)
                return float(world.value(gain, noise * lw.STD) - own - wanted * spread)

            along = optimize.brentq(missing, -1.0, 1.0)
            matrix = lw.BEHAVIOR + distance * aside + along * (lw.BETTER - lw.BEHAVIOR)
            found[f"{wanted:+.3f}, {family}"] = (matrix, noise * lw.STD, world.value(matrix, noise * lw.STD) - own)
    return found


def judged(world: World, policies: list[Any], episodes: int, number: int, count: int) -> Iterator[dict[str, Any]]:
    """The verdicts on all candidates on each of `count` test parts of a fit, with the lines that failed and the primary gain."""
    cut = int(FITTING * episodes)
    fit_on = world.log(cut, 50_000 + number)
    tests = [world.log(episodes - cut, 100_000 + count * number + k) for k in range(count)]
    settings = st.FitSettings(seed=number)
    names = DEFAULT_OF_DECISIONS if isinstance(world, Decisions) else DEFAULT
    fits = Fits(policies, tests[0], fit_on, estimand=Estimand(lw.GAMMA), settings=settings)
    for k, log in enumerate(tests):
        said = audit(log).verdict if number < AUDITED and k == 0 else "usable"
        with mock.patch.object(Judge, "_sensitivity", return_value=None):  # decides nothing where densities are logged
            found = evaluate_fits(
                fits if k == 0 else fits.on(log), chosen_estimators(names), audit_verdict=said, resamples=RESAMPLES
            )
        yield {"test": k, "audit": said, "verdicts": [_plain(one, said) for one in found]}


def _plain(found: Evaluation, said: str) -> dict[str, Any]:
    """What a record keeps of a verdict."""
    verdict = found.verdict
    gain = None if verdict.primary is None else found.gain[verdict.primary]
    return {
        "decision": verdict.decision,
        "failed": "".join(line.key for line in verdict.lines if line.passed is False),
        "primary": verdict.primary,
        "gain": None if gain is None else [gain.value, gain.lower, gain.upper, gain.healthy],
        "checks": [] if gain is None else [check.key for check in gain.checks if not check.passed],
    }


def table(records: list[dict[str, Any]], names: dict[str, float]) -> list[str]:
    """Counts of a size of log, a row a candidate."""
    rows = [
        "| candidate: gain in sd, family | true gain | logs | GO | NO-GO | healthy | lower end above the truth | upper end below "
        "| of the healthy: above | below |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for place, (name, truth) in enumerate(names.items()):
        own = [record["verdicts"][place] for record in records]
        gains = np.array([one["gain"] for one in own if one["gain"] is not None and one["gain"][1] is not None], float)
        gains = gains.reshape(-1, 4)
        healthy, above, below = gains[:, 3] > 0, gains[:, 1] > truth, gains[:, 2] < truth
        counted = [sum(one["decision"] == what for one in own) for what in ("GO", "NO-GO")]
        rows.append(
            f"| {name} | {round(truth, 3) + 0.0:+.3f} | {len(own)} | {counted[0]} | {counted[1]} | {healthy.sum()} "
            f"| {above.sum()} | {below.sum()} | {(above & healthy).sum()} | {(below & healthy).sum()} |"
        )
    return rows


def summary(records: list[dict[str, Any]], names: dict[str, float]) -> str:
    """GO where none is due."""
    said = {
        what: [one["verdicts"][k]["decision"] == "GO" for one in records for k, name in enumerate(names) if kind(name)]
        for what, kind in (("at gain 0", lambda n: n.startswith("+0.000")), ("when worse", lambda n: n.startswith("-")))
    }
    upper = {what: stats.beta.ppf(0.95, sum(go) + 1, len(go) - sum(go)) if go else 1.0 for what, go in said.items()}
    return "; ".join(f"GO {what}: {sum(go)} of {len(go)} (at most {upper[what]:.1%}, 95%)" for what, go in said.items())


def what_refuses(records: list[dict[str, Any]]) -> str:
    """Why verdicts of truly better policies were no GO, in a sentence."""
    better = [
        verdict
        for record in records
        for name, verdict in zip(NAMES, record["verdicts"], strict=True)
        if float(name.split(",")[0]) > 0
    ]
    shown = [verdict for verdict in better if "a" not in verdict["failed"]]
    refused = [verdict for verdict in shown if verdict["decision"] != "GO"]
    told = [verdict["checks"] for verdict in refused if "checks" in verdict]  # those before decision 0052 may not tell
    named = [f"`{check}` in {count}" for check, count in Counter(check for one in told for check in one).most_common()]
    by_health = sum("c" in verdict["failed"] for verdict in refused)
    return (
        f"Of {len(better)} verdicts on truly better policies the lower end lies above 0 in {len(shown)}, and "
        f"{len(shown) - len(refused)} of these are GO. Health checks refuse {by_health} of the other {len(refused)}, and "
        f"a verdict may fail several: {', '.join(named)}. `influence` fails where one episode holds more than 10% of the "
        "variance of the estimate, in which that of its models is counted "
        "([0052](../../docs/decisions/0052-influence-in-the-whole-variance.md))."
    )


def records_of(state: State, rewards: str, episodes: int, **more: Any) -> list[dict[str, Any]]:
    """What is kept of a world and a size; the oldest records are of quadratic rewards and do not say so."""
    wanted = {"episodes": episodes} | more
    return [
        one
        for one in state.records
        if one.get("rewards", "quadratic") == rewards and all(one.get(key) == value for key, value in wanted.items())
    ]


def compared(records: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """What decision 0052 changed in the verdicts on the same logs, in a sentence; empty where none are known.

    The earliest records have the same numbers and are of other logs: a log counts where all gains agree.
    """
    places = ("rewards", "episodes", "fit", "test")

    def by_log(kept: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        return {tuple(({"rewards": "quadratic"} | one)[place] for place in places): one["verdicts"] for one in kept}

    def gains(of_log: list[dict[str, Any]]) -> np.ndarray:
        return np.array([(one["gain"] or [None] * 3)[:3] for one in of_log], float)

    now, then = by_log(records), by_log(before)
    both = [log for log in now if log in then and np.allclose(gains(now[log]), gains(then[log]), equal_nan=True)]
    if not both:
        return ""
    healthy = [sum(bool(one["gain"] and one["gain"][3]) for log in both for one in of[log]) for of in (then, now)]
    said = [sum(one["decision"] == "GO" for log in both for one in of[log]) for of in (then, now)]
    return (
        f"On {len(both)} of these logs, of {len({log[:3] for log in both})} fits, the verdicts before decision 0052 are known as "
        "well, with the same gains, when an episode's share was one of the variance of sampling alone. Of "
        f"{len(both) * len(NAMES)} verdicts {healthy[0]} were healthy then, and {said[0]} GO; {healthy[1]} are healthy now, and "
        f"{said[1]} GO. All earlier records, of 2,000 episodes and of bounded rewards too, are in "
        f"[{BEFORE.name}]({BEFORE.name})."
    )


def how_far(records: list[dict[str, Any]]) -> str:
    """How many healthy verdicts at a gain of 0 there are, and how many of them are GO, in sentences."""
    at_zero = [
        (fit_of(one), one["verdicts"][k])
        for one in records
        for k, name in enumerate(NAMES)
        if name.startswith("+0.000")
    ]
    healthy = [(fit, one) for fit, one in at_zero if one["gain"] and one["gain"][3]]
    false, fits = [fit for fit, one in healthy if one["decision"] == "GO"], {fit for fit, _ in healthy}
    if not fits:
        return f"None of {len(at_zero)} verdicts at a gain of 0 is healthy."
    most = stats.beta.ppf(0.95, len(false) + 1, len(healthy) - len(false))
    shown = [one for _, one in at_zero if one["gain"] and one["gain"][1] is not None and one["gain"][1] > 0]
    unhealthy = sum(not one["gain"][3] for one in shown)
    return (
        f"{len(healthy)} of {len(at_zero)} verdicts at a gain of 0 are healthy, of {len(fits)} fits; {len(false)} of them "
        f"{'is' if len(false) == 1 else 'are'} GO, from {len(set(false))} of the fits: at most {most:.1%} (95%), were they "
        f"independent. The lower end lies above 0 in {len(shown)} of the {len(at_zero)}, and health refuses {unhealthy} of these."
    )


def fit_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """What tells the fits of all worlds and sizes apart."""
    return record.get("rewards", "quadratic"), record["episodes"], record["fit"]


def how_well(records: list[dict[str, Any]], truth: list[float]) -> str:
    """How many healthy intervals of a world and a size miss the true gain of their candidate, in a sentence."""
    found = [
        (one["gain"][1] > true, one["gain"][2] < true)
        for record in records
        for one, true in zip(record["verdicts"], truth, strict=True)
        if one["gain"] and one["gain"][3]
    ]
    above, below = (sum(side) for side in zip(*found, strict=True)) if found else (0, 0)
    return f"Of {len(found)} healthy intervals of all candidates {above} lie above the true gain and {below} below it."


def how_shared(records: list[dict[str, Any]], names: dict[str, float]) -> str:
    """How far errors differ between the test parts of one fit, and between fits beyond that, in sentences; "" for one fit.

    A variance between fits above 0 is what the models of a fit do to all of its estimates.
    """
    told, fits = [], sorted({fit_of(record) for record in records})
    for place, (name, truth) in enumerate(names.items()):
        errors = [
            [gain[0] - truth for one in records if fit_of(one) == fit and (gain := one["verdicts"][place]["gain"])]
            for fit in fits
        ]
        errors = [of_fit for of_fit in errors if len(of_fit) > 1]
        if len(errors) < 2 or not name.startswith("+0.000"):
            continue
        within = float(np.mean([np.var(of_fit, ddof=1) for of_fit in errors]))
        means = [np.mean(of_fit) for of_fit in errors]
        between = float(np.var(means, ddof=1)) - within * float(np.mean([1 / len(of_fit) for of_fit in errors]))
        bias, noise = np.mean(means), np.std(means, ddof=1) / np.sqrt(len(means))
        shared = f"{np.sqrt(between):.3f} between fits" if between > 0 else "none between fits"
        told.append(
            f"{name.split(', ')[1]} {np.sqrt(within):.3f} within a fit and {shared} (mean error {bias:+.3f}, SE {noise:.3f})"
        )
    return f"Standard deviations of the errors at a gain of 0: {'; '.join(told)}." if told else ""


def _about(world: World) -> tuple[float, list[Any], dict[str, float]]:
    """Standard deviation of the returns of a world, its candidates, and their names with their exact gains."""
    spread = float(world.log(4000, 2).episode_returns(lw.GAMMA).std())
    chosen = candidates(world, spread)
    policies = [lw.policy(matrix, std) for matrix, std, _ in chosen.values()]
    return spread, policies, {name: gain for name, (_, _, gain) in chosen.items()}


def _of_decisions() -> list[str]:
    """What the page of single decisions says before its counts."""
    return [
        "Single decisions with continuous actions and logged densities, whose verdicts rest on `reward-dr` "
        "([0058](../../docs/decisions/0058-doses-by-their-densities.md)). In the first world the model of the reward can "
        "represent the rewards, in the second it cannot.",
        "",
        f"{TESTS_OF_DECISIONS} test parts share the model of a fit, and three candidates at a gain of 0 share a log: the bounds "
        "below take them for independent, and are too small.",
    ]


def _of_episodes() -> list[str]:
    """The same of the page of episodes."""
    return [
        "The rule by which GO was permitted over continuous actions "
        "([0057](../../docs/decisions/0057-go-over-continuous-actions.md)): 160 *healthy* verdicts at a gain of 0, of at least "
        "30 fits, hold GO at no more than 2.5% within binomial noise, and no healthy interval of [continuous.md](continuous.md) "
        "lies above the truth more often than its level allows. It was first written when 21 verdicts at a gain of 0 were known, "
        "and then counted all of them. It was changed when 66 were known, of which 1 was healthy: the others cannot be GO, so "
        "that the rule could hardly have failed. After that the share of one episode came to be one of the whole variance "
        "([0052](../../docs/decisions/0052-influence-in-the-whole-variance.md)), by which more verdicts are healthy, and all "
        "records of this page were made.",
        "",
        f"{', '.join(map(str, FULL[:-1]))} or {FULL[-1]} test parts share the models of a fit, and three candidates at a gain "
        "of 0 share a log: the bounds below take them for independent, and are too small.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewards", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--episodes", nargs="+", type=int, default=[500, 2000])
    parser.add_argument("--fits", type=int, default=30)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first fit; two processes may share the work"
    )
    parser.add_argument("--state", type=Path, default=RESULTS.with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true", help="only write the results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    state = State(args.state)
    about = {name: _about(WORLDS[name]) for name in args.rewards}
    for number in [] if args.table else range(args.first, args.fits):
        for rewards, episodes in itertools.product(args.rewards, args.episodes):
            known = {one["test"] for one in records_of(state, rewards, episodes, fit=number)}
            if len(known) in ((TESTS_OF_DECISIONS,) if isinstance(WORLDS[rewards], Decisions) else FULL):
                continue
            began, (_, policies, names) = time.monotonic(), about[rewards]
            for found in judged(WORLDS[rewards], policies, episodes, number, WORLDS[rewards].tests):
                if found["test"] not in known:
                    state.add(rewards=rewards, episodes=episodes, fit=number, **found)
            own = records_of(state, rewards, episodes)
            print(rewards, episodes, number, f"{time.monotonic() - began:.0f} s", summary(own, names), flush=True)
    alone = all(isinstance(WORLDS[name], Decisions) for name in args.rewards)
    told = [one for one in state.records if one.get("rewards", "quadratic") in args.rewards]
    unit, noun = ("a reward", "decisions") if alone else ("an episode's discounted return", "episodes")
    lines = [
        f"# False GO, and GO when it is due, {'on doses' if alone else 'over continuous actions'}\n",
        describe(f"python benchmarks/false_go_continuous.py {' '.join(sys.argv[1:])}".strip()),
        "",
        f"Gains are in standard deviations of {unit}. *Wanted*: at a gain of 0, GO in at most 2.5% of logs.",
        "",
        *(_of_decisions() if alone else _of_episodes()),
        "",
        what_refuses(told),
        "",
        "" if alone else compared(told, State(BEFORE).records),
    ]
    for rewards, episodes in itertools.product(args.rewards, args.episodes):
        own, (spread, _, names) = records_of(state, rewards, episodes), about[rewards]
        if own:
            count = len({one["fit"] for one in own})
            lines += [
                "",
                f"## {TITLES[rewards]}, {episodes:,} {noun}, {count} fit{'s' if count > 1 else ''}",
                "",
                f"{summary(own, names)}. One standard deviation is {spread:.3g}. {how_far(own)} "
                f"{how_well(own, list(names.values()))} {how_shared(own, names)}",
                "",
                *table(own, names),
            ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
