"""The glossary has an entry for every number that algorithms, estimates and diagnoses give a name to."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import stitchrl as st
from stitchrl.evaluation.power import Power
from stitchrl.evaluation.verdict import Verdict

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "stitchrl"
ENTRIES = frozenset(re.findall(r"`([\w/-]+)`", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")))
BATCH_COLUMNS = frozenset({"bc/next", "chunk/targets", "prepared/continues", "prepared/return_to_go"})
"""Names of the same form that are columns of a batch and no metrics."""
TEXTS = frozenset(
    {"name", "title", "meaning", "treatment", "error_missing", "importance_missing", "logged", "policy", "moved"}
)
"""Words among the numbers of a diagnosis, and the parts of its tables."""


def files(*rooms: str) -> Iterator[ast.Module]:
    for room in rooms:
        for path in sorted((SOURCE / room).rglob("*.py")):
            yield ast.parse(path.read_text(encoding="utf-8"))


def texts(tree: ast.AST) -> list[str]:
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_every_metric_that_an_algorithm_emits_or_documents_has_an_entry() -> None:
    documented, emitted = set(), set()
    for tree in files("algorithms", "nn"):
        for text in texts(tree):
            emitted |= {text} if re.fullmatch(r"[a-z_]+/[a-z_]+", text) else set()
        after = (ast.get_docstring(tree) or "").partition("\nMetrics:")[2]
        documented |= set(re.findall(r"\b[a-z_]+/[a-z_]+\b", after))
    assert len(documented) > 20
    assert documented - emitted == set()  # what a docstring promises is there
    assert emitted - BATCH_COLUMNS - ENTRIES == set()
    assert "temperature" in ENTRIES


def test_every_metric_of_the_probe_has_an_entry() -> None:
    module = ast.parse((SOURCE / "diagnosis" / "probe.py").read_text(encoding="utf-8"))
    said = ast.get_docstring(module) or ""
    both = said.partition("On both kinds")[2]
    names = re.findall(r"^    ([a-z_, ]+?)  +\S", said, flags=re.MULTILINE)
    held_out = re.findall(r"^    ([a-z_]+)  +\S", both, flags=re.MULTILINE)
    wanted = {f"probe/{name}" for line in names for name in line.split(", ")} | {
        f"held_out/{name}" for name in held_out
    }
    assert len(wanted) == 13
    assert wanted - ENTRIES == set()


def test_every_health_check_has_an_entry() -> None:
    keys = set()
    for tree in files("evaluation"):
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            if getattr(call.func, "id", "") == "Check" and call.args and isinstance(call.args[0], ast.Constant):
                keys.add(call.args[0].value)
    assert len(keys) > 25
    assert keys - ENTRIES == set()


def test_every_field_of_an_estimate_and_of_a_verdict_has_an_entry() -> None:
    told = {
        "name",
        "title",
        "reasons",
        "assumptions",
        "checks",
        "weight_based",
        "primary_rank",
        "weighs_actions",
        "trusts_values",
    }
    fields = {field.name for field in dataclasses.fields(st.Estimate)} - told
    assert fields - ENTRIES == set()
    verdict = {field.name for field in dataclasses.fields(Verdict)} - {"headline", "confidence", "primary"}
    assert verdict - ENTRIES == set()
    assert {"sizes", "at_estimate", "at_half", "needed", "needed_half"} <= {
        f.name for f in dataclasses.fields(Power)
    } & ENTRIES


def test_every_number_of_a_diagnosis_has_an_entry() -> None:
    names = set()
    for tree in files("diagnosis"):
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.endswith("_numbers")):
            for one in (n for n in ast.walk(function) if isinstance(n, ast.Dict)):
                names |= {key.value for key in one.keys if isinstance(key, ast.Constant)}
    assert len(names) > 40
    assert names - TEXTS - ENTRIES == set()
