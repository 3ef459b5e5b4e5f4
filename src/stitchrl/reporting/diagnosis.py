"""The section of the report on what went wrong in training, from the content of diagnosis.json. It judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["diagnosis_view"]

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
    return {
        "on": content["on"],
        "selected": _one(content["selected"]),
        "candidates": [_one(one) | {"label": label} for label, one in content["candidates"].items()],
    }


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
