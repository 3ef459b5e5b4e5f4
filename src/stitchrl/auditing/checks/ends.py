"""Checks of how episodes end: lengths that pile up, limits that are marked as ends, and ends that are marked as cuts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from stitchrl.auditing.draws import draws
from stitchrl.auditing.facts import Facts
from stitchrl.auditing.finding import Finding
from stitchrl.auditing.regression import correlations, features, residuals
from stitchrl.auditing.wording import episodes_shown
from stitchrl.data.dataset import Dataset
from stitchrl.types import NumpyArray

__all__ = ["cut_at_odd_places", "some_episodes_of_one_step", "terminated_at_limit"]

PILE = 3.0
"""Episode lengths pile up where a length is this many times as common as its neighbours, and five standard errors more."""
LEAST_PILE = 0.02
"""Share of episodes below which a pile does no harm."""
ONE_STEP_SHARE = 0.05
"""Share of one-step episodes below which they do no harm."""
LEAST_LENGTH = 5
"""Piles are sought from this length on: the lengths of very short episodes are few."""
NEARLY_ALL = 0.98
"""With at least this share of the episodes at one length, the task may have a fixed horizon."""
LEAST_ENDS, MOST_ENDS = 50, 4096
"""Other ends that are needed to know what an end looks like, and how many of them are looked at."""
TOLD_APART = 0.1
"""Ends look like ends where a regression explains at least this share of which rows are the last."""
HALF_LIKE = 0.5
"""Rows that score less than half as high as other ends do, counted from rows that are no ends, do not look like ends."""
CLOCK = 0.99
"""Correlation with the step number from which on a column tells the time."""


def some_episodes_of_one_step(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Far too many one-step episodes among longer ones: starts that were cut off from the rest of their episodes."""
    lengths = np.diff(log.episode_start)
    ones = int((lengths == 1).sum())
    longer = lengths[lengths > 1]
    if not len(longer) or ones > len(lengths) / 2 or ones < max(5, ONE_STEP_SHARE * len(lengths)):
        return
    if _is_pile(ones, max(int((longer == 2).sum()), int((longer == 3).sum()))):
        yield Finding(
            "some-episodes-of-one-step",
            "warning",
            f"episode: {episodes_shown(log.episode_id, np.flatnonzero(lengths == 1))}",
            f"{ones / len(lengths):.0%} of episodes have one step, while the median of the others is {np.median(longer):.0f}",
            "few episodes that end after their first step",
            "Look for episodes that were opened and not continued, or whose identifier changed after the first step.",
        )


def _is_pile(count: int, usual: float) -> bool:
    """Whether a length with this count is far more common than its neighbours, whose usual count is given."""
    return bool(count > PILE * max(usual, 0.5) + 5 * np.sqrt(max(usual, 0.5)))


