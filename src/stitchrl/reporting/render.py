"""The report's plain numbers as one self-contained HTML page: no script, no network, no JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from stitchrl.errors import DataError
from stitchrl.reporting import charts
from stitchrl.reporting.audit_view import audit_view
from stitchrl.reporting.page import environment

__all__ = ["render"]

DECISIONS = {"GO": "go", "NO-GO": "nogo", "CANNOT TELL": "unknown"}
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
ESTIMATORS = {
    "fqe": "fitted Q evaluation: trusts a fitted model of the value",
    "wdr": "weighted doubly robust: weights that correct a fitted model",
    "pdwis": "per-decision weighted importance sampling: weights only",
    "wis": "weighted importance sampling: weights only, whole episodes",
}


def render(report: Mapping[str, Any]) -> str:
    """The HTML document for `report`, the content made by ``stitchrl.reporting.report``.

    Raises DataError when a section is missing or the decision is not one of the three.
    """
    missing = [name for name in SECTIONS if name not in report]
    if missing:
        raise DataError(
            f"the report content must hold every section; `{missing[0]}` is missing. "
            "Write it again with `stitchrl report`."
        )
    decision = report["verdict"]["decision"]
    if decision not in DECISIONS:
        raise DataError(f"the verdict's decision must be one of {', '.join(DECISIONS)}; got {decision!r}.")
    template = environment().get_template("report.html.j2")
    try:
        return template.render(r=report, estimator_names=ESTIMATORS, **_view(report))
    except (KeyError, jinja2.UndefinedError) as error:
        raise DataError(
            f"the report content lacks a field it must hold: {error}. Write it again with `stitchrl report`."
        ) from error


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template draws and the report does not hold: chart geometry, orderings, counts."""
    verdict, disagreement = report["verdict"], report["disagreement"]
    primary = verdict["primary"]
    names = disagreement["action_names"]
    validation, test = report["estimates"]["validation"], report["estimates"]["test"]
    order = _estimators(validation, test, primary)
    gains = charts.fit_axis([0.0, verdict["margin"], *(_ends(primary))]) if primary else None
    return {
        "tone": DECISIONS[verdict["decision"]],
        "estimators": order,
        "verdict_axis": gains and _verdict_axis(gains, primary, verdict["margin"]),
        "exact_gain": _exact_gain(test, verdict["candidate"]),
        "audit": audit_view(report["audit"], report["log"], names),
        "claims": charts.claims_chart(report["claims"], report["behavior"]),
        "validation": _forests(validation, verdict["margin"], _estimators(validation, [], primary)),
        "test": _forest(sorted(test, key=lambda row: order.index(row["estimator"])), verdict["margin"]),
        "healthy_count": sum(bool(row["healthy"]) for row in validation),
        "cautioned": sorted({row["algorithm"] for row in report["claims"] if row["caution"]}),
        "learning": charts.learning_panels(report["learning"]),
        "seeds": sorted(
            {s["seed"] for entry in report["learning"] for curve in entry["curves"] for s in curve["seeds"]}
        ),
        "heat": charts.heat_map(
            disagreement["matrix"],
            _names_in_matrix(disagreement),
            pooled=len(disagreement.get("actions") or disagreement["matrix"]) < len(disagreement["matrix"]),
        ),
    }


def _names_in_matrix(disagreement: Mapping[str, Any]) -> list[str]:
    """Of many actions the matrix has the commonest, and all others in its last row and column."""
    names, size = disagreement["action_names"], len(disagreement["matrix"])
    shown = [str(names[action]) for action in (disagreement.get("actions") or range(size))]
    return [*shown, "all others"][:size]


def _ends(gain: Mapping[str, Any]) -> list[Any]:
    return [gain["value"], gain["lower"], gain["upper"]]


def _verdict_axis(axis: charts.Axis, primary: Mapping[str, Any], margin: int | float) -> dict[str, Any]:
    return {
        "ticks": axis.ticks(4, sign=True),
        "mark": charts.mark(axis, primary["value"], sign=True),
        "interval": charts.span(axis, primary["lower"], primary["upper"]),
        "zero": charts.mark(axis, 0.0),
        "margin": charts.mark(axis, margin, sign=True) if margin else None,
    }


def _estimators(
    validation: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]],
    primary: Mapping[str, Any] | None,
) -> list[str]:
    """The estimators seen, the primary first, then as listed in ESTIMATORS."""
    seen = {row["estimator"] for row in (*validation, *test)}
    first = [primary["estimator"]] if primary and primary["estimator"] in seen else []
    known = [name for name in ESTIMATORS if name in seen and name not in first]
    return [*first, *known, *sorted(seen - set(known) - set(first))]


def _exact_gain(test: Sequence[Mapping[str, Any]], candidate: Any) -> float | None:
    for row in test:
        if (row["selected"] or row["label"] == candidate) and charts.is_number(row["exact_gain"]):
            return float(row["exact_gain"])
    return None


def _forest(rows: Sequence[Mapping[str, Any]], margin: int | float, axis: charts.Axis | None = None) -> dict[str, Any]:
    axis = axis or charts.forest_axis(rows, margin)
    return {
        "groups": charts.forest_rows(rows, axis),
        "ticks": axis.ticks(5, sign=True),
        "zero": charts.mark(axis, 0.0),
        "margin": charts.mark(axis, margin, sign=True) if margin else None,
        "any_exact": any(charts.is_number(row["exact_gain"]) for row in rows),
        "healthy": sum(bool(row["healthy"]) for row in rows),
        "count": len(rows),
    }


def _forests(rows: Sequence[Mapping[str, Any]], margin: int | float, order: Sequence[str]) -> list[dict[str, Any]]:
    """One panel an estimator. The first, which ranks, has its own axis; the others share one."""
    first, rest = order[:1], [row for row in rows if row["estimator"] not in order[:1]]
    shared = charts.forest_axis(rest, margin)
    panels = []
    for name in order:
        own = [row for row in rows if row["estimator"] == name]
        panels.append({"estimator": name, **_forest(own, margin, None if name in first else shared)})
    return panels
