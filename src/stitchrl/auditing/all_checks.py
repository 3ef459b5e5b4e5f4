"""The registry of the audit: every check, and everything that it computes for pictures.

A check takes a log and the facts about it, and yields findings of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stitchrl.auditing.checks import (
    actions,
    alignment,
    behavior,
    binning,
    calibration,
    codes,
    common_cause,
    coverage,
    drift,
    ends,
    far_values,
    history,
    intervals,
    jumps,
    leaks,
    left_out,
    observations,
    order,
    overlap,
    persistence,
    propensities,
    rewards,
    sources,
    structure,
    treatment,
)
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.randomness import randomness_numbers
from stitchrl.auditing.return_modes import return_mode_numbers
from stitchrl.data.dataset import Dataset

__all__ = ["CHECKS", "DRIFT", "PICTURES"]

DRIFT: tuple[Callable[[Dataset, Facts], Iterator[Finding]], ...] = (
    drift.observation_drift,
    drift.action_drift,
    drift.reward_drift,
)
"""The checks for change from early to late in a log."""

CHECKS: tuple[Callable[[Dataset, Facts], Iterator[Finding]], ...] = (
    # Faults that make every number wrong.
    structure.missing_values,
    structure.infinite_values,
    actions.logged_action_outside_mask,
    actions.empty_mask,
    actions.action_outside_bounds,
    propensities.propensities_impossible,
    propensities.propensities_disagree,
    propensities.propensities_uncalibrated,
    calibration.propensities_uncalibrated_in_part,
    propensities.propensities_beaten,
    leaks.leaks_outcome,
    leaks.leaks_future_reward,
    leaks.leaks_action,
    leaks.leaks_time_left,
    leaks.leaks_reward,
    leaks.leaks_cost,
    left_out.removed_column_revealed,
    treatment.column_made_of_action,
    treatment.column_decides_action,
    overlap.episodes_in_both,
    overlap.rows_in_both,
    rewards.returns_constant,
    rewards.reward_misaligned,
    rewards.reward_beside_end,
    rewards.reward_outliers,
    # Faults that make some numbers wrong.
    structure.duplicated_episodes,
    structure.duplicated_rows,
    structure.rows_missing,
    alignment.actions_shuffled,
    codes.action_codes_differ,
    order.steps_missing,
    order.time_backwards,
    binning.steps_binned,
    intervals.time_broken_off,
    intervals.time_irregular,
    jumps.observation_jumps,
    ends.terminated_at_limit,
    ends.cut_at_odd_places,
    structure.cut_without_next,
    actions.action_constant,
    actions.action_integers,
    actions.action_few_values,
    actions.action_twins,
    actions.action_saturated,
    observations.observation_placeholder,
    far_values.observation_far_out,
    observations.observation_stuck,
    observations.observation_scale,
    propensities.propensities_too_small,
    # Limits of what can be learned.
    sources.source_drowned,
    behavior.returns_multimodal,
    behavior.mostly_random,
    behavior.behavior_deterministic,
    coverage.region_of_one_action,
    coverage.actions_missing_in_region,
    *DRIFT,
    history.history_decides_actions,
    history.history_decides_outcomes,
    common_cause.common_cause_hinted,
    left_out.left_out_common_cause,
    persistence.action_repeats,
    persistence.reward_repeats,
    rewards.reward_sparse,
    rewards.reward_scale,
    structure.few_episodes,
    structure.episodes_of_one_step,
    ends.some_episodes_of_one_step,
    observations.observation_constant,
    observations.observation_twins,
    actions.actions_unused,
    structure.weights_unused,
    structure.groups_of_several_episodes,
    # Worth knowing.
    behavior.behavior_random,
    propensities.propensities_missing,
    structure.reader_notes,
)
"""Every check, the most harmful kinds first; findings of one severity keep this order."""

PICTURES: dict[str, Callable[[Facts], Any]] = {
    "randomness": randomness_numbers,
    "coverage": coverage.coverage_numbers,
    "drift": drift.drift_numbers,
    "history": history.history_numbers,
    "sources": sources.source_numbers,
    "return_modes": return_mode_numbers,
}
"""What pictures show, by its name among the numbers of an audit."""
