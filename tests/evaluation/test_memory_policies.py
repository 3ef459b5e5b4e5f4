"""Policies with memory on logs: the probabilities of whole histories by hand, exact values, and what refuses them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_worlds import QUICK
from memory_policies import BEHAVIOR, STEPS, STICKY, Drifting, by_hand, exact_value, sticky_log
from scipy.stats import norm
from worlds import schema_of

import stitchrl as st
from stitchrl.data.columns import NO_OBSERVATION
from stitchrl.data.scaling import Scaling
from stitchrl.deployment.bundle import Bundle, save_bundle
from stitchrl.errors import CheckpointError, ConfigurationError, EvaluationError
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.remembering import RememberingPolicy
from stitchrl.nn.memory import GreedyMemoryPolicy
from stitchrl.nn.units import unscaled_policy
from stitchrl.pipeline.baseline import Baseline

WEIGHTS = ("is", "pdis", "wis", "pdwis")


def probabilities_by_hand(log: st.Dataset) -> np.ndarray:
    """Row by row, in plain Python."""
    found = []
    for start, end in zip(log.episode_start[:-1], log.episode_start[1:], strict=True):
        actions = log.action[start:end]
        found += [by_hand(actions, t) for t in range(end - start)]
    return np.array(found)


def test_every_row_has_the_probability_of_its_own_history() -> None:
    log = sticky_log(40)
    found = RememberingPolicy(STICKY).log_prob_on(log)
    np.testing.assert_allclose(np.exp(found), probabilities_by_hand(log), rtol=1e-6)
    # episodes of two lengths and in any order
    some = log.select_episodes(np.arange(40) % 3 == 1)
    np.testing.assert_allclose(
        np.exp(RememberingPolicy(STICKY).log_prob_on(some)), probabilities_by_hand(some), rtol=1e-6
    )


def test_a_mask_counts_in_the_history() -> None:
    log = sticky_log(10)
    mask = np.ones((log.num_transitions, 2), bool)
    mask[0] = log.action[0] == np.arange(2)
    found = RememberingPolicy(STICKY).log_prob_on(dataclasses.replace(log, action_mask=mask))
    assert found[0] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(np.exp(found[1:]), probabilities_by_hand(log)[1:], rtol=1e-6)


def test_importance_sampling_of_a_policy_with_memory_is_right() -> None:
    log = sticky_log(600, longest=STEPS)
    whole = log.select_episodes(log.episode_lengths == STEPS)
    found = st.evaluate(STICKY, whole, estimators=(*WEIGHTS, "fqe", "wdr"), settings=QUICK)
    ratio = (probabilities_by_hand(whole) / BEHAVIOR[whole.action]).reshape(-1, STEPS).prod(1)
    returns = whole.reward.reshape(-1, STEPS).sum(1)
    assert found.estimates["is"].value == pytest.approx(float((ratio * returns).mean()), rel=1e-5)
    assert found.estimates["wis"].value == pytest.approx(float((ratio * returns).sum() / ratio.sum()), rel=1e-5)
    for name in WEIGHTS:
        error = found.estimates[name].value - exact_value(STEPS)
        assert abs(error) < 4 * found.estimates[name].standard_error, name
        assert found.estimates[name].standard_error < 0.1
    for name in ("fqe", "wdr"):
        (reason,) = found.estimates[name].reasons
        assert reason == (
            f"{name} takes the policy to be a function of the observation, and the policy remembers its episode. is, pdis, wis "
            "and pdwis weigh whole logged histories and apply."
        )
    assert "Not for this policy, which remembers its episode: fqe, wdr ask" in str(found)
    assert found.agreement is None
    assert found.verdict.headline.startswith(
        "the log does not prove the policy better than the behaviour: line (a) failed, the estimates that a verdict may rest on "
        "ask what the policy does at any observation, and of this policy only the probabilities of the logged actions are known"
    )


def test_a_policy_that_takes_the_last_action_for_a_state_would_be_judged_wrongly() -> None:
    # the test above can fail: with even odds everywhere, what a memoryless reading of the first step says, the value is another
    assert abs(exact_value(STEPS) - np.mean([0.5, 0.0, 0.5]) * STEPS) > 0.2


def test_a_horizon_keeps_the_memory_of_its_first_steps() -> None:
    found = st.evaluate(STICKY, sticky_log(600), horizon=2, estimators=("pdis",), settings=QUICK).estimates["pdis"]
    assert abs(found.value - exact_value(2)) < 4 * found.standard_error


def test_with_costs_it_still_remembers_the_rewards() -> None:
    log = sticky_log(20)
    fits = Fits([RememberingPolicy(STICKY)], log, estimand=Estimand.of(log, None, None), settings=QUICK)
    of_cost = fits.with_reward(lambda part: np.full(part.num_transitions, -7.0, np.float32))
    np.testing.assert_allclose(np.exp(of_cost.log_policy(0)), probabilities_by_hand(log), rtol=1e-6)


def test_two_policies_with_memory_are_compared() -> None:
    same = st.evaluate(STICKY, sticky_log(60), baseline=STICKY, estimators=("wis",), settings=QUICK)
    assert same.gain["wis"].value == pytest.approx(0.0, abs=1e-9)


def continuous_log(episodes: int = 12) -> st.Dataset:
    rng = np.random.default_rng(0)
    count = 3 * episodes
    columns = {
        "episode": np.repeat(np.arange(episodes), 3),
        "observation": rng.normal(size=(count, 1)).astype(np.float32),
        "action": rng.uniform(-2, 6, (count, 1)).astype(np.float32),
        "reward": rng.normal(size=count).astype(np.float32),
        "terminated": np.tile([False, False, True], episodes),
        "behavior_log_prob": np.full(count, np.log(1 / 8), np.float32),
    }
    return st.read(columns, schema_of(columns, None, 1.0))


def test_densities_are_of_the_logged_action_in_its_own_units() -> None:
    # Inside, actions are (action - center) / half_width and rewards (reward + 1) / 4: the mean of the second step follows.
    log = continuous_log()
    scaling = dataclasses.replace(
        Scaling.of(log, standardize=False, reward_scale=0.25), reward_shift=1.0,
        action_center=np.float32([2.0]), action_half_width=np.float32([4.0]),
    )  # fmt: skip
    found = RememberingPolicy(unscaled_policy(Drifting(), scaling)).log_prob_on(log).reshape(-1, 3)
    action, reward = log.action.reshape(-1, 3).astype(float), log.reward.reshape(-1, 3).astype(float)
    inner = (action - 2.0) / 4.0
    mean = np.ones_like(inner)
    mean[:, 1:] += 0.5 * inner[:, :-1] + 0.1 * (reward[:, :-1] + 1.0) * 0.25
    np.testing.assert_allclose(found, norm.logpdf(inner, mean, 0.5) - np.log(4.0), rtol=1e-4)


def test_what_leaves_no_chance_over_vectors_cannot_be_judged() -> None:
    with pytest.raises(EvaluationError, match="The policy remembers its episode and its actions have no density"):
        st.evaluate(Drifting().greedy(), continuous_log())


def test_rows_that_are_missing_inside_an_episode_leave_a_memory_unknown() -> None:
    log = sticky_log(10)
    broken = log.next_observation_index.copy()
    broken[log.episode_start[2]] = NO_OBSERVATION
    gappy = dataclasses.replace(log, next_observation_index=broken)
    with pytest.raises(EvaluationError, match="in 1 places of this log rows are missing inside an episode"):
        st.evaluate(STICKY, gappy, estimators=("wis",))


def test_the_main_job_takes_it_neither_as_a_candidate_nor_as_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`baseline` must be a policy of observations.*'Sticky' remembers"):
        Baseline(STICKY).identity(sticky_log(10))
    with pytest.raises(ConfigurationError, match="DecisionTransformer gives a policy that remembers its episode"):
        st.run(st.convert(sticky_log(10), tmp_path / "log"), tmp_path / "run", algorithms=[st.DecisionTransformer()])


def test_a_bundle_holds_only_the_kinds_that_this_package_can_read(tmp_path: Path) -> None:
    log = sticky_log(10)
    with pytest.raises(CheckpointError, match="A Sticky cannot be saved; savable are "):
        save_bundle(tmp_path / "policy", Bundle(STICKY, log.schema, st.Guard.fit(log), {}))


def test_what_one_observation_does_not_say() -> None:
    with pytest.raises(ConfigurationError, match=r"A Sticky acts towards no return. `st\.DecisionTransformer`"):
        GreedyMemoryPolicy(STICKY).towards(1.0)
    for ask in (STICKY.mode, STICKY.sample, lambda obs: STICKY.log_prob(obs, jnp.zeros(1))):
        with pytest.raises(
            ConfigurationError, match="The policy remembers its episode and cannot answer for a single observation"
        ):
            ask(jnp.ones((1, 1)))
