"""Reading and claiming run directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stitchrl.errors import RunDirectoryError

__all__ = ["difference", "load_json"]


def difference(folder: str, key: str, found: Any, wanted: Any) -> str:
    """One sentence naming what differs, down to the entry that does."""
    while isinstance(found, dict) and isinstance(wanted, dict):
        inner = next(k for k in [*wanted, *found] if found.get(k) != wanted.get(k))
        key, found, wanted = f"{key}.{inner}", found.get(inner), wanted.get(inner)
    if key == "content_hash":
        return f"{folder!r} holds a run on another log. Choose another --out, or give the log it was started with."
    if key == "algorithms" and isinstance(found, list):
        found, wanted = (", ".join(entry["algorithm"] for entry in entries) for entries in (found, wanted))
        if found == wanted:
            found, wanted = "with other settings", "these"
    return f"{folder!r} holds another run: its {key} is {found!r}, yours {wanted!r}. Choose another --out, or delete that one."


def load_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunDirectoryError(f"{path} is missing or damaged. Delete it to have its stage done again.") from None
    return content
