"""Reading a log with the meaning that a policy learned: its observations by name and order, and its actions.

A policy sees numbers only. The same column names in another order, other categories behind the same numbers or another order
of the names of actions would be judged without a word. So a log that a policy is asked about is read with the policy's
observations and actions, and with its own episodes, rewards and ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.data.schema import Schema
from stitchrl.errors import SchemaError
from stitchrl.messages import listed, shown

__all__ = ["check_units", "difference_of_meaning", "whole_schema_of", "with_meaning_of"]

ACTION = (
    "num_actions",
    "action_counts",
    "action_bins",
    "action_categories",
    "action_low",
    "action_high",
    "action_unit",
)
"""The fields of a schema that say what an action is."""
OF_LAYOUT = ("episode", "step", "time", "group", "terminated", "truncated")
"""Roles that say where rows belong and how episodes end."""
PER_ACTION = ("behavior_probs", "action_mask", "policy_probs")
"""Roles with one column for each action, in the order of the actions."""


def with_meaning_of(policy: Schema, own: Schema, names: Sequence[str]) -> tuple[Schema, tuple[str, ...]]:
    """The schema by which a log is read for a policy, and what was put right, one sentence each.

    Args:
        policy: the schema of the log that the policy learned from.
        own: the schema of the log at hand.
        names: the columns that this log has.

    Raises:
        SchemaError: an observation column of the policy is not there, or what differs cannot be put right.
    """
    policy, notes = _under_one_name(policy, own, names)
    missing = [name for name in policy.observation_columns if name not in names]
    if missing and len(policy.observation_columns) == 1 and len(own.observation_columns) > 1:
        raise SchemaError(
            f"The policy observes the numbers of one column, {shown(missing[0])}, which have no names, and this log names "
            f"{listed(own.observation_columns)}, so that it cannot be told which is which. Give the log a column "
            f"{shown(missing[0])} of lists, in the order that the policy learned."
        )
    if missing:
        raise SchemaError(
            f"The policy observes {listed(policy.observation_columns)}, and this log has no column {listed(missing)}. Name its "
            "columns as the policy's log did."
        )
    check_units(policy, own)
    columns = dict(own.columns)
    order = policy.observation_columns
    if order != own.observation_columns:
        notes.append(_how_observations_differ(order, own.observation_columns))
        columns["observation"] = policy.columns["observation"]
        following = _following(policy, own, names)
        columns.pop("next_observation", None)
        if following is not None:
            columns["next_observation"] = following
    if policy.observations != own.observations:
        notes.append("The observations are read by the rules of the policy's schema, which differ from this log's.")
    columns, of_actions = _with_actions_of(policy, own, columns)
    fields: dict[str, Any] = {name: getattr(policy, name) for name in ACTION}
    return (
        dataclasses.replace(own, columns=columns, observations=policy.observations, **fields),
        (*notes, *of_actions),
    )


def difference_of_meaning(policy: Schema, log: Schema) -> str:
    """In what the observations or actions of a log that is read already differ from those a policy learned; "" where in nothing.

    Columns of observations are compared where both logs name several; one column of vectors has no names inside, and is
    compared with several by its rules alone.
    """
    ours, theirs = policy.observation_columns, log.observation_columns
    if min(len(ours), len(theirs)) > 1 and ours != theirs:
        return f"it observes {listed(ours)}, and this log gives {listed(theirs)}"
    acts, logged = policy.columns["action"], log.columns["action"]
    if isinstance(acts, tuple) and isinstance(logged, tuple) and acts != logged:
        return f"its action is {listed(acts)}, and this log's {listed(logged)}"
    for role in () if policy.action_categories else PER_ACTION:
        each, other_each = policy.columns.get(role, ""), log.columns.get(role, "")
        several = not isinstance(each, str) and not isinstance(other_each, str)
        if several and each != other_each and set(each) == set(other_each):  # numbers do not say which action is which
            return f"its {role} are {listed(each)}, and this log's {listed(other_each)}"
    one, other = policy.meaning(), log.meaning()
    for meaning in (one, other):  # a rule that said the unit alone says nothing here
        meaning["observation"] = {name: rule for name, rule in meaning["observation"].items() if rule}
    if (len(ours) == 1) != (len(theirs) == 1) and one["observation"] != other["observation"]:
        return f"it observes {listed(ours)}, and this log gives {listed(theirs)}"
    if len(ours) == len(theirs) == 1:  # the name of the one column does not matter
        one, other = ({**m, "observation": list(m["observation"].values())} for m in (one, other))
    for part, word in (("observation", "rules of its observations"), ("action", "actions")):
        if one[part] != other[part]:
            return f"the {word} are {shown(one[part])}, and those of this log {shown(other[part])}"
    return ""


def whole_schema_of(
    policy: Schema, names: Sequence[str], guessed: Mapping[str, str | tuple[str, ...]]
) -> tuple[Schema, tuple[str, ...]]:
    """The schema of a policy's log, for a log that has none of its own, and what a person should know of it.

    Args:
        policy: the schema of the policy's log.
        names: the columns that this log has.
        guessed: role -> column, by the names of columns, for roles whose column has another name here.

    Raises:
        SchemaError: a column that says where rows belong or how episodes end is not there.
    """
    there, kept, left_out = set(names), dict[str, str | tuple[str, ...]](), list[str]()
    for role, column in policy.columns.items():
        if role in ("observation", "action", "reward") or there.issuperset(
            (column,) if isinstance(column, str) else column
        ):
            kept[role] = column
        elif role in guessed:
            kept[role] = guessed[role]
        elif role in OF_LAYOUT:
            raise SchemaError(
                f"The log has no schema of its own, and no column {listed((column,) if isinstance(column, str) else column)}, "
                f"which was the {role} of the policy's log. Give it a schema; `stitchrl schema LOG` writes a first one."
            )
        else:
            left_out.append(role)
    notes = ["The log has no schema of its own and is read by the policy's."]
    if left_out:
        notes.append(f"The policy's log also had {listed(left_out)}, which this log has no column for.")
    return dataclasses.replace(policy, columns=kept), tuple(notes)


def _under_one_name(policy: Schema, own: Schema, names: Sequence[str]) -> tuple[Schema, list[str]]:
    """The policy's schema, with the name that this log gives the observation where both have it in a single column and the
    policy's is not there; and a note where it has another."""
    ours, theirs = policy.observation_columns, own.observation_columns
    if ours == theirs or len(ours) > 1 or len(theirs) > 1 or ours[0] in names:
        return policy, []
    columns = {**policy.columns, "observation": own.columns["observation"]}
    columns.pop("next_observation", None)
    rules = dict(zip(theirs, policy.observations.values(), strict=False))
    note = f"The observation is {shown(theirs[0])} here and was {shown(ours[0])} in the policy's log: make sure it is the same."
    return dataclasses.replace(policy, columns=columns, observations=rules), [note]


