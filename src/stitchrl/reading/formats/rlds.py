"""RLDS episodes: steps with `is_first`, `is_last`, `is_terminal`, in memory or as TensorFlow Datasets stores them.

A step holds an observation, the action taken on it and the reward after the action. The last step (`is_last`) holds
only the final observation: its action, reward and discount have no meaning. It does not become a row, but the next
observation of the row before it. If `is_terminal` is true there the episode terminated; otherwise it was cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.errors import DataError
from stitchrl.reading.sources.arrays import action_count, as_flags, check_lengths, described, in_blocks, one_or_several
from stitchrl.reading.sources.source import BLOCK_ROWS, Block, Format, LogSource, reading_errors
from stitchrl.types import NumpyArray

__all__ = ["FORMAT", "source_of_episodes"]

KIND = "RLDS"
FLAGS = ("is_first", "is_last", "is_terminal")
NEEDED = ("observation", "action", "is_terminal")
FILES = ("dataset_info.json", "features.json")
DEEPEST = 8


def source_of_episodes(
    episodes: Iterable[Mapping[str, Any]],
    *,
    origin: str = "the episodes",
    name: str = "log",
    num_actions: int | None = None,
) -> LogSource:
    """The transitions of RLDS episodes.

    Args:
        episodes: each is {"steps": steps}, where steps is a sequence of dicts, one for each step, or a dict of stacked
            arrays. Observations and actions may be dicts. They are gone through more than once; an iterator is kept as
            a list.
        origin: what messages call the episodes.
        name: what reports call the log.
        num_actions: the number of discrete actions; by default the largest that occurs + 1.

    Raises:
        DataError: no episodes, steps that lack an observation, an action or `is_terminal`, or do not fit together.
    """
    held: Iterable[Mapping[str, Any]] = list(episodes) if isinstance(episodes, Iterator) else episodes
    with reading_errors(origin, KIND):
        first = next((steps for steps in (_steps(e, origin) for e in held) if steps), None)
    if first is None:
        raise DataError(f"{origin} have no steps; a log needs at least one episode.")
    missing = [key for key in NEEDED if not any(n == key or n.startswith(f"{key}/") for n in first)]
    if missing:
        raise DataError(f"Every step of {origin} must have {', '.join(NEEDED)}; there is no {', '.join(missing)}.")
    observed, notes = _observed(first)
    if not observed:
        raise DataError(f"The observation of {origin} holds no numbers; there is nothing to learn from.")
    acted = tuple(n for n in first if (n == "action" or n.startswith("action/")) and first[n].dtype.kind in "biuf")
    if not acted:
        raise DataError(f"The action of {origin} holds no numbers; there is nothing to learn from.")

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        with reading_errors(origin, KIND):
            yield from in_blocks(
                (piece for n, e in enumerate(held) for piece in _rows(_steps(e, origin), n, names, origin)), origin
            )

    every = [n for n in first if n not in FLAGS and first[n].dtype.kind in "biuf"]
    after = [f"next_{column}" for column in observed]
    source = LogSource(origin, KIND, (*every, *after, "terminated", "truncated", "episode"), blocks, notes=notes)
    return _with_schema(source, observed, acted, num_actions, name)


def _with_schema(
    source: LogSource, observed: tuple[str, ...], acted: tuple[str, ...], num_actions: int | None, name: str
) -> LogSource:
    """The source with the schema that its names mean; `observed` and `acted` are the columns of
    observation and action."""
    rewarded = "reward" in source.names
    columns: dict[str, str | tuple[str, ...]] = {
        "observation": one_or_several(observed),
        "action": one_or_several(acted),
        "next_observation": one_or_several(tuple(f"next_{column}" for column in observed)),
        "terminated": "terminated",
        "truncated": "truncated",
    }
    counted = action_count(source, acted[0]) if len(acted) == 1 else None
    schema = described(
        source.origin,
        columns | ({"reward": "reward"} if rewarded else {}),
        num_actions=None if counted is None else num_actions or counted,
        reward_expression=None if rewarded else "0",
        name=name,
        end="truncated",
    )
    no_reward = () if rewarded else ("The log has no rewards: they are taken as 0, so only imitation makes sense.",)
    return dataclasses.replace(source, schema=schema, notes=(*source.notes, *no_reward))


def _steps(episode: Any, origin: str) -> dict[str, NumpyArray]:
    """The steps of an episode as columns with one row for each step, such as "observation/position"."""
    if not isinstance(episode, Mapping) or "steps" not in episode:
        raise DataError(f'Each of {origin} must be a dict with "steps"; got {type(episode).__name__}.')
    steps = episode["steps"]
    if isinstance(steps, Mapping):
        columns = {name: _plain(values) for name, values in _flat(steps)}
    else:
        held: dict[str, list[Any]] = {}
        count = 0
        for step in steps:
            for name, value in _flat(step):
                held.setdefault(name, []).append(_plain(value))
            count += 1
        ragged = [name for name, values in held.items() if len(values) != count]
        if ragged:
            raise DataError(f"Every step of {origin} must have the same entries; {ragged[0]} is missing in some.")
        columns = {name: np.stack(values) for name, values in held.items()}
    if any(values.ndim == 0 for values in columns.values()):
        raise DataError(f"Steps of {origin} in stacked arrays must have one row a step; a single number is none.")
    check_lengths({name: len(values) for name, values in columns.items()}, origin)
    return columns


def _flat(step: Any, before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The entries of nested dicts, named by the keys that lead to them."""
    if not isinstance(step, Mapping) or depth > DEEPEST:
        raise ValueError(f"a step must be a dict; got {type(step).__name__}")
    for key, value in step.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}/", depth + 1)
        else:
            yield f"{before}{key}", value


