"""`stitchrl schema`: a first schema for a log, and what a schema makes of one."""

from __future__ import annotations

from pathlib import Path

import typer

from stitchrl.command_line.main_job import print_json
from stitchrl.errors import ConfigurationError

__all__ = ["check", "propose"]


def check(log: Path, schema: Path, *, format: str | None, quiet: bool, json: bool) -> None:
    """Print what a schema makes of the first rows of a log; exit status 2 where the log cannot be read by it."""
    from stitchrl.data.schema import Schema
    from stitchrl.reading.check_schema import check_schema
    from stitchrl.reading.read import open_log

    given = Schema.load(schema)
    text, readable = check_schema(open_log(log, format=format, rules=given.file_rules), given)
    if json:
        print_json({"readable": readable, "text": text})
    elif quiet:
        print("readable" if readable else "not readable")
    else:
        print(text)
    if not readable:
        raise typer.Exit(2)


def propose(log: Path, out: Path | None, *, format: str | None, quiet: bool, json: bool) -> None:
    """Print a first schema for a log, as TOML with remarks, or write it to a new file."""
    import tomllib

    from stitchrl.reading.propose import propose
    from stitchrl.reading.read import open_log
    from stitchrl.reading.store import is_store, open_store
    from stitchrl.storage.files import write_text

    text = open_store(log).schema.to_toml() if is_store(log) else propose(open_log(log, format=format), log.stem)
    if quiet:
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    if out is not None:
        if out.exists():
            raise ConfigurationError(
                f"{str(out)!r} exists, and may hold what a person wrote. Name a new file, or delete it."
            )
        write_text(out, text)
    if json:
        print_json(({} if out is None else {"out": str(out)}) | {"schema": tomllib.loads(text)})
    else:
        print(text if out is None else f"{out}\n", end="")
