"""Fourth part of the advice: what to log next, so that more can be learned and shown.

It says which actions were hardly tried where they are allowed, whether probabilities are logged, and how many episodes an
interval of a given width takes. The last is simulated from the log's own contributions, as the power of a verdict is
(`evaluation/power.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from stitchrl.auditing.facts import SHOWN_ACTIONS, Facts
from stitchrl.auditing.places import region_names
from stitchrl.auditing.randomness import NARROW
from stitchrl.data.dataset import Dataset
from stitchrl.diagnosis.log_facts import FEW_TIMES, LogFacts
from stitchrl.diagnosis.statement import Statement
from stitchrl.evaluation.power import drawn
from stitchrl.evaluation.units import Units, effective_sample_size
from stitchrl.messages import listed
from stitchrl.types import NumpyArray

__all__ = ["next_log_of"]

MOST_REGIONS = 3
"""The most regions that are named."""
ALLOWED_ROWS = 100
"""How often an action must have been allowed in a region before its absence there says anything."""
COARSE = 0.1
"""The default width of the interval that is wanted, as a share of the standard deviation of returns."""
TEST = 0.4
"""Share of the episodes that the main job evaluates on."""
LEAST_EFFECTIVE = 10.0
"""With a smaller effective sample size the contributions of this log say nothing about larger logs."""
POWER = 2
"""The assumed departure from the behaviour: probabilities proportional to this power of the behaviour's own."""


class Departure(NamedTuple):
    """A policy whose interval is simulated.

    Attributes:
        name: what it is called.
        influence: (E,) the influence values of its estimate.
        effective: effective sample size of the weights.
    """

    name: str
    influence: Float[NumpyArray, " E"]
    effective: float


def next_log_of(log: Dataset, facts: LogFacts, shared: Facts, width: float | None) -> tuple[Statement, ...]:
    """What to log next.

    Args:
        log: the log.
        facts: measured of it.
        shared: what the checks of the audit share about it.
        width: of the 95% interval that is wanted, in units of the return; None is `COARSE` of the spread of returns.
    """
    return (*_gaps(log, shared), _propensities(facts), *_episodes_needed(log, facts, width))


# --- what was not tried ------------------------------------------------------------------------------------------------


def _gaps(log: Dataset, shared: Facts) -> tuple[Statement, ...]:
    if not shared.has_columns or not len(shared.sample) or not shared.observation_names:
        return ()
    if log.num_actions is None:
        return _narrow_regions(log, shared)
    sample, region = shared.sample, shared.sample_region
    actions = shared.commonest(SHOWN_ACTIONS)
    allowed = shared.allowed(sample.rows, actions)
    scale = log.num_transitions / len(sample)
    named, found = region_names(shared), []
    for r in range(shared.regions.count):
        rows = region == r
        taken = scale * np.array([(sample.action[rows] == action).sum() for action in actions])
        possible = scale * allowed[rows].sum(0)
        missing = (possible >= ALLOWED_ROWS) & (taken < FEW_TIMES)
        if missing.any():
            found.append((float(possible[missing].sum()), named[r], float(rows.mean()), actions[missing]))
    regions = "1 region" if shared.regions.count == 1 else f"{shared.regions.count} regions"
    examined = f"{regions} of similar observations, {len(actions)} actions"
    rule = (
        f"an action that was allowed at least {ALLOWED_ROWS} times in a region and taken fewer than {FEW_TIMES} times there has "
        "no value that can be trusted"
    )
    if not found:
        return (
            Statement(
                "No action is missing where it is allowed; more episodes of the same kind are the best next log.",
                examined,
                rule,
                "the least count of SPIBB, Laroche et al. 2019",
            ),
        )
    found.sort(key=lambda gap: -gap[0])
    names = log.schema.action_names or tuple(str(a) for a in range(log.num_actions))
    texts = [
        f"{name}, which holds {share:.0%} of the decisions: {_actions([names[a] for a in untried])}"
        for _, name, share, untried in found[:MOST_REGIONS]
    ]
    untried = sum(len(gap[3]) for gap in found)
    return (
        Statement(
            "Log the actions that were hardly tried where they are allowed, if they are safe, or forbid them with an "
            f"action_mask. Most are missing in {'; '.join(texts)}.",
            f"{untried} of {shared.regions.count * len(actions)} pairs of a region and an action were taken fewer than "
            f"{FEW_TIMES} times, in {len(found)} of {examined}",
            rule,
            "the least count of SPIBB, Laroche et al. 2019",
        ),
    )


def _actions(names: list[str]) -> str:
    """Names of actions, such as "actions 2, 9"."""
    return f"action{'s' if len(names) > 1 else ''} {listed(names, 6)}"


