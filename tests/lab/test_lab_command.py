"""`stitchrl lab`: what it says when something is missing or in the way."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
import webbrowser
from pathlib import Path

import pytest
from commands import Command

from stitchrl.command_line import lessons
from stitchrl.lab import build
from stitchrl.lab.registry import LESSONS


def page_of(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(build.MADE_BY + "hello")
    return folder / "index.html"


def test_the_names_are_listed(stitchrl: Command) -> None:
    assert stitchrl("lab", "--list").out.split() == list(LESSONS)
    assert json.loads(stitchrl("lab", "--list", "--json").out) == {"lessons": list(LESSONS)}


def test_a_lesson_that_there_is_not(stitchrl: Command) -> None:
    done = stitchrl("lab", "stiching")
    assert (done.status, done.err) == (2, "error: There is no lesson 'stiching'; did you mean 'stitching'?\n")


def test_options_that_say_nothing_together(stitchrl: Command, tmp_path: Path) -> None:
    assert "needs `--export DIR`" in stitchrl("lab", "--single").err
    assert "give one of the two" in stitchrl("lab", "--export", tmp_path, "--port", "8000").err


def test_no_browser_is_said_and_the_page_named(
    stitchrl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_of(tmp_path)
    monkeypatch.setattr(lessons, "_built", lambda *_, **__: [page, page])

    def none(_: str) -> bool:
        raise webbrowser.Error("none")

    monkeypatch.setattr(webbrowser, "open", none)
    done = stitchrl("lab")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"No browser could be started here; open {page} yourself")
    opened: list[str] = []

    def opens(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", opens)
    assert stitchrl("lab").out == f"{page}\n"
    assert opened == [page.as_uri()]


def test_a_port_in_use_is_said_before_anything_is_built(stitchrl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "_built", lambda *_, **__: pytest.fail("built"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = stitchrl("lab", "--port", str(port))
    assert done.status == 2
    assert done.err.startswith(f"error: Port {port} cannot be used: address already in use. Choose another --port.")


def test_pages_are_served(tmp_path: Path) -> None:
    server = lessons._bound(0)
    thread = threading.Thread(target=lessons._serve, args=(server, page_of(tmp_path)), kwargs={"quiet": True})
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/index.html", timeout=20) as answer:
            assert b"hello" in answer.read()
    finally:
        server.shutdown()
        thread.join()


def test_a_missing_extra_is_named(stitchrl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NEEDED", ("not_installed_anywhere",))
    done = stitchrl("lab", "iql", "--export", tmp_path / "out")
    assert done.status == 2
    assert done.err.endswith("which is not installed; run: pip install 'stitchrl[lab]'\n")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(stitchrl: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = stitchrl("lab", "iql", "--export", tmp_path / "file" / "pages")
    assert done.status == 2
    assert "cannot be made or written" in done.err
    assert (tmp_path / "file").read_text() == "mine"
