"""The history check: whether the past predicts the action, the reward or the next observation beyond the observation.

Evaluation with fitted probabilities, and every value function, take the observation for the whole state. If something that
the log does not hold decided the actions, or what follows from them, then the past usually betrays it: it helps to predict
them, held out. A cause without memory leaves no trace in the past, and this check cannot see it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from stitchrl.auditing.draws import draws
from stitchrl.auditing.history_models import (
    LEAST_SPREAD,
    Gains,
    Predictor,
    class_gains,
    deviations,
    held_out_probabilities,
    mean_and_error,
    number_gains,
)
from stitchrl.auditing.history_network import learned_features
from stitchrl.auditing.history_rows import PastRows, past_rows
from stitchrl.auditing.regression import features, waves
from stitchrl.data.dataset import Dataset
from stitchrl.messages import likelier, likelier_between
from stitchrl.types import NumpyArray

__all__ = [
    "ENOUGH_DECISIONS",
    "HistoryCheck",
    "HistoryGain",
    "gains_beyond_observation",
    "history_check",
    "unexplained",
]

LEAST_ROWS, LEAST_CLUSTERS = 300, 20
"""With fewer rows that have a past, or fewer episodes (or groups), nothing can be said."""
CONFIDENCE = 0.99
"""Coverage of the two-sided interval of a gain. A gain counts where the lower end is above 0, so that by chance one of three
gains counts in about 1.5% of logs."""
LEAST_GAIN = 0.003
"""Nats per row from which on a gain matters: a correlation of .08 between what is left of the past and of the target."""
BEYOND_MODEL = 2.0
"""The gain of the past must be this many times what better models of the observation itself gained, and what further functions
of it would gain. Otherwise the models of the observation may be at fault, and the past only mends them."""
LEARNED_PAST = 40
"""Features are learned for at most this many columns of the past."""
WAVES, SOME_WAVES, FRESH_WAVES = 250, 100, 120
MOST_INTERACTIONS = 250
NAMED_COLUMNS = 3
ENOUGH_DECISIONS = 10_000
"""Decisions that have a past, from which on a check that finds nothing is taken as evidence that there is nothing."""


@dataclasses.dataclass(frozen=True)
class HistoryGain:
    """What the past adds to the prediction of one target, held out.

    Attributes:
        target: "action", "reward" or "next observation".
        gain: gain of held-out log-likelihood, in nats per row.
        lower, upper: the ends of its 99% interval; its independent units are episodes, or groups.
        rows: how many rows it is the mean of.
        columns: the columns of the past that carry the gain, the strongest first, such as "glucose one step back".
        passed: False where the gain is beyond chance, large enough to matter, and not explained by what the models of the
            observation lack; None where it is beyond chance and may be explained so.
    """

    target: str
    gain: float
    lower: float
    upper: float
    rows: int
    columns: tuple[str, ...]
    passed: bool | None


@dataclasses.dataclass(frozen=True)
class HistoryCheck:
    """The answer of the history check.

    Attributes:
        passed: True where the past adds nothing to any target, False where it adds to one, None where this cannot be told.
        sentence: the answer in words, with its numbers.
        targets: the gain for each target that varies in the log.
    """

    passed: bool | None
    sentence: str
    targets: tuple[HistoryGain, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether the log is large enough for a pass to mean something.

        Where simulated doctors acted on glucose and diabetes and the log held neither, none of 29 logs showed it in 2,300
        decisions, and all of 4 in 11,800. Diabetes alone was missed at both sizes, so a pass is evidence and no proof
        (benchmarks/hidden_causes.py).
        """
        return bool(self.targets) and max(gain.rows for gain in self.targets) >= ENOUGH_DECISIONS

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> HistoryCheck:
        """The answer of a `to_dict`, for instance of a stored audit."""
        gains = [HistoryGain(**dict(gain) | {"columns": tuple(gain["columns"])}) for gain in content["targets"]]
        return cls(content["passed"], content["sentence"], tuple(gains))


