"""What each column of a log means: roles, the action space, the task. Read from and written to TOML."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from stitchrl.errors import SchemaError

__all__ = ["ROLES", "Schema"]

ROLES: tuple[str, ...] = (
    "episode",
    "step",
    "observation",
    "action",
    "reward",
    "next_observation",
    "terminated",
    "truncated",
    "behavior_log_prob",
    "behavior_probs",
    "action_mask",
    "source",
    "weight",
    "time",
    "observation_id",
)
"""Every role a column can have. A column whose own name is a role has that role unless told otherwise."""
REQUIRED_ROLES = ("episode", "observation", "action", "reward", "terminated")
VECTOR_ROLES = ("observation", "next_observation", "behavior_probs", "action_mask", "action")
"""Roles that may be one list column or several numeric columns."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """The meaning of a log's columns.

    Attributes:
        columns: role -> the column that has it, or several columns for a vector (`observation`,
            `next_observation`, `behavior_probs`, `action_mask`, a continuous `action`).
        num_actions: number of discrete actions, which are the integers 0 to num_actions - 1;
            None means the action is continuous.
        gamma: discount of the task, in [0, 1]; 1 counts every reward of an episode in full.
        name: what the log is called in reports.

    Raises:
        SchemaError: unknown or missing role, `num_actions` below 2, `gamma` outside [0, 1].
    """

    columns: Mapping[str, str | tuple[str, ...]]
    num_actions: int | None = None
    gamma: float = 0.99
    name: str = "log"

    def __post_init__(self) -> None:
        columns = {
            role: tuple(column) if isinstance(column, list | tuple) else column for role, column in self.columns.items()
        }
        object.__setattr__(self, "columns", columns)
        for role, column in columns.items():
            if role not in ROLES:
                raise SchemaError(f"The schema gives a role {role!r}; roles are: {', '.join(ROLES)}.")
            if column == () or column == "":
                raise SchemaError(f"The role {role!r} must name a column; got {column!r}.")
            if isinstance(column, tuple) and role not in VECTOR_ROLES:
                raise SchemaError(
                    f"The role {role!r} takes one column; got {len(column)}: {', '.join(column)}. "
                    f"Only {', '.join(VECTOR_ROLES)} may take several."
                )
        for role in REQUIRED_ROLES:
            if role not in columns:
                raise SchemaError(
                    f"The schema names no column for {role!r}, which every log needs. "
                    f'Add `{role} = "your_column"` under [columns].'
                )
        if self.num_actions is not None and self.num_actions < 2:
            raise SchemaError(f"`num_actions` must be at least 2; got {self.num_actions}.")
        if not 0.0 <= self.gamma <= 1.0:
            raise SchemaError(f"`gamma` must be in [0, 1]; got {self.gamma}. Use 1 to count every reward in full.")

    @classmethod
    def infer(
        cls, column_names: list[str], *, num_actions: int | None, gamma: float = 0.99, name: str = "log"
    ) -> Schema:
        """A schema for columns that already carry the role names."""
        return cls({c: c for c in column_names if c in ROLES}, num_actions=num_actions, gamma=gamma, name=name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schema:
        """Read a schema from TOML.

        Raises:
            SchemaError: the file is missing, not TOML, or does not hold a schema.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SchemaError(f"There is no schema file {str(path)!r}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SchemaError(f"The schema {str(path)!r} is not TOML: {error}.") from None
        except OSError as error:
            raise SchemaError(f"The schema {str(path)!r} cannot be read: {error.strerror}.") from None
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """Inverse of `to_dict`. Raises SchemaError on unknown keys or values of the wrong kind."""
        known: dict[str, tuple[str, ...]] = {
            "columns": ROLES,
            "action": ("kind", "count"),
            "task": ("gamma", "name"),
        }
        for section, entries in content.items():
            if section not in known or not isinstance(entries, Mapping):
                raise SchemaError(f"A schema has the sections [columns], [action], [task]; got {section!r}.")
            for key in entries:
                if key not in known[section]:
                    raise SchemaError(f"[{section}] of the schema knows {', '.join(known[section])}; got {key!r}.")
        columns, action, task = (content.get(section, {}) for section in known)
        for role, column in columns.items():
            if not (isinstance(column, str) or (isinstance(column, list) and all(isinstance(c, str) for c in column))):
                raise SchemaError(f"The column of {role!r} must be a name or a list of names; got {column!r}.")
        kind = action.get("kind", "discrete" if "count" in action else "continuous")
        if kind not in ("discrete", "continuous"):
            raise SchemaError(f"`kind` of [action] must be discrete or continuous; got {kind!r}.")
        count = action.get("count")
        if kind == "continuous" and count is not None:
            raise SchemaError(f'A continuous action has no `count`; got {count!r}. Drop it, or say kind = "discrete".')
        if kind == "discrete" and not (isinstance(count, int) and not isinstance(count, bool)):
            raise SchemaError(f"A discrete action needs `count`, the number of actions; got {count!r}.")
        gamma = task.get("gamma", 0.99)
        if not isinstance(gamma, int | float) or isinstance(gamma, bool):
            raise SchemaError(f"`gamma` of [task] must be a number in [0, 1]; got {gamma!r}.")
        return cls(columns, count if kind == "discrete" else None, float(gamma), str(task.get("name", "log")))

    def to_dict(self) -> dict[str, Any]:
        """Plain content for TOML or JSON."""
        columns = {r: list(c) if isinstance(c, tuple) else c for r, c in self.columns.items()}
        action: dict[str, Any] = {"kind": "continuous"}
        if self.num_actions is not None:
            action = {"kind": "discrete", "count": self.num_actions}
        return {"columns": columns, "action": action, "task": {"gamma": self.gamma, "name": self.name}}

    def to_toml(self) -> str:
        """The schema as a TOML document that `load` reads back."""
        return tomli_w.dumps(self.to_dict())
