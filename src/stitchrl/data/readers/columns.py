"""Columns of NumPy arrays -> a checked Dataset. Every reader ends here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stitchrl.data.dataset import NO_OBSERVATION, Dataset
from stitchrl.data.schema import VECTOR_ROLES, Schema
from stitchrl.errors import DataError, SchemaError
from stitchrl.types import NumpyArray

__all__ = ["dataset_from_columns"]


def dataset_from_columns(columns: Mapping[str, NumpyArray], schema: Schema, *, origin: str = "the log") -> Dataset:
    """Check role -> array columns and build a Dataset; rows are put in order of episode, then step.

    Args:
        columns: one array a role, N rows each; vector roles (N, k).
        schema: the action space and task.
        origin: how messages call the log.

    Raises:
        DataError: no rows, unequal lengths, missing or non-finite values, an action outside the declared space,
            an episode without an end or with rows after its end.
    """
    count = len(columns["reward"])
    if count == 0:
        raise DataError(f"{origin} has no rows; a log needs at least one episode.")
    for role, column in columns.items():
        if len(column) != count:
            raise DataError(
                f"Every column of {origin} needs one row a transition; {role} has {len(column)}, reward {count}."
            )
    for role, column in columns.items():
        most = 2 if role in VECTOR_ROLES else 1
        if column.ndim > most:
            raise DataError(f"{role} of {origin} must have at most {most} axes; got shape {column.shape}.")
    order, episode_start = _episode_order(columns, origin)
    columns = {role: np.array(column)[order] for role, column in columns.items()}

    reward = _finite(columns, "reward", order, schema, origin)
    observation = _finite(columns, "observation", order, schema, origin)
    if observation.ndim == 1:
        observation = observation[:, None]
    terminated = _flag(columns["terminated"], "terminated", origin)
    truncated = _flag(columns["truncated"], "truncated", origin) if "truncated" in columns else np.zeros(count, bool)
    _check_ends(terminated, truncated, episode_start, columns["episode"], origin)
    action = _action(columns, order, schema, origin)
    table, next_index = _store_observations(columns, observation, episode_start, order, schema, origin)

    optional: dict[str, Any] = {}
    for role in ("behavior_log_prob", "weight"):
        if role in columns:
            optional[role] = _finite(columns, role, order, schema, origin)
    if (optional.get("weight", np.zeros(1)) < 0).any():
        raise DataError(f"weight of {origin} must be at least 0; the smallest is {optional['weight'].min():.4g}.")
    for role in ("source", "time", "observation_id"):
        if role in columns:
            optional[role] = columns[role]
    if schema.num_actions is not None:
        for role in ("behavior_probs", "action_mask"):
            if role not in columns:
                continue
            if columns[role].shape != (count, schema.num_actions):
                raise DataError(
                    f"{role} of {origin} must hold one number for each of the {schema.num_actions} actions; "
                    f"got shape {columns[role].shape}."
                )
        if "behavior_probs" in columns:
            optional["behavior_probs"] = _probabilities(columns, order, schema, origin)
            chosen = np.take_along_axis(optional["behavior_probs"], action[:, None].astype(np.int64), 1)[:, 0]
            with np.errstate(divide="ignore"):
                optional.setdefault("behavior_log_prob", np.log(chosen).astype(np.float32))
        if "action_mask" in columns:
            optional["action_mask"] = _flag(columns["action_mask"], "action_mask", origin)
    step = columns["step"] if "step" in columns else np.concatenate([np.arange(n) for n in np.diff(episode_start)])
    return Dataset(
        observation_table=table,
        observation_index=np.arange(count, dtype=np.int32),
        next_observation_index=next_index,
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        step=step.astype(np.int64),
        episode_start=episode_start,
        episode_id=columns["episode"][episode_start[:-1]],
        schema=schema,
        **optional,
    )


def _episode_order(columns: Mapping[str, NumpyArray], origin: str) -> tuple[NumpyArray, NumpyArray]:
    """Row order (episodes by first appearance, then step) and the first row of each episode, then N."""
    if columns["episode"].dtype.kind == "f" and np.isnan(columns["episode"]).any():
        raise DataError(f"episode of {origin} must name an episode in every row; found NaN.")
    _, first, inverse = np.unique(columns["episode"], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    episode = rank[inverse.reshape(-1)]
    keys = (columns["step"], episode) if "step" in columns else (episode,)
    order = np.lexsort(keys)
    start = np.concatenate([[0], np.cumsum(np.bincount(episode))]).astype(np.int64)
    if "step" in columns:
        _check_steps(columns["step"], episode, order, columns["episode"], origin)
    return order, start


def _check_steps(step: NumpyArray, rank: NumpyArray, order: NumpyArray, episode: NumpyArray, origin: str) -> None:
    """Steps are whole numbers, each once an episode: otherwise the order of its rows is anybody's guess."""
    if step.dtype.kind not in "biuf" or (step.dtype.kind == "f" and not (step == np.floor(step)).all()):
        raise DataError(f"step of {origin} must be whole numbers; got {step.dtype}. Give clock times the role `time`.")
    same = (np.diff(step[order].astype(np.float64)) == 0) & (np.diff(rank[order]) == 0)
    if same.any():
        row = int(order[np.flatnonzero(same)[0] + 1])
        raise DataError(
            f"step must differ between the rows of an episode; episode {_plain(episode[row])} of {origin} has step "
            f"{_plain(step[row])} twice (row {row}). Number its rows, or leave `step` out to keep the file's order."
        )


