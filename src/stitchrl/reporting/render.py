"""A report as one self-contained HTML page: no script, no network. It imports no JAX."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from stitchrl.errors import DataError
from stitchrl.messages import first_steps_in_words
from stitchrl.reporting import charts
from stitchrl.reporting.audit_view import audit_view
from stitchrl.reporting.confirmation import confirmation_view
from stitchrl.reporting.diagnosis import diagnosis_view
from stitchrl.reporting.distribution import distribution_view
from stitchrl.reporting.groups import groups_view
from stitchrl.reporting.ladder import ladder_view
from stitchrl.reporting.numbers import decimals_for, is_number
from stitchrl.reporting.page import environment
from stitchrl.reporting.power import power_view
from stitchrl.reporting.shift import shift_view
from stitchrl.reporting.together import together_view
from stitchrl.reporting.weights import weights_view

__all__ = ["render"]

COLORS = {"good": "go", "bad": "nogo", "unsure": "unknown"}
"""Tone of a verdict -> the class of the page that has its colour and its sign."""
SHOWN_RANKS = 10
"""Candidates of the ranking that are shown at once; the others are folded."""
SECTIONS = (
    "title",
    "unit",
    "verdict",
    "audit",
    "log",
    "learning",
    "claims",
    "behavior",
    "estimates",
    "ranking",
    "disagreement",
    "explain",
    "provenance",
)


def render(report: Mapping[str, Any]) -> str:
    """The HTML document for `report`, the content that ``stitchrl.reporting.report`` gathers.

    Raises:
        DataError: a section or a field is missing, or the verdict's tone is not one of the three.
    """
    missing = [name for name in SECTIONS if name not in report]
    if missing:
        raise DataError(
            f"the report content must hold every section; `{missing[0]}` is missing. "
            "Write it again with `stitchrl report`."
        )
    tone = report["verdict"].get("tone")
    if tone not in COLORS:
        raise DataError(f"the verdict's tone must be one of {', '.join(COLORS)}; got {tone!r}.")
    try:
        decimals = decimals_for(_intervals(report))
        return environment(decimals).get_template("report.html.j2").render(r=report, **_view(report, decimals))
    except (KeyError, jinja2.UndefinedError) as error:
        raise DataError(
            f"the report content lacks a field it must hold: {error}. Write it again with `stitchrl report`."
        ) from error


def _intervals(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The intervals whose width decides how many decimals are shown: the primary gain's, or those of all gains."""
    gains = [row["gain"] for part in ("test", "validation") for row in report["estimates"][part]]
    primary = report["verdict"]["primary"]
    return [primary] if primary and is_number(primary["lower"]) else gains


def _view(report: Mapping[str, Any], decimals: int) -> dict[str, Any]:
    """Everything that the template draws and the report does not hold: geometry, order and counts."""
    verdict, disagreement = report["verdict"], report["disagreement"]
    primary = verdict["primary"]
    names = disagreement.get("action_names", ())
    validation, test = report["estimates"]["validation"], report["estimates"]["test"]
    order = _order(validation, test, primary)
    titles = {entry["name"]: entry["title"] for entry in report.get("estimators", ())}
    gains = charts.fit_axis([0.0, verdict["margin"], *(_ends(primary))]) if primary else None
    return {
        "tone": COLORS[verdict["tone"]],
        "lines": [_line(line) for line in verdict["lines"]],
        "ladder": ladder_view(report.get("ladder"), verdict["margin"], decimals),
        "ranking": _folded(report["ranking"]),
        "confirmation": confirmation_view(report.get("confirmation")),
        "power": power_view(verdict.get("power")),
        "groups": groups_view(report.get("groups")),
        "weights": weights_view(report.get("weights")),
        "together": together_view(report.get("together")),
        "distribution": distribution_view(report.get("distribution")),
        "steps": first_steps_in_words(report["horizon"]) if report.get("horizon") is not None else "",
        "estimators": [{"name": name, "title": titles.get(name, name)} for name in order],
        "verdict_axis": gains and _verdict_axis(gains, primary, verdict["margin"], decimals),
        "exact_gain": _exact_gain(test, verdict["candidate"]),
        "audit": audit_view(report["audit"], report["log"], names),
        "claims": charts.claims_chart(report["claims"], report["behavior"], decimals, _attainable(report["log"])),
        "validation": _forests(validation, verdict["margin"], _order(validation, [], primary), titles, decimals),
        "test": _forest(sorted(test, key=lambda row: order.index(row["estimator"])), verdict["margin"], decimals),
        "healthy_count": sum(bool(row["healthy"]) for row in validation),
        "cautioned": sorted({row["algorithm"] for row in report["claims"] if row["caution"]}),
        "learning": charts.learning_panels(report["learning"]),
        "seeds": sorted(
            {s["seed"] for entry in report["learning"] for curve in entry["curves"] for s in curve["seeds"]}
        ),
        "heat": _heat(disagreement),
        "diagnosis": diagnosis_view(report.get("diagnosis")),
        "shift": shift_view(disagreement.get("shift")),
    }