def history_check(log: Dataset, rows: PastRows | None = None) -> HistoryCheck:
    """Tell whether the past predicts the logged action, the reward or the next observation beyond what the observation (and,
    for the latter two, the action) says, held out.

    It looks at a fixed random part of a large log, so the same log always gets the same answer.

    Args:
        log: the log; its observations must be columns of numbers.
        rows: the rows to look at, where they are at hand already: `past_rows(log)`.
    """
    if log.observation_table.ndim != 2:
        return HistoryCheck(
            None, "The history check needs observations that are columns of numbers, and these are images."
        )
    if (log.episode_lengths < 2).all():
        return HistoryCheck(
            None, "The history check needs episodes of at least two steps, and here every decision stands alone."
        )
    rows = past_rows(log) if rows is None else rows
    clusters = int(rows.cluster.max(initial=-1)) + 1
    if len(rows.reward) < LEAST_ROWS or clusters < LEAST_CLUSTERS:
        units = "groups" if log.group is not None else "episodes"
        return HistoryCheck(
            None,
            f"The history check needs at least {LEAST_ROWS} decisions that have a past in at least {LEAST_CLUSTERS} {units}, "
            f"and this log has {len(rows.reward):,} in {clusters:,}.",
        )
    gains = gains_beyond_observation(rows)
    return HistoryCheck(_passed(gains), _sentence(gains), gains)


def gains_beyond_observation(rows: PastRows) -> tuple[HistoryGain, ...]:
    """What `rows.past`, which may hold columns other than those of the past, adds to the prediction of the action beyond the
    observation, and of the reward and the next observation beyond both; for each target that varies."""
    return tuple(gain for gain in (_action(rows), *_outcomes(rows)) if gain is not None)


def unexplained(rows: PastRows) -> tuple[NumpyArray, NumpyArray]:
    """(n, k) what the observation leaves of the action, and (n, m) what observation and action leave of the reward and of the
    next observation, held out, in units of their standard deviations."""
    seen = _Present(rows, acted=False)
    if rows.classes:
        action = np.eye(rows.classes)[rows.action] - _ClassTarget(rows).probabilities(seen)
    else:
        action = seen.model.residuals(rows.action)
    targets = [(rows.reward[:, None], np.ones(len(rows.reward), bool)), (rows.change, rows.change_known)]
    target = _NumberTarget(rows, tuple(targets))
    outcome = target.left(_Present(rows, acted=True)) if target.values else np.zeros((len(rows.reward), 0))
    return action, outcome / np.maximum(outcome.std(0), LEAST_SPREAD)


def _passed(gains: tuple[HistoryGain, ...]) -> bool | None:
    answers = [gain.passed for gain in gains]
    return False if False in answers else None if None in answers or not answers else True


# --- targets -----------------------------------------------------------------------------------------------------


class _Present:
    """The models of what the observation (and the action) says: of every target and of every column of the past.

    Args:
        rows: the rows.
        acted: whether the action is part of the present, as it is for rewards and next observations.
        learned: features that `better` learned for each half.
    """

    def __init__(self, rows: PastRows, *, acted: bool, learned: tuple[NumpyArray, ...] = ()) -> None:
        self.rows, self.acted, self.learned = rows, acted, learned
        self._better: _Present | None = None
        action = np.eye(rows.classes)[rows.action] if rows.classes else rows.action
        self.inputs = np.concatenate([rows.observation, action], 1) if acted else rows.observation
        x, cells = _decision_features(rows) if acted else _observation_features(rows, WAVES)
        self.model = Predictor(x, rows.half, cells, learned)
        self.past = self.model.residuals(rows.past)

    def better(self, strongest: NumpyArray) -> _Present | None:
        """The same with features learned for the targets and for some columns of the past; None where the means of states
        already are as good as any model."""
        if self.model.cells or self.learned:
            return None
        if self._better is None:
            rows = self.rows
            outcomes = (rows.reward[:, None], rows.change, rows.ended[:, None])
            targets = outcomes if self.acted else (np.eye(rows.classes)[rows.action] if rows.classes else rows.action,)
            wanted = np.concatenate([*targets, rows.past[:, strongest]], 1)
            learned = tuple(learned_features(self.inputs, wanted, half) for half in (rows.half, ~rows.half))
            self._better = _Present(rows, acted=self.acted, learned=learned)
        return self._better


