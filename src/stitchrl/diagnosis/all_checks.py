"""The registry of the diagnosis: every check of a policy with its log, and the numbers that go with them.

A check takes a `Subject` and yields findings; it raises `NotLookedAtError` with a sentence where it cannot look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.checks import divergence, values
from stitchrl.diagnosis.subject import Subject

__all__ = ["CHECKS", "NUMBERS"]

CHECKS: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    values.value_impossible,
    values.value_constant,
    values.value_too_low,
    values.claim_against_estimate,
    divergence.takes_forbidden_actions,
    divergence.far_from_behavior,
    divergence.actions_without_support,
)
"""Every check, the most harmful kinds first; findings of one severity keep this order."""

NUMBERS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "values": values.value_numbers,
    "divergence": divergence.divergence_numbers,
}
"""What was measured, by its name among the numbers of a diagnosis."""
