"""Arithmetic over columns, as a schema may give it for the reward. No other code can be written in an expression."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from stitchrl.errors import SchemaError
from stitchrl.types import Bool, Float, NumpyArray

__all__ = ["Expression"]

LONGEST, DEEPEST = 2_000, 200
"""Limits on the characters and on the depth of nested operations, beyond which Python's own stack would overflow."""
SHOWN = 200
"""Characters of an expression that a message shows."""
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: np.power,
    ast.Mod: np.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.Not: np.logical_not,
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "abs": (np.abs, 1),
    "exp": (np.exp, 1),
    "log": (np.log, 1),
    "sqrt": (np.sqrt, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "clip": (np.clip, 3),
    "where": (np.where, 3),
}
"""Name -> (function, number of arguments)."""


class _Names(NamedTuple):
    """What the names of an expression mean.

    Attributes:
        value: the numbers of a column.
        holds: in which rows a column of text holds a word.
    """

    value: Callable[[str], Any]
    holds: Callable[[str, str], Any]


class Expression:
    """An expression made of numbers, columns, + - * / ** %, comparisons, and/or/not, and the functions in `FUNCTIONS`.

    A column whose name is not a single word is put in backticks: `` `heart rate` * 2 ``. A column of text is compared with
    a word: `outcome == "died"`.

    Args:
        text: the expression.

    Raises:
        SchemaError: the text does not parse, is too long, or holds anything else.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > LONGEST:
            raise SchemaError(f"An expression may have {LONGEST} characters; got {len(text)}.")
        pieces = text.split("`")  # every second piece is a quoted name
        if len(pieces) % 2 == 0:
            raise SchemaError(f"A backtick of the expression {_short(text)} is not closed.")
        stem = "_column_"
        while stem in text:
            stem += "_"
        self._quoted = {f"{stem}{i}": name for i, name in enumerate(pieces[1::2])}
        plain = "".join(piece if i % 2 == 0 else f" {stem}{i // 2} " for i, piece in enumerate(pieces))
        try:
            self._tree = ast.parse(" ".join(plain.split()), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise SchemaError(f"The expression {_short(text)} is not arithmetic over columns.") from None
        if _depth(self._tree) > DEEPEST:
            raise SchemaError(
                f"The expression {_short(text)} nests more than {DEEPEST} operations; use parentheses to halve it."
            )
        self.columns  # noqa: B018 - walks the tree, so that anything not allowed is refused at once

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of numbers that the expression needs, in order of first appearance."""
        return tuple(self._needed[0])

    @cached_property
    def words(self) -> tuple[tuple[str, str], ...]:
        """The pairs of a column and a word that it is compared with, in order of first appearance."""
        return tuple(self._needed[1])

    @cached_property
    def _needed(self) -> tuple[dict[str, None], dict[tuple[str, str], None]]:
        columns: dict[str, None] = {}
        words: dict[tuple[str, str], None] = {}
        names = _Names(
            lambda name: columns.setdefault(self._quoted.get(name, name)),
            lambda name, word: words.setdefault((self._quoted.get(name, name), word)),
        )
        with np.errstate(all="ignore"):
            _walk(self._tree, names, self.text)
        return columns, words

    def __call__(
        self,
        columns: Mapping[str, NumpyArray],
        count: int,
        words: Mapping[tuple[str, str], Bool[NumpyArray, " count"]] = MappingProxyType({}),
    ) -> Float[NumpyArray, " count"]:
        """The float64 value in each of `count` rows; NaN where it is undefined (logarithm of a negative number, 0/0).

        Args:
            columns: the numbers of each of `columns`.
            count: of the rows.
            words: for each pair of `words`, in which rows the column holds the word.
        """
        names = _Names(
            lambda name: columns[self._quoted.get(name, name)].astype(np.float64),
            lambda name, word: words[self._quoted.get(name, name), word],
        )
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(_walk(self._tree, names, self.text), np.float64), (count,))


def _short(text: str) -> str:
    """The text in quotes, cut after `SHOWN` characters, for a message."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def _depth(tree: ast.AST) -> int:
    """How many levels a tree has, counted without recursion."""
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _walk(node: ast.AST, names: _Names, text: str) -> Any:
    """The value of a node.

    Raises:
        SchemaError: the node is of a kind that is not arithmetic.
    """
    match node:
        case ast.Constant(value=bool() | int() | float() as number):
            return _constant(number, text)
        case ast.Name(id=name):
            return names.value(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _apply(OPERATORS[type(op)], _walk(left, names, text), _walk(right, names, text))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return _apply(OPERATORS[type(op)], _walk(operand, names, text))
        case ast.Compare(
            left=ast.Name(id=name), ops=[ast.Eq() | ast.NotEq() as op], comparators=[ast.Constant(value=str() as word)]
        ):
            return _apply(OPERATORS[type(op)], names.holds(name, word), True)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return _apply(OPERATORS[type(op)], _walk(left, names, text), _walk(right, names, text))
        case ast.BoolOp(op=op, values=[first, *others]):
            result = _walk(first, names, text)
            for other in others:
                result = _apply(OPERATORS[type(op)], result, _walk(other, names, text))
            return result
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function, arity = FUNCTIONS[name]
            if len(args) == arity:
                return _apply(function, *(_walk(arg, names, text) for arg in args))
    raise SchemaError(
        f"The expression {_short(text)} may hold numbers, columns, + - * / ** %, comparisons of two, and/or/not, "
        f"words of a column of text (outcome == 'died') and "
        f"{', '.join(f'{name}({arity})' for name, (_, arity) in FUNCTIONS.items())}; "
        f"got {_short(ast.unparse(node))}."
    )


def _constant(number: float, text: str) -> np.float64:
    """A number of the expression. Raises SchemaError if 64 bits cannot hold it."""
    try:
        return np.float64(number)
    except OverflowError:
        raise SchemaError(f"A number of the expression {_short(text)} is too large.") from None


def _apply(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of an operation as floats, where true is 1 and false is 0; None while columns are only
    being collected."""
    return None if any(a is None for a in arguments) else np.asarray(function(*arguments), np.float64)
