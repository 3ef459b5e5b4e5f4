"""Generated pages of the documentation: write those that changed, remove those that nothing generates any more, or only check."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["bring_up_to_date"]


def bring_up_to_date(description: str | None, folder: Path, pages: Callable[[], Mapping[str, str]]) -> None:
    """The command of a script whose `pages` gives the name of each file in a folder and its content.

    With `--check` nothing is written, and the exit status is 1 where a page is missing, stale or not generated any more.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which pages are not up to date")
    check = parser.parse_args().check
    folder.mkdir(exist_ok=True)
    wanted = pages()
    stale = [
        name
        for name, content in wanted.items()
        if not (path := folder / name).exists() or path.read_text(encoding="utf-8") != content
    ]
    unknown = [path for path in folder.glob("*.md") if path.name not in wanted]
    if check:
        names = [*stale, *(path.name for path in unknown)]
        sys.exit(f"Not up to date: {', '.join(names)}." if names else 0)
    for path in unknown:
        path.unlink()
    for name in stale:
        (folder / name).write_text(wanted[name], encoding="utf-8")
    print(f"{len(wanted)} pages, {len(stale)} of them changed")
