"""A block of a log's own columns -> arrays with the meaning the schema gives them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Shaped

from stitchrl.data.expression import Expression
from stitchrl.data.readers.source import Block, Column
from stitchrl.data.schema import VECTOR_ROLES, ColumnRule, Schema
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["Encoder"]

ROUNDING = 1e-3
"""By which the probabilities of a row may miss 1."""


class Encoder:
    """Turns blocks of one log into role arrays; messages name column and row of the log.

    Args:
        schema: of the log.
        origin: how messages call it.
    """

    def __init__(self, schema: Schema, origin: str) -> None:
        self.schema, self.origin = schema, origin
        self._reward = None if schema.reward_expression is None else Expression(schema.reward_expression)
        self._vocabularies: dict[str, pa.Array] = {}

    def needed(self, roles: tuple[str, ...]) -> list[str]:
        """The log's columns that these roles are made of."""
        names: dict[str, None] = {}
        for column in self.schema.of_roles(roles).values():
            names |= dict.fromkeys((column,) if isinstance(column, str) else column)
        if "reward" in roles and self._reward is not None:
            names |= dict.fromkeys(self._reward.columns)
        return list(names)

    # --- roles --------------------------------------------------------------------------------------------------

    def role(self, role: str, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        """One role of a block as it will stand in the Dataset.

        Args:
            role: any but the observations.
            block: rows of the log that start at `row`.
            row: for messages.

        Raises:
            DataError: missing, non-finite or impossible values.
        """
        special: dict[str, Callable[[Block, int], NumpyArray]] = {
            "reward": self._rewards,
            "action": self._actions,
            "propensity": self._propensities,
            "behavior_probs": self._probabilities,
            "action_mask": self._masks,
            "weight": self._weights,
        }
        if role in special:
            return special[role](block, row)
        if role in ("terminated", "truncated"):
            return self._flags(self.column(role, block, row), role)
        if role == "behavior_log_prob":
            return self.numbers(role, self.column(role, block, row), row)
        return self.column(role, block, row)

    def column(self, role: str, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        """A role's column, or several side by side, in the log's own values."""
        named = self.schema.columns[role]
        if isinstance(named, str):
            values = self.plain(block[named], named, role, row)
        else:
            parts = [self.plain(block[name], name, role, row) for name in named]
            values = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
        most = 2 if role in VECTOR_ROLES else 1
        if values.ndim > most:
            raise DataError(f"{role} of {self.origin} must have at most {most} axes; got shape {values.shape}.")
        return values

    def observations(self, role: str, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        """`observation` or `next_observation`: (n, D) float32, or uint8 images; NaN where a rule fills gaps later.

        Raises:
            DataError: missing or non-finite values without a rule, values outside their bounds or vocabulary.
        """
        named = self.schema.columns[role]
        names = (named,) if isinstance(named, str) else named
        rules = [self.schema.observations.get(n, PLAIN) for n in self.schema.observation_columns]
        rules = rules if len(rules) == len(names) else [PLAIN] * len(names)
        if len(names) == 1 and rules[0] is PLAIN:
            only = self.plain(block[names[0]], names[0], role, row)
            if only.dtype == np.uint8 and only.ndim >= 3:
                return only
        parts = [self._observation(role, name, rule, block[name], row) for name, rule in zip(names, rules, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def observation_names(self, block: Block) -> list[tuple[str, ...]]:
        """For each observation column, what the numbers it becomes are called."""
        named = []
        for name in self.schema.observation_columns:
            rule = self.schema.observations.get(name, PLAIN)
            if rule.categories is not None:
                names = [f"{name}={c}" for c in rule.categories] if rule.encoding == "one-hot" else [name]
            elif _is_scalar(block[name]):
                names = [name]
            else:
                width = self._observation("observation", name, rule, block[name], 0).shape[1] - rule.indicator
                names = [f"{name}[{i}]" for i in range(width)]
            named.append((*names, *([f"{name} missing"] if rule.indicator else [])))
        return named

    # --- each in its own way ------------------------------------------------------------------------------------

    def _observation(
        self, role: str, name: str, rule: ColumnRule, column: Column, row: int
    ) -> Float[NumpyArray, "n width"]:
        """One column's numbers."""
        if rule.categories is not None:
            values = self._codes(name, role, rule.categories, column, row, gaps=rule.missing != "error")
        elif rule.missing == "error":
            values = self.numbers(role, self.plain(column, name, role, row), row, finite=role == "observation")
        else:
            values = self.numbers(role, self.plain(column, name, role, row, gaps=True), row, finite=False)
            if np.isinf(values).any():
                self.numbers(role, np.where(np.isnan(values), 0, values), row)
        self._within(values, rule.low, rule.high, f"{name!r} ({role})", row)
        values = values.reshape(len(values), -1)
        if rule.indicator:
            missing = np.isnan(values).any(axis=1, keepdims=True)
        one_hot = rule.categories is not None and rule.encoding == "one-hot"
        if rule.missing == "value" and not one_hot:
            values = np.where(np.isnan(values), np.float32(rule.fill), values)
        if one_hot:
            known = ~np.isnan(values[:, 0])
            hot = np.zeros((len(values), len(rule.categories or ())), np.float32)
            hot[np.flatnonzero(known), values[known, 0].astype(np.int64)] = 1
            hot[~known] = 0 if rule.missing == "value" else np.nan  # no category, or the previous one, filled later
            values = hot
        return np.concatenate([values, missing.astype(np.float32)], axis=1) if rule.indicator else values

    def _codes(
        self, name: str, role: str, categories: tuple[str, ...], column: Column, row: int, *, gaps: bool = False
    ) -> Float[NumpyArray, " n"]:
        """Positions in a vocabulary, NaN where missing."""
        if name not in self._vocabularies:
            self._vocabularies[name] = pa.array(categories, pa.string())
        array = pa.array(column) if isinstance(column, np.ndarray) else column
        if pa.types.is_nested(array.type):
            raise DataError(f"Column {name!r} ({role}) of {self.origin} must hold one value a row; it holds lists.")
        text = array.cast(pa.string())
        codes = pc.index_in(text, self._vocabularies[name])
        unknown = pc.and_(codes.is_null(), text.is_valid()).to_numpy(zero_copy_only=False)
        if unknown.any():
            at = int(np.flatnonzero(unknown)[0])
            raise DataError(
                f"Column {name!r} ({role}) of {self.origin} must hold one of its {len(categories)} categories; got "
                f"{text[at].as_py()!r} in row {row + at}. Add it to `categories` of the schema."
            )
        if codes.null_count and not gaps:
            self.plain(array, name, role, row)  # says where
        return codes.cast(pa.float32()).to_numpy(zero_copy_only=False)

    def _rewards(self, block: Block, row: int) -> Float[NumpyArray, " n"]:
        if self._reward is None:
            values = self.column("reward", block, row)
        else:
            columns = {name: self.plain(block[name], name, "reward", row) for name in self._reward.columns}
            for name, column in columns.items():
                if column.ndim > 1 or column.dtype.kind not in "biuf":
                    raise DataError(f"Column {name!r} of the reward of {self.origin} must be numbers, one a row.")
            values = self._reward(columns) if columns else np.full(_rows(block), self._reward({}))
        values = self.numbers("reward", values, row)
        self._within(values, self.schema.reward_low, self.schema.reward_high, "reward", row)
        return values

    def _actions(self, block: Block, row: int) -> Shaped[NumpyArray, "n ..."]:
        schema, named = self.schema, self.schema.columns["action"]
        if schema.action_categories is not None:
            if not isinstance(named, str):
                raise DataError(f"Named actions of {self.origin} stand in one column; the schema gives {len(named)}.")
            return self._codes(named, "action", schema.action_categories, block[named], row).astype(np.int32)
        raw = self.column("action", block, row)
        values = self.numbers("action", raw, row)
        if schema.num_actions is None:
            values = values[:, None] if values.ndim == 1 else values
            for i, (low, high) in enumerate(
                itertools.zip_longest(schema.action_low or (), schema.action_high or (), fillvalue=None)
            ):
                if i < values.shape[1]:
                    self._within(values[:, i], low, high, f"action[{i}]", row)
            return values
        if schema.action_counts is None:
            if values.ndim != 1:
                raise DataError(f"A discrete action is one integer a row; got shape {values.shape}.")
            return self._whole(raw, schema.num_actions, "action", row).astype(np.int32)
        parts = raw.reshape(len(raw), -1)
        if parts.shape[1] != len(schema.action_counts):
            raise DataError(
                f"action of {self.origin} must have {len(schema.action_counts)} parts, as the schema says; "
                f"got {parts.shape[1]}."
            )
        if schema.action_bins is not None:
            chosen = [np.searchsorted(e, parts[:, i], side="right") for i, e in enumerate(schema.action_bins)]
        else:
            chosen = [
                self._whole(parts[:, i], n, f"action[{i}]", row).astype(np.int64)
                for i, n in enumerate(schema.action_counts)
            ]
        return np.ravel_multi_index(chosen, schema.action_counts).astype(np.int32)

    def _whole(self, raw: NumpyArray, count: int, what: str, row: int) -> NumpyArray:
        """Integers in [0, count)."""
        values = raw if raw.dtype.kind == "f" else raw.astype(np.int64)
        outside = (values < 0) | (values >= count) | (values != np.floor(values))
        if outside.any():
            at = int(np.flatnonzero(outside)[0])
            raise DataError(
                f"{self.called(what)} of {self.origin} must be an integer from 0 to {count - 1}; got "
                f"{_shown(raw[at])} in row {row + at} ({int(outside.sum())} such). Correct `count` under [action] or "
                "the log."
            )
        return values

    def _propensities(self, block: Block, row: int) -> Float[NumpyArray, " n"]:
        values = self.numbers("propensity", self.column("propensity", block, row), row)
        self._within(values, 0.0, 1.0, "propensity", row)
        with np.errstate(divide="ignore"):
            return np.log(values)

    def _probabilities(self, block: Block, row: int) -> Float[NumpyArray, "n A"]:
        probs = self._of_each_action("behavior_probs", self.column("behavior_probs", block, row))
        probs = self.numbers("behavior_probs", probs, row)
        wrong = (probs < 0).any(1) | (np.abs(probs.sum(1) - 1) > ROUNDING)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"behavior_probs of {self.origin} must be at least 0 and sum to 1 in every row; row {row + at} sums to "
                f"{probs[at].sum():.4g} with minimum {probs[at].min():.4g}."
            )
        return probs

    def _masks(self, block: Block, row: int) -> Shaped[NumpyArray, "n A"]:
        return self._flags(self._of_each_action("action_mask", self.column("action_mask", block, row)), "action_mask")

    def _of_each_action(self, role: str, values: NumpyArray) -> NumpyArray:
        wide = self.schema.num_actions
        if values.ndim != 2 or (wide is not None and values.shape[1] != wide):
            raise DataError(
                f"{role} of {self.origin} must hold one number for each of the {wide} actions; "
                f"got shape {values.shape}."
            )
        return values

    def _weights(self, block: Block, row: int) -> Float[NumpyArray, " n"]:
        values = self.numbers("weight", self.column("weight", block, row), row)
        if (values < 0).any():
            raise DataError(f"weight of {self.origin} must be at least 0; the smallest is {values.min():.4g}.")
        return values

    def _flags(self, values: NumpyArray, role: str) -> NumpyArray:
        if values.dtype.kind not in "biuf" or not (values.dtype.kind == "b" or np.isin(values, (0, 1)).all()):
            raise DataError(
                f"{role} of {self.origin} must be true or false (or 1 and 0); got values like {values[:3].tolist()}."
            )
        return values.astype(bool, copy=False)

    # --- what all share -----------------------------------------------------------------------------------------

    def plain(
        self, column: Column, name: str, role: str, row: int, *, gaps: bool = False
    ) -> Shaped[NumpyArray, "n ..."]:
        """A column's own values as NumPy: (n,), or (n, k) for lists; text as NumPy text.

        Raises:
            DataError: missing values (unless `gaps`, then NaN), lists of different lengths or where none belong.
        """
        if isinstance(column, np.ndarray):
            if column.dtype.kind == "O":
                with_text = pa.array(column.tolist())
                return self.plain(with_text, name, role, row, gaps=gaps)
            return column
        array = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if isinstance(array, pa.FixedShapeTensorArray):
            return array.to_numpy_ndarray()
        if pa.types.is_null(array.type) and gaps:
            return np.full(len(array), np.nan, np.float32)
        if array.null_count and not gaps:
            at = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(
                f"Column {name!r} ({role}) of {self.origin} must have no missing values; found {array.null_count}, "
                f"the first in row {row + at}."
            )
        if _is_list(array.type):
            return self._lists(array, name, role, row)
        if pa.types.is_decimal(array.type):
            array = array.cast(pa.float64())
        if pa.types.is_nested(array.type):
            raise DataError(
                f"Column {name!r} ({role}) of {self.origin} must hold numbers, text or lists of numbers; "
                f"it holds {array.type}."
            )
        values = array.to_numpy(zero_copy_only=False)
        return values.astype(str) if values.dtype.kind == "O" else values

    def _lists(self, array: pa.Array, name: str, role: str, row: int) -> Shaped[NumpyArray, "n k"]:
        if role not in VECTOR_ROLES:
            raise DataError(f"Column {name!r} ({role}) of {self.origin} must hold one value a row; it holds lists.")
        flat, rows = array.flatten(), len(array)
        if _is_list(flat.type):
            raise DataError(f"Column {name!r} ({role}) of {self.origin} must hold flat lists; it holds {array.type}.")
        if flat.null_count:
            raise DataError(f"The lists of column {name!r} ({role}) of {self.origin} must have no missing values.")
        values = flat.to_numpy(zero_copy_only=False)
        width = len(values) // rows if rows else 0
        if not pa.types.is_fixed_size_list(array.type) and rows:
            lengths = array.value_lengths().to_numpy()
            if (lengths != width).any() or len(values) != width * rows:
                usual = int(lengths[0])
                at = int(np.flatnonzero(lengths != usual)[0])
                raise DataError(
                    f"The lists of column {name!r} ({role}) of {self.origin} must all have the same length; row {row} "
                    f"has {usual} values, row {row + at} {int(lengths[at])}."
                )
        return values.reshape(rows, width)

    def numbers(self, role: str, values: NumpyArray, row: int, *, finite: bool = True) -> Float[NumpyArray, "n ..."]:
        """The values as float32, finite unless told otherwise."""
        if values.dtype.kind not in "biuf":
            raise DataError(f"{self.called(role)} of {self.origin} must be numbers; got {values.dtype}.")
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(np.float32, copy=False)  # first: what float32 cannot hold is infinite here too
            # One pass without a copy; only if the sum is not finite is there anything to look for.
            if not finite or np.isfinite(values.sum(dtype=np.float32)):
                return values
        bad = ~np.isfinite(values)
        if bad.any():
            at = np.argwhere(bad)[0]
            seen = "NaN" if np.isnan(values[tuple(at)]) else "infinity"
            raise DataError(
                f"{self.called(role)} of {self.origin} must be finite; found {seen} in row {row + at[0]} "
                f"({int(bad.sum())} such value{'s' if bad.sum() > 1 else ''}). Mend or drop those episodes first."
            )
        return values

    def _within(self, values: NumpyArray, low: float | None, high: float | None, what: str, row: int) -> None:
        if low is None and high is None:
            return
        outside = np.zeros(values.shape, bool)
        if low is not None:
            outside |= values < np.float32(low)
        if high is not None:
            outside |= values > np.float32(high)
        if outside.any():
            at = tuple(np.argwhere(outside)[0])
            raise DataError(
                f"{what} of {self.origin} must be in [{_bound(low, '-inf')}, {_bound(high, 'inf')}]; got "
                f"{_shown(values[at])} in row {row + at[0]} ({int(outside.sum())} such). Correct the log or the bounds."
            )

    def called(self, role: str) -> str:
        """The role, and the column behind it where that has another name."""
        column = self.schema.columns.get(role, role)
        return role if column == role or isinstance(column, tuple) else f"{role} (column {column!r})"


PLAIN = ColumnRule()


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_scalar(column: Column) -> bool:
    return column.ndim == 1 if isinstance(column, np.ndarray) else not _is_list(column.type)


def _rows(block: Block) -> int:
    return len(next(iter(block.values())))


def _bound(value: float | None, none: str) -> str:
    return none if value is None else f"{value:g}"


def _shown(value: Any) -> str:
    return repr(value.item() if hasattr(value, "item") else value)
