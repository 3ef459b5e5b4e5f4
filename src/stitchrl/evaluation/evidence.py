"""What the estimators of one policy on one log share: ratios, weights, and a Q fitted on other episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.behavior import BC
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling, unit_return_scale
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.estimators.fqe import FQE, FittedQ, Refit, evaluation_source, refit
from stitchrl.evaluation.fits import FittedValues
from stitchrl.evaluation.probabilities import PolicyLike, action_probabilities
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.units import StandardizedPolicy
from stitchrl.progress import LoopMonitor
from stitchrl.training.loop import train
from stitchrl.types import NumpyArray

__all__ = ["Evidence", "FitSettings", "fit_q", "gather_evidence"]


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How the nuisance models of an evaluation are fitted.

    Attributes:
        updates: gradient updates of FQE and, where the log lacks propensities, of the behaviour model.
        batch_size: rows a batch.
        hidden_sizes: widths of both networks.
        learning_rate: Adam's step size of both.
        seed: of both.
    """

    updates: int = 2000
    batch_size: int = 256
    hidden_sizes: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    seed: int = 0


class Evidence(NamedTuple):
    """Of one policy on a log of N transitions.

    Attributes:
        log_ratio: (N,) log policy - log behaviour probability of the logged action.
        values: the fitted Q, for doubly robust estimates.
        refit: the refitted FQE.
        probs: (N, A) the policy's probabilities.
    """

    log_ratio: Float[NumpyArray, " N"]
    values: FittedValues
    refit: Refit
    probs: Float[NumpyArray, "N A"]


class BehaviorProbabilities(NamedTuple):
    """(N,) log-probability of the logged action under the behaviour, (N, A) of every action, and where they are from."""

    log_prob: Float[NumpyArray, " N"]
    probs: Float[NumpyArray, "N A"] | None
    fitted: bool


def gather_evidence(
    policies: Sequence[PolicyLike],
    log: Dataset,
    fit_on: Dataset | None,
    *,
    gamma: float,
    settings: FitSettings,
    monitors: Sequence[LoopMonitor] = (),
) -> tuple[list[Evidence], BehaviorProbabilities]:
    """Fit what must be fitted and bring everything onto the log's transitions.

    Args:
        policies: what to evaluate.
        log: the episodes the estimates are made on.
        fit_on: other episodes, for the nuisance fits; None cross-fits: each half of `log` is served by fits on the
            other half, so that no episode meets a model it helped to fit.
        gamma: discount.
        settings: of the fits.
        monitors: shown the progress of the FQE.
    """
    on_log = [action_probabilities(policy, log) for policy in policies]
    if fit_on is not None:
        behavior = _behavior(log, fit_on, settings)
        on_fit = (action_probabilities(policy, fit_on)[1] for policy in policies)
        parts = _evidence_on_part(log, on_log, fit_on, on_fit, behavior.log_prob, gamma, settings, monitors)
        return parts, behavior
    halves = log.split_episodes((0.5, 0.5), seed=settings.seed) if log.num_episodes > 1 else (np.array([0]),) * 2
    pieces, behaviors, rows = [], [], []
    for here, other in (halves, halves[::-1]):
        take_here, take_other = _rows_of(log, here), _rows_of(log, other)
        part, rest = log.select_episodes(here), log.select_episodes(other)
        behavior = _behavior(part, rest, settings)
        probs_here = [(now[take_here], after[take_here]) for now, after in on_log]
        probs_rest = [after[take_other] for _, after in on_log]
        pieces.append(
            _evidence_on_part(part, probs_here, rest, probs_rest, behavior.log_prob, gamma, settings, monitors)
        )
        behaviors.append(behavior)
        rows.append(take_here)
    transition_order, episode_order = np.argsort(np.concatenate(rows)), np.argsort(np.concatenate(halves))
    joined = [_join(a, b, transition_order, episode_order) for a, b in zip(*pieces, strict=True)]
    return joined, _join_behavior(behaviors, transition_order)


def _evidence_on_part(
    log: Dataset,
    on_log: list[tuple[NumpyArray, NumpyArray]],
    fit_on: Dataset,
    next_on_fit: Iterable[NumpyArray],
    behavior_log_prob: NumpyArray,
    gamma: float,
    settings: FitSettings,
    monitors: Sequence[LoopMonitor],
) -> list[Evidence]:
    fits = fit_q(fit_on, next_on_fit, len(on_log), gamma=gamma, settings=settings, monitors=monitors)
    found = []
    for fitted_q, (probs, next_probs) in zip(fits, on_log, strict=True):
        fitted = fitted_q.on(log, probs, next_probs)
        chosen = np.take_along_axis(probs, log.action[:, None].astype(np.int64), 1)[:, 0].astype(np.float64)
        with np.errstate(divide="ignore"):
            log_ratio = np.log(chosen) - behavior_log_prob
        values = FittedValues(fitted["q"], fitted["v"])
        found.append(Evidence(log_ratio, values, refit(log, fitted, np.exp(log_ratio), gamma=gamma), probs))
    return found


