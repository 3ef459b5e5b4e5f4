"""The house: imports run down only, siblings keep apart, inner __init__ files are empty, nothing imports in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "stitchrl"
FLOORS = (
    {"errors", "types", "jax_types", "messages", "printing", "progress"},
    {"storage"},
    {"reporting"},
    {"data"},
    {"encoding"},
    {"reading"},
    {"mdp"},
    {"feeds"},
    {"nn"},
    {"environments"},
    {"rollouts"},
    {"auditing"},
    {"algorithms"},
    {"deployment"},
    {"training"},
    {"collection"},
    {"evaluation"},
    {"diagnosis"},
    {"pipeline"},
    {"checking"},
    {"lab"},
    {"command_line"},
    {"__init__", "cli", "testing", "trackers"},
    {"__main__"},
)
"""Lowest first. A module imports lower floors and, inside its own package, what `SHARED` and `ROOMS` allow."""
SHARED = {
    "algorithms": {
        "base",
        "settings",
        "presets",
        "optimizers",
        "losses",
        "heads",
        "soft_actor",
        "deterministic_actor",
        "behavior",
        "bcq_settings",
        "bcq_discrete",
        "bcq_continuous",
        "generative",
        "cql_settings",
        "critic_settings",
        "source_critics",
        "tabular_model",
        "returns",
        "in_sample",
        "flow_losses",
        "cql_terms",
        "behavior_fit",
        "cql_discrete",
        "cql_continuous",
        "dynamics",
        "dynamics_fit",
        "model_rollouts",
        "model_settings",
    },
    "reading/formats": set[str](),
    "auditing/checks": set[str](),
    "evaluation/estimators": set[str](),
    "evaluation/behavior_models": set[str](),
    "training/trackers": {"base"},
    "collection": {"acting", "online", "model_actors"},
    "reading/writers": set[str](),
    "lab/lessons": set[str](),
}
"""Folders of files that never import each other, with those files of the folder that the others may import."""
ROOMS = {
    "reading/formats": {"reading/recognise", "reading/read"},
    "reading/writers": {"reading/convert"},
    "auditing/checks": {"auditing/all_checks"},
    "evaluation/estimators": {"evaluation/registry"},
    "evaluation/behavior_models": {"evaluation/behavior_registry"},
}
"""Folders whose files nobody imports but these modules of the same package: where the folder is registered."""
NEVER = {
    "deployment": {"algorithms", "training", "feeds", "auditing", "reading", "mdp", "reporting", "rollouts"},
    "reporting": {"storage"},
}
"""What a package must not import although it lies below."""
WITHOUT_JAX = (
    "stitchrl.reading.read",
    "stitchrl.reading.convert",
    "stitchrl.reading.propose",
    "stitchrl.reading.recognise",
    "stitchrl.auditing.audit",
    "stitchrl.data.sampling",
    "stitchrl.data.scaling",
    "stitchrl.deployment.guard",
    "stitchrl.deployment.numpy_policy",
    "stitchrl.reporting.report",
    "stitchrl.reporting.render",
    "stitchrl.reporting.audit_page",
    "stitchrl.reporting.audit_terminal",
    "stitchrl.evaluation.episode_ranking",
    "stitchrl.cli",
)
"""Modules that only touch NumPy: importing them starts no JAX."""
MODULES = sorted(PACKAGE.rglob("*.py"))

Place = tuple[str, ...]


@cache
def imports_of(path: Path) -> set[Place]:
    """Every stitchrl module imported anywhere in a file, nested imports included, TYPE_CHECKING blocks too."""
    found: set[Place] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.split(".")[0] == "stitchrl":
                target = tuple(node.module.split(".")[1:])
                inside = target and PACKAGE.joinpath(*target).is_dir()  # `from package import module`
                found |= {(*target, alias.name) for alias in node.names} if inside else {target}
        elif isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "stitchrl"}
    return found


def floor_of(top: str) -> int:
    """The number of the floor that a top-level name lies on."""
    return next(i for i, floor in enumerate(FLOORS) if top in floor)


def place(path: Path) -> Place:
    """A file as the parts of its module name."""
    return path.relative_to(PACKAGE).with_suffix("").parts


def forbidden(here: Place, targets: Iterable[Place]) -> list[str]:
    """Why a module at `here` must not import each target that it must not."""
    wrong = []
    for target in targets:
        if not target:
            if here[0] not in ("cli", "testing", "command_line"):
                wrong.append(f"{here} imports the public face")
            continue
        if target[0] != here[0]:
            if floor_of(target[0]) >= floor_of(here[0]):
                wrong.append(f"{here} imports {target}, which is not below it")
            if target[0] in NEVER.get(here[0], set()):
                wrong.append(f"{here} must never import {target[0]}")
            continue
        folder, own = "/".join(target[:-1]), "/".join(here[:-1])
        if folder in SHARED and own == folder and target[-1] not in SHARED[folder]:
            wrong.append(f"{here} imports its sibling {target}")
        if folder in ROOMS and own != folder and "/".join(here) not in ROOMS[folder]:
            wrong.append(f"{here} imports {target}, which only {ROOMS[folder]} may")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_down_and_siblings_keep_apart(path: Path) -> None:
    assert forbidden(place(path), imports_of(path)) == []


@pytest.mark.parametrize(
    ("here", "planted"),
    [
        (("data", "dataset"), "from stitchrl.training.loop import train"),
        (("reading", "formats", "npz"), "from stitchrl.reading.formats import d4rl"),
        (("auditing", "checks", "drift"), "def f():\n    from stitchrl.auditing.checks.leaks import leaks_action"),
        (("algorithms", "cql"), "from stitchrl.algorithms.iql import IQL"),
        (("evaluation", "estimators", "fqe"), "import stitchrl.evaluation.estimators.doubly_robust"),
        (("evaluation", "verdict"), "from stitchrl.evaluation.estimators.fqe import FittedQEvaluation"),
        (("reporting", "report"), "from stitchrl.data.schema import Schema"),
        (("deployment", "guard"), "from stitchrl.algorithms.iql import IQL"),
        (("training", "loop"), "import stitchrl"),
    ],
)
def test_the_check_sees_a_planted_import(here: Place, planted: str, tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text(planted + "\n")
    assert len(forbidden(here, imports_of(file))) == 1


def test_inner_init_files_are_empty() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text() == "", path


def test_no_cycles() -> None:
    graph = {place(path): imports_of(path) & {place(p) for p in MODULES} for path in MODULES}
    done: set[Place] = set()

    def visit(node: Place, trail: tuple[Place, ...]) -> None:
        assert node not in trail, f"import cycle: {[*trail, node]}"
        if node in done:
            return
        for target in graph[node]:
            visit(target, (*trail, node))
        done.add(node)

    for module in graph:
        visit(module, ())


def test_what_only_touches_numpy_starts_without_jax() -> None:
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {WITHOUT_JAX!r}:",
            "    importlib.import_module(name)",
            "    heavy = sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'jaxlib', 'equinox', 'optax'})",
            "    print(name, *heavy)",
        ]
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[:-1] == list(WITHOUT_JAX)


def test_a_policy_in_use_starts_without_what_it_does_not_need() -> None:
    """jaxtyping imports unittest and asyncio, and takes half as long as NumPy; Arrow is for named columns alone."""
    code = "import sys, stitchrl.deployment.numpy_policy; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "stitchrl" in printed.split()
    needless = {"jaxtyping", "asyncio", "unittest", "ssl", "pyarrow", "rich", "typer", "scipy", "gymnasium", "polars"}
    assert not needless & set(printed.split())


def test_no_pickle_and_no_jax_in_the_report() -> None:
    for path in MODULES:
        names = {
            alias.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not names & {"pickle", "dill", "joblib", "cloudpickle", "torch"}, path
        if place(path)[0] in ("reporting", "data", "storage"):
            assert not names & {"jax", "equinox", "optax"}, path
