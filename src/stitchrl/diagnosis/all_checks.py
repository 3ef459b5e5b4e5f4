"""The registry of the diagnosis: every check of a policy with its log, and the numbers that go with them.

A check takes a `Subject` and yields findings; a check of a run takes the subjects of all its seeds. Either raises
`NotLookedAtError` with a sentence where it cannot look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stitchrl.auditing.finding import Finding
from stitchrl.diagnosis.checks import (
    attention,
    deployment,
    divergence,
    extrapolation,
    horizon,
    learned_settings,
    seeds,
    settings,
    shift,
    uncertainty,
    updates,
    values,
)
from stitchrl.diagnosis.subject import Subject

__all__ = ["CHECKS", "NUMBERS", "RUN_CHECKS", "RUN_NUMBERS"]

CHECKS: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    values.value_impossible,
    values.value_constant,
    values.value_too_low,
    values.claim_against_estimate,
    divergence.takes_forbidden_actions,
    divergence.far_from_behavior,
    divergence.actions_without_support,
    deployment.estimate_against_deployed,
    extrapolation.claims_without_support,
    uncertainty.critics_disagree,
    attention.repeats_last_action,
    attention.follows_one_column,
)
"""Every check of one policy, the most harmful kinds first; findings of one severity keep this order."""

RUN_CHECKS: tuple[Callable[[Sequence[Subject]], Iterator[Finding]], ...] = (
    seeds.seeds_differ_in_actions,
    seeds.seeds_claim_differently,
    seeds.seeds_evaluate_differently,
    horizon.gamma_too_large,
    horizon.gamma_too_small,
    settings.expectile_low,
    learned_settings.expectile_high,
    learned_settings.penalty_decides,
    settings.threshold_off,
    settings.threshold_strict,
    settings.shift_changes_order,
    settings.actions_scaled,
    updates.updates_too_few,
    updates.updates_more_than_enough,
    shift.change_in_newer_data,
    shift.drift_in_log,
)
"""Every check of a run as a whole: of its settings, and of its seeds beside each other. There is at least one subject."""

NUMBERS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "values": values.value_numbers,
    "divergence": divergence.divergence_numbers,
    "deployed": deployment.deployed_numbers,
    "horizon": horizon.horizon_numbers,
    "extrapolation": extrapolation.extrapolation_numbers,
    "uncertainty": uncertainty.uncertainty_numbers,
    "attention": attention.attention_numbers,
    "departures": attention.departure_numbers,
}
"""Name among the numbers of a diagnosis -> the function that measures them for one policy."""

RUN_NUMBERS: dict[str, Callable[[Sequence[Subject]], dict[str, Any]]] = {
    "seeds": seeds.seed_numbers,
    "shift": shift.shift_numbers,
}
"""The same for a run as a whole."""
