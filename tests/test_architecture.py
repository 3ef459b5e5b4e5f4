"""The house: imports run down only, inner __init__ files are empty, nothing imports in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "stitchrl"
FLOORS = [
    {"errors", "types"},
    {"files"},
    {"tensors"},
    {"data"},
    {"mdp"},
    {"nn"},
    {"rollout"},
    {"algorithms"},
    {"training"},
    {"evaluation"},
    {"deployment", "reporting", "candidates"},
    {"pipeline"},
    {"__init__", "cli"},
]
"""Lowest first; a module imports lower floors and, inside its own package, that package's shared files."""
SHARED = {
    "data": {
        "expression",
        "joint_actions",
        "parts",
        "progress",
        "messages",
        "schema_keys",
        "schema",
        "dataset",
        "encode",
        "episodes",
        "assemble",
        "infer",
        "store",
        "sample",
        "sampling",
        "stream",
        "transform",
        "audit",
        "readers",
        "writers",
    },
    "mdp": {"finite"},
    "nn": {"networks", "products", "distributions", "critics", "policy", "continuous_policy", "value"},
    "algorithms": {"base", "losses", "heads", "behavior"},
    "training": {
        "loop",
        "program",
        "job",
        "run",
        "checkpoint",
        "divergence",
        "logging",
        "compilation",
        "interrupt",
        "stopping",
        "flags",
        "trackers",
    },
    "evaluation": {
        "base",
        "intervals",
        "importance_sampling",
        "doubly_robust",
        "fqe",
        "evidence",
        "agreement",
        "verdict",
    },
    "deployment": {"guard"},
    "reporting": {"charts", "audit_charts", "report", "page"},
}
"""Files of a package that others of the package may import; an algorithm's or a format's own file is not among them."""
TOP_OF_DATA = {"read", "convert", "propose"}
"""What joins the files of `data` for the floors above."""
NEVER = {
    "deployment": {"algorithms", "training", "evaluation", "reporting"},
    "reporting": {"deployment", "evaluation", "training", "algorithms", "nn", "mdp", "data"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """Every stitchrl module imported anywhere in a file, nested imports included, TYPE_CHECKING blocks too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.split(".")[0] == "stitchrl":
                target = tuple(node.module.split(".")[1:])
                inside = target and (PACKAGE.joinpath(*target)).is_dir()  # `from package import module`
                found |= {(*target, alias.name) for alias in node.names} if inside else {target}
        elif isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "stitchrl"}
    return found


def floor_of(top: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if top in floor)


def place(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_down_only(path: Path) -> None:
    here = place(path)
    for target in imports_of(path):
        if not target:
            assert here == ("cli",), f"{here} imports the public face"
            continue
        if target[0] == here[0]:
            if target[1:] == here[1:] or here[0] in ("cli", "__init__"):
                continue
            assert target[1] in SHARED[here[0]] or (here[0] == "data" and here[1] in TOP_OF_DATA), (
                f"{here} imports its sibling {target}"
            )
            continue
        assert floor_of(target[0]) < floor_of(here[0]), f"{here} imports {target}, which is not below it"
        assert target[0] not in NEVER.get(here[0], set()), f"{here} must never import {target[0]}"


def test_inner_init_files_are_empty() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text() == "", path


def test_no_cycles() -> None:
    graph = {place(path): imports_of(path) & {place(p) for p in MODULES} for path in MODULES}
    done: set[tuple[str, ...]] = set()

    def visit(node: tuple[str, ...], trail: tuple[tuple[str, ...], ...]) -> None:
        assert node not in trail, f"import cycle: {[*trail, node]}"
        if node in done:
            return
        for target in graph[node]:
            visit(target, (*trail, node))
        done.add(node)

    for module in graph:
        visit(module, ())


def test_the_check_sees_a_planted_upward_import(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from stitchrl.training.loop import train\n")
    assert ("training", "loop") in imports_of(planted)
    assert floor_of("training") > floor_of("data")


def test_no_pickle_and_no_jax_in_the_report() -> None:
    for path in MODULES:
        names = {
            alias.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not names & {"pickle", "dill", "joblib", "cloudpickle", "torch"}, path
        if place(path)[0] == "reporting":
            assert not names & {"jax", "equinox", "optax"}, path
