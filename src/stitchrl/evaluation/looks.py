"""A look at a test part: recording that a policy was estimated on it, and telling how often it was looked at before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.row_hashes import hash_places
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.logged_policy import LoggedPolicy, knows_every_action
from stitchrl.evaluation.policy_actions import has_density, log_densities_on, usual_actions
from stitchrl.evaluation.probabilities import PolicyLike, probability_pieces
from stitchrl.storage.looks import EarlierLooks, record_look
from stitchrl.types import NumpyArray

__all__ = ["fingerprint", "look_at", "notes_on"]

LEAST_LOG_DENSITY = -1e3
"""Stands for the logarithm of a density of 0, which is not finite."""
PROJECTIONS = 4
"""Numbers that stand for the probabilities of a policy. Policies that differ anywhere differ in them."""


def look_at(
    policies: Sequence[PolicyLike], log: Dataset, estimand: Estimand, rule: Sequence[float] = ()
) -> EarlierLooks:
    """Record a look at the episodes of a log, and find the earlier ones.

    Args:
        policies: what is judged, followed by the baseline if there is one.
        log: the test part.
        estimand: which quantity is estimated.
        rule: whatever else the verdict depends on, such as the margin, the confidence and the seed.

    Raises:
        EvaluationError: a policy's `probs` are not probabilities.
    """
    asked = [estimand.gamma, -1.0 if estimand.horizon is None else float(estimand.horizon), *map(float, rule)]
    if estimand.time_unit is not None:
        asked.append(float(log.schema.time_unit or 0.0))
    projected = [fingerprint(policy, log) for policy in policies]
    return record_look(log.episode_hashes, np.concatenate([asked, *projected]))


def fingerprint(policy: PolicyLike, log: Dataset) -> NumpyArray:
    """(PROJECTIONS,) random weighted sums of what a policy does on a log: of its probabilities, or of its usual actions.

    Rounding, which differs between machines, moves them by about 1e-7; another action in one of a million rows moves them by
    about 1e-3.
    """
    size = log.action.shape[1] + 1 if log.num_actions is None else log.num_actions
    of_action = np.random.default_rng(5).normal(size=(size, PROJECTIONS)).astype(np.float32)
    if log.num_actions is None:
        every = knows_every_action(policy, log)
        found = usual_actions(policy, log.observation, size - 1) if every else np.zeros(log.action.shape, np.float32)
        density = np.zeros(len(found))
        if has_density(policy):  # two amounts of noise about one mode are two policies
            density = np.maximum(log_densities_on(policy, log), LEAST_LOG_DENSITY)
        projected = np.concatenate([found, density[:, None].astype(np.float32)], axis=1) @ of_action
    elif isinstance(policy, LoggedPolicy) and not knows_every_action(policy, log):
        projected = np.exp(policy.log_prob_on(log))[:, None] * of_action[log.action]
    else:
        projected = np.concatenate([probs @ of_action for _, probs in probability_pieces(policy, log)])
    row = hash_places(np.repeat(log.episode_hashes, log.episode_lengths), log.position)
    of_row = (row >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0  # from -1 to 1
    return (of_row @ projected) / np.sqrt(len(row))


def notes_on(looks: EarlierLooks, *, noun: str = "episode") -> tuple[str, ...]:
    """Sentences for the verdict about earlier looks at its test part; none where this is the first one.

    Args:
        looks: the earlier looks.
        noun: what one episode is called.
    """
    notes = []
    if looks.count:
        times = {1: "once", 2: "twice"}.get(looks.count, f"{looks.count:,} times")
        which = f"These test {noun}s" if looks.share == 1 else f"{_percent(looks.share)} of these test {noun}s"
        notes.append(
            f"{which} have been looked at {times} before, with other policies, settings or splits: an interval that is right "
            f"for one look is too narrow for the best of {looks.count + 1:,}. For one that "
            f"holds, evaluate on {noun}s that served as test in no evaluation before."
        )
    if looks.unreadable:
        notes.append(
            f"Some records of earlier looks at test {noun}s are damaged: there may have been more looks at these than "
            "were counted."
        )
    if looks.problem:
        why = "that is switched off" if looks.problem == "off" else "the folder for it cannot be written"
        notes.append(f"This look at the test {noun}s was not recorded, since {why}: later ones will not know of it.")
    return tuple(notes)


def _percent(share: float) -> str:
    """A share in words that begin a sentence."""
    return "Fewer than 1%" if share < 0.01 else f"About {min(share, 0.99):.0%}"
