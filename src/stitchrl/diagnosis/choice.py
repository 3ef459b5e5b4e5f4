"""Third part of the advice: which algorithms, with which starting settings, and why.

The rules are few. Each uses measured facts only, and says which of them decided. They were found on the development logs of
`benchmarks/advice.py`, which also tests them on other logs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.bcq import BCQ
from stitchrl.algorithms.behavior import BC
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.filtered_bc import FilteredBC
from stitchrl.algorithms.iql import IQL
from stitchrl.algorithms.td3bc import TD3BC
from stitchrl.algorithms.vilcb import VILCB
from stitchrl.diagnosis.log_facts import FEW_TIMES, LogFacts
from stitchrl.diagnosis.starting_algorithms import job_algorithm
from stitchrl.diagnosis.statement import Statement

__all__ = ["Choice", "choices_of"]

MOST = 3
"""The most algorithms that are advised."""
BENCHMARK = "benchmarks/results/advice.md"
NEARLY_UNIFORM = 0.9
"""Evenness of the actions, from 0 to 1, at and above which a behaviour counts as nearly uniform."""
THIN = 0.3
"""Share of decisions with a rare pair of state and action, above which the algorithm that counts states comes second."""
SMALL: dict[str, Any] = {"hidden_sizes": (128, 128), "learning_rate": 1e-3, "target_rate": 0.02}
"""The main job's network and step sizes, for an algorithm whose defaults are its paper's, which suit long trainings."""
FAST: dict[str, Any] = {"learning_rate": 1e-3, "target_rate": 0.02}
"""Larger steps than the papers', for the main job's short trainings."""
TIED = 0.15
"""Share of episodes in the best tenth, ties with its last included, above which the advice names the ties."""
LEAST_KEPT = 10
"""Episodes that FilteredBC should keep."""
KNOBS = ("expectile", "inverse_temperature", "cql_weight", "threshold", "q_weight", "top_fraction")
"""Settings that are shown beside a name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """An advised algorithm.

    Attributes:
        label: its name, under which the main job trains it.
        algorithm: with its settings.
        settings: those that differ from the main job's own.
        statement: why.
    """

    label: str
    algorithm: Algorithm
    settings: dict[str, Any]
    statement: Statement

    @property
    def assignments(self) -> tuple[str, ...]:
        """The settings as `--set` takes them, such as "IQL.expectile=0.6"."""
        return tuple(f"{self.label}.{name}={_as_text(value)}" for name, value in self.settings.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        shown = {name: getattr(self.algorithm, name) for name in KNOBS if hasattr(self.algorithm, name)}
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in self.settings.items()}
        return {"label": self.label, "shown": shown, "settings": settings, "assignments": list(self.assignments)}


def _as_text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def choices_of(facts: LogFacts) -> tuple[Choice, ...]:
    """The advised algorithms, the best first."""
    found = _continuous(facts) if facts.continuous else _discrete(facts)
    if facts.images:
        found = tuple(choice for choice in found if "images" in choice.algorithm.observations)
    return found[:MOST]


# --- discrete actions --------------------------------------------------------------------------------------------------


def _discrete(facts: LogFacts) -> tuple[Choice, ...]:
    if facts.return_spread == 0:
        return (_imitation(facts, "there is nothing to gain where every episode returns the same"),)
    if facts.deterministic:
        return _narrow(facts)
    iql, cql = _iql(facts), _cql(facts)
    ends = facts.gamma < 1 or facts.truncated_share == 0  # otherwise what is counted may have no solution
    if not facts.numbered_states or not ends:
        return (iql, cql, _filtered(facts))
    counted = _counting(facts)
    thin = facts.thin_share is not None and facts.thin_share > THIN
    return (iql, counted, cql) if thin else (counted, iql, cql)