def _plain(value: Any) -> NumpyArray:
    """A value, which may be a tensor of TensorFlow, as an array."""
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def _observed(first: Mapping[str, NumpyArray]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of the observation (numbers, or images if there are no numbers), and a note on what was left out."""
    every = [name for name in first if name == "observation" or name.startswith("observation/")]
    numeric = [name for name in every if first[name].dtype.kind in "biuf"]
    images = [name for name in numeric if first[name].dtype == np.uint8 and first[name].ndim >= 4]
    chosen = [name for name in numeric if name not in images] or images
    left = [name for name in every if name not in chosen]
    note = (f"{', '.join(left)} (text, images) were left out of the observation.",) if left else ()
    return tuple(chosen), note


def _rows(
    steps: dict[str, NumpyArray], number: int, names: Sequence[str], origin: str
) -> Iterator[dict[str, NumpyArray]]:
    """The transitions of an episode, which are one fewer than its steps, up to BLOCK_ROWS at a time."""
    if not steps:
        return
    if "is_terminal" not in steps:
        raise DataError(f"Every step of {origin} must have is_terminal; episode {number} lacks it.")
    flags = {name: as_flags(steps[name], name, origin) for name in FLAGS if name in steps}
    count = len(flags["is_terminal"]) - 1
    inside = [name for name in ("is_last", "is_terminal") if name in flags and flags[name][:-1].any()]
    if inside or ("is_first" in flags and flags["is_first"][1:].any()):
        which = inside[0] if inside else "is_first"
        raise DataError(
            f"{which} must be true at one end of an episode only; in episode {number} of {origin} it is inside."
        )
    ended = bool(flags["is_terminal"][-1])
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        last = np.arange(start, stop) == count - 1
        made: dict[str, NumpyArray] = {
            "terminated": last & ended,
            "truncated": last & (not ended),
            "episode": np.full(stop - start, number, np.int64),
        }
        for name in names:
            if name in steps:
                made[name] = steps[name][start:stop]
            elif name.startswith("next_") and name.removeprefix("next_") in steps:
                made[name] = steps[name.removeprefix("next_")][start + 1 : stop + 1]
            elif name not in made:
                raise DataError(f"Every step of {origin} must have {name}; episode {number} lacks it.")
        yield {name: made[name] for name in names}


class _Stored:
    """The episodes of a folder, read anew each time they are gone through."""

    def __init__(self, datasets: Any, builder: Any) -> None:
        self._datasets, self._builder = datasets, builder

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for split in sorted(self._builder.info.splits):
            yield from self._datasets.as_numpy(self._builder.as_dataset(split=split, shuffle_files=False))


def open_rlds(path: Path) -> LogSource:
    """The episodes of a folder of TensorFlow Datasets.

    Raises:
        DataError: tensorflow_datasets is not installed; the folder is damaged or holds no episodes.
    """
    try:
        import tensorflow_datasets as datasets
    except ImportError:
        raise DataError(
            f'{path.name} is a folder of TensorFlow Datasets, which needs that library: pip install "stitchrl[rlds]".'
        ) from None
    with reading_errors(path.name, KIND):
        builder = datasets.builder_from_directory(str(path))
    return source_of_episodes(_Stored(datasets, builder), origin=path.name, name=path.parent.name or path.name)


FORMAT = Format(
    KIND, (), lambda path, head: path.is_dir() and all((path / name).is_file() for name in FILES), open_rlds
)
