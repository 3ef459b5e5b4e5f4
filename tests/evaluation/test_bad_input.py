"""Logs and policies that break estimators: the right answer or one clear sentence, and never a number that looks healthy.

Warnings are errors in all tests, NumPy's too. What is tested elsewhere: formulas at 1,100 steps and at weights beyond float64
(`test_weights.py`, `estimators/test_importance_sampling.py`), single decisions (`estimators/test_contextual_bandits.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.registry import ESTIMATORS
from stitchrl.evaluation.results import Estimate
from stitchrl.evaluation.settings import FitSettings

WITHOUT_NETWORKS = ("is", "pdis", "wis", "pdwis")
TINY = FitSettings(updates=5, hidden_sizes=(4,), networks=1)


class Fixed:
    """The same probabilities everywhere."""

    def __init__(self, *probs: float) -> None:
        self.row = np.array(probs, np.float32)

    def probs(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return np.tile(self.row, (len(obs), 1))


class NoDensity:
    """A policy over discrete actions that only says which action it takes."""

    has_density = False

    def mode(self, obs: np.ndarray, action_mask: np.ndarray | None = None) -> np.ndarray:
        return np.zeros(len(obs), np.int32)


def log_of(lengths: list[int], *, action: int | None = None, probability: float = 0.5) -> Dataset:
    """Episodes of such lengths, two actions, one of four observations, rewards of 1 at the end; all terminate."""
    rng, rows = np.random.default_rng(0), sum(lengths)
    last = np.concatenate([np.arange(length) == length - 1 for length in lengths])
    return st.read(
        {
            "episode": np.repeat(np.arange(len(lengths)), lengths),
            "step": np.concatenate([np.arange(length) for length in lengths]),
            "observation": np.eye(4, dtype=np.float32)[rng.integers(0, 4, rows)],
            "action": np.append(rng.integers(0, 2, rows - 2), [0, 1]) if action is None else np.full(rows, action),
            "reward": last.astype(np.float32),
            "terminated": last,
            "truncated": np.zeros(rows, bool),
            "behavior_log_prob": np.full(rows, np.log(probability), np.float32),
        },
        st.Schema.infer(
            ["episode", "step", "observation", "action", "reward", "terminated", "truncated", "behavior_log_prob"],
            num_actions=2,
            gamma=1.0,
        ),
    )


def estimates(policy: object, log: Dataset, names: tuple[str, ...], **kwargs: object) -> dict[str, Estimate]:
    found = evaluate_all([policy], log, estimators=names, settings=TINY, confirm=False, resamples=50, **kwargs)  # type: ignore[arg-type]
    return found[0].estimates


def is_sober(one: Estimate) -> bool:
    """Either a finite number with finite ends or without ends, or none and one sentence; never NaN."""
    if one.value is None:
        return not one.healthy and len(one.reasons) >= 1 and all(reason.endswith(".") for reason in one.reasons)
    if one.lower is None or one.upper is None:  # a value without an interval never counts as healthy
        return bool(np.isfinite(one.value)) and not one.healthy
    return bool(np.isfinite([one.value, one.lower, one.upper]).all())


@pytest.mark.parametrize("name", WITHOUT_NETWORKS)
def test_episodes_of_unequal_lengths_pay_each_step_its_own_weight(name: str) -> None:
    """Every return is 1 and every ratio 1: whatever the lengths, the value is 1."""
    found = estimates(Fixed(0.5, 0.5), log_of([1, 2, 3, 7, 30, 2, 1, 50]), WITHOUT_NETWORKS)[name]
    assert found.value == pytest.approx(1.0)


@pytest.mark.parametrize("name", WITHOUT_NETWORKS)
def test_ratios_near_two_over_1100_steps(name: str) -> None:
    """Weights of 2^1100 cannot be averaged, which is said; equal ones can be normalised, and are seen to average too much."""
    found = estimates(Fixed(1.0, 0.0), log_of([1100] * 3, action=0), WITHOUT_NETWORKS)[name]
    assert is_sober(found)
    assert not found.healthy
    if name in ("is", "pdis"):
        assert found.value is None
        assert "cannot be represented" in " ".join(found.reasons)
    else:
        assert found.value == pytest.approx(1.0)
        assert any("average" in reason for reason in found.reasons)


@pytest.mark.parametrize("name", WITHOUT_NETWORKS)
def test_weights_of_1e_300(name: str) -> None:
    """A weighted mean of returns of 1 is 1; an average of weights of 1e-300 is nearly 0; neither may look healthy."""
    found = estimates(Fixed(1e-38, 1.0), log_of([8] * 20, action=0), WITHOUT_NETWORKS)[name]
    assert is_sober(found)
    assert not found.healthy
    assert found.value == pytest.approx(1.0 if name in ("wis", "pdwis") else 0.0, abs=1e-200)


@pytest.mark.parametrize("name", WITHOUT_NETWORKS)
def test_a_policy_that_takes_no_logged_action_has_no_estimate(name: str) -> None:
    found = estimates(Fixed(0.0, 1.0), log_of([6] * 30, action=0), WITHOUT_NETWORKS)[name]
    assert is_sober(found)
    assert not found.healthy
    assert found.value is None


DEAR = ("model", "model-dr", "dualdice", "bestdice", "drl")
"""Estimators that fit networks of their own."""
CHEAP = tuple(name for name in ESTIMATORS if name not in DEAR)


@pytest.mark.parametrize(
    ("policy", "log", "names"),
    [
        pytest.param(
            Fixed(0.0, 1.0), lambda: log_of([3] * 32, action=0), CHEAP, id="no action of the policy was logged"
        ),
        *(
            pytest.param(policy, log, tuple(ESTIMATORS), id=name, marks=pytest.mark.slow)
            for name, policy, log in (
                ("no action of the policy was logged, all", Fixed(0.0, 1.0), lambda: log_of([3] * 32, action=0)),
                ("weights of 1e-300", Fixed(1e-38, 1.0), lambda: log_of([8] * 12, action=0)),
                ("unequal lengths", Fixed(0.6, 0.4), lambda: log_of([1, 2, 3, 7, 30, 2, 8, 43])),
            )
        ),
    ],
)
def test_no_estimator_calls_healthy_what_says_too_little(
    policy: Fixed, log: Callable[[], Dataset], names: tuple[str, ...]
) -> None:
    # Either half of each log has 48 rows, so that all fits are of one compiled program.
    found = estimates(policy, log(), names)
    assert set(found) == set(names)
    for one in found.values():
        assert is_sober(one), one
        assert not one.healthy, one


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("case", ["one episode", "propensity 0", "no density"])
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(name: str, case: str) -> None:
    policy, log = Fixed(0.4, 0.6), log_of([3] * (1 if case == "one episode" else 30))
    if case == "propensity 0":
        assert log.behavior_log_prob is not None
        given = log.behavior_log_prob.copy()
        given[5] = -np.inf
        log = dataclasses.replace(log, behavior_log_prob=given)
    says = {"one episode": "at least 2 episodes", "propensity 0": "1 logged actions have propensity 0"}
    with pytest.raises(EvaluationError, match=says.get(case, "has no action probabilities")):
        estimates(NoDensity() if case == "no density" else policy, log, (name,))


def test_what_is_of_another_estimand_says_so() -> None:
    """Values of other discounts and horizons carry them, so that nobody compares them by mistake."""
    log = log_of([4] * 30)
    one, other = (estimates(Fixed(0.5, 0.5), log, ("wis",), gamma=0.9, horizon=h)["wis"] for h in (None, 3))
    assert one.estimand == Estimand(0.9, None)
    assert other.estimand == Estimand(0.9, 3)
    assert str(one.estimand) != str(other.estimand)
