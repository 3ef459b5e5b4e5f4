"""What the documents say is true: the README's example runs, its commands exist, links point somewhere."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

import stitchrl as st
from stitchrl.data.schema import Schema
from stitchrl.mdp.icu_sepsis import compact_table, demo_log, draw_log
from stitchrl.pipeline.assignments import candidates_of, candidates_of_tables, with_assignments
from stitchrl.pipeline.settings import PipelineSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


RUNNING = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")


def blocks(language: str, document: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, flags=re.DOTALL)


FEWER = (
    ("st.demo_log()", "small_log()"),
    ("updates=1_000", "updates=50"),
    ("(128, 128)", "(16,)"),
    (".greedy(), test)", ".greedy(), test, settings=st.FitSettings(updates=5, hidden_sizes=(16,)))"),
)
"""What makes the README's example small: a log of 400 stays, narrow networks, few updates."""


def run_example(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"small_log": lambda: demo_log(compact_table(draw_log(400, seed=3)))}
    exec(compile(example, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert out.startswith("usable\n")
    assert re.search(r"^(GO|NO-GO|CANNOT TELL): ", out, flags=re.MULTILINE)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    for shown, smaller in FEWER:
        assert example.count(shown) == 1, shown
        example = example.replace(shown, smaller)
    run_example(example, capsys)


@pytest.mark.slow
def test_the_python_example_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    run_example(*blocks("python"), capsys)


@pytest.mark.slow
def test_the_examples_of_preferences_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in blocks("python", (ROOT / "docs" / "preferences.md").read_text(encoding="utf-8")):
        exec(compile(example, "preferences.md", "exec"), names)
    out = capsys.readouterr().out
    assert float(out.split()[0]) > 0.7
    assert "Preferences(2,000 pairs of segments of at most 1; " in out


def test_the_schema_example_is_a_schema() -> None:
    (example,) = blocks("toml")
    schema = Schema.from_dict(tomllib.loads(example))
    assert schema.num_actions == 25


def test_the_candidates_of_the_guide_are_candidates() -> None:
    (config,) = blocks("toml", RUNNING)
    content = tomllib.loads(config)
    classes = {name: getattr(st, name) for name in st.ALGORITHMS}
    found = candidates_of_tables(content.pop("candidate"), classes, 1.0)
    assert list(found) == ["BC", "IQL cautious", "IQL"]
    assert PipelineSettings(**content).updates == 5_000
    (command,) = re.findall(r"^stitchrl run .*--algorithms.*$", RUNNING, flags=re.MULTILINE)
    words = shlex.split(command)
    chosen = candidates_of(words[words.index("--algorithms") + 1], classes, 1.0)
    given = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    assert with_assignments(chosen, given)["IQL-2"] == dataclasses.replace(found["IQL"], expectile=0.9)


def test_the_settings_of_the_guide_can_be_written() -> None:
    texts = re.findall(r"`(IQL\.[^`]+=[^`]+)`", RUNNING)
    assert len(texts) == 5
    with_assignments({"IQL": st.IQL()}, texts)


def test_commands_and_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    from stitchrl.cli import app

    commands = {command.callback.__name__ for command in app.registered_commands if command.callback is not None}
    for command in re.findall(r"^stitchrl (\w+)", README + RUNNING, flags=re.MULTILINE):
        assert command in commands


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/training.md",
        "docs/collecting.md",
        "docs/race.md",
        "docs/running.md",
        "docs/policies.md",
        "docs/bundle.md",
        "docs/evaluation.md",
        "docs/returns.md",
        "docs/verdict.md",
    ],
)
def test_links_point_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_examples_of_policies_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in blocks("python", (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")):
        exec(compile(example, "policies.md", "exec"), names)
    values = re.findall(r"^value of the policy, by snips: (.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(values) == 2
    assert len(set(values)) == 1  # the class and the columns are one policy


PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_of_a_failure_is_small_and_its_caption_is_quoted(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert len(text) < 60_000
    caption = ElementTree.fromstring(text).findtext("{http://www.w3.org/2000/svg}desc")
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert caption
    assert f"](pictures/{picture.name})" in page
    assert caption in " ".join(page.split())


def test_version_and_changelog_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == st.__version__
    assert f"## [{st.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
