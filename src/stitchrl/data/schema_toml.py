"""Schemas as TOML: the sections and keys that are allowed, the kind of each value, and the way in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from stitchrl.data.column_rule import ColumnRule
from stitchrl.data.file_rules import FileRules
from stitchrl.errors import SchemaError
from stitchrl.messages import printable, shown

__all__ = ["ROLES", "content_of", "is_whole", "settings_of"]

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
    "cost",
    "subgroup",
    "policy_probs",
    "policy_log_prob",
    "group",
)
"""Every role that a column can have. A column named like a role has that role, unless a schema says otherwise."""


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
BOUNDS = ("a list of numbers, one for each component of the action", _numbers)
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
        "unknown": (
            "true, or the name of the category that unseen values count as",
            lambda v: isinstance(v, bool | str),
        ),
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
        "low": BOUNDS,
        "high": BOUNDS,
        "unit": TEXT,
    },
    "reward": {"expression": TEXT, "fill": NUMERIC, "low": NUMERIC, "high": NUMERIC},
    "episodes": {
        "bandit": FLAG,
        "end": TEXT,
        "gap": NUMERIC,
        "files": TEXT,
        "terminated_values": VOCABULARY,
        "truncated_values": VOCABULARY,
    },
    "task": {"gamma": ("a number in [0, 1]", _number), "name": TEXT, "time_unit": NUMERIC},
    "file": {
        "delimiter": TEXT,
        "quotechar": TEXT,
        "decimal": TEXT,
        "thousands": TEXT,
        "encoding": TEXT,
        "header": FLAG,
        "skiprows": ("a number of lines from 0 to 90", is_whole),
        "names": ("a list of names", _names),
        "na_values": VOCABULARY,
        "true_values": VOCABULARY,
        "false_values": VOCABULARY,
        "dates": TEXT,
        "timezone": TEXT,
        "text_columns": ("a list of names", _names),
        "sheet": ("the name or the number of a sheet", lambda v: isinstance(v, str) or is_whole(v)),
    },
}
"""Section -> key -> (what its value must be, in words; the test of that)."""


def _check_entry(section: str, known: Mapping[str, tuple[str, Any]], key: str, value: Any) -> None:
    """Raise SchemaError where a section has no such key, or the value is of the wrong kind."""
    if key not in known:
        near = get_close_matches(key, known, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise SchemaError(f"[{section}] of the schema may have {', '.join(known)}; got {shown(key)}.{meant}")
    rule, holds = known[key]
    if not holds(value):
        if section == "columns":
            raise SchemaError(f"The column of {key!r} must be {rule}; got {shown(value)}.")
        if (section, key) == ("action", "count"):
            raise SchemaError(f"A discrete action needs `count`, {rule}; got {shown(value)}.")
        raise SchemaError(f"`{key}` of [{section}] must be {rule}; got {shown(value)}.")


def _check_content(content: Any) -> None:
    """Raise SchemaError where the document holds an unknown section or key, or a value of the wrong kind."""
    named = ", ".join(f"[{s}]" for s in SECTIONS)
    if not isinstance(content, Mapping):
        raise SchemaError(f"A schema has the sections {named}; got {shown(content)}.")
    for section, entries in content.items():
        if section not in SECTIONS or not isinstance(entries, Mapping):
            raise SchemaError(f"A schema has the sections {named}; got {shown(section)}.")
        for key, value in entries.items():
            if section != "observation":
                _check_entry(section, SECTIONS[section], key, value)
            elif not isinstance(value, Mapping):
                raise SchemaError(
                    f"[observation] of the schema holds one table a column; got {shown(key)} = {shown(value)}."
                )
            else:
                for setting, given in value.items():
                    _check_entry(f"observation.{printable(key)}", SECTIONS["observation"], setting, given)


def settings_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a Schema for what a TOML document holds; the inverse of `content_of`.

    Raises:
        SchemaError: unknown sections or keys, values of the wrong kind, or an action described in two ways.
    """
    _check_content(content)
    action, task = _with_tuples(content.get("action", {})), content.get("task", {})
    reward, episodes = content.get("reward", {}), _with_tuples(content.get("episodes", {}))
    _check_action(action)
    count = action.get("count")
    return {
        "columns": _with_tuples(content.get("columns", {})),
        "num_actions": count if isinstance(count, int) else None,
        "gamma": task.get("gamma", 0.99),
        "name": task.get("name", "log"),
        "time_unit": task.get("time_unit"),
        "observations": {
            name: ColumnRule(**_with_tuples(rule)) for name, rule in content.get("observation", {}).items()
        },
        "action_counts": count if isinstance(count, tuple) else None,
        "action_bins": action.get("bins"),
        "action_categories": action.get("categories"),
        "action_low": action.get("low"),
        "action_high": action.get("high"),
        "action_unit": action.get("unit", ""),
        "reward_expression": reward.get("expression"),
        "reward_fill": reward.get("fill"),
        "reward_low": reward.get("low"),
        "reward_high": reward.get("high"),
        "bandit": episodes.get("bandit", False),
        "end": episodes.get("end"),
        "gap": episodes.get("gap"),
        "files": episodes.get("files"),
        "terminated_values": episodes.get("terminated_values"),
        "truncated_values": episodes.get("truncated_values"),
        "file": FileRules(**_with_tuples(content.get("file", {}))),
    }


