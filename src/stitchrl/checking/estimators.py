"""`check_estimator`: tests whether an estimator keeps its contract, and whether it is right in exact worlds."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from stitchrl.checking.estimator_worlds import EPISODES, GAMMA, Worlds, take
from stitchrl.evaluation.behavior import logged_return
from stitchrl.evaluation.estimating import bounded
from stitchrl.evaluation.estimator import Case, Draft, Estimator
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.fits import PolicyFits
from stitchrl.evaluation.health import Check
from stitchrl.evaluation.intervals import Resampler
from stitchrl.evaluation.statistic import Statistic, minus
from stitchrl.evaluation.units import Units

__all__ = ["check_estimator"]

REPLICATES = 60
"""Logs on which bias, standard error and coverage are checked."""


def check_estimator(estimator: Estimator, *, resample_slack: float = 0.2) -> None:
    """Check an off-policy estimator against its contract and against exact worlds of seven states.

    The checks are: it has all members; it uses only the fits that it names; the identities of its statistic hold (every episode
    counted once gives the value, influence values sum to 0, a resample gives the estimate of its episodes); the behaviour's own
    policy has the mean logged return; bias, standard error and interval coverage are right over fresh logs; a horizon is refused
    or respected; an estimate of a policy that the log never tried is unhealthy; and it keeps no state. This takes some seconds,
    most of them for the fits.

    An estimator whose drafts have no interval (`Draft.interval` False) must never be healthy, and its error is not checked. One
    that refuses episodes of several steps, but not single decisions, is checked in worlds whose episodes have one step.

    Args:
        estimator: to be checked.
        resample_slack: standard errors by which `replicate` may differ from an estimate made anew on the resampled episodes,
            at least 0. A statistic that carries the noise of a fit along linearly, without fitting again, needs more.

    Raises:
        AssertionError: with a sentence that says which of these fails.
    """
    _check_members(estimator)
    worlds = Worlds()
    if _refusal(estimator, worlds.plain()) is not None and _refusal(estimator, Worlds(single=True).plain()) is None:
        worlds = Worlds(single=True)
    if _refusal(estimator, worlds.plain()) is None and not _interval(estimator, worlds):
        for without in (_check_draft, _check_never_healthy, _check_state):
            without(estimator, worlds)
        return
    for check in (
        _check_draft,
        _check_statistic,
        functools.partial(_check_resamples, slack=resample_slack),
        _check_on_policy,
        _check_truth,
        _check_horizon,
        _check_cut_episodes,
        _check_overlap,
        _check_state,
    ):
        check(estimator, worlds)


def _require(holds: bool | np.bool_, estimator: Any, sentence: str) -> None:
    if not holds:
        raise AssertionError(f"{getattr(estimator, 'name', type(estimator).__name__)}: {sentence}")


# --- worlds ----------------------------------------------------------------------------------------------------


class _Watched(PolicyFits):
    """The fits of a case; they refuse requests that the estimator did not name."""

    def __init__(self, inner: PolicyFits, estimator: Estimator) -> None:
        super().__init__(inner.fits, inner.policy)
        self._estimator = estimator

    def get(self, request: FitRequest) -> Any:
        named = self._estimator.requests()
        _require(request in named, self._estimator, f"estimate() asks for {request}, but requests() names {named}.")
        return super().get(request)


def _estimate(estimator: Estimator, case: Case) -> Draft:
    return estimator.estimate(dataclasses.replace(case, fits=_Watched(case.fits, estimator)))


def _statistic(estimator: Estimator, case: Case, where: str) -> Statistic:
    statistic = _estimate(estimator, case).statistic
    if statistic is None:
        raise AssertionError(f"{estimator.name}: there is no statistic {where}, where weights are moderate.")
    return statistic


def _error(statistic: Statistic, model_variance: float = 0.0) -> float:
    return float(np.hypot(Resampler(Units(statistic.n)).standard_error(statistic), np.sqrt(model_variance)))


# --- checks ----------------------------------------------------------------------------------------------------


def _check_members(estimator: Any) -> None:
    for member in ("name", "title", "primary_rank", "refusal", "requests", "estimate"):
        _require(hasattr(estimator, member), estimator, f"an estimator needs `{member}`; this one has none.")
    for member in ("name", "title"):
        text = getattr(estimator, member)
        _require(isinstance(text, str) and bool(text.strip()), estimator, f"`{member}` must be text; got {text!r}.")
    rank = estimator.primary_rank
    _require(
        rank is None or (isinstance(rank, int) and not isinstance(rank, bool)),
        estimator,
        f"`primary_rank` must be a whole number or None; got {rank!r}.",
    )
    requests = estimator.requests()
    _require(isinstance(requests, tuple), estimator, f"requests() must give a tuple; got {type(requests).__name__}.")
    for request in requests:
        fits = isinstance(request, Hashable) and all(hasattr(request, m) for m in ("fit", "apply", "join"))
        _require(fits, estimator, f"a request must be hashable, with `fit`, `apply` and `join`; got {request!r}.")
    _require(
        requests == estimator.requests(),
        estimator,
        "two calls of requests() must give equal requests, since unequal ones are fitted again; they differ.",
    )


def _refusal(estimator: Estimator, case: Case) -> str | None:
    found = estimator.refusal(case.log, case.estimand, [case.policy])
    if found is not None:
        sentence = isinstance(found, str) and len(found.split()) >= 4 and found.rstrip().endswith(".")
        _require(sentence, estimator, f"refusal() must give None or a whole sentence; got {found!r}.")
    return found


def _check_draft(estimator: Estimator, worlds: Worlds) -> None:
    case = worlds.plain()
    refused = _refusal(estimator, case)
    _require(refused is None, estimator, f"it refuses a plain log with propensities and no horizon: {refused}")
    before = [case.log.reward.copy(), case.episodes.reward.copy(), case.fits.log_ratio.copy()]
    draft = _estimate(estimator, case)
    after = [case.log.reward, case.episodes.reward, case.fits.log_ratio]
    unchanged = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    _require(unchanged, estimator, "estimate() changed the arrays of its case.")
    _require(isinstance(draft, Draft), estimator, f"estimate() must give a Draft; got {type(draft).__name__}.")
    checks = isinstance(draft.checks, tuple) and all(isinstance(check, Check) for check in draft.checks)
    _require(checks, estimator, "`checks` of a draft must be a tuple of Check.")
    keys = [check.key for check in draft.checks]
    _require(len(set(keys)) == len(keys), estimator, f"each key of a check must occur once; got {', '.join(keys)}.")
    for check in draft.checks:
        _require(
            check.sentence.endswith("."),
            estimator,
            f"the sentence of check {check.key} must end with a full stop; got {check.sentence!r}.",
        )
    _require(
        bool(draft.assumptions) and all(isinstance(text, str) for text in draft.assumptions),
        estimator,
        "`assumptions` of a draft must be texts, and no estimate from logged actions is without any.",
    )
    if draft.unit_weight is not None:
        weight = np.asarray(draft.unit_weight)
        right = weight.shape == (case.log.num_episodes,) and np.isfinite(weight).all() and (weight >= 0).all()
        _require(bool(right), estimator, "`unit_weight` must be one finite number of at least 0 for each episode.")


def _interval(estimator: Estimator, worlds: Worlds) -> bool:
    """Whether its drafts have intervals; a result that is no draft is reported by another check."""
    try:
        return bool(getattr(estimator.estimate(worlds.plain()), "interval", True))
    except Exception:  # what raises is reported by the checks that follow
        return True


def _check_never_healthy(estimator: Estimator, worlds: Worlds) -> None:
    """An estimate whose error is not known must not be healthy."""
    for seed, policy in ((11, worlds.policy), (12, worlds.behavior)):
        case = worlds.case(worlds.log(worlds.rows(worlds.uneven, EPISODES, seed=seed)), policy)
        healthy = all(check.passed for check in _estimate(estimator, case).checks)
        _require(not healthy, estimator, "a draft without an interval must fail a check that says why; it passes all.")
    _require(estimator.primary_rank is None, estimator, "a verdict cannot rest on an estimate without an interval.")


def _check_statistic(estimator: Estimator, worlds: Worlds) -> None:
    """What holds of every statistic, on episodes of different lengths."""
    log = worlds.log(worlds.rows(worlds.uneven, EPISODES, seed=1))
    statistic = _statistic(estimator, worlds.case(log), "on a plain log")
    n, value = statistic.n, statistic.value()
    _require(n == log.num_episodes, estimator, f"`n` must be the {log.num_episodes} episodes; got {n}.")
    _require(
        isinstance(value, float) and np.isfinite(value), estimator, f"value() must be a finite float; got {value!r}."
    )
    scale = max(1.0, abs(value))
    influence = statistic.influence()
    _require(influence.shape == (n,), estimator, f"influence() must have shape ({n},); got {influence.shape}.")
    _require(
        abs(influence.sum()) <= 1e-6 * scale * n,
        estimator,
        f"influence values must sum to 0; they sum to {influence.sum():.4g} over {n} episodes.",
    )
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=400).astype(np.float64)
    replicates = statistic.replicate(counts)
    _require(
        replicates.shape == (400,),
        estimator,
        f"replicate() of 400 rows must have shape (400,); got {replicates.shape}.",
    )
    once = float(statistic.replicate(np.ones((1, n)))[0])
    _require(
        abs(once - value) <= 1e-9 * scale,
        estimator,
        f"replicate() with every episode counted once must give the value {value:.6g}; it gives {once:.6g}.",
    )
    ratio = float(replicates.std() / _error(statistic))
    _require(
        0.7 <= ratio <= 1.4,
        estimator,
        f"the spread of 400 resamples is {ratio:.2f} of the standard error from the influence values; they must agree.",
    )


def _check_resamples(estimator: Estimator, worlds: Worlds, *, slack: float) -> None:
    """The replicate of a resample is the estimate from its episodes with the same fits, or close to it where linearised."""
    rows = worlds.rows(worlds.even, EPISODES, seed=2)
    statistic = _statistic(estimator, worlds.case(worlds.log(rows)), "on a plain log")
    error = _error(statistic)
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, EPISODES, EPISODES)
        counts = np.bincount(drawn, minlength=EPISODES).astype(np.float64)
        replicate = float(statistic.replicate(counts[None])[0])
        anew = _statistic(
            estimator, worlds.case(worlds.log(take(rows, np.sort(drawn)))), "on resampled episodes"
        ).value()
        _require(
            abs(replicate - anew) <= slack * error + 1e-6 * max(1.0, abs(anew)),
            estimator,
            f"replicate() gives {replicate:.5g} for resampled episodes, from which estimate() makes {anew:.5g}: "
            f"more apart than {slack:g} times the standard error {error:.2g}. A normalised estimate must normalise anew.",
        )


def _check_on_policy(estimator: Estimator, worlds: Worlds) -> None:
    case = worlds.case(worlds.log(worlds.rows(worlds.uneven, EPISODES, seed=4)), worlds.behavior)
    logged = logged_return(case.episodes)
    difference = minus(_statistic(estimator, case, "for the behaviour's own policy"), logged)
    error = _error(difference, _estimate(estimator, case).model_variance)
    _require(
        abs(difference.value()) <= 4 * error + 1e-5 * max(1.0, abs(logged.value())),
        estimator,
        f"the behaviour's own policy must be worth the mean logged return {logged.value():.5g}; the estimate is "
        f"{difference.value():+.4g} away from it, with a standard error of {error:.2g}.",
    )


def _check_truth(estimator: Estimator, worlds: Worlds) -> None:
    """Bias, standard error and coverage of the gain, over fresh logs of an exact world."""
    n = EPISODES // 2
    truth = worlds.even.policy_value(worlds.policy, gamma=GAMMA) - worlds.even.policy_value(
        worlds.behavior, gamma=GAMMA
    )
    values, errors, covered, of_model, unknown = [], [], [], [], []
    for k, log in enumerate(worlds.logs(worlds.even, n, REPLICATES, seed=5)):
        case = worlds.case(log)
        draft = _estimate(estimator, case)
        gain = minus(_statistic(estimator, case, "on a plain log"), logged_return(case.episodes))
        found = Resampler(Units(n), resamples=200, seed=k).interval(gain)
        values.append(found.value)
        errors.append(found.standard_error)
        # All logs share one fit, so its error moves all estimates together.
        of_model.append(draft.model_variance)
        unknown.append([bounded(end) for end in draft.unknown])
        more = float(np.hypot(1.0, np.sqrt(of_model[-1]) / max(found.standard_error, 1e-300)))
        lower = found.value - more * (found.value - found.lower) + unknown[-1][0]
        covered.append(lower <= truth <= found.value + more * (found.upper - found.value) + unknown[-1][1])
    spread, off = float(np.std(values, ddof=1)), float(np.mean(values)) - truth
    # The truth may lie below by what is unknown below, and above by what is unknown above.
    below, above = np.mean(unknown, axis=0)
    beyond = max(off + below, 0.0) if off > 0 else min(off + above, 0.0)
    z = beyond / float(np.hypot(spread / np.sqrt(REPLICATES), np.sqrt(np.mean(of_model))))
    _require(
        abs(z) <= 4,
        estimator,
        f"over {REPLICATES} logs of an exact world the gain is {off:+.4g} off on average, {z:+.1f} standard errors.",
    )
    ratio = float(np.mean(errors)) / spread
    _require(
        0.65 <= ratio <= 1.5,
        estimator,
        f"the standard error is {ratio:.2f} of the spread of the estimates over {REPLICATES} logs; it must be near 1.",
    )
    share = float(np.mean(covered))
    _require(share >= 0.8, estimator, f"the 95% interval holds the exact gain in {share:.0%} of {REPLICATES} logs.")


def _check_horizon(estimator: Estimator, worlds: Worlds) -> None:
    case = worlds.case(worlds.log(worlds.rows(worlds.even, EPISODES, seed=6)), horizon=2)
    if _refusal(estimator, case) is not None:
        return
    truth = worlds.even.policy_value(worlds.policy, gamma=GAMMA, horizon=2)
    statistic = _statistic(estimator, case, "with a horizon that it does not refuse")
    off, error = statistic.value() - truth, _error(statistic, _estimate(estimator, case).model_variance)
    _require(
        abs(off) <= 4.5 * error,
        estimator,
        f"with horizon 2 it is {off:+.4g} off, standard error {error:.2g}: respect the horizon, or refuse it.",
    )


def _check_cut_episodes(estimator: Estimator, worlds: Worlds) -> None:
    case = worlds.case(worlds.log(worlds.rows(worlds.uneven, EPISODES, seed=7, max_steps=2)))
    if _refusal(estimator, case) is not None:
        return
    statistic = _estimate(estimator, case).statistic
    if statistic is not None:
        found = [statistic.value(), *statistic.influence()]
        _require(bool(np.isfinite(found).all()), estimator, "a log with cut episodes gives values that are not finite.")


def _check_overlap(estimator: Estimator, worlds: Worlds) -> None:
    """The policy's first action was tried in one of a hundred episodes; afterwards it does what the behaviour does."""
    behavior, worlds.behavior = worlds.behavior, np.tile([0.99, 0.01], (7, 1))
    try:
        log = worlds.log(worlds.rows(worlds.even, EPISODES, seed=8))
        policy = worlds.behavior.copy()
    finally:
        worlds.behavior = behavior
    policy[:2] = 0.0, 1.0
    draft = _estimate(estimator, worlds.case(log, policy))
    _require(
        draft.statistic is None or not all(check.passed for check in draft.checks),
        estimator,
        "a policy that 1 in 100 logged episodes followed passes every health check.",
    )


def _check_state(estimator: Estimator, worlds: Worlds) -> None:
    fresh = copy.deepcopy(estimator)
    one = worlds.case(worlds.log(worlds.rows(worlds.even, EPISODES, seed=9)))
    other = worlds.case(worlds.log(worlds.rows(worlds.even, EPISODES, seed=10)))
    ask: Callable[[Estimator, Case], float] = lambda e, c: _statistic(e, c, "on a plain log").value()  # noqa: E731
    first, second, again = ask(estimator, one), ask(estimator, other), ask(estimator, one)
    pairs: Sequence[tuple[float, float]] = ((first, again), (second, ask(fresh, other)))
    _require(
        all(a == b for a, b in pairs),
        estimator,
        "an estimate depends on what was estimated before; an estimator must keep no state.",
    )
