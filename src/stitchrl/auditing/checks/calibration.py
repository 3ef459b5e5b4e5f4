"""The check of the logged probabilities action by action and place by place, so that a wrong part of them has a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from stitchrl.auditing.behavior_rows import BehaviorRows, behavior_rows
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.places import examined_places
from stitchrl.auditing.sample import Sample
from stitchrl.auditing.wording import listed
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["propensities_uncalibrated_in_part"]

FALSE_ALARM = 1e-5
"""Chance of a false finding in a log whose probabilities are right; every comparison gets an equal part of it."""
LEAST_EFFECT = 0.05
"""Relative deviation from which on a difference matters."""
LEAST_EXPECTED = 25.0
"""Times that an action must be expected in a place before it is compared there."""
MOST_SOURCES = 50
"""With more sources than this the column is taken for an identifier."""
UNEVEN = 4.0
"""Standard errors by which a place must differ from the whole log to be named in its stead."""
MOST_NAMED = 8
"""The finding names at most this many actions, or places."""


@dataclasses.dataclass(frozen=True)
class _Compared:
    """For each place and action, the sum over rows of what was seen less what was expected.

    Attributes:
        excess: (places, k) sum of differences; 0 on average where the probabilities are right.
        variance: (places, k) of that sum.
        expected: (places, k) what the excess is an excess over.
        largest: the largest single difference.
        both: whether a sum that is too small counts too.
    """

    excess: Float[NumpyArray, "places k"]
    variance: Float[NumpyArray, "places k"]
    expected: Float[NumpyArray, "places k"]
    largest: float
    both: bool

    def wrong(self, tests: int) -> Bool[NumpyArray, "places k"]:
        """Where the sum is further from 0 than chance explains in any of so many comparisons, by Bernstein's inequality."""
        bound = np.log(2 * tests / FALSE_ALARM)
        size = np.abs(self.excess) if self.both else np.maximum(self.excess, 0)
        beyond = size**2 > 2 * bound * (self.variance + size * self.largest / 3)
        enough = (self.expected >= LEAST_EXPECTED) & (size > LEAST_EFFECT * self.expected)
        found: NumpyArray = beyond & enough
        return found

    def ratio(self) -> Float[NumpyArray, "places k"]:
        """What was seen over what was expected."""
        return 1 + self.excess / np.maximum(self.expected, 1e-9)


