"""Replay buffers of Stable-Baselines3: the object in memory, its pickle, and the .npz that two lines make of a pickle.

A pickle is never unpickled; `sources/pickles.py` reads it. A pickle that asks for more than arrays and plain attributes
is refused, and the message has the two lines that convert it.

A buffer is a ring of arrays of shape (size, environments, ...). The rows of each environment are put in the order of
time and cut after the newest one. Rows of `dones` that are also `timeouts` are truncated, the others terminated.
Actions of Box spaces stand in the buffer as SB3's algorithms put them there, scaled to [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import as_flags, described, one_or_several
from stitchrl.reading.sources.npz_arrays import headers_in, load_array, names_in_npz
from stitchrl.reading.sources.pickle_objects import Array, Thing
from stitchrl.reading.sources.pickles import loaded
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, reading_errors
from stitchrl.reading.sources.spaces import Component, action_of, is_image, observation_of
from stitchrl.types import NumpyArray

__all__ = ["FORMAT", "is_buffer", "source_of_buffer"]

KIND = "Stable-Baselines3"
NEEDED = ("observations", "actions", "rewards", "dones", "pos", "full")
"""Attributes that every replay buffer has."""
SINGLE = ("pos", "full", "optimize_memory_usage", "handle_timeout_termination")
"""Attributes that are single values, not arrays."""
FIELDS = (*NEEDED, "next_observations", "timeouts", "observation_space", "action_space", *SINGLE[2:])
MADE = ("terminated", "truncated", "environment")
"""Columns that are made while reading."""


# --- a buffer -> columns ----------------------------------------------------------------------------------------


def is_buffer(source: Any) -> bool:
    """Whether an object in memory looks like a replay buffer."""
    return all(hasattr(source, name) for name in NEEDED)


def source_of_buffer(buffer: Any, *, origin: str = "the replay buffer", name: str = "log") -> LogSource:
    """The transitions of a replay buffer in memory: `ReplayBuffer`, `DictReplayBuffer` or what derives from them.

    Args:
        buffer: the object; its arrays are not copied.
        origin: what messages call the buffer.
        name: what reports call the log.

    Raises:
        DataError: the object is no replay buffer, is empty, or its arrays do not fit together.
    """
    missing = [field for field in NEEDED if not hasattr(buffer, field)]
    if missing:
        raise DataError(
            f"{origin} is no replay buffer of Stable-Baselines3: it has no {', '.join(missing)}. Rollout buffers of "
            "on-policy algorithms are not read."
        )
    with reading_errors(origin, KIND):
        return _source({field: getattr(buffer, field) for field in FIELDS if hasattr(buffer, field)}, origin, name)


def _source(fields: Mapping[str, Any], origin: str, name: str) -> LogSource:
    """The columns of a buffer, given its attributes, with their schema."""
    ring = _Ring(fields, origin)
    used, rules, notes = observation_of(ring.observations)
    settings, more = action_of([ring.action])
    if not used or settings is None:
        raise DataError(f"{origin} holds no observation or action of numbers; there is nothing to learn from.")
    observed = tuple(component.column for component in used)
    columns: dict[str, str | tuple[str, ...]] = {
        "observation": one_or_several(observed),
        "action": "actions",
        "reward": "rewards",
        "terminated": "terminated",
        "truncated": "truncated",
    }
    if not ring.shared:
        columns["next_observation"] = one_or_several(tuple(f"next_{column}" for column in observed))
    schema = described(origin, columns, name=name, observations=rules, end="truncated", **settings)
    names = (*ring.arrays, *MADE)
    return LogSource(origin, KIND, names, ring.blocks, schema, (*notes, *more, *ring.notes))


class _Ring:
    """The arrays of a buffer, and the order of their rows in time.

    Args:
        fields: attributes of the buffer.
        origin: what messages call the buffer.

    Attributes:
        observations, action: the components of the observation, and the action.
        arrays: column -> (size, environments, ...).
        notes: what a user should know.
        shared: whether the buffer stores no next observations, because those are the following observations.
        size, streams: how many rows each environment has room for, and how many environments there are.
    """

    def __init__(self, fields: Mapping[str, Any], origin: str) -> None:
        self.origin = origin
        self.observations = _components(fields.get("observation_space"), fields["observations"], "observations", origin)
        self.arrays: dict[str, NumpyArray] = {}
        self.notes: list[str] = []
        self.shared = fields.get("next_observations") is None
        for component in self.observations:
            self._add(component.column, _inner(fields["observations"], component.path), component)
            if not self.shared:
                self._add(f"next_{component.column}", _inner(fields["next_observations"], component.path), component)
        actions = _array(fields["actions"], "actions", origin)
        self.action = _components(fields.get("action_space"), actions, "actions", origin)[0]
        self._add("actions", actions, self.action)
        for name in ("rewards", "dones", "timeouts"):
            if fields.get(name) is not None:
                self._add(name, fields[name])
        shapes = {name: array.shape[:2] for name, array in self.arrays.items()}
        if len(set(shapes.values())) > 1:
            said = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:8])
            raise DataError(f"The arrays of {origin} must agree in (size, environments); they have {said}.")
        self.size, self.streams = shapes["rewards"]
        self._order = self._times(int(fields["pos"]), bool(fields["full"]))
        if self.action.shifted and self.action.kind != "Discrete":
            self.arrays["actions"] = self.arrays["actions"] - np.asarray(self.action.starts, np.int64)
        self._add_notes(fields)

    def _add(self, name: str, values: Any, component: Component | None = None) -> None:
        """Add a column: one number a row, unless its component of a space says otherwise; images get channels last."""
        array = _array(values, name, self.origin)
        if array.ndim < 2:
            raise DataError(f"{name} of {self.origin} must be (size, environments, ...); got shape {array.shape}.")
        scalar = component is not None and component.kind == "Discrete" and array.ndim > 2
        if scalar or (component is None and array.ndim > 2):
            array = array.reshape(*array.shape[:2], -1)
            if array.shape[2] != 1:
                raise DataError(f"{name} of {self.origin} must hold one number a row; got shape {array.shape}.")
            array = array[..., 0]
        if (
            component is not None
            and is_image(component)
            and len(component.shape) == 3
            and component.shape[0] < min(component.shape[1:])
        ):
            array = np.moveaxis(array, 2, -1)
            self.notes.append(f"The images {name} were turned to (height, width, channels).")
        self.arrays[name] = array

    def _times(self, pos: int, full: bool) -> Int[NumpyArray, " n"]:
        """The positions in the ring from the oldest row to the newest one."""
        if not 0 <= pos <= self.size:
            raise DataError(f"`pos` of {self.origin} must be from 0 to its size, {self.size}; got {pos}.")
        # Where observations are shared, the oldest one has been overwritten by the one that followed the newest.
        ring = (np.arange(self.size) + pos)[1 if self.shared else 0 :] % max(self.size, 1)
        order = ring if full else np.arange(pos)
        if not len(order) or not self.streams:
            raise DataError(f"{self.origin} has no transitions; a log needs at least one episode.")
        return order

    def _add_notes(self, fields: Mapping[str, Any]) -> None:
        """Note what the buffer does not tell, and how its actions are scaled."""
        if self.shared:
            self.notes.append(
                "The buffer was filled with optimize_memory_usage: the observation after the end of an episode is not "
                "in it."
            )
        if "timeouts" not in self.arrays or fields.get("handle_timeout_termination") in (False, 0):
            self.notes.append(
                "The buffer does not tell time limits from true ends (handle_timeout_termination was off): every done "
                "counts as terminated."
            )
        low, high = self.action.low, self.action.high
        if self.action.kind == "Box" and any(b != -1.0 for b in low) | any(b != 1.0 for b in high):
            self.notes.append(
                f"Actions are in [-1, 1] as SB3's algorithms store them; the environment takes [{min(low):g}, "
                f"{max(high):g}]: scale a policy's output back."
            )

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """The named columns, one environment after the other, each from its oldest row to its newest."""
        count = len(self._order)
        for stream in range(self.streams):
            for start in range(0, count, BLOCK_ROWS):
                rows = self._order[start : start + BLOCK_ROWS]
                made = {name: self.arrays[name][rows, stream] for name in names if name in self.arrays}
                if {"terminated", "truncated"} & set(names):
                    made |= self._ends(rows, stream, start + len(rows) == count)
                if "environment" in names:
                    made["environment"] = np.full(len(rows), stream, np.int32)
                yield {name: made[name] for name in names}

    def _ends(self, rows: Int[NumpyArray, " n"], stream: int, newest: bool) -> dict[str, NumpyArray]:
        """`terminated` and `truncated` of some rows; the last of them is cut if it is the newest of its environment."""
        done = as_flags(self.arrays["dones"][rows, stream], "dones", self.origin)
        cut = np.zeros(len(rows), bool)
        if "timeouts" in self.arrays:
            cut = as_flags(self.arrays["timeouts"][rows, stream], "timeouts", self.origin) & done
        terminated = done & ~cut
        if newest:
            cut[-1] = not terminated[-1]
        return {"terminated": terminated, "truncated": cut}


def _array(values: Any, name: str, origin: str) -> NumpyArray:
    """A value of the buffer, checked to be an array of numbers."""
    values = values.value if isinstance(values, Array) else values
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise DataError(f"{name} of {origin} must be an array of numbers; got {type(values).__name__}.")
    return values


def _inner(values: Any, path: tuple[str | int, ...]) -> Any:
    """The array that a path leads to; the observations of Dict spaces are dicts."""
    values = _mapping(values)
    if path and not (isinstance(values, Mapping) and path[0] in values):
        raise ValueError(f"its observations have no {path[0]!r}")
    return values[path[0]] if path else values


def _mapping(values: Any) -> Any:
    """The entries of a dict-like object of a pickle; anything else as it is."""
    return values.entries if isinstance(values, Thing) else values


def _components(space: Any, values: Any, column: str, origin: str, path: tuple[str | int, ...] = ()) -> list[Component]:
    """The components of a space; without a space, they are told from the arrays themselves."""
    fields = space.fields if isinstance(space, Thing) else vars(space) if hasattr(space, "__dict__") else {}
    kind = space.kind if isinstance(space, Thing) else type(space).__name__
    if kind == "Dict":
        inner = _mapping(fields["spaces"])
        held = _mapping(values)
        within = [(key, sub, held[key]) for key, sub in inner.items()]
        return [c for k, sub, own in within for c in _components(sub, own, f"{column}/{k}", origin, (*path, str(k)))]
    held = _mapping(values)
    if isinstance(held, Mapping):
        return [c for k, own in held.items() for c in _components(None, own, f"{column}/{k}", origin, (*path, str(k)))]
    array = _array(values, column, origin)
    shape = array.shape[2:]
    if kind == "Discrete":
        return [Component(column, path, kind, (), "int64", (int(fields["n"]),), (int(fields.get("start", 0)),))]
    if kind == "MultiDiscrete":
        choices = _array(fields["nvec"], f"the space of {column}", origin).reshape(-1)
        starts = (
            _array(fields["start"], f"the space of {column}", origin).reshape(-1) if "start" in fields else choices * 0
        )
        return [Component(column, path, kind, shape, "int64", tuple(choices.tolist()), tuple(starts.tolist()))]
    if kind == "MultiBinary":
        return [Component(column, path, kind, shape, "int8", (2,) * math.prod(shape))]
    if kind == "Box":
        low, high = (_bounds(fields.get(name)) for name in ("low", "high"))
        return [Component(column, path, kind, shape, str(array.dtype), low=low, high=high)]
    if array.dtype.kind in "iub" and array.dtype != np.uint8 and shape in ((), (1,)) and column == "actions":
        return [
            Component(column, path, "Discrete", (), str(array.dtype), (max(int(array.max(initial=1)) + 1, 2),), (0,))
        ]
    return [Component(column, path, "Box", shape, str(array.dtype))]


def _bounds(values: Any) -> tuple[float, ...]:
    """The bounds of a Box, flat; empty if they are not known."""
    values = values.value if isinstance(values, Array) else values
    return tuple(np.asarray(values, float).reshape(-1).tolist()) if isinstance(values, np.ndarray) else ()


# --- files ------------------------------------------------------------------------------------------------------


def open_pickle(path: Path) -> LogSource:
    """The columns of a buffer in a pickle, or in the .npz made of one.

    Raises:
        DataError: the pickle asks for more than arrays and plain attributes (the message has the two lines that convert
            it), or the file holds no buffer or is damaged.
    """
    with open(path, "rb") as file:
        head = file.read(4)
    if not head.startswith(b"\x80"):
        return _open_npz(path)
    with reading_errors(path.name, "a pickled buffer"):
        root = loaded(path)
        if not isinstance(root, Thing) or any(name not in root.fields for name in NEEDED):
            raise DataError(f"{path.name} is no replay buffer of Stable-Baselines3, and no other pickles are read.")
        return _source(root.fields, path.name, path.stem)


def _open_npz(path: Path) -> LogSource:
    """The columns of a buffer in an .npz, whose arrays are named like "observations/position"."""
    headers = headers_in(path)
    fields: dict[str, Any] = {}
    for name, header in headers.items():
        base, _, component = name.partition("/")
        if base in ("observations", "next_observations") and component:
            fields.setdefault(base, {})[component] = load_array(path, name)
        elif name in (*NEEDED, "next_observations", "timeouts", *SINGLE) and (header.shape or name in SINGLE):
            fields[name] = load_array(path, name) if header.shape else load_array(path, name).item()
    missing = [name for name in NEEDED if name not in fields]
    if missing:
        raise DataError(f"{path.name} is no replay buffer of Stable-Baselines3: it has no {', '.join(missing)}.")
    with reading_errors(path.name, KIND):
        return _source(fields, path.name, path.stem)


def _recognises(path: Path, head: bytes) -> bool:
    """Whether it is a pickle, or an .npz with the arrays of a buffer."""
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    names = names_in_npz(path, head)
    return {"dones", "pos", "full", "actions", "rewards"} <= names


FORMAT = Format(KIND, (".pkl", ".pickle"), _recognises, open_pickle)
