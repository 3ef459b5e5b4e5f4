"""The looks at test parts that this user's evaluations took: one small file a look, in a folder that outlives the runs.

A look is one policy, or one comparison of two, estimated on one part of a log. Kept of it are the hashes of its episodes
and a few numbers that tell policies apart; no data of the log. The folder is `looks` in the state folder, which is
`STITCHRL_STATE`, else `stitchrl` in `XDG_STATE_HOME`, else `~/.local/state/stitchrl`. `STITCHRL_STATE=off` keeps nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.errors import RunDirectoryError, StitchRLWarning
from stitchrl.storage.coincidence import beyond_chance, coincidence
from stitchrl.storage.files import forget_abandoned, make_directory, write_atomic
from stitchrl.types import NumpyArray

__all__ = ["EarlierLooks", "looks_folder", "record_look"]

FORMAT = 1
MOST_CONTENTS = 2**16
"""A look keeps at most so many different hashes, the smallest ones: which they are does not depend on the other
episodes, so two parts are compared on what both have kept."""
SAME_POLICY = 1e-5
"""Two looks at one part whose numbers differ by no more are one: rounding differs between machines."""
DAMAGE = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged record may raise."""


@dataclasses.dataclass(frozen=True)
class EarlierLooks:
    """What is known of the looks at some episodes other than the one that was just recorded.

    Attributes:
        count: how many other looks there were at any of these episodes.
        share: about which share of these episodes those looks saw, 0 to 1.
        whole: how many of the looks were at exactly these episodes.
        unreadable: how many records could not be read, so that the count may be too small.
        problem: why this look is not recorded: "off" where that is not wanted, "not writable" where it failed; "" where it
            is recorded.
    """

    count: int = 0
    share: float = 0.0
    whole: int = 0
    unreadable: int = 0
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EarlierLooks:
        """The result of a `to_dict`."""
        return cls(**content)


def looks_folder() -> Path | None:
    """Where looks are recorded; None where the environment variable STITCHRL_STATE is "off".

    Raises:
        RuntimeError: the user has no home directory, and no variable names another folder.
    """
    named = os.environ.get("STITCHRL_STATE", "")
    if named == "off":
        return None
    if named:
        return Path(named) / "looks"
    base = os.environ.get("XDG_STATE_HOME", "")
    state = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return state / "stitchrl" / "looks"


def record_look(episodes: NumpyArray, judged: NumpyArray) -> EarlierLooks:
    """Record a look, unless it is recorded already, and count the others at the same episodes.

    It never fails: where the folder cannot be written, or a record cannot be read, it gives a StitchRLWarning.

    Args:
        episodes: (E,) uint64 hash of the content of each episode.
        judged: (K,) float64 numbers that are equal for the same question about the same policy on these episodes, and
            for hardly any other.
    """
    try:
        folder = looks_folder()
    except RuntimeError:
        return _not_recorded(EarlierLooks(), "the home directory of the user")
    if folder is None:
        return EarlierLooks(problem="off")
    mine = _Look.of(episodes, judged)
    written = True
    try:
        _write(folder, mine)
    except (RunDirectoryError, OSError):
        written = False
    # Read after writing, so that of two runs at the same time at least one knows of the other.
    found = _earlier(folder, mine, episodes)
    if found.unreadable:
        warnings.warn(
            f"{found.unreadable} records of earlier looks at test parts in {str(folder)!r} are damaged and were left out. "
            "Delete those files, or the folder, to end this warning.",
            StitchRLWarning,
            stacklevel=2,
        )
    return found if written else _not_recorded(found, str(folder))


def _not_recorded(found: EarlierLooks, where: str) -> EarlierLooks:
    """What was found, marked as not recorded, with a warning that says so."""
    warnings.warn(
        f"This look at a test part is not recorded: {where!r} cannot be written, so that later evaluations will not know "
        "of it. Set the environment variable STITCHRL_STATE to a folder that can be, or to `off`.",
        StitchRLWarning,
        stacklevel=3,
    )
    return dataclasses.replace(found, problem="not writable")


