"""The words and numbers of a ranking of episodes that its pages and its terminal output share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.reporting.numbers import number, short

__all__ = ["MODEL_ERRORS", "expected_in_words", "ranking_view", "relative"]

MODEL_ERRORS = {"values": "values", "actions": "actions", "observations": "next observations"}
"""Name of a model -> what it predicts."""
SMALLEST = 1e-6


def expected_in_words(expected: float) -> str:
    """How many episodes are expected to be as far out, with two digits."""
    if expected < SMALLEST:
        return "<1e-6"
    return f"{expected:.2g}" if expected < 10 else f"{expected:,.0f}"


def relative(error: Mapping[str, Any]) -> str:
    """The change of an error in percent, and its standard error."""
    return f"{number(100 * error['change'], 2, True)}% \N{PLUS-MINUS SIGN}{number(100 * error['standard_error'], 2)}"


def ranking_view(ranking: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Everything that the template of a page needs; None without a ranking."""
    if ranking is None:
        return None
    return {
        "headline": ranking["headline"],
        "warning": ranking["warning"],
        "meaning": ranking["meaning"],
        "episodes": ranking["episodes"],
        "percent": round(100 * ranking["confidence"]),
        "worst": [
            {
                **one,
                "expected": expected_in_words(one["expected"]),
                "change": f"{one['value_change']:+.2g}".replace("-", "\N{MINUS SIGN}"),
            }
            for one in ranking["worst"]
        ],
        "models": [MODEL_ERRORS[error["model"]] for error in (ranking["curve"][-1]["errors"])],
        "curve": [
            {
                **one,
                "value": short(one["value"]),
                "interval": f"[{short(one['lower'])}, {short(one['upper'])}]",
                "errors": [relative(error) for error in one["errors"]],
                "chosen": bool(one["dropped"]) and one["dropped"] == ranking["recommended"],
            }
            for one in ranking["curve"]
        ],
    }
