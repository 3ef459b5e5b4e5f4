"""The numbers and words of an audit, arranged for its section of a page: geometry and order, but no judgement.

An audit that was written by an older version lacks some numbers and sentences; their parts are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stitchrl.reporting import charts
from stitchrl.reporting.audit_coverage import coverage_view
from stitchrl.reporting.audit_drift import drift_view
from stitchrl.reporting.numbers import Json, is_number, number, percent, short

__all__ = ["audit_view"]

TONES = {"error": "nogo", "warning": "unknown", "info": "go", None: "go"}
"""Colour of the verdict, by the severity of the most harmful finding."""
LONG_NAME = 16
"""The name of an action fits beside its bar up to this many characters."""
PRINTED_ROWS = 60
"""A table with more rows is left out on paper."""


def audit_view(audit: Json, numbers: Json, names: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that the template of the section "What is in the log" needs.

    Args:
        audit: what ``Audit.to_dict()`` gives; of an older audit, at least `verdict` and `findings`.
        numbers: the audit's numbers.
        names: names of the discrete actions, by default those in the numbers. An action without a name is called by its
            number.

    Raises:
        KeyError: a number is missing that every audit has written.
    """
    names = names or numbers.get("action_names") or ()
    bars = charts.action_bars(numbers["action_counts"], numbers["action_allowed_share"], names)
    keep = ("episodes", "transitions", "mean_return", "mean_length", "num_actions", "observation_size")
    return {
        **{key: numbers[key] for key in (*keep, "behavior_source")},
        **_verdict(audit),
        "truncated": numbers.get("truncated_episodes"),
        "reward": numbers.get("reward"),
        "returns": charts.histogram(numbers["return_hist"], numbers["mean_return"]),
        "lengths": charts.histogram(numbers["length_hist"], numbers["mean_length"]),
        "all_return": _single_value(numbers["return_hist"], numbers["mean_return"]),
        "all_length": _single_value(numbers["length_hist"], numbers["mean_length"]),
        "alone": numbers["episodes"] == numbers["transitions"],  # every episode is a single decision
        "modes": (numbers.get("return_modes") or {}).get("sentence", ""),
        "actions": bars,
        "long_actions": any(len(row["name"]) > LONG_NAME for row in bars if row["number"] is not None),
        "masked": bool(numbers["action_allowed_share"]),
        "action_ranges": _action_ranges(numbers.get("action_range")),
        "coverage": coverage_view(numbers.get("coverage"), names),
        "drift": drift_view(numbers, names),
        "randomness": _randomness(numbers.get("randomness")),
        "history": numbers.get("history"),
        "sources": _sources(numbers.get("sources")),
        "columns": numbers.get("columns") or [],
        "long_table": len(numbers.get("columns") or []) > PRINTED_ROWS,
    }


def _verdict(audit: Json) -> dict[str, Any]:
    return {
        "verdict": audit["verdict"],
        "tone": TONES.get(audit["worst"], "plain") if "worst" in audit else "plain",
        "meaning": audit.get("meaning", ""),
        "summary": audit.get("summary", ""),
        "findings": audit["findings"],
        "checks": [str(name).replace("_", " ") for name in audit.get("checks") or []],
    }


def _single_value(histogram: Json, mean: Any) -> str:
    """The value of a histogram whose values are all the same, for which a bar would suggest a range; otherwise empty."""
    counts = histogram["counts"]
    alike = bool(counts) and sum(counts) == counts[0] > 0 and mean == histogram["edges"][0]
    return short(mean) if alike else ""


def _action_ranges(ranges: Sequence[Json] | None) -> dict[str, Any] | None:
    """One strip for each number of the action: its whole range, and one standard deviation about its mean."""
    known = [r for r in ranges or [] if is_number(r["low"]) and is_number(r["high"])]
    if not ranges or not known:
        return None
    axis = charts.fit_axis(value for r in known for value in (r["low"], r["high"]))
    rows = []
    for index, r in enumerate(ranges):
        middle = is_number(r["mean"]) and is_number(r["spread"])
        low, high = (r["mean"] - r["spread"], r["mean"] + r["spread"]) if middle else (None, None)
        rows.append(
            {
                **r,
                "name": f"number {index}",
                "range": charts.span(axis, r["low"], r["high"]),
                "usual": charts.span(axis, low, high),
                "mark": charts.mark(axis, r["mean"]),
            }
        )
    return {"rows": rows, "ticks": axis.ticks()}


def _randomness(found: Json | None) -> dict[str, Any] | None:
    """How random the actions look: a place on the gauge, and each number with its explanation. None where an older audit
    gives numbers without explanations."""
    if found is None or "explanations" not in found:
        return None
    explanations = found["explanations"] or {}
    effective, allowed = found.get("effective_actions"), found.get("allowed_actions")
    values = {
        "effective_actions": f"{number(effective, 1)} of {number(allowed, 1)}" if is_number(allowed) else None,
        "relative_spread": number(found.get("relative_spread"), 2),
        "near_deterministic_share": percent(found.get("near_deterministic_share"), 0),
        "random_share": percent(found.get("random_share"), 0),
    }
    chance = found.get("chance")
    return {
        "facts": [
            {"value": value, "text": explanations[name]}
            for name, value in values.items()
            if name in explanations and value and is_number(found.get(name))
        ],
        "at": round(100.0 * chance, 2) if is_number(chance) else None,
        "discrete": not is_number(found.get("relative_spread")),
        "meaning": found.get("meaning", ""),
    }


def _sources(sources: Sequence[Json] | None) -> list[dict[str, Any]]:
    largest = max((entry["share"] for entry in sources or []), default=0.0) or 1.0
    return [{**entry, "width": round(100.0 * entry["share"] / largest, 2)} for entry in sources or []]
