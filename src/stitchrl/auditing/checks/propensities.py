"""Checks of the logged probabilities: whether they are possible, consistent, and those with which the actions were drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import special

from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.moments import blocks, count_rows
from stitchrl.auditing.regression import z_of_mean
from stitchrl.auditing.thresholds import MAXIMUM_WEIGHT_SHARE
from stitchrl.auditing.wording import rows_from, share_of
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = [
    "propensities_beaten",
    "propensities_disagree",
    "propensities_impossible",
    "propensities_missing",
    "propensities_too_small",
    "propensities_uncalibrated",
]

CALIBRATION_Z = 6.0
"""Standard errors by which the count of an action may differ from the sum of its propensities."""
TOO_MUCH = 1.05
"""Factor by which a sum of inverse propensities must exceed its bound."""
ROUNDING = 1e-5
"""A log-probability may exceed 0 by this much."""
SMALL = 1e-4
"""A row with this propensity weighs as much as ten thousand rows with a propensity near 1."""
ENOUGH_ROWS = 500
"""Fewer rows of the sample say too little about a simple model of the actions."""
FITS_BETTER_BY = 0.5
"""Nats by which logarithms of the logged numbers must fit the actions better than the numbers do."""
LEAST_SPREAD = 0.3
"""The least standard deviation of log-densities: that of a normal with one number is .71. Where all log-densities are above 0, as
those of a policy with little noise, their own logarithms vary less."""
BEATEN_BY = 0.05
"""Nats per row by which a simple model must beat the logged probabilities before it matters."""


def propensities_missing(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A log without propensities, which then have to be fitted."""
    if log.behavior_log_prob is None:
        yield Finding(
            "propensities-missing",
            "info",
            "behavior_log_prob",
            "the log does not say how likely its actions were",
            "the probabilities of the logging policy, where they exist",
            "Log them in future. Until then they are fitted by behaviour cloning, and every estimate says so.",
        )


