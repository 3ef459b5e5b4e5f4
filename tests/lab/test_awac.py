"""The numbers of the lesson on AWAC against values known by hand."""

import numpy as np
import pytest

from stitchrl.lab.lessons.awac import awac_policy, claimed, fitted_normal, leaving, returns_policy
from stitchrl.mdp.stitching import stitching_world


def test_the_policy_and_its_exact_values_agree():
    temperature = 2.0
    probs = awac_policy(temperature)
    q = stitching_world().action_values(probs)

    for state in (0, 2):
        weight = np.exp(q[state] / temperature)
        np.testing.assert_allclose(probs[state], weight / weight.sum(), rtol=1e-12)


def test_awac_turns_where_the_value_of_s3_is_7_and_returns_never_do():
    turning = 7 / np.log(4 / 3)

    assert awac_policy(turning)[0, 0] == pytest.approx(0.5)
    assert all(returns_policy(t)[0, 0] < 0.5 for t in (0.1, 1.0, 10.0, 100.0))
    assert returns_policy(2.0)[2, 1] == pytest.approx(1 / (1 + np.exp(-7 / 2)))


def test_the_fitted_normal_has_the_moments_of_the_weighted_log():
    rng = np.random.default_rng(0)
    side = rng.random(200_000) < 0.3
    angle = np.where(side, rng.uniform(0.3, 0.9, len(side)), rng.uniform(-0.9, -0.3, len(side)))
    weight = np.exp(side / 0.5)
    mean = np.average(angle, weights=weight)
    spread = np.sqrt(np.average((angle - mean) ** 2, weights=weight))

    assert fitted_normal(0.5) == (pytest.approx(mean, abs=0.01), pytest.approx(spread, abs=0.01))
    drawn = rng.normal(mean, spread, 200_000)
    out = (np.abs(drawn) < 0.3) | (np.abs(drawn) > 0.9)
    assert leaving("normal", 0.5) == pytest.approx(out.mean(), abs=0.01)


def test_the_claim_is_what_the_sweeps_arrive_at():
    q = 0.0
    for _ in range(30):
        q = 0.9 * ((1 - 0.2) * q + 0.2 * (q + 1.0))

    assert claimed(0.2, 0.9, sweeps=30) == pytest.approx(q)
    assert claimed(0.2, 0.9) == pytest.approx(0.9 * 0.2 / 0.1)