@dataclasses.dataclass(frozen=True, eq=False)
class _Look:
    """One look, as its file keeps it.

    Attributes:
        part: the name of exactly these episodes, in any order.
        contents: the smallest different hashes of episodes, ascending.
        limit: `contents` has every hash up to this one.
        count: how many episodes there are.
        judged: the numbers that tell what was judged.
    """

    part: str
    contents: NumpyArray
    limit: np.uint64
    count: int
    judged: NumpyArray

    @classmethod
    def of(cls, episodes: NumpyArray, judged: NumpyArray) -> _Look:
        """The look at these episodes."""
        contents = np.unique(episodes)
        whole = len(contents) <= MOST_CONTENTS
        limit = np.uint64(2**64 - 1) if whole else contents[MOST_CONTENTS - 1]
        part = hashlib.sha256(np.sort(episodes).astype("<u8").tobytes()).hexdigest()[:32]
        return cls(part, contents[:MOST_CONTENTS], limit, len(episodes), np.asarray(judged, np.float64))

    @classmethod
    def read(cls, path: Path) -> _Look | None:
        """The look that a file records; None where the file is of another version. A damaged file raises one of DAMAGE."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if int(found["format"]) != FORMAT:
                return None
            fields = {name: found[name] for name in ("contents", "judged")}
            if fields["contents"].dtype != np.uint64 or fields["judged"].dtype != np.float64:
                raise ValueError("an array is of another type")
            return cls(str(found["part"]), limit=np.uint64(found["limit"]), count=int(found["count"]), **fields)

    def write(self, path: Path) -> None:
        """Write a file that `read` reads."""
        with path.open("wb") as file:
            np.savez(
                file,
                format=np.array(FORMAT),
                part=np.array(self.part),
                contents=self.contents,
                limit=np.array(self.limit),
                count=np.array(self.count),
                judged=self.judged,
            )

    @property
    def name(self) -> str:
        """The name of the file, which is the same for equal looks."""
        return f"{self.part}-{hashlib.sha256(self.judged.astype('<f8').tobytes()).hexdigest()[:16]}.npz"

    def same(self, other: _Look) -> bool:
        """Whether the other is a look at exactly these episodes that asked the same of the same policy."""
        return (
            self.part == other.part
            and self.judged.shape == other.judged.shape
            and bool((np.abs(self.judged - other.judged) <= SAME_POLICY).all())
        )


def _write(folder: Path, look: _Look) -> None:
    """Record a look, unless the same one is recorded."""
    found, _ = _records(folder, f"{look.part}-*.npz")
    if any(look.same(other) for other in found):
        return
    make_directory(folder)
    forget_abandoned(folder / look.name)
    write_atomic(folder / look.name, look.write)


def _earlier(folder: Path, mine: _Look, episodes: NumpyArray) -> EarlierLooks:
    """Count the looks in a folder that saw any of these episodes, this look apart."""
    found, unreadable = _records(folder, "*.npz")
    whole = sum(other.part == mine.part and not mine.same(other) for other in found)
    times = np.unique(episodes, return_counts=True)[1]
    count, covered, chance, limit = 0, np.zeros(len(episodes), bool), 0.0, mine.limit
    for other in found:
        if other.part == mine.part:
            continue
        compared = episodes <= min(mine.limit, other.limit)
        seen = np.isin(episodes, other.contents) & compared
        by_chance = coincidence(times, other.count)
        if beyond_chance(int(seen.sum()), by_chance * compared.sum()):
            count += 1
            covered |= seen
            chance, limit = max(chance, by_chance), min(limit, other.limit)
    compared = episodes <= limit
    share = 0.0
    if count and chance < 1 and compared.any():
        share = max(0.0, (float(covered[compared].mean()) - chance) / (1 - chance))
    return EarlierLooks(count + whole, 1.0 if whole else round(share, 4), whole, unreadable)


def _records(folder: Path, pattern: str) -> tuple[list[_Look], int]:
    """Every record of this version in a folder, and how many are damaged."""
    found, damaged, paths = [], 0, list[Path]()
    with contextlib.suppress(OSError):  # a folder that may not be listed has nothing to count
        paths = sorted(folder.glob(pattern))
    for path in paths:
        try:
            look = _Look.read(path)
        except FileNotFoundError:
            continue  # somebody deleted it meanwhile
        except DAMAGE:
            damaged += 1
            continue
        if look is not None:
            found.append(look)
    return found, damaged
