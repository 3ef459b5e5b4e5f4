"""The Schema: what each column of a log means, which actions there are, and the task. Kept as TOML."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from stitchrl.data.column_rule import ColumnRule, as_float, check_choice, check_ordered, vocabulary_of
from stitchrl.data.expression import Expression
from stitchrl.data.file_rules import FileRules
from stitchrl.data.joint_actions import bounds_of, components_of, names_of
from stitchrl.data.schema_toml import ROLES, content_of, is_whole, settings_of
from stitchrl.errors import SchemaError
from stitchrl.messages import listed, printable, shown
from stitchrl.types import Float, Int, NumpyArray

__all__ = ["ROLES", "Schema"]

REQUIRED_ROLES = ("episode", "observation", "action", "reward", "terminated")
"""Roles that every log needs, but for the ways that `Schema` describes to do without some of them."""
VECTOR_ROLES = (
    "observation",
    "next_observation",
    "behavior_probs",
    "action_mask",
    "action",
    "cost",
    "subgroup",
    "policy_probs",
)
"""Roles with several numbers a row, in one column of lists or in several columns."""
IDENTIFIER_ROLES = ("episode", "group")
"""Roles that several columns may name together, such as a patient and a visit."""
NAMES = ("episode", "group", "source", "subgroup", "observation_id")
"""Roles whose values are names."""
LARGEST_ACTION_COUNT = 2**16
"""The largest number of discrete actions: masks and probabilities hold one number for each of them in every row."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """The meaning of a log's columns.

    Attributes:
        columns: role -> the column that has it, or several columns for a vector (`observation`,
            `next_observation`, `behavior_probs`, `action_mask`, `action`, `cost`, `subgroup`, `policy_probs`). Several columns of
            `episode` or `group` name one together: patient 12 and visit 3 are the episode "12/3".
        num_actions: number of discrete actions, which are the integers 0 to num_actions - 1; None if the action is
            continuous. With `action_counts` or `action_bins` it is the product over the components.
        gamma: discount of the task, in [0, 1]; 1 counts every reward of an episode in full.
        name: what reports call the log.
        observations: column -> how it becomes numbers; columns not named here are plain numbers without missing values.
        action_counts: number of choices of each component of a multi-discrete action. The components become one number,
            the last of them changing fastest.
        action_bins: ascending edges e for each action column. A value v falls into bin i if e[i-1] <= v < e[i], so that
            k edges make k + 1 bins and continuous doses become discrete actions.
        action_categories: the logged names of discrete actions, in the order of their numbers.
        action_low, action_high: bounds of each component of a continuous or binned action; values outside are an error.
        action_unit: unit of the action, for people to read.
        reward_expression: the reward as arithmetic over columns, in place of a `reward` column.
        reward_fill: the reward of rows where it is missing, such as 0 where it stands in the last row of an episode only;
            None makes a missing reward an error.
        reward_low, reward_high: bounds of the reward; values outside are an error.
        bandit: whether every row is an episode of one step that terminates; then no `episode` or `terminated` is
        needed.
        end: how the last row of an episode counts if no column marks it as an end: "truncated" or "terminated". None
            makes such an episode an error.
        files: how episode identifiers are understood in a log of several files. "separate": the same identifier in two
            files means two episodes; "joined": it means one episode. None makes such an identifier an error.
        terminated_values, truncated_values: the words of the columns `terminated` and `truncated` that mark an end; every
            other value, and a missing one, marks none. None asks for columns of true and false.
        file: how the values of the file are written.
        time_unit: length of a unit of time, in seconds or in units of a numeric `time`; `gamma` is then the discount of one
            such unit and not of one step, for learning and for evaluation. None counts steps.
        gap: the longest time between two rows of an episode, in seconds or in units of a numeric `time`; the episode is
            cut where more time passes. None never cuts.

    Without a column for `episode`, rows are sorted by `time` (within each `group` and file), and episodes run from one
    end to the next; a `step` that does not rise, or a `gap`, begins a new one. Without `terminated`, `end` must be
    given.

    Raises:
        SchemaError: a role is unknown or missing, or a value is outside the range given here.
    """

    columns: Mapping[str, str | tuple[str, ...]]
    num_actions: int | None = None
    gamma: float = 0.99
    name: str = "log"
    observations: Mapping[str, ColumnRule] = dataclasses.field(default_factory=dict)
    action_counts: tuple[int, ...] | None = None
    action_bins: tuple[tuple[float, ...], ...] | None = None
    action_categories: tuple[str, ...] | None = None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    action_unit: str = ""
    reward_expression: str | None = None
    reward_fill: float | None = None
    reward_low: float | None = None
    reward_high: float | None = None
    bandit: bool = False
    end: str | None = None
    gap: float | None = None
    files: str | None = None
    time_unit: float | None = None
    terminated_values: tuple[str, ...] | None = None
    truncated_values: tuple[str, ...] | None = None
    file: FileRules = dataclasses.field(default_factory=FileRules)

    def __post_init__(self) -> None:
        columns = {
            role: tuple(column) if isinstance(column, list | tuple) else column for role, column in self.columns.items()
        }
        object.__setattr__(self, "columns", columns)
        for role, column in columns.items():
            if role not in ROLES:
                raise SchemaError(f"The schema gives a role {shown(role)}; roles are: {', '.join(ROLES)}.")
            names = (column,) if isinstance(column, str) else column
            if not isinstance(names, tuple) or not names or not all(isinstance(n, str) and n for n in names):
                raise SchemaError(f"The role {role!r} must name a column; got {shown(column)}.")
            if len(set(names)) < len(names):
                raise SchemaError(f"The role {role!r} must name different columns; got {listed(names)}.")
            if isinstance(column, tuple) and role not in (*VECTOR_ROLES, *IDENTIFIER_ROLES):
                raise SchemaError(
                    f"The role {role!r} takes one column; got {len(column)}: {listed(column)}. "
                    f"Only {', '.join((*VECTOR_ROLES, *IDENTIFIER_ROLES))} may take several."
                )
        self._check_roles()
        self._check_end_values()
        self._check_action()
        self._check_numbers()

    def _check_roles(self) -> None:
        spared = {
            "reward": self.reward_expression is not None,
            "episode": self.bandit or self.gap is not None or bool({"terminated", "truncated"} & set(self.columns)),
            "terminated": self.bandit or self.end is not None or "truncated" in self.columns,
        }
        for role in REQUIRED_ROLES:
            if role not in self.columns and not spared.get(role, False):
                more = {
                    "episode": ", or say `bandit = true` under [episodes] if every row is an episode of its own",
                    "terminated": ', or say `end = "truncated"` under [episodes] if episodes end with their last row',
                }
                raise SchemaError(
                    f"The schema names no column for {role!r}, which every log needs. "
                    f'Add `{role} = "your_column"` under [columns]{more.get(role, "")}.'
                )
        if "reward" in self.columns and self.reward_expression is not None:
            raise SchemaError("The reward is a column or an expression; the schema gives both. Drop one.")
        if self.reward_expression is not None:
            Expression(self.reward_expression)
        for name in self.observations.keys() - set(self.observation_columns):
            raise SchemaError(
                f"The schema says how to read observation column {shown(name)}, which is none of the observation: "
                f"{listed(self.observation_columns)}."
            )
        if "propensity" in self.columns and "behavior_log_prob" in self.columns:
            raise SchemaError("`propensity` and `behavior_log_prob` say the same; the schema gives both. Drop one.")

    def _check_end_values(self) -> None:
        """Hold the words that mark ends as text; each needs its column."""
        for role in ("terminated", "truncated"):
            values = getattr(self, f"{role}_values")
            if values is None:
                continue
            object.__setattr__(self, f"{role}_values", vocabulary_of(values, f"{role}_values"))
            if role not in self.columns:
                raise SchemaError(
                    f"`{role}_values` of [episodes] needs a column with the role `{role}`; the schema names none."
                )

    def _check_action(self) -> None:
        ways = {"action_counts": "count", "action_bins": "bins", "action_categories": "categories"}
        for name in (*ways, "action_low", "action_high"):
            value = getattr(self, name)
            if value is not None:
                value = tuple(tuple(v) if isinstance(v, list | tuple) else v for v in value)
                object.__setattr__(self, name, value)
                if not value:
                    raise SchemaError(f"`{ways.get(name, name[7:])}` of [action] must not be empty.")
        if self.action_bins is not None:
            bins = tuple(tuple(as_float("bins", edge) for edge in edges) for edges in self.action_bins)
            object.__setattr__(self, "action_bins", bins)
            for edges in bins:
                if not edges or any(not math.isfinite(e) for e in edges) or list(edges) != sorted(set(edges)):
                    raise SchemaError(f"`bins` of [action] must be ascending finite edges; got {shown(list(edges))}.")
            self._set_counts(tuple(len(edges) + 1 for edges in bins))
        elif self.action_counts is not None:
            if any(not is_whole(n) or n < 1 for n in self.action_counts):
                raise SchemaError(
                    f"Every `count` of [action] must be at least 1; got {shown(list(self.action_counts))}."
                )
            self._set_counts(self.action_counts)
        if self.action_categories is not None:
            object.__setattr__(self, "action_categories", vocabulary_of(self.action_categories))
            if self.action_counts is not None or self.num_actions not in (None, len(self.action_categories)):
                raise SchemaError(
                    f"[action] counts {shown(self.num_actions)} actions and names {len(self.action_categories)}; "
                    "drop `count` or `bins`."
                )
            if not isinstance(self.columns["action"], str):
                raise SchemaError(f"Named actions stand in one column; got {listed(self.columns['action'])}.")
            object.__setattr__(self, "num_actions", len(self.action_categories))
        if self.num_actions is not None and not (is_whole(self.num_actions) and self.num_actions >= 2):
            raise SchemaError(f"`num_actions` must be at least 2; got {shown(self.num_actions)}.")
        if self.num_actions is not None and self.num_actions > LARGEST_ACTION_COUNT:
            raise SchemaError(
                f"A log may have up to {LARGEST_ACTION_COUNT:,} discrete actions; got {shown(self.num_actions)}. "
                "Group them, or use coarser bins."
            )
        self._check_bounds()

    def _set_counts(self, counts: tuple[int, ...]) -> None:
        """Set the choices of each component and their product; they must agree with what the caller gave."""
        if self.action_counts not in (None, counts) or self.num_actions not in (None, math.prod(counts)):
            raise SchemaError(
                f"[action] has {shown(list(counts))} choices and counts "
                f"{shown(self.num_actions if self.action_counts in (None, counts) else list(self.action_counts or ()))}; "
                "drop `count`."
            )
        object.__setattr__(self, "action_counts", counts)
        object.__setattr__(self, "num_actions", math.prod(counts))

    def _check_bounds(self) -> None:
        for key, bounds in (("low", self.action_low), ("high", self.action_high)):
            if bounds is None:
                continue
            if self.num_actions is not None and self.action_bins is None:
                raise SchemaError(f"`{key}` of [action] bounds continuous actions; this one is discrete. Drop it.")
            if self.action_bins is not None and len(bounds) != len(self.action_bins):
                raise SchemaError(
                    f"`{key}` of [action] must have one bound for each of its {len(self.action_bins)} columns; "
                    f"got {len(bounds)}."
                )
            object.__setattr__(self, f"action_{key}", tuple(as_float(key, bound) for bound in bounds))
        low, high = self.action_low, self.action_high
        if low is not None and high is not None and len(low) != len(high):
            raise SchemaError(f"`low` and `high` of [action] must be equally long; got {len(low)} and {len(high)}.")
        for bounds in itertools.zip_longest(low or (), high or ()):
            check_ordered(*bounds)

    def _check_numbers(self) -> None:
        for name in ("gamma", "reward_fill", "reward_low", "reward_high", "gap", "time_unit"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_float(name, getattr(self, name)))
        if not 0.0 <= self.gamma <= 1.0:
            raise SchemaError(f"`gamma` must be in [0, 1]; got {self.gamma}. Use 1 to count every reward in full.")
        check_ordered(self.reward_low, self.reward_high)
        if self.reward_fill is not None and not math.isfinite(self.reward_fill):
            raise SchemaError(f"`fill` of [reward] must be a finite number; got {self.reward_fill}.")
        if self.end not in (None, "truncated", "terminated"):
            raise SchemaError(f'`end` of [episodes] must be "truncated" or "terminated"; got {shown(self.end)}.')
        if self.files is not None:
            check_choice("files", self.files, ("separate", "joined"))
        if self.gap is not None and not (math.isfinite(self.gap) and self.gap > 0):
            raise SchemaError(f"`gap` of [episodes] must be a positive number; got {self.gap}.")
        if self.time_unit is not None and not (math.isfinite(self.time_unit) and self.time_unit > 0):
            raise SchemaError(f"`time_unit` of [task] must be a positive number; got {self.time_unit}.")
        if self.time_unit is not None and "time" not in self.columns:
            raise SchemaError("`time_unit` of [task] needs a column with the role `time`; the schema names none.")
        if self.gap is not None and "time" not in self.columns:
            raise SchemaError("`gap` of [episodes] needs a column with the role `time`; the schema names none.")

    # --- queries -------------------------------------------------------------------------------------------

    @property
    def observation_columns(self) -> tuple[str, ...]:
        """The columns of the observation, in order."""
        column = self.columns["observation"]
        return (column,) if isinstance(column, str) else column

    @cached_property
    def plain_observation(self) -> bool:
        """Whether the columns of the observation are plain numbers, with no rule but perhaps a unit."""
        rules = (self.observations.get(name) for name in self.observation_columns)
        return all(rule is None or rule == ColumnRule(unit=rule.unit) for rule in rules)

    @property
    def file_rules(self) -> FileRules:
        """How the file is written, with the columns that hold names and no numbers."""
        dated = ("time",) if "%" in (self.file.dates or "") else ()
        listed = {
            "action": self.action_categories,
            "terminated": self.terminated_values,
            "truncated": self.truncated_values,
        }
        words = {str(self.columns[role]): held for role, held in listed.items() if held}
        following = self.columns.get("next_observation", ())
        following = (following,) if isinstance(following, str) else following
        for columns in (self.observation_columns, following):
            rules = [self.observations.get(name) for name in self.observation_columns]
            pairs = zip(columns, rules, strict=False)
            words |= {name: rule.categories for name, rule in pairs if rule and rule.categories}
        return self.file.with_names(self.of_roles((*NAMES, *dated)).values(), words)

    def of_roles(self, roles: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
        """Role -> column, for those of the given roles that the schema has."""
        return {role: self.columns[role] for role in roles if role in self.columns}

    def action_components(self, action: Int[NumpyArray, " N"]) -> Int[NumpyArray, "N components"]:
        """The components of multi-discrete or binned actions: (N,) action numbers to (N, components) choices or bins.

        Raises:
            SchemaError: the action has no components, or a number is not one of the actions.
        """
        if self.action_counts is None:
            raise SchemaError("Only multi-discrete and binned actions have components; this schema has neither.")
        if len(action) and not (np.min(action) >= 0 and np.max(action) < math.prod(self.action_counts)):
            raise SchemaError(
                f"Actions must be 0 to {math.prod(self.action_counts) - 1}; got {np.min(action)} to {np.max(action)}."
            )
        return components_of(action, self.action_counts)

    def action_bounds(self, action: Int[NumpyArray, " N"]) -> Float[NumpyArray, "N components 2"]:
        """The range of doses that each binned action stands for, whose upper end is not part of it.

        The outermost bins end at `action_low` and `action_high`, or are infinite where no bound is given.

        Raises:
            SchemaError: the action is not binned.
        """
        if self.action_bins is None:
            raise SchemaError("Only binned actions stand for ranges of a dose; this schema has no `bins`.")
        return bounds_of(self.action_components(action), self.action_bins, self.action_low, self.action_high)

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """The name of each discrete action for people: its logged name, its choices or its doses, else its number."""
        if self.action_categories is not None:
            return self.action_categories
        if self.action_counts is None:
            return tuple(map(str, range(self.num_actions or 0)))
        column = self.columns["action"]
        names = (column,) if isinstance(column, str) else column
        if len(names) != len(self.action_counts):  # the components stand in one column of lists
            names = tuple(f"component {j}" for j in range(len(self.action_counts)))
        return names_of(names, self.action_counts, self.action_bins)

    # --- TOML ---------------------------------------------------------------------------------------------------

    @classmethod
    def infer(
        cls, column_names: list[str], *, num_actions: int | None, gamma: float = 0.99, name: str = "log"
    ) -> Schema:
        """A schema for columns that are named like their roles."""
        return cls({c: c for c in column_names if c in ROLES}, num_actions=num_actions, gamma=gamma, name=name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schema:
        """Read a schema from TOML.

        Raises:
            SchemaError: the file is missing, is not TOML, or does not hold a schema.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SchemaError(f"There is no schema file {str(path)!r}.") from None
        except OSError as error:
            raise SchemaError(f"The schema {str(path)!r} cannot be read: {error.strerror}.") from None
        except (ValueError, RecursionError) as error:  # no TOML or UTF-8, a number of 5,000 digits, a NUL in the path
            raise SchemaError(f"The schema {str(path)!r} is not TOML: {printable(str(error).rstrip('.'))}.") from None
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """The schema that plain content describes; the inverse of `to_dict`.

        Raises:
            SchemaError: unknown keys, or values of the wrong kind.
        """
        return cls(**settings_of(content))

    def to_dict(self) -> dict[str, Any]:
        """Plain content for TOML or JSON; settings at their defaults are left out."""
        return content_of({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    def meaning(self) -> dict[str, Any]:
        """What the numbers of actions and observations stand for, units aside.

        The same numbers mean different things in two logs whose schemas differ here.
        """
        content = self.to_dict()
        rules = {
            name: {key: value for key, value in rule.items() if key != "unit"}
            for name, rule in content.get("observation", {}).items()
        }
        action = {key: value for key, value in content["action"].items() if key != "unit"}
        return {"observation": rules, "action": action}

    def to_toml(self) -> str:
        """The schema as a TOML document that `load` reads back."""
        return tomli_w.dumps(self.to_dict())