def propensities_uncalibrated_in_part(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Logged probabilities that are wrong for some actions, in some place, or for one source.

    With the probabilities of all actions, each action's count is compared with the sum of its probabilities, in the log and in
    each place. With the probability p of the taken action alone, a behaviour q is fitted to other episodes, and for every q

        E[1{action = a} q(a | s) / p(a | s)] <= E[q(a | s)],

    with equality where q gives nothing to actions that cannot occur (a test by betting: Shafer 2021). A sum that is too large
    shows probabilities that are too small, whatever q; one that is too small counts only where observations repeat, so that q
    is the share of the action among the very same observations of other episodes.
    """
    if log.behavior_log_prob is None or not facts.has_columns:
        return
    rows = behavior_rows(facts)
    if rows is None or not np.isfinite(log.behavior_log_prob[rows.sample.rows]).all():
        return
    if log.behavior_probs is not None:
        sample = facts.sample
        named, inside = _named_places(log, facts, sample)
        compared = [_by_counts(log, facts, rows, sample, inside)]
    else:
        named, inside = _named_places(log, facts, rows.sample)
        compared = list(_by_ratios(log, rows, inside))
    tests = sum(one.excess.size for one in compared)
    for one in compared:
        wrong = one.wrong(tests)
        if wrong.any():
            yield _finding(log, rows, named, one, wrong)
            return


def _named_places(log: Dataset, facts: Facts, sample: Sample) -> tuple[list[str], NumpyArray]:
    """The whole log, the regions and ends of columns, and the sources; and (places, n) 1.0 where a row belongs to one."""
    named, inside = facts.once(examined_places) if sample is facts.sample else examined_places(facts, sample)
    named, rows = ["the whole log", *named], [np.ones((1, len(sample))), inside]
    if log.source is not None:
        names, of_row = np.unique(log.source[sample.rows], return_inverse=True)
        if 2 <= len(names) <= MOST_SOURCES:
            named += [f"source {name}" for name in names]
            rows.append((of_row[None] == np.arange(len(names))[:, None]).astype(np.float64))
    return named, np.concatenate(rows)


def _by_counts(log: Dataset, facts: Facts, rows: BehaviorRows, sample: Sample, inside: NumpyArray) -> _Compared:
    """Counts against the sums of the logged probabilities."""
    assert log.behavior_probs is not None
    probs = log.behavior_probs[sample.rows][:, rows.common].astype(np.float64)
    taken = (sample.action[:, None] == rows.common).astype(np.float64)
    expected = inside @ probs
    return _Compared(inside @ taken - expected, inside @ (probs * (1 - probs)).clip(0), expected, 1.0, True)


def _by_ratios(log: Dataset, rows: BehaviorRows, inside: NumpyArray) -> Iterator[_Compared]:
    """Ratios of a fitted behaviour and the logged probability, by action and, in the last column, by place alone."""
    assert log.behavior_log_prob is not None
    n, k = len(rows.sample), len(rows.common)
    logged = np.exp(log.behavior_log_prob[rows.sample.rows].astype(np.float64)).clip(1e-6)
    fits = [(rows.probabilities[:, :k], False)]
    if rows.state is not None:
        fits.append((_shares_elsewhere(rows)[:, :k], True))
    for fitted, both in fits:
        seen = np.zeros((n, k))
        at = np.flatnonzero(rows.choice < k)
        seen[at, rows.choice[at]] = fitted[at, rows.choice[at]] / logged[at]
        joined = np.concatenate([seen, seen.sum(1, keepdims=True)], 1)
        expected = np.concatenate([fitted, fitted.sum(1, keepdims=True)], 1)
        excess = inside @ (joined - expected)
        variance = inside @ (joined - expected) ** 2
        yield _Compared(excess, variance, inside @ expected, max(1.0, float(np.quantile(joined[:, -1], 0.999))), both)


def _shares_elsewhere(rows: BehaviorRows) -> NumpyArray:
    """(n, k + 1) the share of each class among the rows of the other half with the same observation; 0 where there is none."""
    assert rows.state is not None
    states, classes = int(rows.state.max()) + 1, len(rows.common) + 1
    found = np.zeros((len(rows.sample), classes))
    for train in (rows.half, ~rows.half):
        flat = rows.state[train] * classes + rows.choice[train]
        counts = np.bincount(flat, minlength=states * classes).reshape(states, classes)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        found[~train] = shares[rows.state[~train]]
    return found


def _finding(log: Dataset, rows: BehaviorRows, named: list[str], one: _Compared, wrong: NumpyArray) -> Finding:
    k = len(rows.common)
    column = "behavior_probs" if log.behavior_probs is not None else "behavior_log_prob"
    actions = np.flatnonzero(wrong[0, :k])
    ratio = one.ratio()
    alone = np.flatnonzero(wrong[1:].any(1)) + 1
    by_place = wrong.shape[1] > k and bool(wrong[:, -1].any()) and (not len(actions) or _rather_places(one))
    if len(actions) and not by_place:
        order = actions[np.argsort(-np.abs(ratio[0, actions] - 1), kind="stable")][:MOST_NAMED]
        where = listed("action", [_name(log, int(rows.common[a])) for a in order], MOST_NAMED)
        part, worst = f"of {len(actions)} of {k} actions", ratio[0, order[0]]
    elif by_place:
        order = np.flatnonzero(wrong[:, -1])
        order = order[np.argsort(-np.abs(ratio[order, -1] - 1), kind="stable")][:3]
        if wrong[0, -1] and not _uneven(one):
            order = np.zeros(1, np.int64)
        where, part, worst = "; ".join(named[p] for p in order), "there", ratio[order[0], -1]
    else:
        places_, acts = np.nonzero(wrong)
        strongest = int(np.abs(one.excess[wrong] / np.sqrt(np.maximum(one.variance[wrong], 1e-9))).argmax())
        p, a = int(places_[strongest]), int(acts[strongest])
        where = f"{named[p]}, action {_name(log, int(rows.common[a]))}" if a < k else named[p]
        part, worst = f"there, as in {len(alone)} of {len(named)} places examined,", ratio[p, a]
    if log.behavior_probs is not None:
        seen = f"the probabilities {part} differ from how often the actions were taken, by a factor of {worst:.2f} at the worst"
    else:
        seen = (
            f"the probabilities {part} are too {'small' if worst > 1 else 'large'}, by a factor of {1 / worst:.2f} at the worst, "
            f"beside how often similar states led to these actions{_effective(log, rows)}"
        )
    return Finding(
        "propensities-uncalibrated-in-part",
        "error",
        f"{column}: {where}",
        seen,
        "probabilities with which the actions were drawn, for every action and in every part of the log",
        "Correct the probabilities of this part, or drop the column and let them be fitted.",
    )


def _uneven(one: _Compared) -> bool:
    """Whether some place deviates from the whole log by more than chance explains."""
    error = np.sqrt(one.variance[1:, -1]) / np.maximum(one.expected[1:, -1], 1e-9)
    away = np.abs(one.ratio()[1:, -1] - one.ratio()[0, -1])
    return bool((away > UNEVEN * error).any())


def _rather_places(one: _Compared) -> bool:
    """Whether a factor for each place explains the sums by place and action better than a factor for each action does."""
    seen, expected = (one.excess + one.expected)[1:, :-1], one.expected[1:, :-1]
    looked = expected >= LEAST_EXPECTED
    left = [
        (((seen - factor * expected) ** 2 / np.maximum(one.variance[1:, :-1], 1e-9)) * looked).sum()
        for factor in (one.ratio()[1:, -1:], one.ratio()[:1, :-1])
    ]
    return bool(left[0] < left[1])


def _effective(log: Dataset, rows: BehaviorRows) -> str:
    """What the weights of the fitted behaviour against the logged one, which should all be near 1, leave of the episodes."""
    assert log.behavior_log_prob is not None
    if not rows.whole:
        return ""
    picked = rows.probabilities[np.arange(len(rows.sample)), rows.choice]
    log_ratio = np.log(picked) - log.behavior_log_prob[rows.sample.rows].astype(np.float64)
    log_ratio[rows.choice == len(rows.common)] = 0.0
    _, episode = np.unique(rows.sample.episode, return_inverse=True)
    total = np.bincount(episode, log_ratio)
    size = np.exp(2 * special.logsumexp(total) - special.logsumexp(2 * total))
    return (
        f"; the weights of the fitted behaviour over the logged one, which should be near 1, leave an effective sample of "
        f"{size:,.0f} of {len(total):,} episodes"
    )


def _name(log: Dataset, action: int) -> str:
    names = log.schema.action_names
    named = action < len(names) and names[action] != str(action)
    return f"{action} ({names[action]})" if named else str(action)
