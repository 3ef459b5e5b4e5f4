"""What the documents say is true: the README's example runs, its commands exist, links point somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import stitchrl as st
from stitchrl.data.schema import Schema

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("usable\n")
    assert re.search(r"^(GO|NO-GO|CANNOT TELL): ", out, flags=re.MULTILINE)


def test_the_schema_example_is_a_schema() -> None:
    (example,) = blocks("toml")
    schema = Schema.from_dict(tomllib.loads(example))
    assert schema.num_actions == 25


def test_commands_and_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    from stitchrl.cli import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    for command in re.findall(r"^stitchrl (\w+)", README, flags=re.MULTILINE):
        assert command in commands


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/training.md"])
def test_links_point_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_version_and_changelog_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == st.__version__
    assert f"## [{st.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_public_face_is_what_it_says() -> None:
    for name in st.__all__:
        assert getattr(st, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'magic'"):
        _ = st.magic
