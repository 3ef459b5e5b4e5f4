"""Checks of which actions were tried in which part of the state space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stitchrl.auditing.facts import SHOWN_ACTIONS, Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.places import examined_places, region_names
from stitchrl.auditing.randomness import NARROW
from stitchrl.data.dataset import Dataset

__all__ = ["actions_missing_in_region", "coverage_numbers", "region_of_one_action"]

LEAST_ROWS = 500
THIN = 0.01
"""A region with a smaller share of the log says little: regions are cut to be about equally large."""
COMMON_SHARE = 0.01
"""An action with at least this share of the rows is common."""
EXPECTED_ROWS = 20
"""Rows that a place would hold of an action if it were as common there as elsewhere. With 20 expected, none at all occurs
by chance once in 500 million places."""
SHARE_OF_ROWS = 0.05
"""Share of the rows that the places found must hold to do harm."""
MISSING_MASS = 0.25
"""A place does harm where the actions that it never takes are this share of the choices elsewhere: any behaviour that depends
on the state leaves out a treatment or two in some states."""
LEAST_EPISODES_OF_PLACE = 20
"""Episodes that a place needs: many rows of few episodes may well miss an action."""
ONE = 0.99
"""Share of a place's rows from which on an action is the only one there."""


def coverage_numbers(facts: Facts) -> dict[str, Any] | None:
    """A small matrix for a picture, regions by actions; None for images.

    For discrete actions (the `SHOWN_ACTIONS` commonest) it holds the share of each action among a region's rows; for
    continuous actions the spread of each number about its mean in the region, relative to the spread in the whole log.
    `thin` marks the regions that hold too little of the log, less than the share `thin_below`, to say much.
    """
    log, sample = facts.log, facts.sample
    if not facts.has_columns or not len(sample):
        return None
    region, count = facts.sample_region, facts.regions.count
    rows = np.bincount(region, minlength=count)
    used = np.flatnonzero(rows)
    named = region_names(facts)
    found: dict[str, Any] = {
        "regions": [named[int(r)] for r in used],
        "row_share": (rows[used] / len(sample)).tolist(),
        "thin": (rows[used] < THIN * len(sample)).tolist(),
        "thin_below": THIN,
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
    """Places in which only one action was ever taken, although others are allowed there and taken elsewhere."""
    sample = facts.sample
    if not facts.has_columns or len(sample) < LEAST_ROWS:
        return
    named, inside = facts.once(examined_places)
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
            f"{len(found)} of {len(named)} places examined, with {share:.0%} of rows, "
            f"{'holds' if len(found) == 1 else 'hold'} a single action",
            "several actions tried everywhere",
            "No other action can be evaluated there: forbid the others there with an action_mask, or collect some.",
        )


def actions_missing_in_region(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions that are common in the log but never taken in some place where they are allowed."""
    sample = facts.sample
    if log.num_actions is None or not facts.has_columns or len(sample) < LEAST_ROWS:
        return
    named, inside = facts.once(examined_places)
    numbers, counts = np.unique(sample.action.clip(0, log.num_actions - 1), return_counts=True)
    numbers = numbers[counts >= COMMON_SHARE * len(sample)]  # at most 100 of them
    action = (sample.action.clip(0, log.num_actions - 1)[:, None] == numbers).astype(float)
    allowed = facts.allowed(sample.rows, numbers).astype(float)
    taken, possible = inside @ action, inside @ allowed
    usual = action.sum(0) / np.maximum(allowed.sum(0), 1)  # how often it is taken where it may be
    expected = possible * usual
    episodes = np.array([len(np.unique(sample.episode[place > 0])) for place in inside])
    missing = (expected >= EXPECTED_ROWS) & (taken == 0) & (episodes >= LEAST_EPISODES_OF_PLACE)[:, None]
    if missing.any():
        places, actions = np.nonzero(missing)
        worst = int(np.argmax(expected[places, actions]))
        share = float(inside[np.unique(places)].any(0).mean())
        lost = len(np.unique(actions))
        common = len(numbers)
        mass = (expected * missing).sum(1) / inside.sum(1)
        poor = mass >= MISSING_MASS
        harmed = float(inside[poor].any(0).mean()) if poor.any() else 0.0
        yield Finding(
            "action-missing-in-region",
            "warning" if harmed >= SHARE_OF_ROWS else "info",
            f"action {numbers[actions[worst]]}, observation: {named[places[worst]]}",
            f"the action is never taken in {int(inside[places[worst]].sum()):,} rows, where it was "
            f"to be expected about {expected[places[worst], actions[worst]]:.0f} times; {lost} of {common} common actions are "
            f"missing from some place, which concerns {share:.0%} of rows; the place that lacks most lacks {mass.max():.0%} of "
            "the choices made elsewhere",
            "common actions tried everywhere they are allowed",
            "They cannot be evaluated there: forbid them with an action_mask, or collect some.",
        )