def fit_q(
    log: Dataset,
    next_probs: Iterable[NumpyArray],
    count: int,
    *,
    gamma: float,
    settings: FitSettings,
    monitors: Sequence[LoopMonitor] = (),
) -> list[FittedQ]:
    """FQE of every policy in one program; all members share one seed, so a policy's fit does not depend on its place.

    `next_probs` yields, for each of `count` policies, its (N, A) probabilities at the next states of `log`.
    """
    assert log.num_actions is not None
    scaling = Scaling.fit(log, reward_scale=unit_return_scale(log, gamma=gamma))
    algorithm = FQE(
        gamma=gamma,
        hidden_sizes=settings.hidden_sizes,
        learning_rate=settings.learning_rate,
        start=round(float(log.episode_returns(gamma).mean()) * scaling.reward_scale, 4),
    )
    trained = train(
        algorithm,
        evaluation_source(log, scaling, next_probs, count),
        Spec.of(log),
        updates=settings.updates,
        seeds=[settings.seed] * count,
        batch_size=settings.batch_size,
        monitors=monitors,
    )
    return [FittedQ(trained.member(k).algorithm.critic.model, scaling, log.num_actions) for k in range(count)]


def _behavior(log: Dataset, fit_on: Dataset, settings: FitSettings) -> BehaviorProbabilities:
    """The log's own propensities where it has them, else those of a BC model fitted on other episodes.

    Raises:
        EvaluationError: a logged action with propensity 0.
    """
    known = log.behavior_log_prob
    if known is not None:
        if not np.isfinite(known).all():
            raise EvaluationError(
                f"{int((~np.isfinite(known)).sum()):,} logged actions have propensity 0, though they were taken. Correct "
                "the propensities, or leave the column out of the schema and they are fitted."
            )
        return BehaviorProbabilities(known.astype(np.float64), log.behavior_probs, fitted=False)
    assert log.num_actions is not None
    scaling = Scaling.fit(fit_on)
    algorithm = BC(hidden_sizes=settings.hidden_sizes, learning_rate=settings.learning_rate)
    trained = train(
        algorithm,
        transition_source(fit_on, scaling),
        Spec.of(fit_on),
        updates=settings.updates,
        seeds=[settings.seed],
        batch_size=settings.batch_size,
    )
    fitted = algorithm.policy(trained.member(0).algorithm, None)
    assert isinstance(fitted, DiscretePolicy)
    model = StandardizedPolicy(jnp.asarray(scaling.mean), jnp.asarray(scaling.std), fitted)
    probs, _ = action_probabilities(model, log)
    chosen = np.take_along_axis(probs, log.action[:, None].astype(np.int64), 1)[:, 0].astype(np.float64)
    # A probability that underflowed would be an infinite ratio; this floor is far below any that matters.
    return BehaviorProbabilities(np.log(np.maximum(chosen, 1e-8)), probs, fitted=True)


def _rows_of(log: Dataset, episodes: NumpyArray) -> NumpyArray:
    return np.concatenate([np.arange(log.episode_start[e], log.episode_start[e + 1]) for e in episodes])


def _join(a: Evidence, b: Evidence, rows: NumpyArray, episodes: NumpyArray) -> Evidence:
    def per_row(x: NumpyArray, y: NumpyArray) -> NumpyArray:
        return np.concatenate([x, y])[rows]

    values = FittedValues(per_row(a.values.q, b.values.q), per_row(a.values.v, b.values.v))
    contributions = np.concatenate([a.refit.contributions, b.refit.contributions])[episodes]
    n_a, n_b = len(a.refit.contributions), len(b.refit.contributions)
    claimed = (n_a * a.refit.network_value + n_b * b.refit.network_value) / (n_a + n_b)
    imbalance = max(a.refit.imbalance, b.refit.imbalance)
    joined = Refit(contributions, claimed, per_row(a.refit.weights, b.refit.weights), imbalance)
    return Evidence(per_row(a.log_ratio, b.log_ratio), values, joined, per_row(a.probs, b.probs))


def _join_behavior(parts: list[BehaviorProbabilities], rows: NumpyArray) -> BehaviorProbabilities:
    probs = None if parts[0].probs is None else np.concatenate([p.probs for p in parts if p.probs is not None])[rows]
    return BehaviorProbabilities(np.concatenate([p.log_prob for p in parts])[rows], probs, parts[0].fitted)