def check_units(policy: Schema, own: Schema) -> None:
    """Raise SchemaError where both schemas name a unit and the units differ."""
    pairs = [("the action", policy.action_unit, own.action_unit)]
    for name, rule in policy.observations.items():
        theirs = own.observations.get(name)
        pairs.append((shown(name), rule.unit, "" if theirs is None else theirs.unit))
    for what, ours, theirs_unit in pairs:
        if ours and theirs_unit and ours != theirs_unit:
            raise SchemaError(
                f"The policy learned from {what} in {shown(ours)}, and this log has it in {shown(theirs_unit)}. Convert the "
                "column, or correct the schema."
            )


def _how_observations_differ(order: Sequence[str], own: Sequence[str]) -> str:
    if sorted(order) == sorted(own):
        return "The observation columns stand in another order than the policy's, and are read in the policy's."
    extra = [name for name in own if name not in order]
    unseen = f" It does not observe {listed(extra)}." if extra else ""
    return f"The observation is read by the names of the columns that the policy observes.{unseen}"


def _following(policy: Schema, own: Schema, names: Sequence[str]) -> str | tuple[str, ...] | None:
    """The columns of the next observation in the policy's order; None where the log does not have all of them."""
    following = own.columns.get("next_observation")
    if isinstance(following, tuple) and len(following) == len(own.observation_columns):
        of = dict(zip(own.observation_columns, following, strict=True))
        if all(name in of for name in policy.observation_columns):
            return tuple(of[name] for name in policy.observation_columns)
    theirs = policy.columns.get("next_observation")
    wanted = (theirs,) if isinstance(theirs, str) else theirs
    return theirs if wanted is not None and all(name in names for name in wanted) else None


