"""Live functions of the lessons beside their Python twins: (function, settings, given, what Python answers)."""

from __future__ import annotations

from typing import Any

from stitchrl.lab.lessons.iql import EXAMPLE, EXPECTILES, expectile_of, pull_up

__all__ = ["live_cases"]


def live_cases() -> list[tuple[str, dict[str, Any], dict[str, Any], dict[str, float]]]:
    """Cases over the whole range of each control."""
    return [
        (
            "expectile",
            {"expectile": expectile},
            {"values": list(EXAMPLE)},
            {
                "value": expectile_of(EXAMPLE, expectile),
                "pull": pull_up(EXAMPLE, expectile),
                "mean": 16 / 3,
                "highest": 8.0,
            },
        )
        for expectile in EXPECTILES[::7]
    ]
