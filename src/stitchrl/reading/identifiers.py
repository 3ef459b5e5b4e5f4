"""Episode and group identifiers: whole columns of them, over several files, and numbered by first appearance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Shaped

from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = [
    "LARGEST_EXACT",
    "Identifiers",
    "identifiers_of",
    "in_microseconds",
    "joined_blocks",
    "number_by_appearance",
    "over_files",
    "ranks",
]

LARGEST_EXACT = 2.0**53
"""The smallest float at which neighbouring whole numbers can no longer be told apart."""


class Identifiers(NamedTuple):
    """The identifiers of a column.

    Attributes:
        codes: a number for each row, equal where the identifiers are.
        names: the identifier of each code; None where the codes are the identifiers themselves.
    """

    codes: NumpyArray
    names: NumpyArray | None


def identifiers_of(blocks: list[NumpyArray | pa.DictionaryArray], what: str) -> Identifiers:
    """The blocks of a column of identifiers as one. Raises DataError where they cannot tell rows apart."""
    text = [block for block in blocks if isinstance(block, pa.DictionaryArray)]
    if text and len(text) == len(blocks):
        chunks = pa.chunked_array(text).unify_dictionaries().chunks
        names = chunks[0].dictionary.to_numpy(zero_copy_only=False).astype(str)
        return Identifiers(np.concatenate([chunk.indices.to_numpy() for chunk in chunks]), names)
    if text:
        raise DataError(f"{what} must be all numbers or all text; it changes from block to block.")
    codes = joined_blocks([np.asarray(block) for block in blocks], what)
    unknown = np.isnat(codes) if codes.dtype.kind in "mM" else codes != codes
    if unknown.any():
        raise DataError(f"{what} must have an identifier in every row; row {int(np.argmax(unknown))} has NaN.")
    if codes.dtype.kind == "f" and not (np.abs(codes) < LARGEST_EXACT).all():
        row = int(np.argmin(np.abs(codes) < LARGEST_EXACT))
        raise DataError(
            f"{what} must have identifiers that differ; {shown(codes[row])} in row {row} is a float so large that neighbouring "
            "identifiers are rounded to it. Write them as text or 64-bit integers."
        )
    return Identifiers(in_microseconds(codes), None)


def over_files(episode: Identifiers, file: NumpyArray, rule: str | None, origin: str) -> Identifiers:
    """The episode identifiers of a log in several files, which may use the same identifier for different episodes.

    Args:
        episode: the identifiers.
        file: number of the file of each row.
        rule: `files` of the schema.
        origin: what messages call the log.

    Raises:
        DataError: an identifier occurs in several files, and the schema does not say what that means.
    """
    if rule == "joined":
        return episode
    _, codes = np.unique(episode.codes, return_inverse=True)
    both = codes.astype(np.int64) * (int(file.max(initial=0)) + 1) + file
    pairs, at = np.unique(both, return_index=True)
    if len(pairs) == codes.max(initial=-1) + 1:
        return episode
    if rule is None:
        shared = int(np.flatnonzero(np.bincount(codes[at]) > 1)[0])
        code = episode.codes[np.argmax(codes == shared)]
        name = code if episode.names is None else episode.names[code]
        raise DataError(
            f"Episode {shown(name)} is in several files of {origin}: say under [episodes] whether they number their "
            'episodes each for itself (`files = "separate"`) or share them (`files = "joined"`).'
        )
    own = episode.codes[at] if episode.names is None else episode.names[episode.codes[at]]
    names = np.array([f"{i}@{n}" for i, n in zip(own, file[at], strict=True)])
    return Identifiers(np.searchsorted(pairs, both), names)


def ranks(episode: Identifiers) -> tuple[Int[NumpyArray, " N"], Shaped[NumpyArray, " E"], bool]:
    """The episode of each row, numbered by first appearance; the identifier of each episode; and whether the rows of
    some episode are not all next to each other."""
    codes = episode.codes
    first = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    number, appearance = number_by_appearance(codes[first])
    rank = np.repeat(number, np.diff(np.append(first, len(codes))))
    names = codes[first][appearance]
    return rank, names if episode.names is None else episode.names[names], len(names) < len(first)


def number_by_appearance(codes: NumpyArray) -> tuple[Int[NumpyArray, " N"], Int[NumpyArray, " different"]]:
    """The codes renumbered from 0 in the order of their first appearance, and where each appears first."""
    _, place, inverse = np.unique(codes, return_index=True, return_inverse=True)
    appearance = np.argsort(place)
    number = np.empty(len(place), np.int64)
    number[appearance] = np.arange(len(place))
    return number[inverse.reshape(-1)], place[appearance]


def joined_blocks(blocks: list[NumpyArray], what: str) -> NumpyArray:
    """The blocks of a column as one array. Raises DataError if they differ in kind; `what` names the column."""
    if len({block.dtype.kind in "mMU" and block.dtype.kind for block in blocks}) > 1:
        raise DataError(f"{what} must be all numbers, all times or all text; it changes from block to block.")
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0]


def in_microseconds(time: NumpyArray) -> NumpyArray:
    """Dates in microseconds, if those hold them exactly, so that equal logs have equal hashes whatever
    unit a file uses."""
    if time.dtype.kind not in "mM":
        return time
    same = time.astype(f"{time.dtype.kind}8[us]")
    return same if (same.astype(time.dtype) == time).all() else time