def _action(rows: PastRows) -> HistoryGain | None:
    """The gain for the action, beyond the observation and the action mask."""
    target: _Target
    if rows.classes:
        if len(np.unique(rows.action)) < 2:
            return None
        target = _ClassTarget(rows)
    else:
        if not (rows.action.std(0) > 0).any():
            return None
        target = _NumberTarget(rows, ((rows.action, np.ones(len(rows.action), bool)),))
    return _judged("action", target, _Present(rows, acted=False))


def _outcomes(rows: PastRows) -> list[HistoryGain | None]:
    """The gains for the reward and for the next observation or the end, beyond the observation and the action."""
    everywhere = np.ones(len(rows.reward), bool)
    present = _Present(rows, acted=True)
    reward = ((rows.reward[:, None], everywhere),)
    following = ((rows.change, rows.change_known), (rows.ended[:, None], rows.end_known))
    targets = (("reward", _NumberTarget(rows, reward)), ("next observation", _NumberTarget(rows, following)))
    return [_judged(name, target, present) if target.values else None for name, target in targets]


class _ClassTarget:
    """A discrete action as a target."""

    def __init__(self, rows: PastRows) -> None:
        self.rows = rows
        self.fitted: dict[_Present, NumpyArray] = {}

    def probabilities(self, present: _Present) -> NumpyArray:
        """(n, classes) held-out probabilities that the observation gives, fitted once."""
        if present not in self.fitted:
            features, cells = _observation_features(self.rows, SOME_WAVES)
            model = Predictor(features, self.rows.half, cells, present.learned)
            self.fitted[present] = held_out_probabilities(model, self.rows.action, self.rows.classes, self.rows.allowed)
        return self.fitted[present]

    def gains(self, present: _Present, columns: NumpyArray) -> Gains:
        """What columns add to the log-likelihood."""
        return class_gains(columns, self.rows.action, self.probabilities(present), self.rows.half)

    def model_gain(self, poorer: _Present, better: _Present) -> float:
        """By how much one model of the observation gives the actions a greater log-likelihood than another."""
        at = (np.arange(len(self.rows.action)), self.rows.action)
        return float(np.log(self.probabilities(better)[at] / self.probabilities(poorer)[at]).mean())


class _NumberTarget:
    """Numbers as a target: parts (n, k), each with the rows in which it is known."""

    def __init__(self, rows: PastRows, parts: tuple[tuple[NumpyArray, NumpyArray], ...]) -> None:
        self.rows = rows
        self.values: list[tuple[NumpyArray, NumpyArray]] = []
        self.fitted: dict[_Present, NumpyArray] = {}
        for values, known in parts:
            spread = values[known].std(0) if known.any() else np.zeros(values.shape[1])
            vary = spread > 1e-9
            if vary.any():
                standard = (values[:, vary] - values[known][:, vary].mean(0)) / spread[vary]
                self.values.append((standard * known[:, None], known))

    def left(self, present: _Present) -> NumpyArray:
        """(n, k) what the observation leaves of the numbers, held out, computed once."""
        if present not in self.fitted:
            parts = [present.model.residuals(values, known) for values, known in self.values]
            self.fitted[present] = np.concatenate(parts, 1)
        return self.fitted[present]

    def gains(self, present: _Present, columns: NumpyArray) -> Gains:
        """What columns add to the log-likelihood."""
        return number_gains(columns, self.left(present), self.rows.half)

    def model_gain(self, poorer: _Present, better: _Present) -> float:
        """By how much one model of the observation gives the numbers a greater log-likelihood than another."""
        return float(np.log(deviations(self.left(poorer)) / deviations(self.left(better))).sum())


_Target = _ClassTarget | _NumberTarget


def _judged(name: str, target: _Target, present: _Present) -> HistoryGain:
    """The gain for a target. Where it looks beyond chance, better models of the observation are tried first."""
    rows = present.rows
    gains = target.gains(present, present.past)
    mean, width = _interval(gains, rows)
    model_gain = 0.0
    if mean - width > 0 and mean >= LEAST_GAIN:
        strongest = np.argsort(-gains.columns, kind="stable")[:LEARNED_PAST]
        better = present.better(strongest)
        if better is not None:
            model_gain = target.model_gain(present, better)
            present, gains = better, target.gains(better, better.past)
            mean, width = _interval(gains, rows)
    passed: bool | None = True
    columns: tuple[str, ...] = ()
    if mean - width > 0 and mean >= LEAST_GAIN:
        columns = _strongest(gains.columns, rows.past_names)
        fresh = target.gains(present, present.model.residuals(_fresh(present.inputs)))
        explained = max(model_gain, _interval(fresh, rows)[0])
        passed = None if mean < BEYOND_MODEL * explained else False
    return HistoryGain(name, mean, mean - width, mean + width, len(rows.reward), columns, passed)


