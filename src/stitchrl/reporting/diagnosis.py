"""The section of the report on what went wrong in training, from the content of diagnosis.json. It judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["columns_and_departures", "diagnosis_view"]

SHOWN = 6
"""Rows of each table of what a policy looks at, at most."""

TONES = {"error": "nogo", "warning": "unknown", "info": "go", None: "go"}
"""Colour of a diagnosis, by the severity of its most harmful finding."""
WORDS = {
    "error": "must not be used",
    "warning": "something may be wrong",
    "info": "no failure found",
    None: "no failure found",
}
"""What is said of a run, by the same."""


def diagnosis_view(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the template draws: the selected policy first, then each candidate; None where nothing was diagnosed.

    Args:
        content: of diagnosis.json; None in a run of an older version.
    """
    if content is None:
        return None
    candidates = [_one(one) | {"label": label} for label, one in content["candidates"].items()]
    # What is true of all of them is said once.
    every = (
        [why for why in candidates[0]["skipped"] if all(why in one["skipped"] for one in candidates)]
        if candidates
        else []
    )
    for one in candidates:
        one["skipped"] = [why for why in one["skipped"] if why not in every]
    return {
        "on": content["on"],
        "selected": _one(content["selected"]),
        "looks_at": columns_and_departures(content["selected"]),
        "candidates": candidates,
        "skipped": every,
    }


def columns_and_departures(diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    """What the first policy of a diagnosis looks at and where it departs from the behaviour: the first rows of both tables,
    each as texts; empty where they were not measured."""
    policies = [one for one in diagnosis["numbers"].values() if isinstance(one, Mapping) and "departures" in one]
    if not policies:
        return {"columns": [], "departures": [], "share": ""}
    attention, departures = policies[0].get("attention", {}), policies[0]["departures"]
    columns = [
        (str(column["name"]), f"{column['importance']:.2f}", f"{column['share']:.0%}")
        for column in attention.get("columns", [])[:SHOWN]
    ]
    table = [
        (
            str(row["usual"]),
            str(row["taken"]),
            f"{row['share']:.1%}",
            "-" if row["support"] is None else f"{row['support']:.1%}",
        )
        for row in departures.get("table", [])[:SHOWN]
    ]
    share = departures.get("share")
    return {"columns": columns, "departures": table, "share": "" if share is None else f"{share:.0%}"}


def _one(diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    worst = diagnosis["worst"]
    return {
        "title": diagnosis["title"],
        "tone": TONES[worst],
        "word": WORDS[worst],
        "meaning": diagnosis["meaning"],
        "summary": diagnosis["summary"],
        "findings": diagnosis["findings"],
        "codes": [finding["code"] for finding in diagnosis["findings"]],
        "caution": diagnosis.get("caution", False),
        "skipped": list(dict.fromkeys(diagnosis["skipped"].values())),
    }
