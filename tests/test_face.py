"""The public face: one list of names, everything a user touches reachable, and nothing imported before it is used."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stitchrl as st

VERBS = (
    "audit", "convert", "demo_log", "evaluate", "fit", "fit_grid", "load", "load_policy", "race", "read", "read_preferences",
    "report", "rollout", "run",
)  # fmt: skip
NOUNS = (
    "Algorithm", "Audit", "Bundle", "Dataset", "EarlyStop", "Episode", "EpisodeSampling", "Estimate", "Evaluation",
    "DPO", "Finding", "Grid", "Network", "Outcome", "Policy", "Preferences", "Race", "Run", "Scaling", "Schema",
    "StratifiedSampling", "TopFractionSampling", "UniformSampling", "Verdict", "WeightedSampling",
)  # fmt: skip


def test_every_name_is_there_and_says_what_it_is() -> None:
    assert set(VERBS) | set(NOUNS) | set(st.ALGORITHMS) | set(st.PREFERENCE_ALGORITHMS) | {
        "errors",
        "sampling",
        "trackers",
    } <= set(dir(st))
    for name in dir(st):
        assert getattr(st, name).__doc__, name
    with pytest.raises(
        AttributeError, match="has no attribute 'magic'; it has AWAC, AWR, ActionShift, AdvantageBC, Advice, Agreement"
    ):
        getattr(st, "magic")  # noqa: B009 - type checkers know that it is not there


def test_the_list_for_editors_is_the_list_at_run_time() -> None:
    stub = Path(st.__file__).with_name("__init__.pyi").read_text(encoding="utf-8")
    imported = re.findall(r"import (\w+) as (\w+)", stub)
    assert all(name == shown for name, shown in imported)  # others are not re-exported, by the rule for stubs
    defined = set(re.findall(r"^def (\w+)", stub, flags=re.MULTILINE))
    assert {name for name, _ in imported} | defined == set(dir(st)) == set(st.__dict__["__all__"])
    assert (Path(st.__file__).parent / "py.typed").exists()


def test_verbs_are_functions_that_give_objects() -> None:
    for name in VERBS:
        verb = getattr(st, name)
        assert inspect.isfunction(verb), name
        given = str(inspect.signature(verb).return_annotation)
        assert not re.match(r"dict|list|None|<class 'inspect", given), (name, given)


def test_a_verb_is_not_hidden_by_a_module_of_its_name() -> None:
    for name in VERBS:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"stitchrl.{name}")


def test_algorithms_are_the_classes_of_their_names() -> None:
    for names, learns_from in ((st.ALGORITHMS, "logs"), (st.PREFERENCE_ALGORITHMS, "preferences")):
        for name in names:
            kind = getattr(st, name)
            assert issubclass(kind, st.Algorithm)
            assert (kind.__name__, kind.learns_from) == (name, learns_from)


def test_namespaces_hold_the_flat_names() -> None:
    assert st.trackers.TensorBoardTracker is st.TensorBoardTracker
    assert st.sampling.EpisodeSampling is st.EpisodeSampling
    assert issubclass(st.errors.DataError, st.errors.StitchRLError)
    assert {"MLflowTracker", "Tracker", "TrackioTracker", "WandbTracker"} <= set(st.trackers.__all__)


def test_nothing_is_imported_before_it_is_used() -> None:
    probe = "\n".join(
        [
            "import sys, stitchrl",
            "print(sorted(m for m in sys.modules if m.startswith('stitchrl.')))",
            "stitchrl.errors, stitchrl.Schema",
            "print([m for m in ('jax', 'gymnasium') if m in sys.modules])",
        ]
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", ""]