def _interval(gains: Gains, rows: PastRows) -> tuple[float, float]:
    """The mean gain, and half of the width of its interval."""
    mean, error = mean_and_error(gains.rows, rows.cluster)
    return mean, float(stats.t.ppf(0.5 + CONFIDENCE / 2, int(rows.cluster.max()))) * error


def _strongest(carried: NumpyArray, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the columns that carry most of the gain, each once."""
    order = [j for j in np.argsort(-carried, kind="stable") if carried[j] > 0.1 * carried.max()]
    return tuple(dict.fromkeys(names[j] for j in order))[:NAMED_COLUMNS]


# --- features of the present -------------------------------------------------------------------------------------


def _observation_features(rows: PastRows, count: int) -> tuple[NumpyArray, tuple[NumpyArray, ...]]:
    """Functions of the observation (a constant, quadratic terms, and waves), and the cells of states."""
    if rows.state is not None:  # the means of states do what waves would do
        return features(rows.observation), (rows.state,)
    return np.concatenate([features(rows.observation), waves(rows.observation, count=count)], 1), ()


def _decision_features(rows: PastRows) -> tuple[NumpyArray, tuple[NumpyArray, ...]]:
    """Functions of the observation and the action, and the cells of states and of actions in states."""
    seen = rows.observation
    if not rows.classes:
        return np.concatenate([features(seen, rows.action), waves(seen, rows.action, count=WAVES)], 1), ()
    hot = np.eye(rows.classes)[rows.action]
    parts = [features(seen), hot]
    if seen.shape[1] * rows.classes <= MOST_INTERACTIONS:
        parts.append((seen[:, :, None] * hot[:, None, :]).reshape(len(seen), -1))
    if rows.state is None:
        return np.concatenate([*parts, waves(seen, hot, count=WAVES)], 1), ()
    both = np.unique(rows.state * rows.classes + rows.action, return_inverse=True)[1]
    return np.concatenate(parts, 1), (rows.state, both)


def _fresh(columns: NumpyArray) -> NumpyArray:
    """Further functions of the present that the models do not contain: waves in other directions, half of them shorter."""
    rng = draws(9)
    direction = rng.normal(size=(columns.shape[1], FRESH_WAVES)) / np.sqrt(max(columns.shape[1], 1))
    direction *= np.where(np.arange(FRESH_WAVES) % 2, 1.0, 2.0)
    found: NumpyArray = np.cos(columns @ direction + rng.uniform(0, 2 * np.pi, FRESH_WAVES))
    return found


# --- words -------------------------------------------------------------------------------------------------------


def _sentence(gains: tuple[HistoryGain, ...]) -> str:
    """The answer and its numbers."""
    if not gains:
        return "The history check needs actions, rewards or observations that vary, and here none does."
    numbers = ", ".join(
        f"the {gain.target} {likelier(gain.gain)} (99% interval: {likelier_between(gain.lower, gain.upper)})"
        for gain in gains
    )
    failed = [gain for gain in gains if gain.passed is False]
    doubtful = [gain for gain in gains if gain.passed is None]
    # A verdict quotes what stands before the colon.
    measure = f": held out, a model that also knows the past finds {numbers}, on average."
    if failed:
        carried = ", ".join(dict.fromkeys(name for gain in failed for name in gain.columns))
        return (
            f"The past predicts {_and(gain.target for gain in failed)} beyond what the observation says, through "
            f"{carried}{measure}"
        )
    if doubtful:
        return (
            f"The past may predict {_and(gain.target for gain in doubtful)} beyond what the observation says, but the models "
            f"of the observation are not good enough to tell{measure}"
        )
    return f"The past predicts nothing beyond what the observation says{measure}"


def _and(targets: Iterable[str]) -> str:
    return " and ".join(f"the {target}" for target in targets)