def _with_actions_of(
    policy: Schema, own: Schema, columns: dict[str, str | tuple[str, ...]]
) -> tuple[dict[str, str | tuple[str, ...]], tuple[str, ...]]:
    """The columns with those of each action in the policy's order, and a note on what was put right."""
    columns, parts = _with_parts_of(policy, own, columns)
    if (policy.num_actions is None) != (own.num_actions is None):
        kinds = ["continuous" if one.num_actions is None else "discrete" for one in (policy, own)]
        raise SchemaError(
            f"The policy takes {kinds[0]} actions, and those of this log are {kinds[1]}. Give a log of the kind that it learned "
            "from."
        )
    ours, theirs = policy.action_categories, own.action_categories
    held = [role for role in PER_ACTION if role in columns]
    if ours is not None and theirs is not None and ours != theirs:
        if not set(theirs) <= set(ours):
            extra = [name for name in theirs if name not in ours]
            raise SchemaError(f"The policy knows the actions {listed(ours)}; this log also has {listed(extra)}.")
        for role in held:
            columns = {**columns, role: _in_order(role, columns[role], ours, theirs)}
        return columns, (
            *parts,
            "The actions are numbered in another order than the policy's, and are read in the policy's.",
        )
    if (ours is None) != (theirs is None):
        named, counted = ("The policy", "this log") if ours is not None else ("This log", "the policy")
        raise SchemaError(
            f"{named} names its actions, {listed(ours or theirs or ())}, and {counted} counts them, so that it cannot be told "
            "which is which. Give both `categories` under [action] of their schemas."
        )
    differs = {
        name: (getattr(policy, name), getattr(own, name)) for name in ("num_actions", "action_counts", "action_bins")
    }
    for name, (one, other) in differs.items():
        if one != other and (held or name == "action_counts" or (name == "num_actions" and (other or 0) > (one or 0))):
            key = name.removeprefix("action_")
            raise SchemaError(
                f"The policy's actions have `{key}` {shown(one)} and this log's {shown(other)}; a policy is asked about "
                "the actions that it learned. Read the log by the policy's [action]."
            )
    for role in held:
        one, other = policy.columns.get(role), own.columns[role]
        if ours is None and isinstance(one, tuple) and one != other and set(one) == set(other):
            raise SchemaError(
                f"The columns of {role} stand in the order {listed(one)} in the policy's log and {listed(other)} in this one, "
                "and numbers alone do not say which action is which. Give both the same order, or `categories` under [action]."
            )
    binned = ("The doses are binned by the policy's bins.",) if policy.action_bins != own.action_bins else ()
    return columns, (*parts, *binned)


def _with_parts_of(
    policy: Schema, own: Schema, columns: dict[str, str | tuple[str, ...]]
) -> tuple[dict[str, str | tuple[str, ...]], tuple[str, ...]]:
    """The columns with the parts of an action of several columns in the policy's order, and a note where it was another."""
    one, other = policy.columns["action"], own.columns["action"]
    if not isinstance(one, tuple) or not isinstance(other, tuple) or one == other:
        return columns, ()
    if set(one) != set(other):
        raise SchemaError(
            f"The policy's action has the columns {listed(one)}, and this log's {listed(other)}, so that it cannot be told which "
            "is which. Name its columns as the policy's log did."
        )
    note = "The columns of the action stand in another order than the policy's, and are read in the policy's."
    return {**columns, "action": one}, (note,)


def _in_order(role: str, column: str | tuple[str, ...], ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
    """The columns of each action in another order of actions."""
    if isinstance(column, str) or set(ours) != set(theirs):
        raise SchemaError(
            f"The actions of the policy stand in the order {listed(ours)} and those of this log in {listed(theirs)}; {role} has "
            "one number for each and cannot be put in order. Give it one column for each action, or the same order."
        )
    return tuple(column[list(theirs).index(name)] for name in ours)
