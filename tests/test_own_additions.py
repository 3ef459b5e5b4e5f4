"""What users add: `check_format` passes a sound format and sees each planted fault, and own checks stand beside built-in ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stitchrl as st
from stitchrl.diagnosis.subject import NotLookedAtError
from stitchrl.reading.recognise import FORMATS
from stitchrl.reading.sources.source import Block, Format, LogSource, from_arrays
from stitchrl.testing import check_format


def opened(path: Path) -> LogSource:
    """Numbers, separated by spaces: an action and a reward a line."""
    try:
        table = np.array([[float(word) for word in line.split()] for line in path.read_text().splitlines()[1:]])
        return from_arrays({"action": table[:, 0].astype(int), "reward": table[:, 1]}, origin=path.name, format="pairs")
    except (ValueError, IndexError):
        raise st.errors.DataError(f"{path.name} must hold an action and a reward in each line.") from None


def careless(path: Path) -> LogSource:
    table = np.array([[float(word) for word in line.split()] for line in path.read_text().splitlines()[1:]])
    return from_arrays({"action": table[:, 0].astype(int), "reward": table[:, 1]}, origin=path.name, format="pairs")


def once(path: Path) -> LogSource:
    """Its rows can be read once."""
    source = opened(path)
    kept = iter([dict(block) for *_, block in source.rows(source.names)])
    return dataclasses.replace(source, blocks=lambda names: ({name: block[name] for name in names} for block in kept))


def everything(path: Path) -> LogSource:
    """It gives all columns whatever it is asked for."""
    source = opened(path)

    def blocks(names: Sequence[str]) -> Iterator[Block]:
        yield from source.blocks(source.names)

    return dataclasses.replace(source, blocks=blocks)


PAIRS = Format("pairs", (".pairs",), lambda path, head: head.startswith(b"PAIRS"), opened)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "x.pairs"
    found.write_text("PAIRS\n0 1.5\n1 0.5\n1 0.25\n")
    return found


def test_a_sound_format_passes(path: Path) -> None:
    check_format(PAIRS, path)


def test_a_built_in_format_passes(tmp_path: Path) -> None:
    (npz,) = [one for one in FORMATS if one.name == "npz"]
    np.savez(tmp_path / "x.npz", action=np.arange(3), reward=np.ones(3))
    check_format(npz, tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"name": " "}, "needs a name"),
        ({"endings": ("pairs",)}, "must begin with a point"),
        ({"endings": (".other",)}, "must have one of the endings"),
        ({"endings": (), "recognises": lambda path, head: False}, "must recognise x.pairs"),
        ({"recognises": lambda path, head: True}, "takes CSV for its own"),
        ({"open": careless}, "cut to 0% of its bytes"),
        ({"open": once}, "same rows whenever"),
        ({"open": everything}, "columns that it is asked for"),
    ],
)
def test_each_fault_is_seen(path: Path, fault: dict[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_format(dataclasses.replace(PAIRS, **fault), path)


def test_a_format_of_ones_own_opens_files_and_folders(path: Path) -> None:
    schema = st.Schema({"action": "action", "reward": "reward", "observation": "reward"}, num_actions=2, bandit=True)
    assert st.read(path, schema, format=PAIRS).num_transitions == 3
    (path.parent / "y.pairs").write_text(path.read_text())
    assert st.read(path.parent, schema, format=PAIRS).num_transitions == 6


def finding(severity: str = "warning") -> st.Finding:
    return st.Finding("mine", severity, "action", "one thing", "another", "Look.")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda log, facts: None, "it gave None"),
        (lambda log, facts: [finding("bad")], "severity"),
        (lambda log, facts: ["x"], "x"),
    ],
)
def test_what_an_own_check_gives_is_looked_at(
    check: Callable[..., Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stitchrl.auditing.audit.CHECKS", ())
    with pytest.raises(st.errors.ConfigurationError, match=said):
        st.audit(tiny(), checks=(check,))


def test_an_own_check_stands_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stitchrl.auditing.audit.CHECKS", ())

    def mine(log: st.Dataset, facts: Any) -> Iterator[st.Finding]:
        yield finding()

    audit = st.audit(tiny(), checks=(mine,))
    assert (audit.verdict, audit.checks, [one.code for one in audit.findings]) == (
        "usable with care",
        ("mine",),
        ["mine"],
    )


def tiny() -> st.Dataset:
    rows = {
        "episode": np.arange(40) // 4,
        "observation": np.random.default_rng(0).normal(size=(40, 1)).astype(np.float32),
    }
    rows |= {"action": np.arange(40) % 2, "reward": np.ones(40, np.float32), "terminated": np.arange(40) % 4 == 3}
    return st.read(rows)


class Even:
    """A policy that takes both actions alike."""

    def probs(self, obs: Any, action_mask: Any = None) -> np.ndarray:
        return np.full((len(obs), 2), 0.5, np.float32)


def test_an_own_rule_stands_in_a_diagnosis_whose_numbers_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a number is not finite, as the largest value is that an endless log allows."""
    for name, value in (("CHECKS", ()), ("NUMBERS", {"values": lambda subject: {"attainable": [0.0, np.inf]}})):
        monkeypatch.setattr(f"stitchrl.diagnosis.diagnose.{name}", value)

    def mine(subject: Any) -> Iterator[st.Finding]:
        yield finding()

    def blind(subject: Any) -> Iterator[st.Finding]:
        raise NotLookedAtError("There is nothing to see.")

    found = st.diagnose(Even(), tiny(), checks=(mine, blind))
    assert "mine" in found.codes
    assert ("mine" in found.checks, found.skipped["blind"]) == (True, "There is nothing to see.")
    assert found.numbers["the policy"] == {"values": {"attainable": [0.0, None]}}
    json.dumps(found.to_dict(), allow_nan=False)
