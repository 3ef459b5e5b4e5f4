"""Claiming a run directory for one run and no other, and reading the files it holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from stitchrl.errors import RunDirectoryError
from stitchrl.messages import listed
from stitchrl.storage.files import forget_abandoned, make_directory, write_json

__all__ = ["claim", "difference", "load_json"]


def claim(
    file: Path,
    identity: Mapping[str, Any],
    *,
    free: Collection[str] = (),
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = lambda found: found,
    begun: bool = True,
    alone: bool = False,
) -> dict[str, Any]:
    """Take the folder of `file` for a run, or see that the run in it is this very run.

    Args:
        file: where it is written which run the folder holds, such as `run.json`.
        identity: plain JSON content that makes the run this one and no other.
        free: entries of `identity` that may differ from run to run of the same command.
        upgrade: brings the content found up to date, where an older version wrote it.
        begun: False where nothing has been computed in the folder yet: a file found there is then replaced.
        alone: refuse a folder that holds files and no such `file`; otherwise files of others are left beside the run.

    Returns:
        The content of `file`: what the run began with where there is one, else `identity`.

    Raises:
        RunDirectoryError: the folder cannot be written, is damaged, or holds another run or something else.
    """
    folder = file.parent
    if alone and not file.exists() and (there := _what_it_holds(folder)):
        raise RunDirectoryError(
            f"{str(folder)!r} holds {there}, and {_KINDS.get(file.name, 'a run')} is written to a new or an empty folder. Choose "
            "another `out`; nothing was changed."
        )
    make_directory(folder)
    forget_abandoned(file)
    if file.exists():
        try:
            found = upgrade(dict(json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise RunDirectoryError(f"{file} is damaged. Choose another --out, or delete {str(folder)!r}.") from None
        if begun:
            for key in [*identity, *(key for key in found if key not in identity)]:
                if key not in free and found.get(key) != identity.get(key):
                    raise RunDirectoryError(difference(str(folder), key, found.get(key), identity.get(key)))
            return found
    write_json(file, dict(identity))
    return dict(identity)


def difference(folder: str, key: str, found: Any, wanted: Any) -> str:
    """One sentence naming what differs, down to the entry that does."""
    while True:
        if isinstance(found, dict) and isinstance(wanted, dict):
            inner = next(k for k in [*wanted, *found] if found.get(k) != wanted.get(k))
            key, found, wanted = f"{key}.{inner}", found.get(inner), wanted.get(inner)
        elif key == "candidates" and _labels(found) == _labels(wanted):
            label, mine = next((entry["label"], entry) for entry in wanted if entry not in found)
            theirs = next(entry for entry in found if entry["label"] == label)
            key, found, wanted = f"candidate {label!r}", theirs, mine
        else:
            break
    if key == "content_hash":
        return f"{folder!r} holds a run on another log. Choose another --out, or give the log it was started with."
    if key == "candidates":
        found, wanted = (", ".join(_labels(entries)) for entries in (found, wanted))
    return (
        f"{folder!r} holds another run, with {key} {found!r} where yours has {wanted!r}. Choose another --out, or delete "
        "that one."
    )


def load_json(path: Path) -> dict[str, Any]:
    """The content of a stage's file. Raises RunDirectoryError where it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunDirectoryError(f"{path} is missing or damaged. Delete it to have its stage done again.") from None
    return content


_KINDS = {
    "run.json": "a run of `stitchrl run`",
    "race.json": "a race of `stitchrl race`",
    "config.json": "a training of `stitchrl train` or `st.fit`",
    "policy.json": "a policy",
}
"""By the file that they are known by: what a folder may hold."""


def _what_it_holds(folder: Path) -> str:
    """What a folder holds, in words; "" where it is empty or not there."""
    there = (
        sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".")) if folder.is_dir() else []
    )
    known = next((kind for name, kind in _KINDS.items() if name in there), "")
    return known or (f"other files ({listed(there, 3)})" if there else "")


def _labels(entries: Any) -> list[str]:
    """The labels in a list of candidates, in order."""
    return [str(entry["label"]) for entry in entries or ()]
