"""Reading and auditing show their progress on a terminal once they take long."""

from __future__ import annotations

import pytest
from worlds import tiny_columns

import stitchrl as st


def test_a_long_reading_is_shown_on_a_terminal_and_short_or_piped_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stitchrl import progress

    st.read(tiny_columns())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    st.read(tiny_columns())
    assert capsys.readouterr().err == ""  # done within two seconds
    monkeypatch.setattr(progress, "FIRST_SHOWN_SECONDS", 0.0)
    log = st.read(tiny_columns())
    assert "reading the dict" in capsys.readouterr().err
    assert log.content_hash == st.read(tiny_columns()).content_hash


def test_a_long_audit_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stitchrl import progress

    log = st.read(tiny_columns())
    plain = st.audit(log)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(progress, "FIRST_SHOWN_SECONDS", 0.0)
    assert st.audit(log) == plain
    assert "auditing" in capsys.readouterr().err
