"""The codes that the audit, the diagnosis and the training flags can raise, read from the source, with what it says of each.

scripts/finding_pages.py makes the facts of the pages in docs/findings of it; tests/test_finding_pages.py holds them to it.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["KINDS", "Code", "codes", "template"]

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
KEBAB = re.compile(r"[a-z]+(-[a-z]+)+")
SINGLE = ("diverged",)
"""Codes of one word."""
SEVERITIES = ("error", "warning", "info")
ONLY = {"action-rare": ("info",)}
"""Severities that the source decides by the code itself."""
KINDS = {
    "stitchrl/auditing/checks": "the audit of a log",
    "stitchrl/training/flag_rules.py": "training",
    "stitchrl/diagnosis/checks": "the diagnosis of a run",
    "stitchrl/diagnosis/diagnose.py": "training",
}
"""Where findings are made -> who raises them."""


class Code(NamedTuple):
    """A code, and what the source says of it.

    Attributes:
        name: the code.
        kind: one of the values of `KINDS`; of a code that two raise, the first.
        file: the file of its rule, from the root of the repository.
        rule: the function that looks for it.
        severities: those that it can have, the worst first.
        limits: what a sound log or run shows, in the words of the message, numbers of one log left out as "...".
        seen: patterns one of which what the message says was seen matches; empty where the source builds it elsewhere.
    """

    name: str
    kind: str
    file: str
    rule: str
    severities: tuple[str, ...]
    limits: tuple[str, ...]
    seen: tuple[str, ...]


class _Call(NamedTuple):
    """A finding that the source makes: its code, the severity, the parts of its message, and the function it stands in.

    `choice` is the code where it is one of two.
    """

    code: str
    severity: ast.expr | None
    seen: ast.expr | None
    expected: ast.expr | None
    function: str
    choice: ast.IfExp | None = None


@cache
def codes() -> dict[str, Code]:
    """Every code that the source can raise, by name, in the order of the files."""
    found: dict[str, Code] = {}
    for place, kind in KINDS.items():
        path = SOURCE / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            for code in _of_file(file, kind):
                found[code.name] = _joined(found[code.name], code) if code.name in found else code
    return found


def _joined(one: Code, other: Code) -> Code:
    severities = [severity for severity in SEVERITIES if severity in one.severities + other.severities]
    return one._replace(
        severities=tuple(severities),
        limits=tuple(dict.fromkeys(one.limits + other.limits)),
        seen=one.seen + other.seen if one.seen and other.seen else (),
    )


def _of_file(file: Path, kind: str) -> Iterator[Code]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    module = importlib.import_module(".".join(file.relative_to(SOURCE).with_suffix("").parts))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for name in dict.fromkeys(_literals(tree)):
        calls = [call for call in _calls(tree, functions) if name in _codes_of(call, tree)]
        yield Code(
            name,
            kind,
            file.relative_to(ROOT).as_posix(),
            _rule(name, functions, tree),
            _severities(name, calls, functions),
            tuple(dict.fromkeys(text for call in calls for text in _limits(call, functions, module))),
            _patterns(calls, module),
        )


def _literals(tree: ast.AST) -> Iterator[str]:
    """Strings that are a code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_code(node.value):
            yield node.value


def _is_code(text: str) -> bool:
    return bool(KEBAB.fullmatch(text)) or text in SINGLE


def _calls(tree: ast.Module, functions: dict[str, ast.FunctionDef]) -> Iterator[_Call]:
    """The findings that are made, and the calls of helpers that are handed a code and make one."""
    rules = _rules(tree)
    for name, function in functions.items():
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            given = node.args
            if node.func.id == "Finding":
                choice = given[0] if isinstance(given[0], ast.IfExp) else None
                yield _Call(ast.dump(given[0]), given[1], given[3], given[4], name, choice)
            elif node.func.id == "Found" and name in rules:
                yield _Call(repr(rules[name]), None, given[1], given[2], name)
            elif node.func.id in functions and any(
                isinstance(part, ast.Constant) and isinstance(part.value, str) and _is_code(part.value)
                for one in given
                for part in ast.walk(one)
            ):
                helper = functions[node.func.id]
                made = [one for one in ast.walk(helper) if isinstance(one, ast.Call) and _named(one) == "Finding"]
                severity = next(
                    (one for one in given if isinstance(one, ast.Constant) and one.value in SEVERITIES), None
                )
                for one in made:
                    text = " ".join(ast.dump(part) for part in given)
                    yield _Call(text, severity or one.args[1], None, one.args[4], name)


