"""Checks of what was tried where: actions in each region of the state space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stitchrl.auditing.facts import SHOWN_ACTIONS, Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.randomness import NARROW
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["actions_missing_in_region", "coverage_numbers", "region_of_one_action"]

ROWS_A_REGION = 100
LEAST_ROWS = 500
MOST_COLUMNS = 100
COMMON_SHARE = 0.01
"""An action taken in this share of the log, or more, is common."""
EXPECTED_ROWS = 20
"""Rows a region would have of an action if it were as common there as elsewhere: none by chance once in 500 million."""
SHARE_OF_ROWS = 0.05
ONE = 0.99


def coverage_numbers(log: Dataset, facts: Facts) -> dict[str, Any] | None:
    """A small matrix for a picture: regions x actions (shares of each region's rows; of continuous actions the spread
    about the region's mean action, relative to the spread in the whole log). Of many actions the `SHOWN_ACTIONS` commonest.
    None for images."""
    sample = facts.sample
    if not facts.has_columns or not len(sample):
        return None
    region, count = facts.sample_region, facts.regions.count
    rows = np.bincount(region, minlength=count)
    used = np.flatnonzero(rows)
    found: dict[str, Any] = {
        "regions": [_region_name(facts, int(r)) for r in used],
        "row_share": (rows[used] / len(sample)).tolist(),
    }
    if log.num_actions is not None:
        top = facts.commonest(SHOWN_ACTIONS)
        action = sample.action.clip(0, log.num_actions - 1)
        column = np.searchsorted(top, action).clip(0, len(top) - 1)
        shown = top[column] == action
        flat = region[shown] * len(top) + column[shown]
        counts = np.bincount(flat, minlength=count * len(top)).reshape(count, len(top))
        found |= {
            "kind": "share",
            "actions": top.tolist(),
            "matrix": (counts / rows.clip(1)[:, None])[used].tolist(),
        }
    else:
        overall = np.where(sample.action.std(0) > 0, sample.action.std(0), 1.0)
        spread = [(sample.action[region == r].std(0) / overall).tolist() for r in used]
        found |= {"kind": "spread", "actions": list(range(sample.action.shape[1])), "matrix": spread}
    return found


def region_of_one_action(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Places where one thing only was ever done, though others are allowed and done elsewhere."""
    sample = facts.sample
    if not facts.has_columns or len(sample) < LEAST_ROWS:
        return
    named, inside = _places(facts)
    rows = inside.sum(1)
    if log.num_actions is not None:
        taken = np.unique(sample.action, return_inverse=True)[1]
        largest = np.array([np.bincount(taken[place > 0]).max() for place in inside])
        free = inside @ (facts.allowed_count(sample.rows) > 1) > 0.5 * rows
        single = (largest >= ONE * rows) & free
        anyhow = np.bincount(taken).max() >= ONE * len(taken)
    else:
        overall = sample.action.std(0)
        if not (overall > 0).any():
            return
        about = facts.action_residuals[:, overall > 0] / overall[overall > 0]
        live = sample.action[:, overall > 0] / overall[overall > 0]
        own = inside @ live**2 / rows[:, None] - (inside @ live / rows[:, None]) ** 2
        left = np.sqrt(np.minimum(own.mean(1), inside @ (about**2).mean(1) / rows))
        single = left < NARROW
        anyhow = np.sqrt((about**2).mean()) < NARROW
    found = np.flatnonzero(single)
    share = float(inside[found].any(0).mean()) if len(found) else 0.0
    if share >= SHARE_OF_ROWS and not anyhow and share < 1:
        yield Finding(
            "region-one-action",
            "warning",
            f"observation: {'; '.join(named[k] for k in found[np.argsort(-rows[found], kind='stable')][:3])}",
            f"{len(found)} of {len(named)} places looked at, with {share:.0%} of rows, hold one action only",
            "several actions tried everywhere",
            "No other action can be judged there: forbid it there, or collect some.",
        )


def actions_missing_in_region(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions that are common elsewhere, allowed here, and never taken here."""
    sample = facts.sample
    if log.num_actions is None or not facts.has_columns or len(sample) < LEAST_ROWS:
        return
    named, inside = _places(facts)
    numbers, counts = np.unique(sample.action.clip(0, log.num_actions - 1), return_counts=True)
    numbers = numbers[counts >= COMMON_SHARE * len(sample)]  # a hundred at most
    action = (sample.action.clip(0, log.num_actions - 1)[:, None] == numbers).astype(float)
    allowed = facts.allowed(sample.rows, numbers).astype(float)
    taken, possible = inside @ action, inside @ allowed
    usual = action.sum(0) / np.maximum(allowed.sum(0), 1)  # how often it is taken where it may be
    expected = possible * usual
    looked = expected >= EXPECTED_ROWS
    missing = looked & (taken == 0)
    if missing.any():
        places, actions = np.nonzero(missing)
        worst = int(np.argmax(expected[places, actions]))
        share = float(inside[np.unique(places)].any(0).mean())
        lost = len(np.unique(actions))
        common = len(numbers)
        yield Finding(
            "action-missing-in-region",
            "warning" if share >= SHARE_OF_ROWS and lost >= 0.1 * common else "info",
            f"action {numbers[actions[worst]]}, observation: {named[places[worst]]}",
            f"never taken in {int(inside[places[worst]].sum()):,} rows, where {expected[places[worst], actions[worst]]:.0f} "
            f"were to be expected; {lost} of {common} common actions lack somewhere, in {share:.0%} of rows",
            "common actions tried everywhere they are allowed",
            "They cannot be judged there: forbid them with an action_mask, or collect some.",
        )


def _places(facts: Facts) -> tuple[list[str], NumpyArray]:
    """Where to look: the regions, and both ends (a tenth of the rows) of each column.

    Returns:
        Names, and (places, n) 1.0 where a row of the sample belongs; only places of `ROWS_A_REGION` rows or more that are
        not nearly everything.
    """
    sample = facts.sample
    named = [_region_name(facts, r) for r in range(facts.regions.count)]
    rows = [facts.sample_region == r for r in range(facts.regions.count)]
    low, high = np.quantile(sample.observation, [0.1, 0.9], axis=0)
    for j in range(min(sample.observation.shape[1], MOST_COLUMNS)):
        column = sample.observation[:, j]
        named += [
            f"{facts.observation_names[j]} at most {low[j]:.4g}",
            f"{facts.observation_names[j]} at least {high[j]:.4g}",
        ]
        rows += [column <= low[j], column >= high[j]]
    inside = np.stack(rows)
    share = inside.mean(1)
    keep = (inside.sum(1) >= ROWS_A_REGION) & (share <= 0.6)
    return [name for name, kept in zip(named, keep, strict=True) if kept], inside[keep].astype(np.float64)


def _region_name(facts: Facts, region: int) -> str:
    """A region by the column in which it lies furthest from the rest."""
    inside: NumpyArray = facts.sample_region == region
    if not inside.any() or inside.all():
        return f"region {region}"
    centre = facts.standardised(facts.sample.observation[inside]).mean(0)
    column = int(np.abs(centre).argmax())
    return f"region {region} ({'high' if centre[column] > 0 else 'low'} {facts.observation_names[column]})"