def _narrow_regions(log: Dataset, shared: Facts) -> tuple[Statement, ...]:
    sample, region = shared.sample, shared.sample_region
    overall = np.where(sample.action.std(0) > 0, sample.action.std(0), 1.0)
    left = np.sqrt(((shared.action_residuals / overall) ** 2).mean(1))
    named = region_names(shared)
    spread = [
        (float(np.sqrt((left[region == r] ** 2).mean())), r) for r in range(shared.regions.count) if (region == r).any()
    ]
    narrow = sorted((s, r) for s, r in spread if s < NARROW)
    rule = (
        f"where actions spread about their regression by less than {NARROW:.0%} of their spread in the log, no other action can "
        "be compared"
    )
    number = f"the least spread in {len(spread)} regions is {min(spread)[0]:.0%} of that in the whole log"
    if not narrow:
        text = "Actions vary in every region; more episodes of the same kind are the best next log."
    else:
        places = "; ".join(
            f"{named[r]} ({float((region == r).mean()):.0%} of the decisions)" for _, r in narrow[:MOST_REGIONS]
        )
        text = f"Let the behaviour explore a little where its actions hardly vary: {places}."
    return (Statement(text, number, rule, "st.audit"),)


def _propensities(facts: LogFacts) -> Statement:
    logged = facts.propensities == "logged"
    return Statement(
        "Go on logging the probability of every action that is taken."
        if logged
        else "Log the probability with which each action is taken, as the logging policy knows it: without it the behaviour has "
        "to be fitted, and no gain can be confirmed.",
        f"propensities are {'logged' if logged else 'not logged'}",
        "logged propensities that pass calibration confirm a gain; a fitted behaviour gives no GO",
        "docs/verdict.md",
    )


# --- how many episodes -------------------------------------------------------------------------------------------------


def _episodes_needed(log: Dataset, facts: LogFacts, width: float | None) -> tuple[Statement, ...]:
    if facts.return_spread == 0 or facts.episodes < 2:
        return ()
    wanted = COARSE * facts.return_spread if width is None else width
    units = Units(log.num_episodes, log.group)
    asked = "a tenth of the standard deviation of returns" if width is None else "as asked"
    found = []
    for departure in _departures(log):
        if departure.effective < LEAST_EFFECTIVE:
            found.append(
                Statement(
                    f"For {departure.name} no number of episodes can be named: weights alone do not reach so far, and an "
                    "estimate would rest on a model (FQE). Shorter episodes, a horizon, or policies nearer to the behaviour "
                    "would help.",
                    f"an effective sample size of {departure.effective:.1f} of {log.num_episodes:,} episodes",
                    f"below {LEAST_EFFECTIVE:.0f} effective episodes the spread of the weights is itself unknown",
                    "Kish 1965",
                )
            )
            continue
        influence = units.sums(departure.influence) * (units.count / units.episodes)
        now = simulated_width(influence, 1.0)
        needed = _needed(influence, wanted)
        found.append(
            Statement(
                f"An interval of width {wanted:.3g} for {departure.name} takes about {_round(needed):,} {units.noun}s to judge "
                f"by, which is a log of about {_round(needed / TEST):,} where {TEST:.0%} are the test part.",
                f"{units.count:,} {units.noun}s give a width of {now:.3g}; wanted is {wanted:.3g}, {asked}",
                "logs of other sizes are drawn from the contributions of this one, and their 95% intervals measured",
                "simulation, as in evaluation/power.py",
            )
        )
    return tuple(found)


def _departures(log: Dataset) -> list[Departure]:
    """The behaviour itself and, where all its probabilities are logged, a moderate departure from it."""
    ends = log.episode_start[1:] - 1
    discounted = log.episode_returns(log.schema.gamma)
    value = discounted.mean()
    found = [Departure("the value of the behaviour", discounted - value, float(len(discounted)))]
    if log.behavior_probs is None:
        return found
    probs = np.asarray(log.behavior_probs, np.float64)
    taken = probs[np.arange(len(probs)), log.action]
    ratio = np.log(np.maximum(taken, 1e-12)) * (POWER - 1) - np.log(np.maximum((probs**POWER).sum(1), 1e-12))
    total = np.cumsum(ratio)
    summed = total[ends] - np.concatenate([[0.0], total[ends[:-1]]])
    weight = np.exp(summed - summed.max())
    weight /= weight.mean()
    own = float((weight * discounted).mean())
    influence = weight * (discounted - own) - (discounted - value)
    name = f"the gain of a policy that takes the behaviour's likelier actions more often (its probabilities to the power {POWER})"
    found.append(Departure(name, influence, float(effective_sample_size(weight))))
    return found


def simulated_width(influence: Float[NumpyArray, " units"], size: float, *, seed: int = 0) -> float:
    """The median width of the 95% interval in simulated logs of `size` times as many units."""
    _, errors = drawn(influence, size, np.random.default_rng(seed))
    count = max(round(size * len(influence)), 2)
    return float(2 * stats.t.ppf(0.975, count - 1) * np.median(errors))


def _needed(influence: Float[NumpyArray, " units"], width: float) -> float:
    """Units at which the median width is the one wanted; widths fall with the root of the size, which two steps correct."""
    size = 1.0
    for _ in range(3):
        size = max(size * (simulated_width(influence, size) / width) ** 2, 2.0 / len(influence))
    return size * len(influence)


def _round(value: float) -> int:
    """A number of episodes rounded up to two significant digits."""
    digits = 10 ** max(int(np.floor(np.log10(max(value, 1.0)))) - 1, 0)
    return int(np.ceil(value / digits) * digits)