def _named(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _rules(tree: ast.Module) -> dict[str, str]:
    """Function -> code, where a file lists its rules in a dictionary."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "RULES":
            assert isinstance(node.value, ast.Dict)
            return {
                value.id: key.value
                for key, value in zip(node.value.keys, node.value.values, strict=True)
                if isinstance(value, ast.Name) and isinstance(key, ast.Constant)
            }
    return {}


def _codes_of(call: _Call, tree: ast.Module) -> set[str]:
    """The codes that a call can have: those it is given, or those of the function or the file where it is given a variable."""
    given = {text for text in re.findall(r"'([a-z-]+)'", call.code) if _is_code(text)}
    if given:
        return given
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == call.function)
    inside = set(_literals(function))
    handed = any(argument.arg == "code" for argument in function.args.args)
    return inside or (set(_literals(tree)) - _given_outright(tree) if handed else set())


def _given_outright(tree: ast.Module) -> set[str]:
    """Codes that stand in a function of the file, rather than in a table beside it."""
    return {text for node in tree.body if isinstance(node, ast.FunctionDef) for text in _literals(node)}


def _rule(name: str, functions: dict[str, ast.FunctionDef], tree: ast.Module) -> str:
    for function, code in _rules(tree).items():
        if code == name:
            return function
    holding = [function for function, node in functions.items() if name in _literals(node)]
    public = [function for function in holding if not function.startswith("_")]
    if public:
        return public[0]
    if holding:  # a helper: the public function that calls it
        callers = [f for f, node in functions.items() if not f.startswith("_") and holding[0] in _names(node)]
        return callers[0] if callers else holding[0]
    public = [function for function in functions if not function.startswith("_")]
    return next((function for function in public if function.startswith("change")), public[0])


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _severities(name: str, calls: list[_Call], functions: dict[str, ast.FunctionDef]) -> tuple[str, ...]:
    if name in ONLY:
        return ONLY[name]
    found: set[str] = set()
    for call in calls:
        if call.severity is None:
            found.add("warning")
            continue
        inside = _of_severity(_side(call, name) or call.severity)
        if not inside:  # a variable or a call: what the functions it goes through can give
            node = functions[call.function]
            callers = [other for other in functions.values() if call.function in _names(other)]
            for one in (node, *callers):
                inside |= _of_severity(one).union(
                    *(_of_severity(functions[name]) for name in _names(one) & functions.keys())
                )
        found |= inside
    return tuple(severity for severity in SEVERITIES if severity in found)


def _side(call: _Call, name: str) -> ast.expr | None:
    """The severity of one of two codes, where one question decides both."""
    severity, code = call.severity, call.choice
    if not isinstance(severity, ast.IfExp) or code is None:
        return None
    first = isinstance(code.body, ast.Constant) and code.body.value == name
    if ast.dump(severity.test) == ast.dump(code.test):
        return severity.body if first else severity.orelse
    return None


def _of_severity(node: ast.AST) -> set[str]:
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and one.value in SEVERITIES}


def _limits(call: _Call, functions: dict[str, ast.FunctionDef], module: ModuleType) -> list[str]:
    """What is expected; where a helper is handed it, what its callers hand it."""
    arguments = [argument.arg for argument in functions[call.function].args.args]
    if not isinstance(call.expected, ast.Name) or call.expected.id not in arguments:
        return _texts(call.expected, module)
    place = arguments.index(call.expected.id)
    return [text for one in _callers(call.function, functions) for text in _texts(one.args[place], module)]


def _callers(name: str, functions: dict[str, ast.FunctionDef]) -> Iterator[ast.Call]:
    for function in functions.values():
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and _named(node) == name:
                yield node


def _texts(node: ast.expr | None, module: ModuleType) -> list[str]:
    """What an expression of a text can say, with "..." for what only a log decides."""
    if node is None:
        return []
    if isinstance(node, ast.IfExp):
        return _texts(node.body, module) + _texts(node.orelse, module)
    text = template(node, module)
    return [text] if text and text != "..." else []


def template(node: ast.expr, module: ModuleType, unknown: str = "...") -> str:
    """The text of an expression, formatted where its numbers are constants of the module."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part, module, unknown) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left, module, unknown) + template(node.right, module, unknown)
    if isinstance(node, ast.FormattedValue):
        try:
            parts = ast.walk(node.format_spec or ast.Constant(""))
            shape = "".join(str(one.value) for one in parts if isinstance(one, ast.Constant))
            return format(_evaluated(node.value, module), shape)
        except (NameError, AttributeError, TypeError, ValueError):
            return unknown
    try:
        return str(_evaluated(node, module))
    except (NameError, AttributeError, TypeError, ValueError):
        return unknown


def _evaluated(node: ast.expr, module: ModuleType) -> Any:
    """The value of an expression of a module's constants."""
    if not _names(node) <= {name for name in vars(module) if name.isupper()}:
        raise NameError
    return eval(compile(ast.Expression(node), "expression", "eval"), dict(vars(module)))


def _patterns(calls: list[_Call], module: ModuleType) -> tuple[str, ...]:
    """Regular expressions of what was seen; none where a call builds it elsewhere."""
    found = []
    for call in calls:
        if call.seen is None or isinstance(call.seen, ast.Name | ast.Attribute | ast.Call):
            return ()
        for text in _texts(call.seen, module) or ["..."]:
            found.append(".*".join(re.escape(part) for part in text.split("...")))
    return tuple(found)
