"""Everything that is wrong with a log at once: reading stops at the first problem, and this looks for the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.schema import ROLES, Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.messages import listed, shown
from stitchrl.reading.encode import Encoder
from stitchrl.reading.layout import lay_out
from stitchrl.reading.sources.source import Block, DamagedError, LogSource

__all__ = ["MOST_PROBLEMS", "misfits", "with_all_others"]

MOST_PROBLEMS = 20
"""How many problems are looked for."""
MOST_ROWS = 2**22
"""How many rows are looked at: a log with a problem should not take long to say so."""
NAMES = ("episode", "group", "source", "subgroup", "observation_id")
"""Roles whose values are names, so that text needs no further meaning."""
OF_LAYOUT = ("episode", "group", "step", "time", "terminated", "truncated")
"""Roles that say where rows belong."""
OPTIONS = {
    "cost": "--cost",
    "subgroup": "--group",
    "policy_probs": "--policy-columns",
    "policy_log_prob": "--policy-log-prob",
}
"""Role -> the option of the command line by which a column may be asked for beside those that the schema names."""


def misfits(source: LogSource, encoder: Encoder) -> Iterator[tuple[str, str, DataError]]:
    """The columns that the schema names and the source lacks, or whose numbers can be understood in several ways.

    Yields:
        The role, the column, and the error.
    """
    schema, there = encoder.schema, set(source.names)
    has = f"; it has: {listed(source.names, 40)}"
    named = [role for role, given in (("action", schema.action_categories), *_end_values(schema)) if given is not None]
    for role in dict.fromkeys((*schema.columns, "reward")):
        for name in encoder.needed((role,)):
            rule = schema.observations.get(name)
            categories = (
                role in ("observation", "next_observation") and rule is not None and rule.categories is not None
            )
            if name not in there:
                option = f" (or an option such as `{OPTIONS[role]}` does)" if role in OPTIONS else ""
                said = f"The schema says {role} is in column {shown(name)}{option}, which {source.origin} does not have{has}."
                yield role, name, SchemaError(said)
                has = ""  # once is enough
            elif name in source.doubts and not categories and role not in (*NAMES, *named):
                yield role, name, DataError(source.doubts[name])


def _end_values(schema: Schema) -> tuple[tuple[str, Any], ...]:
    return ("terminated", schema.terminated_values), ("truncated", schema.truncated_values)


def with_all_others(error: DataError, source: LogSource, schema: Schema, *, guessed: bool) -> DataError:
    """An error of reading together with everything else that is wrong with the log, up to `MOST_PROBLEMS`.

    A problem that stands alone keeps its own sentence.
    """
    found = _Found(str(error))
    if isinstance(error, DamagedError):
        return error
    try:
        _look(source, schema, guessed, found)
    except DamagedError:  # what was found up to there is told
        pass
    except DataError as last:
        found.add(last)
    if len(found.sentences) < 2:
        return error
    count = len(found.sentences)
    first = (
        f"{source.origin} has {count} problems:"
        if count < MOST_PROBLEMS
        else (f"{source.origin} has {count} problems or more; the first are:")
    )
    kind = SchemaError if isinstance(error, SchemaError) else DataError
    return kind("\n".join([first, *(f"- {sentence}" for sentence in found.sentences)]))


class _Found:
    """The problems found so far, each sentence once.

    Args:
        first: the sentence of the problem that stopped reading.
    """

    def __init__(self, first: str) -> None:
        self.sentences = {first: None}

    def add(self, error: DataError) -> None:
        """Hold a problem, unless there are as many as are looked for."""
        if len(self.sentences) < MOST_PROBLEMS:
            self.sentences[str(error)] = None


def _look(source: LogSource, schema: Schema, guessed: bool, found: _Found) -> None:
    """Look at the columns one by one, then at where rows belong. Raises DataError where the source cannot be read."""
    encoder = Encoder(schema, source.origin, guessed=guessed)
    bad: set[tuple[str, str]] = set()
    for role, name, error in misfits(source, encoder):
        bad.add((role, name))
        found.add(error)
    checks = [check for check in _checks(schema, encoder) if not bad & {(check.role, n) for n in check.names}]
    sound = not any(role in OF_LAYOUT for role, _ in bad)
    wanted = list(dict.fromkeys(name for check in checks for name in check.names))
    for row, rows, block in source.rows(wanted) if wanted else ():
        if row == 0:
            encoder.settle_action(block) if not bad else None
        for check in list(checks):
            try:
                check.of(block, row)
            except DataError as error:
                checks.remove(check)
                sound = sound and check.role not in OF_LAYOUT
                found.add(error)
        if row + rows > MOST_ROWS:
            return
    if sound:
        lay_out(source, encoder, found.add)


@dataclasses.dataclass(frozen=True, eq=False)
class _Check:
    """Reading one part of a log, for its errors alone.

    Attributes:
        role: of the part.
        names: the columns that it needs.
        of: reads a block whose first row has the number given.
    """

    role: str
    names: tuple[str, ...]
    of: Callable[[Block, int], Any]


def _checks(schema: Schema, encoder: Encoder) -> Iterator[_Check]:
    """What is read apart: each column of the observation, and every other role.

    Where a missing value is an error, the values that are there are looked at as well.
    """
    rules = {
        name: dataclasses.replace(schema.observations.get(name, ColumnRule()), missing="value")
        for name in schema.observation_columns
    }
    fill = 0.0 if schema.reward_fill is None else schema.reward_fill
    relaxed = Encoder(dataclasses.replace(schema, observations=rules, reward_fill=fill), encoder.origin)
    for role in ROLES:
        if role not in schema.columns and role != "reward":
            continue
        names = tuple(encoder.needed((role,)))
        if role in ("observation", "next_observation"):
            for reader in (encoder, relaxed):
                for number, name in enumerate(names):
                    yield _Check(role, (name,), partial(reader.observation_column, role, number))
        elif role in ("episode", "group"):
            yield _Check(role, names, partial(encoder.identifiers, role))
        elif role == "time":
            yield _Check(role, names, encoder.times)
        else:
            for reader in (encoder, relaxed) if role == "reward" else (encoder,):
                yield _Check(role, names, partial(reader.role, role))