def _narrow(facts: LogFacts) -> tuple[Choice, ...]:
    """A behaviour that hardly varies, such as an expert's."""
    number = f"{facts.certain_share:.0%} of the decisions were made with hardly any chance"
    bcq = _of(
        facts, BCQ,
        "Start with BCQ at a high threshold: it changes the behaviour only where a second action was nearly as common.",
        number,
        "where the behaviour hardly varies, values of other actions rest on few rows, and only common actions may be taken",
        f"Fujimoto et al. 2019; {BENCHMARK}",
        threshold=0.6, **SMALL,
    )  # fmt: skip
    cql = _of(
        facts, CQL,
        "Then CQL with a large weight, which keeps near to what was done often.",
        number,
        "the fewer alternatives were tried, the more conservative the values should be",
        f"Kumar et al. 2020; {BENCHMARK}",
        cql_weight=5.0,
    )  # fmt: skip
    return (
        bcq,
        cql,
        _imitation(facts, "such a behaviour is the standard to hold against; its copy is the safe choice"),
    )


def _iql(facts: LogFacts) -> Choice:
    chance = facts.chance
    if chance is not None and chance >= NEARLY_UNIFORM:
        return _of(
            facts, IQL,
            "IQL with a low inverse temperature: its policy then rests on many rows of each action, and not on the luckiest.",
            _evenness(facts),
            f"at an evenness of {NEARLY_UNIFORM:g} or more the behaviour favours no action, and sharp weights follow the noise "
            "of values",
            BENCHMARK,
            expectile=0.8, inverse_temperature=3.0,
        )  # fmt: skip
    noise = "unknown" if facts.outcome_noise is None else f"{facts.outcome_noise:.0%}"
    return _of(
        facts, IQL,
        "IQL with a low expectile: a high one would take luck for skill.",
        f"{noise} of the variance of what follows a decision stays unexplained by a regression, and {_evenness(facts)}",
        "the noisier the outcomes, the nearer to 0.5 the expectile should be; 0.95 was the best on 2 of the "
        "16 logs that the rules were found on",
        f"Kostrikov et al. 2021; {BENCHMARK}",
        expectile=0.6,
    )  # fmt: skip


def _evenness(facts: LogFacts) -> str:
    """How evenly the behaviour tried its actions, with what the number means."""
    if facts.chance is None:
        return "it is not known how evenly the behaviour tried its actions"
    return (
        f"the behaviour tried its actions with an evenness of {facts.chance:.2f} (0: always the same action in a state, 1: "
        "all of them equally often)"
    )


def _counting(facts: LogFacts) -> Choice:
    share = facts.thin_share or 0.0
    return _of(
        facts, VILCB,
        "VILCB, which counts states and lowers the value of what was tried rarely.",
        f"states are numbered, and {share:.0%} of the decisions are of a state and an action that occur fewer than "
        f"{FEW_TIMES} times",
        f"where at most {THIN:.0%} of the decisions are of such pairs, counting plans through the whole log without a network's "
        "errors; where more are, it comes after IQL",
        f"Rashidinejad et al. 2021; {BENCHMARK}",
    )  # fmt: skip


def _cql(facts: LogFacts) -> Choice:
    wide = facts.chance is not None and facts.chance >= NEARLY_UNIFORM
    return _of(
        facts, CQL,
        "CQL, as a second opinion of another kind.",
        _evenness(facts),
        "the better the actions are covered, the smaller its weight: 0.2 where the behaviour is nearly uniform, 1 elsewhere",
        "Kumar et al. 2020",
        cql_weight=0.2 if wide else 1.0,
    )  # fmt: skip


def _filtered(facts: LogFacts) -> Choice:
    return _of(
        facts, FilteredBC,
        f"FilteredBC, the simplest way to gain: it imitates {_best(facts, 0.1)}.",
        f"one episode in ten returns at least {facts.high_return:.4g}; the mean is {facts.mean_return:.4g}",
        "where the best episodes owe their return to skill, imitating them is hard to beat",
        "Chen et al. 2021 (percentage BC)",
    )  # fmt: skip


def _best(facts: LogFacts, share: float) -> str:
    """The episodes that FilteredBC keeps, in words: it keeps all ties, which can be far more than the share asked for."""
    if facts.best_tenth > max(TIED, share):
        return f"the {facts.best_tenth:.0%} of the episodes that tie for the best return"
    return f"the best {share:.0%} of the episodes"