def _heat(disagreement: Mapping[str, Any]) -> dict[str, Any] | None:
    """Cells of logged action against the policy's; None where actions are continuous, or there is nothing to compare."""
    if "matrix" not in disagreement:
        return None
    pooled = len(disagreement.get("actions") or disagreement["matrix"]) < len(disagreement["matrix"])
    return charts.heat_map(disagreement["matrix"], _names_in_matrix(disagreement), pooled=pooled)


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the checklist with its parts: those that failed are shown in place of the text and the others folded, or all
    are shown where the text only strings them together."""
    parts = sorted(line.get("parts") or (), key=lambda part: bool(part["passed"]))
    failed = [part for part in parts if not part["passed"]]
    whole = all(part["sentence"] in line["seen"] for part in parts)
    return {
        **line,
        "state": "na" if line["passed"] is None else "pass" if line["passed"] else "fail",
        "shown": parts if whole and len(parts) > 1 else failed,
        "folded": [] if whole else [part for part in parts if part["passed"]],
    }


def _folded(ranking: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first rows of the ranking and the selected one, and apart from them those further behind."""
    first = [row for row in ranking if row["rank"] <= SHOWN_RANKS or row["selected"]]
    return {
        "first": first,
        "rest": [row for row in ranking if row not in first],
        "predicted": any(is_number(row.get("predicted_lower")) for row in ranking),
    }


def _attainable(log: Mapping[str, Any]) -> tuple[float, float]:
    """The range outside of which no return can lie, as far as the rewards tell: returns of rewards that are never negative
    are never negative either, and an episode of one decision returns one reward."""
    reward = log.get("reward") or {}
    low, high = reward.get("low"), reward.get("high")
    if not (is_number(low) and is_number(high)):
        return -math.inf, math.inf
    if log["mean_length"] == 1:
        return low, high
    return 0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf


def _names_in_matrix(disagreement: Mapping[str, Any]) -> list[str]:
    """Names for the rows of the matrix, which holds the commonest of many actions, and all others in its last row and
    column."""
    names, size = disagreement["action_names"], len(disagreement["matrix"])
    shown = [str(names[action]) for action in (disagreement.get("actions") or range(size))]
    return [*shown, "all others"][:size]


def _ends(gain: Mapping[str, Any]) -> list[Any]:
    return [gain["value"], gain["lower"], gain["upper"]]


def _verdict_axis(axis: charts.Axis, primary: Mapping[str, Any], margin: int | float, decimals: int) -> dict[str, Any]:
    return {
        "ticks": axis.ticks(4, sign=True),
        "mark": charts.mark(axis, primary["value"], sign=True, decimals=decimals),
        "interval": charts.span(axis, primary["lower"], primary["upper"]),
        "zero": charts.mark(axis, 0.0),
        "margin": charts.mark(axis, margin, sign=True, decimals=decimals) if margin else None,
    }


def _order(
    validation: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]],
    primary: Mapping[str, Any] | None,
) -> list[str]:
    """The names of the estimators, the primary one first, the others in order of appearance."""
    seen = list(dict.fromkeys(row["estimator"] for row in (*validation, *test)))
    return sorted(seen, key=lambda name: not primary or name != primary["estimator"])


def _exact_gain(test: Sequence[Mapping[str, Any]], candidate: Any) -> float | None:
    for row in test:
        if (row["selected"] or row["label"] == candidate) and is_number(row["exact_gain"]):
            return float(row["exact_gain"])
    return None


def _forest(
    rows: Sequence[Mapping[str, Any]], margin: int | float, decimals: int, axis: charts.Axis | None = None
) -> dict[str, Any]:
    axis = axis or charts.forest_axis(rows, margin)
    return {
        "groups": charts.forest_rows(rows, axis, decimals),
        "ticks": axis.ticks(5, sign=True),
        "zero": charts.mark(axis, 0.0),
        "margin": charts.mark(axis, margin, sign=True, decimals=decimals) if margin else None,
        "any_exact": any(is_number(row["exact_gain"]) for row in rows),
        "healthy": sum(bool(row["healthy"]) for row in rows),
        "count": len(rows),
    }


def _forests(
    rows: Sequence[Mapping[str, Any]],
    margin: int | float,
    order: Sequence[str],
    titles: Mapping[str, str],
    decimals: int,
) -> list[dict[str, Any]]:
    """A panel for each estimator. The first one, which ranks, has its own axis; the others share one."""
    first, rest = order[:1], [row for row in rows if row["estimator"] not in order[:1]]
    shared = charts.forest_axis(rest, margin)
    panels = []
    for name in order:
        own = [row for row in rows if row["estimator"] == name]
        panel = _forest(own, margin, decimals, None if name in first else shared)
        panels.append({"estimator": name, "title": titles.get(name, name), **panel})
    return panels
