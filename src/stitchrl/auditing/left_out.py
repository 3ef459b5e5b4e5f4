"""The columns that a log has and its observation leaves out, as numbers, and how well the observation tells them all the same.

They are the columns that the user says were removed, the subgroups that the schema names, and the source. What else a
Dataset keeps beside the observation is left alone: a group (a patient) is a name that no other patient shares, so that
nothing about it can be held out; weights and probabilities are functions of the observation in sound logs; rewards and costs
come after the action.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.nearest import told_by_column
from stitchrl.auditing.regression import features, residuals, waves
from stitchrl.types import NumpyArray

__all__ = ["LeftOut", "Revealed", "left_out_columns", "revealed"]

FEW_VALUES = 12
"""Text that can be read as numbers counts as numbers, unless the column has at most this many different values."""
MOST_CATEGORIES = 20
ROWS, LEAST_ROWS, LEAST_EPISODES = 2**13, 300, 20
WAVES = 100
MISSING = ("", "nan", "none", "null", "na", "nat")
NAMED = 5


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A column that the observation leaves out.

    Attributes:
        name: of the column.
        kind: "removed" where the user says so, else the role that it has in the schema: "subgroup" or "source".
        values: (N,) numbers, or the number of each category.
        categories: what the numbers stand for; empty for a column of numbers.
        known: (N,) where the value is not missing.
    """

    name: str
    kind: str
    values: NumpyArray
    categories: tuple[str, ...]
    known: NumpyArray

    def columns(self, rows: NumpyArray) -> tuple[NumpyArray, tuple[str, ...]]:
        """(n, k) the column in some rows, as columns on which a regression can stand, and their names."""
        values = self.values[rows]
        if self.categories:
            first = 1 if len(self.categories) == 2 else 0
            names = tuple(f"{self.name}={name}" for name in self.categories[first:])
            return (values[:, None] == np.arange(first, len(self.categories))).astype(np.float64), names
        spread = self.values[self.known].std() or 1.0
        standard = np.where(self.known[rows], (values - self.values[self.known].mean()) / spread, 0.0).clip(-10, 10)
        return np.stack([standard, standard**2], 1), (self.name, self.name)


class Revealed(NamedTuple):
    """How well the observation tells a column that it leaves out.

    Attributes:
        share: of the errors of a constant guess (of the variance, for numbers) that is avoided, held out.
        through: the observation columns that tell it, the strongest first.
    """

    share: float
    through: tuple[str, ...]


def left_out_columns(facts: Facts) -> list[LeftOut]:
    """The columns that the observation leaves out and that vary."""
    return facts.once(_left_out_columns)


def _left_out_columns(facts: Facts) -> list[LeftOut]:
    log = facts.log
    given: dict[str, tuple[str, NumpyArray]] = {name: ("removed", values) for name, values in facts.removed.items()}
    seen = {name.partition("=")[0] for name in facts.observation_names}
    named = log.schema.columns.get("subgroup", ())
    for j, name in enumerate((named,) if isinstance(named, str) else named):
        if log.subgroup is not None and name not in seen:
            given.setdefault(name, ("subgroup", log.subgroup[:, j]))
    source = str(log.schema.columns.get("source", "source"))
    if log.source is not None and source not in seen:
        given.setdefault(source, ("source", log.source))
    found = [_encoded(name, kind, np.asarray(values)) for name, (kind, values) in given.items()]
    return [column for column in found if column is not None]


def _encoded(name: str, kind: str, values: NumpyArray) -> LeftOut | None:
    """The column as numbers; None where it hardly varies."""
    if values.dtype.kind in "biufM":
        numbers = values.astype(np.int64) if values.dtype.kind == "M" else values
        numbers = numbers.astype(np.float64)
        known = np.isfinite(numbers)
    else:
        text = values.astype(str)
        known = ~np.isin(np.char.lower(np.char.strip(text)), MISSING)
        distinct, code = np.unique(text, return_inverse=True)
        as_numbers = _numbers(distinct)
        if as_numbers is None or len(distinct) <= FEW_VALUES:
            counts = np.bincount(code[known], minlength=len(distinct))
            common = np.argsort(-counts, kind="stable")[: min(MOST_CATEGORIES, int((counts > 0).sum()))]
            place = np.full(len(distinct), len(common))
            place[common] = np.arange(len(common))
            names = tuple(str(distinct[c]) for c in common)
            return LeftOut(name, kind, place[code], names, known) if len(names) > 1 else None
        numbers = as_numbers[code]
    if known.sum() < 2 or numbers[known].min() == numbers[known].max():
        return None
    return LeftOut(name, kind, np.where(known, numbers, 0.0), (), known)


def _numbers(text: NumpyArray) -> NumpyArray | None:
    """The numbers that texts hold, NaN where one is missing; None where some text is no number."""
    blank = np.isin(np.char.lower(np.char.strip(text)), MISSING)
    try:
        return np.where(blank, np.nan, np.where(blank, "0", text).astype(np.float64))
    except ValueError:
        return None


def revealed(facts: Facts, column: LeftOut) -> Revealed | None:
    """How well the observation tells a column in episodes that the fit did not see; None where the log is too small."""
    rows = facts.sample.rows
    where = np.flatnonzero(column.known[rows])
    where = where[:: max(1, len(where) // ROWS)]
    sample, log = facts.sample, facts.log
    unit = sample.episode if log.group is None else np.unique(log.group, return_inverse=True)[1][sample.episode]
    unit = unit[where]
    vary = np.flatnonzero(sample.observation[where].std(0) > 0)
    if len(where) < LEAST_ROWS or len(np.unique(unit)) < LEAST_EPISODES or not len(vary):
        return None
    unit = np.unique(unit, return_inverse=True)[1]
    seen = facts.standardised(sample.observation[where])[:, vary].clip(-10, 10)
    values = column.values[rows[where]]
    target = (values[:, None] == np.arange(len(column.categories))).astype(np.float64)
    target = target if column.categories else values[:, None].astype(np.float64)
    target = target - target.mean(0)
    fitted = target - residuals(np.concatenate([features(seen), waves(seen, count=WAVES)], 1), target, unit)
    if column.categories:
        by_all = 1 - (fitted.argmax(1) != values).mean() / max(1 - np.bincount(values).max() / len(values), 1e-12)
    else:
        by_all = 1 - ((target - fitted) ** 2).sum() / max((target**2).sum(), 1e-300)
    alone = told_by_column(seen, values[:, None], unit % 2 == 0, bool(column.categories))
    best = int(alone.argmax())
    names = [facts.label(int(j)) for j in vary]
    if alone[best] > by_all + 0.02:
        return Revealed(float(alone[best]), (names[best],))
    linear = np.abs(np.linalg.lstsq(seen, target, rcond=1e-6)[0]).max(1)
    order = [j for j in np.argsort(-linear, kind="stable") if linear[j] >= 0.1 * linear.max()]
    return Revealed(float(by_all), tuple(names[j] for j in order[:NAMED]))
