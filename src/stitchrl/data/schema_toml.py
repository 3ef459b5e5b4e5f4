"""What a schema in TOML may hold: sections, keys, and the kind of each value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.errors import SchemaError
from stitchrl.messages import printable, shown

__all__ = ["ROLES", "check_content", "is_whole", "tuples_of"]

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
    "propensity",
    "action_mask",
    "source",
    "weight",
    "time",
    "observation_id",
    "group",
)
"""Every role a column can have. A column whose own name is a role has that role unless told otherwise."""


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


COLUMN = ("a name or a list of names", lambda v: isinstance(v, str) or _names(v))
TEXT = ("text", lambda v: isinstance(v, str))
FLAG = ("true or false", lambda v: isinstance(v, bool))
NUMERIC = ("a number", _number)
SEVERAL = ("a list of numbers, one for each part of the action", _numbers)
VOCABULARY = (
    "a list of texts or whole numbers",
    lambda v: isinstance(v, list) and all(isinstance(c, str) or is_whole(c) for c in v),
)
SECTIONS: dict[str, dict[str, tuple[str, Any]]] = {
    "columns": dict.fromkeys(ROLES, COLUMN),
    "observation": {
        "categories": VOCABULARY,
        "encoding": TEXT,
        "missing": TEXT,
        "fill": NUMERIC,
        "indicator": FLAG,
        "low": NUMERIC,
        "high": NUMERIC,
        "unit": TEXT,
    },
    "action": {
        "kind": TEXT,
        "count": (
            "the number of actions, or a list of them",
            lambda v: is_whole(v) or (isinstance(v, list) and all(map(is_whole, v))),
        ),
        "bins": ("a list of edges for each action column", lambda v: isinstance(v, list) and all(map(_numbers, v))),
        "categories": VOCABULARY,
        "low": SEVERAL,
        "high": SEVERAL,
        "unit": TEXT,
    },
    "reward": {"expression": TEXT, "low": NUMERIC, "high": NUMERIC},
    "episodes": {"bandit": FLAG, "end": TEXT, "gap": NUMERIC, "files": TEXT},
    "task": {"gamma": ("a number in [0, 1]", _number), "name": TEXT},
}
"""Section -> key -> (what it must be, the test of that)."""


def _known(section: str, known: Mapping[str, tuple[str, Any]], key: str, value: Any) -> None:
    if key not in known:
        raise SchemaError(f"[{section}] of the schema knows {', '.join(known)}; got {shown(key)}.")
    rule, holds = known[key]
    if not holds(value):
        if section == "columns":
            raise SchemaError(f"The column of {key!r} must be {rule}; got {shown(value)}.")
        if (section, key) == ("action", "count"):
            raise SchemaError(f"A discrete action needs `count`, {rule}; got {shown(value)}.")
        raise SchemaError(f"`{key}` of [{section}] must be {rule}; got {shown(value)}.")


def check_content(content: Any) -> None:
    """Raises SchemaError where it holds an unknown section or key, or a value of the wrong kind."""
    named = ", ".join(f"[{s}]" for s in SECTIONS)
    if not isinstance(content, Mapping):
        raise SchemaError(f"A schema has the sections {named}; got {shown(content)}.")
    for section, entries in content.items():
        if section not in SECTIONS or not isinstance(entries, Mapping):
            raise SchemaError(f"A schema has the sections {named}; got {shown(section)}.")
        for key, value in entries.items():
            if section != "observation":
                _known(section, SECTIONS[section], key, value)
            elif not isinstance(value, Mapping):
                raise SchemaError(
                    f"[observation] of the schema holds one table a column; got {shown(key)} = {shown(value)}."
                )
            else:
                for setting, given in value.items():
                    _known(f"observation.{printable(key)}", SECTIONS["observation"], setting, given)


def tuples_of(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of TOML, as the dataclasses hold them."""

    def held(key: str, value: Any) -> Any:
        if key == "categories":
            return tuple(map(str, value))
        return tuple(held("", inner) for inner in value) if isinstance(value, list) else value

    return {key: held(key, value) for key, value in rule.items()}
