"""Rewards by an expression over columns."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_tables import rows_with
from worlds import tiny_columns

from stitchrl.data.schema import Schema
from stitchrl.errors import DataError

A, B = np.array([1.0, -2, 3, 4, 0.5, 6]), np.array([2.0, 2, -1, 4, 8, 0.25])


EXPRESSIONS: dict[str, np.ndarray] = {
    "a + b": A + B,
    "a - b - 1": A - B - 1,
    "a * -b": -A * B,
    "a / b": A / B,
    "2 ** a": 2**A,
    "-a ** 2": -(A**2),
    "2 ** 3 ** 2 + 0 * a": np.full(6, 512.0),
    "a % b": np.mod(A, B),
    "a + b * 2": A + 2 * B,
    "(a + b) * 2": 2 * (A + B),
    "+a": A,
    "a < b": (A < B) * 1.0,
    "a <= b": (A <= B) * 1.0,
    "a > b": (A > B) * 1.0,
    "a >= 4": (A >= 4) * 1.0,
    "a == b": (A == B) * 1.0,
    "a != b": (A != B) * 1.0,
    "10 * (a > b) - (b > 3)": 10.0 * (A > B) - (B > 3),
    "-(a > b)": -1.0 * (A > B),
    "a > 0 and b > 0 and a > 2": ((A > 0) & (B > 0) & (A > 2)) * 1.0,
    "a < 0 or b < 0": ((A < 0) | (B < 0)) * 1.0,
    "not a > b": (A <= B) * 1.0,
    "abs(a)": np.abs(A),
    "exp(b - 4)": np.exp(B - 4),
    "log(a ** 2)": np.log(A**2),
    "sqrt(abs(a))": np.sqrt(np.abs(A)),
    "min(a, b)": np.minimum(A, B),
    "max(a, 0)": np.maximum(A, 0),
    "clip(a, -1, 2)": np.clip(A, -1, 2),
    "where(a > b, a, -b)": np.where(A > B, A, -B),
    "`a b` * 2 + a": 2 * B + A,
    "`a b`+_column_0": B + A,
    "a\n+ b": A + B,
    " a ": A,
    "1.5": np.full(6, 1.5),
    "True + 1": np.full(6, 2.0),
    "1e-3 * a": 1e-3 * A,
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_rewards_by_expression(text: str) -> None:
    schema = Schema({r: r for r in tiny_columns() if r != "reward"}, num_actions=3, reward_expression=text)
    log = rows_with(schema, reward=None, a=A, b=B, **{"a b": B, "_column_0": A})
    np.testing.assert_allclose(log.reward, EXPRESSIONS[text].astype(np.float32), rtol=1e-6)


def test_rewards_by_words() -> None:
    """An empty cell holds no word, capitals do not matter, and a word that occurs nowhere is named."""
    text = "10 * (end == 'home') - (`the end` != 'Home') + a"
    schema = Schema({r: r for r in tiny_columns() if r != "reward"}, num_actions=3, reward_expression=text)
    end = np.array(["Home", "", "died", "home ", "", "died"])
    home = np.array([1, 0, 0, 1, 0, 0])
    log = rows_with(schema, reward=None, a=A, end=end, **{"the end": end})
    np.testing.assert_allclose(log.reward, 10 * home - (1 - home) + A, rtol=1e-6)
    schema = Schema({r: r for r in tiny_columns() if r != "reward"}, num_actions=3, reward_expression="end == 'hme'")
    notes = rows_with(schema, reward=None, end=end).notes
    assert any("The word 'hme' of the reward's expression is nowhere in column 'end'" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log(a)", r"reward of the dict must be finite; found NaN in row 1 \(1 such value\)"),
        ("sqrt(a)", "found NaN in row 1"),
        ("1 / (b - 2)", r"found infinity in row 0 \(2 such values\)"),
        ("(a - a) / (a - a)", "found NaN in row 0"),
        ("9**9**9**9 + 0 * a", "found infinity in row 0"),
        ("exp(1000 * b)", "found infinity in row 0"),
        ("where(c > 1, 1, 0)", r"reward \(column 'c'\) of the dict must be finite; found NaN in row 2"),
        ("word * 2", r"reward \(column 'word'\) of the dict must be numbers; got 'x' in row 0"),
        ("vector * 2", "Column 'vector' .reward. of the dict must hold one value a row"),
        ("absent + 1", "The schema says reward is in column 'absent', which the dict does not have"),
    ],
)
def test_rewards_that_are_not_defined(text: str, message: str) -> None:
    schema = Schema({r: r for r in tiny_columns() if r != "reward"}, num_actions=3, reward_expression=text)
    more = {"c": np.where(np.arange(6) == 2, np.nan, 2.0), "word": np.array(["x"] * 6), "vector": np.zeros((6, 2))}
    with pytest.raises(DataError, match=message):
        rows_with(schema, reward=None, a=A, b=B, **more)
