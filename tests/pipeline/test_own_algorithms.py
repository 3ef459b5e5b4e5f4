"""Algorithms of a user's own file, on the command line and in configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import stitchrl as st
from stitchrl.errors import CheckpointError, ConfigurationError
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.saving import unsavable
from stitchrl.pipeline.assignments import candidates_of, candidates_of_tables, with_assignments
from stitchrl.pipeline.bundling import in_words, save_trained
from stitchrl.pipeline.own_algorithms import own_algorithm

CODE = """
from __future__ import annotations

import dataclasses
from typing import ClassVar

import stitchrl as st
from stitchrl.algorithms.settings import setting


@dataclasses.dataclass(frozen=True)
class Mine(st.BC):
    trust: float = setting(0.5, "[0, inf)", "How far.")


@dataclasses.dataclass(frozen=True)
class Other(st.IQL):
    pass


def helper():
    return None
"""
BUILT_IN = {"BC": st.BC, "IQL": st.IQL}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    where = tmp_path / "mine.py"
    where.write_text(CODE, encoding="utf-8")
    return where


def test_named_beside_built_in_ones(file: Path) -> None:
    found = candidates_of(f"BC,{file}:Mine,{file}:Mine", BUILT_IN, 0.9)
    assert list(found) == ["BC", "Mine", "Mine-2"]
    assert type(found["Mine"]) is type(found["Mine-2"]) is own_algorithm(f"{file}:Mine")  # the file is run once
    assert isinstance(found["Mine"], st.BC)
    changed: dict[str, Any] = with_assignments(found, ["Mine-2.trust=2"])
    assert [changed[label].trust for label in ("Mine", "Mine-2")] == [0.5, 2.0]
    with pytest.raises(ConfigurationError, match="trust"):
        with_assignments(found, ["Mine.trust=-1"])


def test_it_has_the_settings_of_the_main_job(file: Path) -> None:
    found: dict[str, Any] = candidates_of(f"{file}:Other", BUILT_IN, 0.9)
    assert found["Other"].gamma == 0.9


def test_in_a_configuration_file(file: Path) -> None:
    found: dict[str, Any] = candidates_of_tables(
        [{"algorithm": f"{file}:Mine", "label": "bold", "trust": 3.0}], BUILT_IN, 0.9
    )
    assert found["bold"].trust == 3.0


@pytest.mark.parametrize(
    ("named", "content", "said"),
    [
        ("absent.py:Mine", "", "There is no file .*absent.py"),
        ("mine.py:Nothing", CODE, "has no algorithm 'Nothing'; it has Mine, Other"),
        ("mine.py:helper", CODE, "has no algorithm 'helper'"),
        ("mine.py:st", "import stitchrl as st", "it has none: a class must inherit from st.Algorithm"),
        ("broken.py:Mine", "import nothing_of_this_name", "fails when it is run: ModuleNotFoundError"),
        ("broken.py:Mine", "class Mine(", "fails when it is run: SyntaxError"),
        ("Mine", "", "There is no algorithm 'Mine'; there are BC, IQL. One of your own is named as FILE.py:CLASS"),
    ],
)
def test_refused_in_one_sentence(
    named: str, content: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content:
        Path(named.rpartition(":")[0]).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=said):
        candidates_of(named, BUILT_IN, 0.9)


def test_a_run_of_it_is_loaded_with_its_class(file: Path, tmp_path: Path) -> None:
    kind = own_algorithm(f"{file}:Mine")
    log = st.demo_log().head(20)
    st.fit(kind(trust=2.0, hidden_sizes=(4,)), log, updates=2, out=tmp_path / "run", progress=False)
    with pytest.raises(CheckpointError, match=r"algorithm 'Mine', which is not known here.*algorithms=\[Mine\]"):
        st.load(tmp_path / "run")
    assert st.load(tmp_path / "run", algorithms=[kind]).algorithm == kind(trust=2.0, hidden_sizes=(4,))


class Foreign(DiscretePolicy):
    """A policy of a user's own class, as an algorithm of one's own may give."""

    def logits(self, obs: Any, *, action_mask: Any = None) -> Any:
        return jnp.zeros((len(obs), 2))


def test_what_no_bundle_can_hold_is_said_after_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = st.demo_log().head(20)
    run = st.fit(st.BC(hidden_sizes=(4,)), log, updates=0, progress=False)
    assert unsavable(run.policy) == ""
    assert unsavable({"a": (Foreign(), 1)}) == "Foreign"
    monkeypatch.setattr(type(run), "policy", Foreign())
    assert save_trained(run, log, tmp_path, label="mine") is None
    assert list(tmp_path.iterdir()) == []
    said = in_words(run, tmp_path, None)
    assert said.startswith("The policy holds a Foreign, which is none of this package's classes")
    assert f"`st.load({str(tmp_path)!r}, algorithms=[BC]).policy`" in said
