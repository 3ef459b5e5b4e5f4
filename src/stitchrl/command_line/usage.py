"""What is said of a command line that cannot be understood: one sentence that names the word, and the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import typer

__all__ = ["UsageError", "sentence_of"]

# By its version, Typer brings a Click of its own or takes the one that is installed; an error of either has this base.
UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")


def sentence_of(error: Any) -> str:
    """The sentence on a `UsageError`, without line breaks."""
    context, kind = error.ctx, type(error).__name__
    path = "stitchrl" if context is None else context.command_path
    if kind == "NoSuchOption":
        known = [] if context is None else [flag for entry in context.command.params for flag in entry.opts]
        return _unknown("option", error.option_name, (k for k in known if k.startswith("-")), f"see `{path} --help`.")
    if kind == "MissingParameter" and error.param is not None:
        name = error.param.name.upper() if error.param.param_type_name == "argument" else error.param.opts[0]
        return f"`{path}` needs {name}, which was not given; see `{path} --help`."
    text = " ".join(error.format_message().split()).rstrip(".")
    named = re.match(r"No such command (['\"])(.*?)\1", text)
    if named and context is not None:
        known = list(context.command.commands)
        return _unknown("command", named[2], known, f"there are {', '.join(known)}.")
    return f"{text}." if context is None else f"{text}; see `{path} --help`."


def _unknown(kind: str, word: str, known: Iterable[str], otherwise: str) -> str:
    from difflib import get_close_matches  # only where something went wrong

    near = get_close_matches(word, known, n=1)
    return f"There is no {kind} {word}; {f'did you mean {near[0]}?' if near else otherwise}"
