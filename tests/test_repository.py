"""What the repository says about itself in several places is the same everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT = re.compile(r"^([A-Za-z0-9-]+)(?:\[\w+\])?>=([\d.]+)$")


def bounds(requirements: list[str]) -> dict[str, tuple[int, ...]]:
    """Name -> lowest version; what has no lower bound is left out."""
    found = [match for text in requirements if (match := REQUIREMENT.match(text))]
    return {match[1]: version_of(match[2]) for match in found}


def version_of(text: str) -> tuple[int, ...]:
    """Its numbers without zeros at the end: 1.0 and 1.0.0 are one version."""
    numbers = tuple(map(int, text.split(".")))
    while numbers and numbers[-1] == 0:
        numbers = numbers[:-1]
    return numbers


def pinned() -> dict[str, tuple[int, ...]]:
    lines = (ROOT / "constraints" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: version_of(version) for name, version in pins}


def test_every_dependency_has_a_lower_bound_and_the_oldest_is_pinned() -> None:
    needed = bounds(PROJECT["dependencies"])
    assert len(needed) == len(PROJECT["dependencies"])
    assert needed.keys() <= pinned().keys()


@pytest.mark.parametrize("name", sorted(pinned()))
def test_the_oldest_tested_version_is_allowed(name: str) -> None:
    declared = bounds(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
    assert name in declared, f"{name} is pinned in constraints/oldest.txt and is no dependency any more"
    assert pinned()[name] == declared[name], (
        f"constraints/oldest.txt must pin {name} at the bound that pyproject declares"
    )


def test_the_citation_names_this_version_and_licence() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([\w-]+): (.+)$", text, flags=re.MULTILINE))
    assert fields["version"] == PROJECT["version"]
    assert fields["license"] == PROJECT["license"]
    released = fields["date-released"].strip('"')
    assert f"## [{PROJECT['version']}] - {released}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_hosted_tests_run_on_every_python_that_is_promised() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert promised
    (matrix,) = re.findall(r"python: \[(.+)\]", workflow)
    assert re.findall(r"\"(.+?)\"", matrix) == promised


@pytest.mark.parametrize("document", ["SECURITY.md", "examples/README.md"])
def test_links_point_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target
