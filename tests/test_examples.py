"""The examples run at a small size, and what they claim holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def main_of(name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[..., Any] = module.main
    return main


@pytest.mark.slow
def test_hospital(capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("hospital")(updates=200, stays=1_500)
    out = capsys.readouterr().out
    assert "The log has 1,500 stays" in out
    assert "log: usable (" in out
    assert f"\n{found['decision']}: " in out
    low, high = found["clinicians"]
    assert low < 0.7818 < high
    # No policy is better than the best possible one, 0.8751, nor is any trusted gain certain to be more than that allows.
    assert all(lower < 0.8751 - 0.7818 for lower, _ in found["healthy gains"])


@pytest.mark.slow
def test_recommender(capsys: pytest.CaptureFixture[str]) -> None:
    exact, exact_old, result = main_of("recommender")(updates=800, rows=20_000)
    for name in ("reward-dr", "snips"):
        assert result.estimates[name].lower < exact < result.estimates[name].upper
    assert exact > exact_old + 0.02
    assert result.verdict.decision == "GO"
    assert "click rate, exactly: old system" in capsys.readouterr().out


@pytest.mark.slow
def test_robot(capsys: pytest.CaptureFixture[str]) -> None:
    returns = main_of("robot")(updates=2_000, episodes=100)
    assert "learned by TD3BC" in capsys.readouterr().out
    for algorithm in ("TD3BC", "IQL"):
        learned = returns[f"learned by {algorithm}"]
        # Better than the log, and more than the log's noise taken away.
        assert learned > returns["as logged, noisy"]
        assert learned > returns["without noise"]


@pytest.mark.slow
def test_preference_learning(capsys: pytest.CaptureFixture[str]) -> None:
    found = main_of("preference_learning")(updates=150, pairs=3_000)
    assert "held-out verdicts predicted rightly" in capsys.readouterr().out
    assert found["old system"] + 0.8 < found["learned by DPO"] < found["best possible"]
    assert 0.7 < found["accuracy"] < found["best accuracy"] + 0.05


def test_each_example_is_listed_and_uses_only_the_public_face() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert {script.stem for script in scripts} == {"hospital", "preference_learning", "recommender", "robot"}
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, script.name
        assert f"python examples/{script.name}" in listed
        assert f"python examples/{script.name}" in text
        assert "import stitchrl as st" in text
        assert "from stitchrl" not in text
        assert "import stitchrl." not in text
