"""`stitchrl advise`: what to do with a log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import stitchrl
from stitchrl.command_line.main_job import print_json, write_json
from stitchrl.command_line.options import AsJson, Config, Format, Log, Quiet, SchemaFile, Version
from stitchrl.command_line.output_files import check_output_file
from stitchrl.errors import ConfigurationError

__all__ = ["advise"]

ANSWERS = {"yes": True, "no": False, "unknown": None}


def _answer(name: str, question: str) -> object:
    return typer.Option(name, metavar="yes|no|unknown", help=question)


def advise(
    log: Log,
    collect_more: Annotated[
        str, _answer("--collect-more", "Can more episodes be collected by a policy of your own?")
    ] = "unknown",
    costly: Annotated[str, _answer("--costly", "Does an episode cost much money or time?")] = "unknown",
    dangerous: Annotated[str, _answer("--dangerous", "Can a bad action do harm?")] = "unknown",
    simulator: Annotated[str, _answer("--simulator", "Is there a simulator that you trust?")] = "unknown",
    width: Annotated[
        float | None,
        typer.Option(
            "--width",
            help="Width of the 95% interval of a value that would be narrow enough for you, in units of the return. [default: a "
            "tenth of the standard deviation of returns]",
        ),
    ] = None,
    schema: SchemaFile = None,
    format: Format = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the advice as JSON to this file as well.")] = None,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Say what to do with a log.

    That is: whether to learn from it at all, whether it is good enough, with which algorithms, and what to log next.
    """
    check_output_file("--out", out, ".json", log, schema)
    found = stitchrl.advise(
        stitchrl.read(log, schema, format=format),
        collect_more=_read("collect-more", collect_more),
        costly=_read("costly", costly),
        dangerous=_read("dangerous", dangerous),
        simulator=_read("simulator", simulator),
        width=width,
    )
    content = found.to_dict() | {"command": found.command(str(log), f"runs/{log.stem}")}
    if out is not None:
        write_json(out, content)
    if json:
        print_json(content)
    elif quiet:
        print(content["command"])
    else:
        from stitchrl.reporting.advice_terminal import print_advice

        print_advice(content)


def _read(name: str, text: str) -> bool | None:
    """The answer that a word gives."""
    word = text.strip().lower()
    if word not in ANSWERS:
        raise ConfigurationError(f"`--{name}` must be yes, no or unknown; got {text!r}.")
    return ANSWERS[word]
