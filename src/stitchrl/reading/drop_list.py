"""Lists of episodes to leave out of a log, as JSON or CSV files that a person can read, correct and keep.

JSON: `{"episodes": [...], ...}`, with what the list was made from beside it. CSV: a column `episode`, and a column `reason`.
Whoever finds that an episode of the list is true deletes its entry.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stitchrl.errors import ConfigurationError, DataError, RunDirectoryError
from stitchrl.storage.files import write_text

__all__ = ["check_drop_list_file", "read_drop_list", "write_drop_list"]

ENDINGS = (".json", ".csv")


def check_drop_list_file(file: str | os.PathLike[str]) -> Path:
    """The path of a drop list that can be written.

    Raises:
        ConfigurationError: it ends neither in .json nor in .csv.
        RunDirectoryError: it exists; a list that somebody corrected by hand must not be lost.
    """
    path = Path(file)
    _check_ending(path)
    if path.exists():
        raise RunDirectoryError(f"{str(path)!r} exists; nothing is overwritten. Choose another name or remove it.")
    return path


def write_drop_list(
    file: str | os.PathLike[str],
    episodes: Sequence[Any],
    *,
    reasons: Mapping[Any, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a drop list; nothing is dropped by that.

    Args:
        file: a new file whose name ends in .json or .csv.
        episodes: identifiers, as `EpisodeRanking.drop_list` gives them.
        reasons: identifier -> why it is in the list, where that is known.
        about: what the list was made from; JSON alone holds it.

    Raises:
        ConfigurationError, RunDirectoryError: as `check_drop_list_file`.
    """
    path, why = check_drop_list_file(file), reasons or {}
    if path.suffix.lower() == ".json":
        content = {**(about or {}), "episodes": list(episodes), "reasons": {str(k): why.get(k, "") for k in episodes}}
        write_text(path, json.dumps(content, indent=1, default=str) + "\n")
        return path
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([("episode", "reason"), *((one, why.get(one, "")) for one in episodes)])
    write_text(path, text.getvalue())
    return path


def read_drop_list(file: str | os.PathLike[str]) -> list[Any]:
    """The identifiers in a drop list, for `log.without_episodes`.

    Raises:
        ConfigurationError: the name ends neither in .json nor in .csv.
        DataError: the file cannot be read, or is no drop list.
    """
    path = Path(file)
    if path.suffix.lower() not in ENDINGS:
        raise ConfigurationError(
            f"A drop list is a file whose name ends in .json or .csv; got {str(path)!r}. `stitchrl audit LOG --rank --drop-list "
            "worst.json` writes one, and a list by hand is JSON with a list named `episodes`."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            found = json.loads(text)
            episodes = found["episodes"] if isinstance(found, dict) else found
            if isinstance(episodes, list) and all(isinstance(one, str | int | float) for one in episodes):
                return episodes
            raise ValueError("its `episodes` are no list of identifiers")
        rows = list(csv.DictReader(io.StringIO(text)))
        return [row["episode"] for row in rows]
    except OSError as error:
        raise DataError(
            f"The drop list {str(path)!r} cannot be read: {error.strerror}. `stitchrl audit LOG --rank --drop-list worst.json` "
            "writes one."
        ) from None
    except (ValueError, KeyError) as error:
        why = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{str(path)!r} is no drop list: {why}. JSON has a list named `episodes`, CSV a column named `episode`."
        ) from None


def _check_ending(path: Path) -> None:
    if path.suffix.lower() not in ENDINGS:
        raise ConfigurationError(
            f"A drop list is a file whose name ends in .json or .csv; got {str(path)!r}. Choose "
            f"{path.with_suffix('.json').name!r}."
        )