def _imitation(facts: LogFacts, why: str) -> Choice:
    return _of(
        facts, BC,
        "BC, which copies the behaviour.",
        f"returns have a mean of {facts.mean_return:.4g} and a standard deviation of {facts.return_spread:.4g}",
        why,
        BENCHMARK,
    )  # fmt: skip


# --- continuous actions ------------------------------------------------------------------------------------------------


def _continuous(facts: LogFacts) -> tuple[Choice, ...]:
    if facts.return_spread == 0:
        return (_imitation(facts, "there is nothing to gain where every episode returns the same"),)
    if facts.deterministic:
        narrow = f"in {facts.certain_share:.0%} of the decisions, at least, the actions hardly vary"
        copy = _imitation(facts, "such a behaviour is the standard to hold against; its copy is the safe choice")
        return (_td3bc(facts, 2.5, narrow), copy, _iql_continuous(facts))
    spread = "unknown" if facts.chance is None else f"{facts.chance:.2f}"
    wide = f"the relative spread of the actions about their regression is {spread} (1 is uniform)"
    towards = _td3bc(facts, 10.0, wide)
    filtered, iql = _best_episodes(facts), _iql_continuous(facts)
    return (filtered, towards, iql) if facts.modes is not None else (towards, filtered, iql)


def _td3bc(facts: LogFacts, q_weight: float, number: str) -> Choice:
    return _of(
        facts, TD3BC,
        f"TD3+BC with a value weight of {q_weight:g}, at steps that suit the main job's short trainings.",
        number,
        "the wider the actions were tried, the more the learned values may decide against imitation: 10, and 2.5 (the paper's) "
        "where they hardly vary",
        f"Fujimoto and Gu 2021; {BENCHMARK}",
        q_weight=q_weight, **FAST,
    )  # fmt: skip


def _best_episodes(facts: LogFacts) -> Choice:
    """FilteredBC with as many episodes as the better mode holds, and at least `LEAST_KEPT`."""
    share = 0.1 if facts.modes is None else facts.modes[0][0]
    few = 0.1 * facts.episodes < LEAST_KEPT
    wide = few or share >= (0.1 + 0.3) / 2
    number = (
        f"of {facts.episodes:,} episodes one in ten returns at least {facts.high_return:.4g} "
        f"(the mean is {facts.mean_return:.4g})"
    )
    if facts.modes is not None:
        (better, high), (worse, low) = facts.modes
        number = f"{better:.0%} of {facts.episodes:,} episodes return about {high:.4g}, the other {worse:.0%} about {low:.4g}"
    return _of(
        facts, FilteredBC,
        f"FilteredBC, which imitates {_best(facts, 0.3 if wide else 0.1)}.",
        number,
        "it comes first where the returns have two modes, of which the better one is the target, and second where they have "
        f"one; the best 10% are kept where that is about the share of the better mode and at least {LEAST_KEPT} episodes, "
        "otherwise 30%",
        f"Chen et al. 2021 (percentage BC); {BENCHMARK}",
        top_fraction=0.3 if wide else 0.1,
    )  # fmt: skip


def _iql_continuous(facts: LogFacts) -> Choice:
    return _of(
        facts, IQL,
        "IQL, which never asks for the value of an action outside the log, at steps that suit the main job's short trainings.",
        f"{facts.transitions:,} decisions",
        "an expectile of 0.7 and an inverse temperature of 3 are the paper's for dense rewards",
        f"Kostrikov et al. 2021; {BENCHMARK}",
        **FAST,
    )  # fmt: skip


def _of(
    facts: LogFacts, kind: type[Algorithm], statement: str, number: str, rule: str, source: str, **settings: Any
) -> Choice:
    """An algorithm with the main job's settings, except for those given."""
    start = job_algorithm(kind, facts.gamma, continuous=facts.continuous)
    changed = {name: value for name, value in settings.items() if getattr(start, name, None) != value}
    algorithm = dataclasses.replace(start, **changed)
    return Choice(kind.__name__, algorithm, changed, Statement(statement, number, rule, source))