def terminated_at_limit(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Episodes marked terminated that pile up at one length, which may be a time limit marked as a true end.

    A task may rightly end after so many steps. So the finding is a question, and only a note, where every episode ends there,
    where a column of the observation tells the time, or where those ends look like the other ends of the log. It is a warning
    where they do not look like ends, or where other episodes of that length are marked truncated.
    """
    lengths = np.diff(log.episode_start)
    ended = log.terminated[log.episode_start[1:] - 1]
    longest = int(lengths.max())
    if longest < LEAST_LENGTH or log.num_episodes < 20:
        return
    pile = _pile_at(longest, lengths, ended)
    usual = (ended & (lengths < longest) & (lengths >= 0.8 * longest)).sum() / max(int(0.2 * longest), 1)
    if pile is None or not _is_pile(len(pile), float(usual)):
        pile = _inner_pile(log, facts, lengths, ended)
        if pile is None:
            return
        length = int(lengths[pile[0]])
        usual = float(np.mean([(ended & (lengths == length + k)).sum() for k in (-2, -1, 1, 2)]))
    length = int(lengths[pile[0]])
    cut_there = int((~ended & (lengths == length)).sum())
    severity, why = _how_bad(log, facts, pile, cut_there)
    yield Finding(
        "time-limit-as-terminal",
        severity,
        f"terminated: {episodes_shown(log.episode_id, pile)}",
        f"{len(pile) / log.num_episodes:.0%} of episodes ({len(pile):,}) are marked terminated at exactly {length:,} steps, "
        f"{'the greatest length, ' if length == longest else ''}against {usual:.1f} on average at each neighbouring length{why}",
        "`truncated` where a time limit ended the episode, and `terminated` where the task itself was over",
        "Does the task end there, or was it only no longer observed? If a limit ended it, mark those ends truncated: "
        "`terminated` says that no reward can follow.",
    )


def _pile_at(length: int, lengths: NumpyArray, ended: NumpyArray) -> Int[NumpyArray, " k"] | None:
    """The terminated episodes of a length; None where they are too few to do harm."""
    pile = np.flatnonzero(ended & (lengths == length))
    return pile if len(pile) >= max(5, LEAST_PILE * len(lengths)) else None


def _inner_pile(log: Dataset, facts: Facts, lengths: NumpyArray, ended: NumpyArray) -> Int[NumpyArray, " k"] | None:
    """The largest pile of terminated episodes at a length that is not the greatest, whose ends do not look like ends."""
    counts = np.bincount(lengths[ended].astype(np.int64), minlength=int(lengths.max()) + 3)
    for length in np.argsort(-counts, kind="stable")[:3]:
        if length < LEAST_LENGTH:
            continue
        if not _is_pile(int(counts[length]), float(counts[length + np.array([-2, -1, 1, 2])].max())):
            continue
        pile = _pile_at(int(length), lengths, ended)
        if pile is not None and (like := _likeness(log, facts, pile)) is not None and like < HALF_LIKE:
            return pile
    return None


def _how_bad(log: Dataset, facts: Facts, pile: NumpyArray, cut_there: int) -> tuple[str, str]:
    """The severity, and the rest of the sentence that says why."""
    if cut_there >= 5:
        return "warning", f"; {cut_there:,} other episodes of this length are marked truncated"
    if _has_clock(facts):
        return "info", "; the observation tells the time, so that an end at a fixed step can be learned"
    if len(pile) >= NEARLY_ALL * log.num_episodes:
        return "info", "; a fixed horizon looks the same"
    like = _likeness(log, facts, pile)
    if like is None:
        return "warning", ", and neither the observation nor the reward tells an end"
    if like < HALF_LIKE:
        return (
            "warning",
            f"; by observation, action and reward these rows look {max(like, 0):.0%} as much like ends as other ends do",
        )
    return "info", "; by observation, action and reward these rows look like the other ends"


def _has_clock(facts: Facts) -> bool:
    """Whether some column of the observation follows the step number."""
    sample = facts.sample
    if not sample.observation.shape[1]:
        return False
    return bool((np.abs(correlations(sample.observation, sample.position.astype(np.float64))) > CLOCK).any())


def _likeness(log: Dataset, facts: Facts, pile: NumpyArray) -> float | None:
    """How much the last rows of some episodes look like the other ends, 1, rather than like rows that are no ends, 0; None
    where ends are few or cannot be told from other rows."""
    last = log.episode_start[1:] - 1
    length = last[pile[0]] - log.episode_start[pile[0]]
    others = last[log.terminated[last] & (last - log.episode_start[:-1] != length)]
    if len(others) < LEAST_ENDS:
        return None
    rng = draws(7)
    inner = facts.sample.rows[facts.sample.position + 1 < facts.sample.length]
    rows = [np.sort(rng.choice(some, min(len(some), MOST_ENDS), replace=False)) for some in (others, inner, last[pile])]
    if min(map(len, rows)) < 5:
        return None
    kind = np.repeat(np.arange(3), [len(some) for some in rows])
    taken = facts.take(np.concatenate(rows))
    action = facts.one_hot(taken.action) if log.num_actions is not None else taken.action
    x = features(taken.observation, action, taken.reward[:, None], full_up_to=8)
    score = _scores(x, kind, taken.episode)
    ends, middle, piled = (float(score[kind == k].mean()) for k in range(3))
    return (piled - middle) / (ends - middle) if ends - middle >= TOLD_APART else None


def _scores(
    x: Float[NumpyArray, "n p"], kind: Int[NumpyArray, " n"], episode: Int[NumpyArray, " n"]
) -> Float[NumpyArray, " n"]:
    """Held-out predictions of whether a row is an end (kind 0) or not (kind 1), each kind with half of the weight; rows of
    kind 2 are predicted and teach nothing."""
    known: Bool[NumpyArray, " n"] = kind < 2
    score = np.zeros(len(x))
    target = (kind == 0).astype(np.float64)
    weight = np.where(kind == 0, 0.5 / (kind == 0).mean(), 0.5 / (kind == 1).mean()) * known
    root = np.sqrt(weight)[:, None]
    even = episode % 2 == 0
    for test in (even, ~even):
        # The rows to predict belong to the group that does not teach; the target of the others decides the fit alone.
        left = residuals(
            np.concatenate([x[~test] * root[~test], x[test]]),
            np.concatenate([target[~test] * root[~test, 0], np.zeros(test.sum())])[:, None],
            np.concatenate([np.ones((~test).sum(), int), np.zeros(test.sum(), int)]),
        )
        score[test] = -left[(~test).sum() :, 0]
    return score


def cut_at_odd_places(log: Dataset, facts: Facts) -> Iterator[Finding]:
    """Most episodes are truncated at many different lengths, which no time limit does."""
    last = log.episode_start[1:] - 1
    cut = log.truncated[last]
    lengths = np.diff(log.episode_start)[cut]
    if log.num_episodes < 20 or cut.mean() <= 0.5:
        return
    commonest = np.unique(lengths, return_counts=True)[1].max() / len(lengths)
    if commonest < 0.2 and lengths.max() >= 2 * lengths.min():
        never = ", and no episode is terminated" if cut.all() else ""
        yield Finding(
            "cuts-look-like-ends",
            "warning",
            "truncated",
            f"{cut.mean():.0%} of episodes are truncated, at lengths from {lengths.min():,} to {lengths.max():,} of which none "
            f"is common{never}",
            "truncation at a time limit, or of few episodes",
            "If these are true ends (a death, a goal, a discharge), mark them terminated.",
        )