def _finite(columns: Mapping[str, NumpyArray], role: str, order: NumpyArray, schema: Schema, origin: str) -> NumpyArray:
    """The column as finite float32."""
    values = columns[role]
    if values.dtype.kind not in "biuf":
        raise DataError(f"{_called(role, schema)} of {origin} must be numbers; got {values.dtype}.")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)  # before the check: what float32 cannot hold is infinite here too
    bad = ~np.isfinite(values)
    if bad.any():
        where = np.argwhere(bad)[0]
        seen = "NaN" if np.isnan(values[tuple(where)]) else "infinity"
        raise DataError(
            f"{_called(role, schema)} of {origin} must be finite; found {seen} in row {order[where[0]]} "
            f"({int(bad.sum())} such value{'s' if bad.sum() > 1 else ''}). Mend or drop those episodes first."
        )
    return values


def _called(role: str, schema: Schema) -> str:
    """The role, and the column behind it where that has another name."""
    column = schema.columns.get(role, role)
    return role if column == role or isinstance(column, tuple) else f"{role} (column {column!r})"


def _flag(values: NumpyArray, role: str, origin: str) -> NumpyArray:
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise DataError(
            f"{role} of {origin} must be true or false (or 1 and 0); got values like {values[:3].tolist()}."
        )
    return values.astype(bool)


def _check_ends(
    terminated: NumpyArray, truncated: NumpyArray, start: NumpyArray, episode: NumpyArray, origin: str
) -> None:
    ended = terminated | truncated
    last = start[1:] - 1
    open_end = last[~ended[last]]
    if len(open_end):
        raise DataError(
            f"Every episode must end with terminated or truncated; episode {_plain(episode[open_end[0]])} of {origin} "
            f"has no end ({len(open_end)} such episode{'s' if len(open_end) > 1 else ''}). "
            "Mark its last row truncated if the log was cut there."
        )
    ended = ended.copy()
    ended[last] = False
    if ended.any():
        row = int(np.flatnonzero(ended)[0])
        raise DataError(
            f"No row may follow the end of an episode; episode {_plain(episode[row])} of {origin} goes on after "
            f"terminated or truncated. Give what follows another episode id."
        )


def _plain(value: Any) -> str:
    return repr(value.item() if hasattr(value, "item") else value)


def _action(columns: Mapping[str, NumpyArray], order: NumpyArray, schema: Schema, origin: str) -> NumpyArray:
    values = _finite(columns, "action", order, schema, origin)
    if schema.num_actions is None:
        return values[:, None] if values.ndim == 1 else values
    if values.ndim != 1:
        raise DataError(f"A discrete action is one integer a row; got shape {values.shape}.")
    raw = columns["action"]
    values = raw if raw.dtype.kind == "f" else raw.astype(np.int64)
    outside = (values < 0) | (values >= schema.num_actions) | (values != np.floor(values))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"{_called('action', schema)} of {origin} must be an integer from 0 to {schema.num_actions - 1}; got "
            f"{_plain(values[row])} in row {order[row]} ({int(outside.sum())} such). Correct `count` under [action] or the log."
        )
    return values.astype(np.int32)


def _probabilities(columns: Mapping[str, NumpyArray], order: NumpyArray, schema: Schema, origin: str) -> NumpyArray:
    probs = _finite(columns, "behavior_probs", order, schema, origin)
    wrong = (probs < 0).any(1) | (np.abs(probs.sum(1) - 1) > 1e-3)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"behavior_probs of {origin} must be at least 0 and sum to 1 in every row; row {order[row]} sums to "
            f"{probs[row].sum():.4g} with minimum {probs[row].min():.4g}."
        )
    return probs


def _store_observations(
    columns: Mapping[str, NumpyArray],
    observation: NumpyArray,
    start: NumpyArray,
    order: NumpyArray,
    schema: Schema,
    origin: str,
) -> tuple[NumpyArray, NumpyArray]:
    """The observation table, and for each row where its next observation is stored (-1: nowhere)."""
    count, last = len(observation), start[1:] - 1
    next_index = np.arange(1, count + 1, dtype=np.int32)
    next_index[last] = NO_OBSERVATION
    if "next_observation" not in columns:
        return observation, next_index
    ends = {"next_observation": columns["next_observation"][last]}
    _finite(ends, "next_observation", order[last], schema, origin)
    given = columns["next_observation"].astype(np.float32)
    given = given[:, None] if given.ndim == 1 else given
    if given.shape[1] != observation.shape[1]:
        raise SchemaError(
            f"next_observation of {origin} must have as many numbers as observation, {observation.shape[1]}; "
            f"got {given.shape[1]}."
        )
    # Stored anew only where the next row does not hold it: at the end of an episode, and where rows are missing.
    # One that is itself missing inside an episode is the next row's.
    differs = np.ones(count, bool)
    differs[:-1] = (given[:-1] != observation[1:]).any(1) & np.isfinite(given[:-1]).all(1)
    differs[last] = True
    rows = np.flatnonzero(differs)
    next_index[rows] = np.arange(count, count + len(rows), dtype=np.int32)
    return np.concatenate([observation, given[rows]]), next_index