def _check_action(action: Mapping[str, Any]) -> None:
    """Raise SchemaError unless [action] describes one kind of action in one way."""
    discrete = {"count", "bins", "categories"} & set(action)
    kind = action.get("kind", "discrete" if discrete else "continuous")
    if kind not in ("discrete", "continuous"):
        raise SchemaError(f"`kind` of [action] must be discrete or continuous; got {shown(kind)}.")
    if kind == "continuous" and discrete:
        key = sorted(discrete)[-1]
        raise SchemaError(
            f'A continuous action has no `{key}`; got {shown(action[key])}. Drop it, or say kind = "discrete".'
        )
    if kind == "discrete" and not discrete:
        raise SchemaError("A discrete action needs `count`, the number of actions; got None.")
    if len(discrete) > 1:
        raise SchemaError(f"[action] needs one of {', '.join(f'`{key}`' for key in sorted(discrete))}; drop the rest.")


def _with_tuples(rule: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with tuples in place of TOML's lists, and words as text."""

    def held(key: str, value: Any) -> Any:
        if key in ("categories", "terminated_values", "truncated_values"):
            return tuple(map(str, value))
        return tuple(held("", inner) for inner in value) if isinstance(value, list) else value

    return {key: held(key, value) for key, value in rule.items()}


def content_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a TOML document of a schema holds; settings at their defaults are left out.

    Args:
        settings: field of a Schema -> its value.
    """
    reward = {key: settings[f"reward_{key}"] for key in ("expression", "fill", "low", "high")}
    episodes = {"bandit": settings["bandit"] or None, **{key: settings[key] for key in ("end", "gap", "files")}}
    for key in ("terminated_values", "truncated_values"):
        episodes[key] = None if settings[key] is None else list(settings[key])
    task = {key: settings[key] for key in ("gamma", "name", "time_unit")}
    sections = {
        "columns": {
            role: list(column) if isinstance(column, tuple) else column for role, column in settings["columns"].items()
        },
        "observation": {name: _changed(rule) for name, rule in settings["observations"].items()},
        "action": _action_content(settings),
        "reward": {key: value for key, value in reward.items() if value is not None},
        "episodes": {key: value for key, value in episodes.items() if value is not None},
        "task": {key: value for key, value in task.items() if value is not None},
        "file": settings["file"].given(),
    }
    return {name: content for name, content in sections.items() if content}


def _action_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The section [action]."""
    action: dict[str, Any] = {"kind": "continuous" if settings["num_actions"] is None else "discrete"}
    if settings["num_actions"] is not None:
        if settings["action_bins"] is not None:
            action["bins"] = [list(edges) for edges in settings["action_bins"]]
        elif settings["action_counts"] is not None:
            action["count"] = list(settings["action_counts"])
        elif settings["action_categories"] is not None:
            action["categories"] = list(settings["action_categories"])
        else:
            action["count"] = settings["num_actions"]
    for key in ("low", "high"):
        if settings[f"action_{key}"] is not None:
            action[key] = list(settings[f"action_{key}"])
    if settings["action_unit"]:
        action["unit"] = settings["action_unit"]
    return action


def _changed(rule: ColumnRule) -> dict[str, Any]:
    """The settings of a rule that are not at their defaults."""
    changed = {
        field.name: getattr(rule, field.name)
        for field in dataclasses.fields(rule)
        if getattr(rule, field.name) != field.default
    }
    return {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}
