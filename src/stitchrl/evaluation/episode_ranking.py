"""`st.rank_episodes`: which episodes of a log harm what is fitted to it, and what dropping them would change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.evaluation.drop_curve import WithoutWorst, drop_curve, halves_of
from stitchrl.evaluation.episode_reasons import Ranges, reason
from stitchrl.evaluation.episode_scores import ORDERS, EpisodeScores, score_episodes
from stitchrl.evaluation.log_features import LogFeatures
from stitchrl.evaluation.log_models import chosen_ridges
from stitchrl.printing import Shown

__all__ = ["EpisodeRanking", "RankedEpisode", "default_drops", "rank_episodes"]

FEWEST = 20
"""Episodes below which a log is too small: its tail would be one or two episodes."""
DROPS = (1, 5, 20)
"""How many of the worst episodes are left out by default, beside 1% and 5% of them."""


@dataclasses.dataclass(frozen=True)
class RankedEpisode:
    """One episode of a ranking.

    Attributes:
        episode: its identifier in the log.
        steps: how many transitions it has.
        total: its discounted return.
        expected: how many episodes of a log of this size are expected to be as far out by chance.
        model: which model predicts it worst: "values", "actions" or "observations".
        value_change: by how much the fitted value of the behaviour changes when the episode is left out.
        pull: how far it moves the fitted values, as a multiple of how far an episode moves them on average.
        apart: whether it stands apart from the tail of all other episodes.
        reason: why it stands out, in words.
    """

    episode: Any
    steps: int
    total: float
    expected: float
    model: str
    value_change: float
    pull: float
    apart: bool
    reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class EpisodeRanking(Shown):
    """The episodes of a log, the worst first. Nothing is dropped: `drop_list` says which episodes would be.

    Attributes:
        by: what they are ranked by, one of "harm", "value" and "fit".
        gamma: discount of values and returns.
        confidence: two-sided coverage that the intervals aim at.
        worst: the worst episodes, described.
        order: the identifiers of all episodes, the worst first.
        apart: the identifiers of those that stand apart, the farthest out first.
        curve: the whole log, and the log without its worst k episodes for several k.
        recommended: how many of the worst episodes are worth dropping if they prove to be errors. All of them stand apart, and
            without as large a share of the worst, some fit predicts held-out episodes better. 0: none.
    """

    by: str
    gamma: float
    confidence: float
    worst: tuple[RankedEpisode, ...]
    order: tuple[Any, ...]
    apart: tuple[Any, ...]
    curve: tuple[WithoutWorst, ...]
    recommended: int

    @property
    def headline(self) -> str:
        """What follows from the ranking, in a few sentences."""
        apart, n = len(self.apart), len(self.order)
        if self.by != "harm":
            return (
                f"Episodes are ranked by {ORDERS[self.by]}. To move much is no fault: an episode that is rare and true should. "
                "Rank by harm for episodes that contradict the others."
            )
        tried = ", ".join(f"{one.dropped:,}" for one in self.curve[1:])
        nothing = f"Leaving out the worst {tried} makes no fit surely better on held-out episodes"
        nothing = nothing if tried else "No list of them was tried"
        if not apart:
            return f"No episode stands apart from the others. {nothing}: there is nothing to drop."
        many = f"{apart:,} of {n:,} episodes {'stands' if apart == 1 else 'stand'} apart from the others"
        if not self.recommended:
            return (
                f"{many}: look whether they are errors of the data or rare truth. {nothing}, so nothing calls for dropping what "
                "is true."
            )
        step = next(one for one in self.curve if one.dropped == self.recommended)
        low = min(step.errors, key=lambda one: one.change)
        return (
            f"{many}. Without the worst {self.recommended:,} the error of the fitted {low.model} on held-out episodes falls by "
            f"{-low.change:.2%} (standard error {low.standard_error:.2%}): look at these first, and drop those that prove to be "
            "errors of the data."
        )

    @property
    def warning(self) -> str:
        """What must be known before anything is dropped."""
        return (
            "Nothing was dropped. Whoever drops episodes for what they say biases the value, and the intervals without them do "
            "not allow for the choice. Rare but true outcomes stand out as errors do: drop an episode only for a fault that you "
            "have seen in its records."
        )

    def drop_list(self, count: int | None = None) -> list[Any]:
        """The identifiers of the worst episodes, for `log.without_episodes`.

        Args:
            count: how many; None takes those that are recommended, which may be none.

        Raises:
            ConfigurationError: fewer than 0, or as many as the log has.
        """
        number = self.recommended if count is None else count
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < len(self.order):
            raise ConfigurationError(
                f"A drop list holds 0 to {len(self.order) - 1:,} of the {len(self.order):,} episodes; got {number!r}."
            )
        return list(self.order[:number])

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON, without the order of all episodes."""
        found = dataclasses.asdict(self)
        del found["order"]
        found["curve"] = [dataclasses.asdict(one) | {"helps": one.helps} for one in self.curve]
        return found | {
            "meaning": ORDERS[self.by],
            "episodes": len(self.order),
            "headline": self.headline,
            "warning": self.warning,
        }

    def __str__(self) -> str:
        lines = [self.headline, self.warning, ""]
        lines += [f"  {k}. {one.episode}: {one.reason}" for k, one in enumerate(self.worst, 1)]
        return "\n".join(lines)


