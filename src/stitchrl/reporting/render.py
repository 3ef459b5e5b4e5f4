"""The report's plain numbers as one self-contained HTML page: no script, no network, no JAX."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from stitchrl.errors import DataError
from stitchrl.reporting import charts

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
    template = _environment().get_template("report.html.j2")
    try:
        return template.render(r=report, **_view(report))
    except (KeyError, jinja2.UndefinedError) as error:
        raise DataError(
            f"the report content lacks a field it must hold: {error}. Write it again with `stitchrl report`."
        ) from error


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # by name it would miss the .j2 ending
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "value": charts.number,
        "gain": partial(charts.number, sign=True),
        "count": partial(charts.number, decimals=0),
        "percent": _percent,
        "interval": _interval,
        "setting": _setting,
    }
    environment.filters |= {name: _strict(function) for name, function in filters.items()}
    environment.globals["estimator_names"] = ESTIMATORS
    return environment


def _strict(function: Callable[..., str]) -> Callable[..., str]:
    """`function`, refusing a missing field: a dash stands for null only, never for a misspelt name."""

    def filtered(value: Any, *args: Any, **kwargs: Any) -> str:
        if isinstance(value, jinja2.Undefined):
            str(value)  # StrictUndefined raises, naming the field
        return function(value, *args, **kwargs)

    return filtered


def _percent(share: Any, decimals: int = 1) -> str:
    return f"{charts.number(100.0 * share, decimals)}%" if charts.is_number(share) else charts.number(None)


def _interval(bounds: Mapping[str, Any] | None, sign: bool = False) -> str:
    """``[lower, upper]`` with three decimals; empty when either end is missing."""
    if not bounds or not (charts.is_number(bounds["lower"]) and charts.is_number(bounds["upper"])):
        return ""
    lower, upper = (charts.number(bounds[end], 3, sign) for end in ("lower", "upper"))
    return f"[{lower}, {upper}]"


def _setting(value: Any) -> str:
    """A setting as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_setting(item)}" for name, item in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _view(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the template draws and the report does not hold: chart geometry, orderings, counts."""
    verdict, log, disagreement = report["verdict"], report["log"], report["disagreement"]
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
        "returns": charts.histogram(log["return_hist"], log["mean_return"]),
        "lengths": charts.histogram(log["length_hist"], log["mean_length"], decimals=1),
        "actions": charts.action_bars(log["action_counts"], log["action_allowed_share"], names),
        "claims": charts.claims_chart(report["claims"], report["behavior"]),
        "validation": _forests(validation, verdict["margin"], _estimators(validation, [], primary)),
        "test": _forest(sorted(test, key=lambda row: order.index(row["estimator"])), verdict["margin"]),
        "healthy_count": sum(bool(row["healthy"]) for row in validation),
        "cautioned": sorted({row["algorithm"] for row in report["claims"] if row["caution"]}),
        "learning": charts.learning_panels(report["learning"]),
        "seeds": sorted(
            {s["seed"] for entry in report["learning"] for curve in entry["curves"] for s in curve["seeds"]}
        ),
        "heat": charts.heat_map(disagreement["matrix"], names),
    }


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
