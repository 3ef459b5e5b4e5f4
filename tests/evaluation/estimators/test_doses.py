"""Single decisions with continuous actions, in a world with exact values: unbiased, healthy where they should be, faults seen."""

from __future__ import annotations

import dataclasses
from typing import Any

import dose_worlds as dw
import jax
import linear_worlds as lw
import numpy as np
import pytest

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.estimators.contextual_bandits import doubly_robust
from stitchrl.evaluation.evaluate import evaluate_all
from stitchrl.evaluation.policy_actions import drawn_actions
from stitchrl.evaluation.response_surface import fit_surface
from stitchrl.evaluation.reward_model import RewardValues

NEAR = dw.BEHAVIOR + 0.3 * (dw.BETTER - dw.BEHAVIOR)
QUICK = st.FitSettings(updates=50, hidden_sizes=(16,))


def ratio(log: Dataset, gain: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Density of the doses under a linear policy over that under the behaviour, by hand."""

    def density(matrix: np.ndarray, spread: np.ndarray) -> np.ndarray:
        away = (log.action - log.observation @ matrix.T) / spread
        return np.exp(-0.5 * (away.astype(np.float64) ** 2).sum(1)) / np.prod(spread)

    return density(gain, std) / density(dw.BEHAVIOR, dw.STD)


def failed(found: st.Evaluation, name: str) -> list[str]:
    return [check.key for check in found.estimates[name].checks if not check.passed]


def test_doubly_robust_is_unbiased_with_a_model_that_is_wrong() -> None:
    """z-tests over 200 logs; the model alone is seen to be off."""
    truth, std = dw.value(NEAR, dw.STD), dw.STD
    seen = dw.log(2000, 999)
    wrong = fit_surface(dw.alone(seen, 1.0 - seen.reward))
    robust, model = [], []
    for seed in range(200):
        log = dw.log(200, seed)
        draws = drawn_actions(lw.policy(NEAR, std), log.observation, 2, seed=seed)
        values = RewardValues(wrong.of_actions(log.observation, log.action), wrong.average(log.observation, draws))
        robust.append(doubly_robust(ratio(log, NEAR, std), log.reward.astype(np.float64), values).value())
        model.append(float(values.v.mean()))
    z = [(np.mean(x) - truth) / (np.std(x) / np.sqrt(len(x))) for x in (robust, model)]
    assert abs(z[0]) < 4
    assert abs(z[1]) > 10


@pytest.mark.parametrize("apart", [True, False], ids=["fitted on other decisions", "cross-fitted"])
def test_a_verdict_on_doses_rests_on_their_densities(apart: bool) -> None:
    log, fit_on = dw.log(4000, 1), dw.log(2000, 2)
    found = st.evaluate(lw.policy(NEAR, dw.STD), log, fit_on=fit_on if apart else None)
    assert list(found.estimates) == ["reward-dr", "snips", "dros"]
    assert found.verdict.primary == "reward-dr"
    assert found.verdict.decision == "GO"
    assert "single decisions" in " ".join(found.verdict.caveats)
    truth = dw.value(NEAR, dw.STD)
    by_hand = ratio(log, NEAR, dw.STD)
    assert found.estimates["snips"].value == pytest.approx(by_hand @ log.reward / by_hand.sum(), rel=1e-5)
    for name in ("reward-dr", "snips"):
        estimate = found.estimates[name]
        assert estimate.healthy, estimate.reasons
        assert estimate.lower <= truth <= estimate.upper


def test_a_policy_without_a_density_is_judged_by_lstdq_and_gets_no_go() -> None:
    log = dw.log(1500, 3)
    sure, noisy = lw.policy(NEAR, np.zeros(2)), lw.policy(NEAR, dw.STD)
    found = st.evaluate(sure, log, settings=QUICK)
    assert list(found.estimates) == ["reward-dr", "snips", "dros", "lstdq"]
    assert found.estimates["reward-dr"].value is None
    assert "density" in found.estimates["reward-dr"].reasons[0]
    assert found.verdict.primary == "lstdq"
    assert found.verdict.decision != "GO"
    both = evaluate_all([sure, noisy], log, estimators=("reward-dr", "dros"))
    assert both[0].estimates["dros"].value is None
    assert both[1].estimates["dros"].value is not None


def test_wrong_densities_are_seen() -> None:
    log = dw.log(4000, 4)
    shifted = dataclasses.replace(
        log, behavior_log_prob=log.behavior_log_prob + np.float32(0.2) * (log.action[:, 0] > 0)
    )
    found = st.evaluate(lw.policy(NEAR, dw.STD), shifted)
    assert {"calibration", "mean-weight"} & set(failed(found, "reward-dr"))
    assert found.verdict.decision == "CANNOT TELL"
    assert "calibration" not in failed(st.evaluate(lw.policy(NEAR, dw.STD), log), "reward-dr")


@pytest.mark.parametrize("where", ["aside", "beyond all logged doses"])
def test_a_log_without_the_doses_of_the_policy_is_seen(where: str) -> None:
    log = dw.log(2000, 5)
    if where == "aside":
        policy = lw.policy(dw.BEHAVIOR + 2.0 * np.eye(2)[::-1], 0.5 * dw.STD)
    else:
        policy = lw.policy(10.0 * dw.BETTER, dw.STD)
    found = st.evaluate(policy, log)
    assert not found.estimates["reward-dr"].healthy
    assert found.verdict.decision == "CANNOT TELL"
    if where != "aside":
        assert "outside" in failed(found, "reward-dr")


def test_a_column_of_densities_gives_no_go() -> None:
    """Nothing tells whether the log shows what the policy does, since it cannot be asked for a dose."""
    log = dw.log(4000, 6)
    of_policy = (np.log(ratio(log, NEAR, dw.STD)) + log.behavior_log_prob).astype(np.float32)
    found = st.evaluate(st.LoggedPolicy(), dataclasses.replace(log, policy_log_prob=of_policy))
    assert found.verdict.primary == "snips"
    assert found.verdict.decision == "CANNOT TELL"
    assert "verdicts of reward-dr alone have been counted" in found.verdict.lines[-1].seen


class ByBrightness:
    """Doses about the mean brightness of an image."""

    def log_prob(self, obs: Any, action: Any) -> np.ndarray:
        middle = np.asarray(obs, np.float64).mean((1, 2, 3)) / 255
        away = np.asarray(action, np.float64) - middle[:, None]
        return -0.5 * (away**2).sum(1) - np.log(2 * np.pi)

    def sample(self, obs: Any, *, key: jax.Array) -> np.ndarray:
        middle = np.asarray(obs, np.float64).mean((1, 2, 3)) / 255
        return np.asarray(middle[:, None] + jax.random.normal(key, (len(middle), 2)), np.float32)


def test_doses_by_images_are_judged_by_snips() -> None:
    rng = np.random.default_rng(7)
    images, action = (
        rng.integers(256, size=(600, 6, 6, 1), dtype=np.uint8),
        rng.normal(size=(600, 2)).astype(np.float32),
    )
    columns = {
        "observation": images,
        "action": action,
        "reward": (action[:, 0] > 0).astype(np.float32),
        "density": (-0.5 * (action.astype(np.float64) ** 2).sum(1) - np.log(2 * np.pi)).astype(np.float32),
    }
    roles = {"observation": "observation", "action": "action", "reward": "reward", "behavior_log_prob": "density"}
    found = st.evaluate(ByBrightness(), st.read(columns, st.Schema(roles, bandit=True)))
    assert found.verdict.primary == "snips"
    assert "images" in found.estimates["reward-dr"].reasons[0]
    assert found.estimates["snips"].value > 0.5


def test_the_first_step_of_cut_episodes_and_another_baseline() -> None:
    log, policy = dw.log(4000, 8), lw.policy(NEAR, dw.STD)
    cut = dataclasses.replace(log, terminated=np.zeros(4000, bool), truncated=np.ones(4000, bool))
    for found in (
        st.evaluate(policy, cut, horizon=1),
        st.evaluate(policy, log, baseline=lw.policy(dw.BEHAVIOR, dw.STD)),
    ):
        assert found.verdict.primary == "reward-dr"
        gain = found.gain["reward-dr"]
        assert gain.lower <= dw.value(NEAR, dw.STD) - dw.value(dw.BEHAVIOR, dw.STD) <= gain.upper


@pytest.mark.slow
def test_coverage() -> None:
    """Misses of 200 logs by side, within what a binomial allows (p of 1 in 1,000)."""
    policy, gain = lw.policy(NEAR, dw.STD), dw.value(NEAR, dw.STD) - dw.value(dw.BEHAVIOR, dw.STD)
    above = below = 0
    for seed in range(200):
        (found,) = evaluate_all([policy], dw.log(800, 7_000 + seed), fit_on=dw.log(800, 9_000 + seed), confirm=False)
        estimate = found.gain["reward-dr"]
        above, below = above + (estimate.lower > gain), below + (estimate.upper < gain)
    assert above <= 13
    assert below <= 13