def rank_episodes(
    log: Dataset,
    *,
    by: str = "harm",
    drops: Sequence[int] | None = None,
    shown: int = 20,
    gamma: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> EpisodeRanking:
    """Rank the episodes of a log by the harm that they do, and say what leaving out the worst of them changes.

    Three linear models are fitted to the log: of the behaviour's values (fitted Q evaluation), of its actions, and of the
    next observations. What each would be without any one episode is known exactly. An episode does harm where the models
    without it predict it much worse than is usual: it contradicts the others, and pulls the fits away from them. No
    propensities are needed. Nothing is dropped, and the log stays as it is.

    Args:
        log: the log, with discrete or continuous actions, and observations that are vectors or numbered states.
        by: "harm", as above; "value", by how far the behaviour's value moves without an episode; "fit", by how far the fitted
            values of all states move.
        drops: numbers k of which the effect of leaving out the worst k episodes together is measured, each below half of the
            episodes; None takes 1, 5, 20, 1% and 5% of them. In a ranking by harm all episodes that stand apart are left out
            together as well.
        shown: how many of the worst episodes are described, at least 1.
        gamma: discount of the values, in [0, 1]; None takes the schema's.
        confidence: two-sided coverage that the intervals aim at, from 0.5 to 0.999.
        seed: random seed of the two halves, each of which judges the fits of the other; at least 0.

    Returns:
        The ranking, the worst episodes with what is odd about each, and what leaving out the worst would change.

    Raises:
        ConfigurationError: an argument out of its range, or no episode ends at a discount of 1.
        DataError: observations that are images or not finite, rewards that are not finite, or fewer than 20 episodes.
    """
    gamma = log.schema.gamma if gamma is None else gamma
    counts = _checked(log, by, drops, shown, gamma, confidence, seed)
    log = log.bare().compact()
    halves = halves_of(log, seed)
    features = chosen_ridges(log, LogFeatures.of(log), halves, gamma)
    scores = score_episodes(log, features, gamma)
    order, apart = scores.order(by), scores.apart
    if by == "harm" and 0 < len(apart) <= (log.num_episodes - 1) // 2:
        counts = sorted({*counts, len(apart)})
    curve = drop_curve(log, features, scores, counts, by=by, halves=halves, gamma=gamma, confidence=confidence)
    helping = [one for one in curve if one.helps and one.dropped <= len(apart)] if by == "harm" else []
    best = min(helping, key=lambda one: sum(each.change for each in one.errors), default=None)
    return EpisodeRanking(
        by,
        float(gamma),
        float(confidence),
        _described(log, scores, [int(k) for k in order[:shown]], gamma),
        tuple(log.episode_id[order].tolist()),
        tuple(log.episode_id[apart].tolist()),
        curve,
        0 if best is None else best.dropped,
    )


def default_drops(log: Dataset) -> list[int]:
    """How many of the worst episodes are left out by default: 1, 5, 20, 1% and 5% of them, as far as these are below half."""
    n = log.num_episodes
    return sorted({k for k in (*DROPS, n // 100, n // 20) if 1 <= k <= (n - 1) // 2})


def _described(log: Dataset, scores: EpisodeScores, worst: Sequence[int], gamma: float) -> tuple[RankedEpisode, ...]:
    ordinary = np.ones(log.num_episodes, bool)
    ordinary[scores.apart] = ordinary[worst] = False
    ranges, returns = Ranges(log, ordinary), log.episode_returns(gamma)
    change, expected, moved = scores.value_without - scores.value, scores.expected, scores.moved
    apart = set(scores.apart.tolist())
    return tuple(
        RankedEpisode(
            episode=log.episode_id[k : k + 1].tolist()[0],
            steps=int(log.episode_lengths[k]),
            total=float(returns[k]),
            expected=float(expected[k]),
            model=scores.models[int(np.argmax(scores.out[k]))].name,
            value_change=float(change[k]),
            pull=float(moved[k]),
            apart=k in apart,
            reason=reason(log, scores, ranges, k),
        )
        for k in worst
    )


def _checked(
    log: Dataset, by: str, drops: Sequence[int] | None, shown: int, gamma: float, confidence: float, seed: int
) -> list[int]:
    """The numbers of episodes to leave out, ascending, after all arguments were checked."""
    if not isinstance(log, Dataset):
        raise ConfigurationError(f"`rank_episodes` takes a log as `st.read` gives it; got {type(log).__name__}.")
    if by not in ORDERS:
        raise ConfigurationError(f"`by` must be one of {', '.join(ORDERS)}; got {by!r}.")
    for name, value, low, high in (("gamma", gamma, 0.0, 1.0), ("confidence", confidence, 0.5, 0.999)):
        if not low <= value <= high:
            raise ConfigurationError(f"`{name}` must be from {low:g} to {high:g}; got {value!r}.")
    if shown < 1 or seed < 0:
        raise ConfigurationError(f"`shown` must be at least 1 and `seed` at least 0; got {shown!r} and {seed!r}.")
    n = log.num_episodes
    if n < FEWEST:
        raise DataError(
            f"Ranking episodes compares each with the others and needs at least {FEWEST}; this log has {n}. Look at "
            "them one by one."
        )
    if not np.isfinite(log.reward).all():
        raise DataError(
            f"{int((~np.isfinite(log.reward)).sum()):,} rewards of this log are missing or infinite, and no value can be "
            "fitted to them: correct them first, `stitchrl audit` without `--rank` says where."
        )
    most = (n - 1) // 2
    if drops is None:
        return default_drops(log)
    wrong = [k for k in drops if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= most]
    if wrong:
        raise ConfigurationError(
            f"`drops` must be whole numbers from 1 to {most:,}, below half of the episodes; got {wrong[0]!r}."
        )
    return sorted({int(k) for k in drops})
