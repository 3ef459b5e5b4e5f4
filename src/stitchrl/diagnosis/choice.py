"""Third part of the advice: which algorithms, with which starting settings, and why.

The rules are few, each looks at measured facts only, and each says which of them decided. They were found on the logs that
`benchmarks/advice.py` calls those of development, and are held against others there.
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
from stitchrl.diagnosis.log_facts import LogFacts
from stitchrl.diagnosis.starting_algorithms import job_algorithm
from stitchrl.diagnosis.statement import Statement

__all__ = ["Choice", "choices_of"]

MOST = 3
"""At most so many algorithms are advised."""
BENCHMARK = "benchmarks/results/advice.md"


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
        return {"label": self.label, "settings": self.settings, "assignments": list(self.assignments)}


def _as_text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def choices_of(facts: LogFacts) -> tuple[Choice, ...]:
    """The advised algorithms, the best first."""
    return (_continuous(facts) if facts.continuous else _discrete(facts))[:MOST]


def _discrete(facts: LogFacts) -> tuple[Choice, ...]:
    return (_of(facts, IQL, "Start with IQL", "n", "r", BENCHMARK, expectile=0.6),)


def _continuous(facts: LogFacts) -> tuple[Choice, ...]:
    return (_of(facts, TD3BC, "Start with TD3+BC", "n", "r", BENCHMARK),)


def _of(
    facts: LogFacts, kind: type[Algorithm], statement: str, number: str, rule: str, source: str, **settings: Any
) -> Choice:
    """An algorithm with the main job's settings but for some."""
    start = job_algorithm(kind, facts.gamma, continuous=facts.continuous)
    changed = {name: value for name, value in settings.items() if getattr(start, name, None) != value}
    algorithm = dataclasses.replace(start, **changed)  # type: ignore[type-var]
    return Choice(kind.__name__, algorithm, changed, Statement(statement, number, rule, source))
