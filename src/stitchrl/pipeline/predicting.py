"""What a bundle does in every row of a log, written as a table: actions, probabilities, and what the guard says.

The log needs the columns that the policy observes, and nothing else. Rows that cannot be used are marked and left without an
action: one bad row does not cost the others theirs. JAX is not imported.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from stitchrl.data.same_meaning import check_units
from stitchrl.data.schema import Schema
from stitchrl.deployment.asked_encoder import AskedEncoder
from stitchrl.deployment.bundle import Bundle
from stitchrl.deployment.guard import BEHAVIOR, CLIP, REFUSE
from stitchrl.deployment.memory_bundle import MemoryBundle
from stitchrl.deployment.observed import encoded, mask_columns
from stitchrl.deployment.places import names_of_numbers
from stitchrl.encoding.columns import Block, Column
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.messages import listed, printable
from stitchrl.pipeline.carrying import LastValues
from stitchrl.pipeline.outputs import check_new_table
from stitchrl.printing import Shown
from stitchrl.progress import RowsBar
from stitchrl.reading.read import known_schema, open_log
from stitchrl.reading.sources.source import LogSource
from stitchrl.storage.files import write_atomic
from stitchrl.types import NumpyArray

__all__ = ["Predictions", "predict_log"]

ENDINGS = (".parquet", ".csv")
IDENTIFYING = ("episode", "step", "time", "group", "source", "observation_id")
"""Roles whose columns are carried along."""
OF_THE_GUARD = ("guard_outside", "guard_columns", "acted")
"""Columns of every table."""


@dataclasses.dataclass(frozen=True, repr=False)
class Predictions(Shown):
    """What was written.

    Attributes:
        file: the table.
        rows: how many rows it has.
        outside: how many of them lie outside the range that the guard admits.
        without_action: how many of them have no action.
        notes: sentences that a user should know.
    """

    file: str
    rows: int
    outside: int
    without_action: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        said = f"{self.file}: {self.rows:,} rows"
        if self.outside:
            said += f", {self.outside:,} of them outside the range that the policy learned from"
        if self.without_action:
            said += f", {self.without_action:,} without an action"
        return "\n".join([said, *self._why_without_action(), *self.notes])

    def _why_without_action(self) -> list[str]:
        """A sentence on where the table says why rows have no action; none where every row has one."""
        if not self.without_action:
            return []
        way = (
            " In place of refusing rows outside the range, `--on-outside` can do something else."
            if self.outside
            else ""
        )
        return [f"Why a row has no action stands in its column guard_columns.{way}"]


def predict_log(
    policy: Bundle,
    source: str | Path,
    out: Path,
    *,
    schema: str | Path | None = None,
    format: str | None = None,
    every_probability: bool = False,
    seed: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    without_mask: bool = False,
) -> Predictions:
    """Write what a bundle does in every row of a log.

    Args:
        policy: the bundle; its guard says what is done in rows that it does not admit (`Bundle.guarded`).
        source: the path of a log, which needs the columns of the observation, and of the action mask if the policy's log had one.
        out: a file that ends in .parquet or .csv. It is whole or not there.
        schema: the TOML of the log, of which only the identifying columns and [file] count; None: the one beside it, if any.
        format: of the log's files.
        every_probability: whether to write the probabilities of all actions.
        seed: draw the actions from this seed; None takes the preferred ones.
        progress: whether to show a bar on a terminal.
        overwrite: whether a file that is there already may be replaced. A file of the log never is.
        without_mask: whether every action counts as allowed where the log lacks the action mask that the policy's log had.

    Raises:
        DataError: a column that the policy observes, or of its action mask, is not there; values that are of another type; a
            column that is carried along has the name of a result.
        SchemaError: the log has a column in another unit than the policy's.
        ConfigurationError: another ending of `out`, no such folder, a file that is there, or one of the log; a policy that
            sees images, or remembers its episode.
        RunDirectoryError: `out` cannot be written.
    """
    if isinstance(policy, MemoryBundle):
        raise ConfigurationError(
            "`stitchrl predict` asks a policy row by row, and this one remembers its episode: what it does depends on what was "
            "done before. `policy.predict(observation, state)` acts step by step."
        )
    if policy.guard.low.ndim != 1:
        raise ConfigurationError(
            "`stitchrl predict` reads tables, and this policy sees images: `policy.predict(images)` answers for them."
        )
    if out.suffix not in ENDINGS:
        raise ConfigurationError(f"`--out` must end in {' or '.join(ENDINGS)}; got {printable(out.name)!r}.")
    check_new_table(out, source, overwrite=overwrite)
    own = known_schema(source, schema)
    log = open_log(source, format=format, rules=(own or policy.schema).file_rules)
    asked = _Asking(policy, own, log, every_probability=every_probability, seed=seed, without_mask=without_mask)
    write_atomic(out, lambda beside: _write(beside, out.suffix, asked.tables(progress=progress)))
    return Predictions(str(out), asked.rows, asked.outside, asked.without_action, asked.notes)


def _judged_as_drawn(policy: Bundle) -> bool:
    """Whether a verdict was given, and on a policy whose actions are drawn."""
    known = policy.provenance
    judged = (known.get("verdict") or {}).get("decision") in ("GO", "NO-GO", "CANNOT TELL")
    drawn = known.get("acts") == "as trained" if policy.discrete else policy.has_density
    return judged and drawn


class _Asking:
    """A bundle that is asked about a log block by block, and what was counted on the way."""

    def __init__(
        self,
        policy: Bundle,
        own: Schema | None,
        log: LogSource,
        *,
        every_probability: bool,
        seed: int | None,
        without_mask: bool,
    ) -> None:
        self.policy, self.schema, self.log = policy, _under_own_name(policy.schema, own), log
        self.every_probability = every_probability and policy.discrete
        self.rng = None if seed is None else np.random.default_rng(seed)
        self.rows = self.outside = self.without_action = 0
        if own is not None:
            check_units(policy.schema, own)
        there = set(log.names)
        missing = [name for name in self.schema.observation_columns if name not in there]
        if missing:
            raise DataError(
                f"The policy observes {listed(self.schema.observation_columns)}, and {log.origin} has no column "
                f"{listed(missing)}; its columns are {listed(log.names)}. Name its columns as the policy's log did."
            )
        self.identifying = _identifying(own, self.schema, there)
        self._refuse_names_of_results()
        mask = mask_columns(self.schema)
        self.mask, absent = mask, [name for name in mask if name not in there]
        notes = []
        if absent:
            if not without_mask:
                raise DataError(
                    f"The policy learned which actions are allowed from {listed(mask)}, and {log.origin} has no column "
                    f"{listed(absent)}. Add {'it' if len(absent) == 1 else 'them'}, or let every action count as allowed: "
                    "`--without-mask`."
                )
            self.mask = ()
            notes.append("The log has no action mask, which the policy's had: every action counts as allowed.")
        if seed is None and _judged_as_drawn(policy):
            notes.append(
                "The verdict is about actions that are drawn from the policy, and these are its preferred ones: `--sample` draws."
            )
        self.notes = (*log.notes, *notes)
        rules = (own or policy.schema).file_rules
        self.decimal = rules.decimal or log.settled.get("decimal", ".")
        self.last = LastValues(self.schema, self.policy.guard.low.shape[0], there)

    def _refuse_names_of_results(self) -> None:
        """Raise DataError where a column that is carried along has a name that the table needs for itself."""
        column, numbered = self.schema.columns["action"], None
        own = {*OF_THE_GUARD, "policy_action", "policy_probability", "policy_log_density"}
        if isinstance(column, str):
            own.add(f"policy_{column}")
            numbered = re.compile(rf"policy_{re.escape(column)}_\d+")
        else:
            own.update(f"policy_{name}" for name in column)
        if self.every_probability:
            own.update(f"policy_probability_{name}" for name in self.schema.action_names)
        taken = [name for name in self.identifying if name in own or (numbered and numbered.fullmatch(name))]
        if taken:
            raise DataError(
                f"The columns {', '.join(OF_THE_GUARD)} and policy_... of the table are results, and {self.log.origin} has a "
                f"column {printable(taken[0])!r} that is to be carried along. Rename it in the log and in its schema."
            )

    def tables(self, *, progress: bool) -> Iterator[pa.Table]:
        """The table of predictions, block by block."""
        names = list(
            dict.fromkeys([*self.schema.observation_columns, *self.identifying, *self.last.columns, *self.mask])
        )
        bar, begun = RowsBar() if progress else None, time.monotonic()
        try:
            for first, count, block in self.log.rows(names):
                yield self._table(block, first, count)
                if bar is not None:
                    bar.show(f"asking about {self.log.origin}", self.rows, None, time.monotonic() - begun)
        finally:
            if bar is not None:
                bar.close()

    def _table(self, block: Block, first: int, count: int) -> pa.Table:
        width = len(self.policy.guard.low)
        rows, unusable = encoded(block, self.schema, decimal=self.decimal, width=width)
        if rows.shape[1] != width:
            raise DataError(
                f"The policy takes observations of {width} numbers; {self.log.origin} gives {rows.shape[1]}."
            )
        rows = self.last.filled(rows, block, first)
        for reasons in unusable.values():
            rows[reasons != ""] = np.nan
        inside = self.policy.guard.inside(rows)
        admitted: NumpyArray = np.asarray(inside.all(1))
        outside = np.flatnonzero(np.logical_not(admitted))
        told = self.policy.guard.on_outside
        usable = admitted
        if told in (CLIP, BEHAVIOR):
            usable = np.asarray(np.isfinite(rows).all(1))
        elif told != REFUSE:
            usable = np.ones(count, bool)
        mask, forbidden = self._mask(block, admitted)
        usable = usable & (forbidden == "")
        made: dict[str, Column] = {name: _carried(block[name]) for name in self.identifying}
        if not self.identifying:
            made["row"] = np.arange(first, first + count)
        made |= self._answers(rows[usable], None if mask is None else mask[usable], usable)
        made["guard_outside"] = ~admitted
        made["guard_columns"] = self._reasons(inside, rows, unusable, forbidden, outside)
        word = {REFUSE: "nobody", CLIP: "policy, clipped", BEHAVIOR: "behavior"}.get(str(told), "given action")
        made["acted"] = np.where(usable, np.where(admitted, "policy", word), "nobody")
        self.rows += count
        self.outside += len(outside)
        self.without_action += int((~usable).sum())
        return pa.table(made)

    def _mask(self, block: Block, admitted: NumpyArray) -> tuple[NumpyArray | None, NumpyArray]:
        """(B, A) which actions are allowed, and (B,) why a row can have no action for that reason, "" where it can.

        Args:
            block: the columns.
            admitted: (B,) the rows in which the policy acts.
        """
        why = np.full(len(admitted), "", object)
        if not self.policy.discrete:
            return None, why
        if not self.mask:
            every = np.ones((len(admitted), len(self.schema.action_names)), bool)
            return every if mask_columns(self.schema) else None, why
        found = AskedEncoder(self.schema).masks(block)
        if found.shape[1] != self.schema.num_actions:
            raise DataError(
                f"The policy has {self.schema.num_actions} actions; the action mask of {self.log.origin} has {found.shape[1]}."
            )
        mask: NumpyArray = found == 1
        why[~mask.any(1)] = "action mask: no action is allowed"
        why[np.isnan(found).any(1)] = "action mask: missing, or neither true nor false"
        if isinstance(action := self.policy.guard.on_outside, int):
            why[~admitted & ~mask[:, action] & (why == "")] = f"action mask: forbids {self.schema.action_names[action]}"
        return mask, why

    def _answers(self, rows: NumpyArray, mask: NumpyArray | None, usable: NumpyArray) -> dict[str, pa.Array]:
        """The actions of the usable rows and their probabilities; null in the other rows."""
        found: dict[str, pa.Array] = {}
        action, _ = self.policy.predict(rows, deterministic=self.rng is None, action_mask=mask, seed=self.rng)
        if not self.policy.discrete:
            for i, name in enumerate(_components(self.schema, action.shape[1])):
                found[name] = _spread(action[:, i], usable)
            if self.policy.has_density:
                found["policy_log_density"] = _spread(self.policy.log_prob(rows, action), usable)
            return found
        names = self.schema.action_names
        named = np.asarray(names)[action] if self.schema.action_categories is not None else action
        found["policy_action"] = _spread(named, usable)
        if self.schema.action_counts is not None:
            parts = self.schema.action_components(action)
            for i, name in enumerate(_components(self.schema, parts.shape[1])):
                found[name] = _spread(parts[:, i], usable)
        probs = self.policy.probs(rows, action_mask=mask)
        found["policy_probability"] = _spread(np.take_along_axis(probs, action[:, None], 1)[:, 0], usable)
        if self.every_probability:
            found |= {f"policy_probability_{name}": _spread(probs[:, k], usable) for k, name in enumerate(names)}
        return found

    def _reasons(
        self,
        inside: NumpyArray,
        rows: NumpyArray,
        unusable: dict[str, NumpyArray],
        forbidden: NumpyArray,
        outside: NumpyArray,
    ) -> pa.Array:
        """For each row the columns that the guard does not admit, and why, and what its action mask lacks; null without any."""
        names = names_of_numbers(self.schema, rows.shape[1])
        said: list[str | None] = [str(reason) or None for reason in forbidden]
        for row in outside.tolist():
            words = [f"{name}: {reasons[row]}" for name, reasons in unusable.items() if reasons[row]]
            if not words:
                for number in np.flatnonzero(~inside[row]):
                    value = rows[row, number]
                    words.append(f"{names[number]}: {'missing' if np.isnan(value) else format(value, '.6g')}")
            said[row] = "; ".join([*words, *([forbidden[row]] if forbidden[row] else [])])
        return pa.array(said, pa.string())


def _write(beside: Path, ending: str, tables: Iterator[pa.Table]) -> None:
    """Write tables into one file, as they come."""
    writer: Any = None
    try:
        for table in tables:
            if writer is None:
                kind = pq.ParquetWriter if ending == ".parquet" else pacsv.CSVWriter
                writer, schema = kind(beside, table.schema), table.schema
            writer.write_table(table.cast(schema))
    except pa.ArrowException as error:
        raise DataError(
            f"The predictions cannot be written as {ending[1:]}: {printable(str(error).rstrip('.'))}."
        ) from None
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise DataError("The log has no rows, so that there is nothing to predict. Give a log with at least one row.")


def _spread(values: NumpyArray, usable: NumpyArray) -> pa.Array:
    """Values of the usable rows in the places of all rows, null elsewhere."""
    place = np.cumsum(usable) - 1
    return pa.array(values).take(pa.array(place, mask=~usable))


def _carried(column: Column) -> Column:
    return column if isinstance(column, pa.Array) or column.ndim == 1 else pa.array(column.tolist())


def _components(schema: Schema, count: int) -> Sequence[str]:
    """What the columns of the parts of an action are called."""
    column = schema.columns["action"]
    if not isinstance(column, str):
        return [f"policy_{name}" for name in column]
    return [f"policy_{column}"] if count == 1 else [f"policy_{column}_{i}" for i in range(count)]


def _identifying(own: Schema | None, policy: Schema, there: set[str]) -> list[str]:
    """The identifying columns that a log has, by its own schema and by the policy's."""
    found: dict[str, None] = {}
    for schema in (own, policy) if own is not None else (policy,):
        for column in schema.of_roles(IDENTIFYING).values():
            found |= dict.fromkeys(name for name in ((column,) if isinstance(column, str) else column) if name in there)
    return list(found)


def _under_own_name(policy: Schema, own: Schema | None) -> Schema:
    """The policy's schema, with the log's name of the observation where both have it in one column."""
    if own is None or len(own.observation_columns) > 1 or len(policy.observation_columns) > 1:
        return policy
    (ours,), (theirs,) = policy.observation_columns, own.observation_columns
    rules = {theirs: policy.observations[ours]} if ours in policy.observations else {}
    columns = {**policy.columns, "observation": theirs}
    columns.pop("next_observation", None)
    return dataclasses.replace(policy, columns=columns, observations=rules)
