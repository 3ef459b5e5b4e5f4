"""Commands of `stitchrl`, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from stitchrl import cli


class Done(NamedTuple):
    """Exit status, standard output and standard error."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]


def command_runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `stitchrl words...`."""

    def run(*words: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["stitchrl", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        code = stopped.value.code
        printed = capsys.readouterr()
        return Done(0 if code is None else int(code), printed.out, printed.err)

    return run