def propensities_impossible(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Logged actions with probability 0 or above 1. (A continuous action has a density, which may be above 1.)"""
    log_prob = log.behavior_log_prob
    if log_prob is None:
        return

    def impossible(rows: slice) -> NumpyArray:
        wrong: NumpyArray = ~np.isfinite(log_prob[rows])
        return wrong | (log_prob[rows] > ROUNDING) if log.num_actions is not None else wrong

    count, first = count_rows(log.num_transitions, impossible)
    if count:
        density = log.num_actions is None
        yield Finding(
            "propensity-impossible",
            "error",
            f"behavior_log_prob: {rows_from(first, count)}",
            f"{count:,} logged action{' has' if count == 1 else 's have'} "
            f"{'a density of 0 or none' if density else 'a probability of 0, above 1, or none'}",
            "finite log-densities"
            if density
            else "finite log-probabilities of at most 0, since these actions were taken",
            "Correct the propensities, or drop the column and let them be fitted.",
        )


def propensities_disagree(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Rows whose behavior_log_prob is not the entry of behavior_probs for the logged action."""
    if log.behavior_log_prob is None or log.behavior_probs is None:
        return
    count, largest, worst = 0, 0.0, -1
    for rows in blocks(log.num_transitions):
        action = log.action[rows].astype(np.int64)[:, None].clip(0, log.behavior_probs.shape[1] - 1)
        chosen = np.take_along_axis(log.behavior_probs[rows], action, 1)[:, 0]
        logged = np.exp(np.minimum(log.behavior_log_prob[rows].astype(np.float64), 50))
        gap = np.nan_to_num(np.abs(logged - chosen))
        count += int((gap > 1e-3).sum())
        if gap.max() > largest:
            largest, worst = float(gap.max()), rows.start + int(gap.argmax())
    if count:
        yield Finding(
            "propensities-disagree",
            "error",
            f"behavior_log_prob, behavior_probs: row {worst}",
            "the two columns give the logged action different probabilities in "
            f"{share_of(count, log.num_transitions)} of rows, by up to {largest:.3f}",
            "the same probability in both columns",
            "Find out which column is right, and drop the other.",
        )


def propensities_uncalibrated(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Actions that were logged far more or less often than their propensities say.

    With the probabilities of all actions, the count of an action is compared with the sum of its probabilities. With the
    probability of the taken action only, the sum of 1 / probability over the rows that took an action is expected to be at
    most the number of rows (Horvitz and Thompson 1952), and equal to it where the action is always possible. Densities of
    continuous actions are compared with a simple model's, to see whether they are logarithms.
    """
    if log.num_actions is None:
        yield from _not_logarithms(log, facts)
    elif log.behavior_probs is not None:
        yield from _counts_differ(log, facts)
    elif log.behavior_log_prob is not None:
        yield from _weights_too_large(log, facts)


def _not_logarithms(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Densities, or logarithms with the wrong sign, where logarithms are expected: all are above 0, and fit the actions when they
    are read so."""
    if log.behavior_log_prob is None or len(facts.sample) < ENOUGH_ROWS:
        return
    logged = log.behavior_log_prob[facts.sample.rows].astype(np.float64)
    if not (np.isfinite(logged) & (logged > 0)).all():
        return
    model, mean, as_density = (
        float(_normal_model(log, facts).mean()),
        float(logged.mean()),
        float(np.log(logged).mean()),
    )
    readings = {
        -mean: ("with the other sign they", "The sign seems to be wrong."),
        as_density: ("their logarithms", "These seem to be the densities themselves: log their natural logarithms."),
    }
    best = min(readings, key=lambda read: abs(read - model))
    varies = float(np.log(logged).std()) >= LEAST_SPREAD
    if varies and abs(best - model) + FITS_BETTER_BY < abs(mean - model):
        yield Finding(
            "propensities-uncalibrated",
            "error",
            "behavior_log_prob",
            f"all numbers are above 0, and average {mean:.3g}; {readings[best][0]} average {best:.3g}, where a simple model of "
            f"the actions has a mean log-density of {model:.3g}",
            "logarithms of densities",
            readings[best][1],
        )


def _counts_differ(log: Dataset, facts: Facts) -> Iterator[Finding]:
    assert log.behavior_probs is not None
    assert log.num_actions is not None
    counts = facts.scan.action_counts.sum(0)
    expected, variance = np.zeros(log.num_actions), np.zeros(log.num_actions)
    for rows in blocks(log.num_transitions, log.num_actions):
        probs = log.behavior_probs[rows].astype(np.float64)
        expected += probs.sum(0)
        variance += (probs * (1 - probs)).sum(0)
    z = (counts - expected) / np.sqrt(np.maximum(variance, 1.0))
    worst = int(np.abs(z).argmax())
    if abs(z[worst]) > CALIBRATION_Z:
        yield Finding(
            "propensities-uncalibrated",
            "error",
            f"behavior_probs: action {worst}",
            f"the action is logged {counts[worst]:,} times, while its propensities sum to {expected[worst]:,.0f} "
            f"({z[worst]:+.0f} standard errors)",
            f"counts within {CALIBRATION_Z:g} standard errors",
            "The actions were not drawn with these probabilities: correct or drop them.",
        )


def _weights_too_large(log: Dataset, facts: Facts) -> Iterator[Finding]:
    assert log.behavior_log_prob is not None
    assert log.num_actions is not None
    counts = facts.scan.action_counts.sum(0)
    total, variance = np.zeros(log.num_actions), np.zeros(log.num_actions)
    for rows in blocks(log.num_transitions):
        action = log.action[rows].astype(np.int64).clip(0, log.num_actions - 1)
        inverse = np.exp(np.clip(-log.behavior_log_prob[rows].astype(np.float64), 0, 50))
        inverse = np.where(np.isfinite(inverse), inverse, 1.0)
        total += np.bincount(action, inverse, log.num_actions)
        variance += np.bincount(action, inverse * (inverse - 1), log.num_actions)
    z = (total - log.num_transitions) / np.sqrt(np.maximum(variance, 1.0))
    # Few rows of an action prove nothing, and a small sum may mean that the action was not always possible.
    worst = int(np.where(counts >= 30, z, 0).argmax())
    possible = log.num_transitions * log.num_actions
    if log.action_mask is not None:
        possible = sum(int(log.action_mask[rows].sum()) for rows in blocks(log.num_transitions))
    z_all = (total.sum() - possible) / np.sqrt(max(float(variance.sum()), 1.0))
    if z_all > CALIBRATION_Z and total.sum() > TOO_MUCH * possible:
        yield Finding(
            "propensities-uncalibrated",
            "error",
            "behavior_log_prob",
            f"the mean of 1 / probability is {total.sum() / log.num_transitions:.3g} ({z_all:+.0f} standard errors)",
            f"at most the number of possible actions, {possible / log.num_transitions:.3g}",
            "The logged probabilities are too small or belong to other rows: correct or drop them.",
        )
    elif z[worst] > CALIBRATION_Z and total[worst] > TOO_MUCH * log.num_transitions:
        yield Finding(
            "propensities-uncalibrated",
            "error",
            f"behavior_log_prob: action {worst}",
            f"1 / probability sums to {total[worst]:,.0f} over the rows of this action ({z[worst]:+.0f} standard errors)",
            f"at most the number of rows, {log.num_transitions:,}",
            "The logged probabilities are too small for how often the action was taken: correct or drop them.",
        )


def propensities_beaten(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """A simple model that explains the logged actions better than their logged probabilities do.

    By Gibbs' inequality no model has a greater expected log-probability than the policy that drew the actions. The model
    (action shares in each region; for continuous actions, a normal about a ridge regression) is fitted to half of the
    episodes and tested on the other half.
    """
    if log.behavior_log_prob is None or len(facts.sample) < ENOUGH_ROWS:
        return
    sample = facts.sample
    logged = log.behavior_log_prob[sample.rows].astype(np.float64)
    if not np.isfinite(logged).all():
        return
    group = facts.fold
    model = _discrete_model(log, facts, group) if log.num_actions is not None else _normal_model(log, facts)
    gain = model - logged
    if gain.mean() > BEATEN_BY and z_of_mean(gain, group) > CALIBRATION_Z:
        yield Finding(
            "propensities-beaten",
            "error" if log.num_actions is not None else "warning",
            "behavior_log_prob",
            f"a simple model gives the logged actions {np.exp(min(gain.mean(), 50)):.2f} times their logged probability, as a "
            "geometric mean",
            "no model to predict the actions better than the policy that took them",
            "These are not the probabilities of these actions: look for shifted rows, for the "
            "probabilities of another policy, and for another unit, such as percent.",
        )


def _discrete_model(log: Dataset, facts: Facts, group: NumpyArray) -> NumpyArray:
    """(n,) held-out logarithm of the share of the taken action in its region."""
    actions = log.num_actions or 0
    taken = facts.sample.action.clip(0, actions - 1)
    model = np.zeros(len(taken))
    for test in (group % 2 == 0, group % 2 == 1):
        counts = np.full(
            (facts.regions.count, actions), 0.5
        )  # every action starts from half a row, so none is impossible
        np.add.at(counts, (facts.sample_region[~test], taken[~test]), 1)
        shares = counts / counts.sum(1, keepdims=True)
        model[test] = np.log(shares[facts.sample_region[test], taken[test]])
    return model


def _normal_model(log: Dataset, facts: Facts) -> NumpyArray:
    """(n,) held-out log-density of a normal about a regression, with the spread of the residuals; on a bound that actions were
    clipped to the probability of its tail."""
    left = facts.action_residuals
    # The floor keeps the density of a number that never changes finite.
    variance = np.maximum((left**2).mean(0), 1e-6 * np.maximum(facts.sample.action.var(0), 1e-12))
    each = -0.5 * (left**2 / variance + np.log(2 * np.pi * variance))
    atoms = facts.action_atoms[0]
    if atoms is not None:
        low, high = np.moveaxis(atoms.on(facts.sample.action), 1, 0)
        away = left / np.sqrt(variance)  # of the bound from the mean, in standard deviations
        each = np.where(low, special.log_ndtr(away), np.where(high, special.log_ndtr(-away), each))
    density: NumpyArray = each.sum(1)
    return density


def propensities_too_small(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Logged probabilities so small that a single row decides every weighted mean."""
    if log.behavior_log_prob is None or log.num_actions is None:
        return
    total, largest, count = 0.0, 0.0, 0
    for rows in blocks(log.num_transitions):
        inverse = np.exp(np.clip(-log.behavior_log_prob[rows].astype(np.float64), 0, 50))
        inverse = inverse[np.isfinite(log.behavior_log_prob[rows])]
        total += inverse.sum()
        largest = max(largest, float(inverse.max(initial=0)))
        count += int((inverse > 1 / SMALL).sum())
    if count and largest > MAXIMUM_WEIGHT_SHARE * total:
        yield Finding(
            "propensity-too-small",
            "warning",
            "behavior_log_prob",
            f"{count:,} logged action{' has a probability' if count == 1 else 's have probabilities'} below {SMALL:g}, and one "
            f"row holds {largest / total:.0%} of all weight",
            f"no row with more than {MAXIMUM_WEIGHT_SHARE:.0%} of the weight",
            "Check whether these stand for 0 or for an unknown probability; if so, drop their episodes or the column.",
        )
