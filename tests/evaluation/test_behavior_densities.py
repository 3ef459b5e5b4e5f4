"""Fitted densities of continuous actions against known ones; nearest neighbours against a count by hand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_worlds import QUICK, UNDISCOUNTED
from scipy import optimize, stats

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.data.schema import Schema
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.behavior import fitted_propensities
from stitchrl.evaluation.behavior_model import UNIFORM, BehaviorData, FittedBehavior, log_likelihoods
from stitchrl.evaluation.behavior_models.knn import NeighborsPolicy
from stitchrl.evaluation.behavior_models.mixture import Mixture, has_box, with_factor
from stitchrl.evaluation.behavior_registry import BEHAVIOR_MODELS, fit_behavior
from stitchrl.evaluation.behavior_summary import summary_of
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.policy_actions import log_densities
from stitchrl.evaluation.probability_transform import TransformCurve, probability_transform, transform_curve
from stitchrl.evaluation.score_noise import ScoreNoise
from stitchrl.evaluation.units import Units
from stitchrl.nn.continuous_policy import MixturePolicy
from stitchrl.nn.mixture import MIXTURE_KINDS
from stitchrl.nn.networks import MLP
from stitchrl.nn.units import RescaledPolicy
from stitchrl.reading.read import read

STEPS, EPISODES = 5, 400
NOISE = 0.3


def log_of(
    obs: np.ndarray, action: np.ndarray, *, steps: int = STEPS, bounds: tuple[float, float] | None = None
) -> Dataset:
    """A log of episodes of equal length; actions are (N,)."""
    count = len(obs)
    step = np.arange(count) % steps
    columns = {
        "episode": np.arange(count) // steps,
        "observation": obs.astype(np.float32),
        "action": action[:, None].astype(np.float32),
        "reward": np.ones(count),
        "terminated": step == steps - 1,
        "truncated": np.zeros(count, bool),
    }
    schema = Schema.infer(list(columns), num_actions=None, gamma=1.0)
    if bounds is not None:
        schema = dataclasses.replace(schema, action_low=bounds[:1], action_high=bounds[1:])
    return read(columns, schema)


@functools.cache
def linear(seed: int, episodes: int = EPISODES) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and actions that are normal about a linear function of them."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(episodes * STEPS, 2))
    return obs, 0.5 * obs[:, 0] - 0.3 * obs[:, 1] + NOISE * rng.normal(size=len(obs))


@functools.cache
def two_ways(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and actions near .6 above or below a centre that depends on the observation."""
    rng = np.random.default_rng(seed)
    obs = rng.choice([-1.0, 1.0], (EPISODES * STEPS, 2))
    way = rng.choice([-0.6, 0.6], len(obs))
    return obs, 0.15 * obs[:, 0] + way + 0.05 * rng.normal(size=len(obs))


@functools.cache
def fitted_linear() -> FittedBehavior:
    return fitted(log_of(*linear(0)), "gaussian")


def fitted(log: Dataset, name: str) -> FittedBehavior:
    return fit_behavior(log, dataclasses.replace(QUICK, behavior=name))


def densities_of(policy: RescaledPolicy, log: Dataset) -> np.ndarray:
    """Log-densities of the logged actions, -inf included."""
    return log_densities(policy, log.observation, log.action)


def uncalibrated(model: FittedBehavior) -> RescaledPolicy:
    """The fitted network before its standard deviations were changed by a factor."""
    assert isinstance(model.policy, RescaledPolicy)
    return with_factor(model.policy, 1.0)


def test_a_linear_gaussian_behaviour_is_recovered_within_a_twentieth_of_a_nat() -> None:
    obs, action = linear(1)
    exact = float(stats.norm.logpdf(action, 0.5 * obs[:, 0] - 0.3 * obs[:, 1], NOISE).mean())
    model, test = fitted_linear(), log_of(obs, action)
    assert not has_box(test)
    found = log_likelihoods(model.policy, test)
    assert exact - 0.05 < float(found.mean()) < exact + 0.01
    assert model.held_out == pytest.approx(exact, abs=0.1)
    # The same model knows nothing where its observations are another row's: it then loses what they tell.
    shuffled = np.random.default_rng(2).permutation(len(obs))
    wrong = fitted(log_of(linear(0)[0][shuffled], linear(0)[1]), "gaussian")
    told = 0.5 * np.log1p((0.5**2 + 0.3**2) / NOISE**2)
    assert float(log_likelihoods(wrong.policy, test).mean()) == pytest.approx(exact - told, abs=0.1)
    # What estimators get are the same densities, and no probabilities of all actions.
    behavior = fitted_propensities(model.policy, test)
    np.testing.assert_array_equal(behavior.log_prob, found)
    assert behavior.probs is None
    assert behavior.fitted


@pytest.mark.slow
def test_a_behaviour_squashed_by_tanh_is_recovered_where_a_truncated_normal_is_far_off() -> None:
    logs = []
    for seed in (0, 1):
        obs, action = linear(seed)
        mean = 1.5 * obs[:, 0]
        logs.append((obs, np.tanh(mean + action - 0.5 * obs[:, 0] + 0.3 * obs[:, 1]), mean))
    test = log_of(*logs[1][:2])
    exact = float((stats.norm.logpdf(np.arctanh(logs[1][1]), logs[1][2], NOISE) - np.log(1 - logs[1][1] ** 2)).mean())
    squashed, truncated = (
        float(log_likelihoods(fitted(log_of(*logs[0][:2]), name).policy, test).mean())
        for name in ("squashed", "gaussian")
    )
    assert exact - 0.1 < squashed < exact + 0.01
    assert truncated < exact - 0.2


def test_squashed_normals_refuse_an_unknown_box_and_actions_on_its_bounds() -> None:
    model = BEHAVIOR_MODELS["squashed"]
    obs, action = linear(0)
    assert "declare `low` and `high`" in (model.refusal(log_of(obs, action)) or "")
    assert model.refusal(log_of(obs, np.tanh(action))) is None
    on_bounds = np.where(np.arange(len(action)) % 100 == 0, 1.0, np.tanh(action))
    assert "on which 1.0% of this log's lie; at most 0.1% may" in (model.refusal(log_of(obs, on_bounds)) or "")


@pytest.mark.slow
def test_a_mixture_beats_a_normal_by_what_the_two_ways_are_worth_and_auto_takes_it() -> None:
    obs, action = two_ways(0)
    model = fit_behavior(log_of(obs, action), dataclasses.replace(QUICK, updates=600))
    test = log_of(*two_ways(1))
    assert has_box(test)
    a = np.linspace(-1, 1, 8001)
    cell = a[1] - a[0]
    halves = [stats.norm.pdf(a, 0.15 + way, 0.05) / 2 for way in (-0.6, 0.6)]
    truth = sum(halves) / (sum(halves).sum() * cell)

    def expected(density: np.ndarray) -> float:
        return float((truth * np.log((1 - UNIFORM) * density + UNIFORM / 2)).sum() * cell)

    def of_normal(x: np.ndarray) -> float:
        normal = stats.norm.pdf(a, x[0], np.exp(x[1]))
        return -expected(normal / (normal.sum() * cell))

    best = -optimize.minimize(of_normal, [0.15, -0.5], method="Nelder-Mead").fun
    margin = expected(truth) - best
    assert margin > 0.9
    assert model.name == "mixture"
    assert set(model.tried) == {"gaussian", "squashed", "mixture"}
    assert model.tried["mixture"] - model.tried["gaussian"] == pytest.approx(margin, abs=0.1)
    assert float(log_likelihoods(model.policy, test).mean()) == pytest.approx(expected(truth), abs=0.1)


def test_other_units_of_the_action_change_the_log_likelihood_by_their_logarithm() -> None:
    obs, action = two_ways(0)
    one = fitted(log_of(obs, action, bounds=(-1.0, 1.0)), "gaussian")
    many = fitted(log_of(obs, 64 * action, bounds=(-64.0, 64.0)), "gaussian")
    test = two_ways(1)
    here, there = (log_of(test[0], unit * test[1], bounds=(-unit, unit)) for unit in (1.0, 64.0))
    found = [densities_of(uncalibrated(model), log) for model, log in ((one, here), (many, there))]
    np.testing.assert_allclose(found[0] - found[1], np.log(64.0), atol=1e-5)
    # The factor on the standard deviations is found to a hundredth of its logarithm, whatever the units.
    np.testing.assert_allclose(one.scores - many.scores, np.log(64.0), atol=0.01)
    plain = fitted(log_of(linear(0)[0], 4 * linear(0)[1]), "gaussian")
    found = [
        densities_of(uncalibrated(model), log_of(linear(1)[0], unit * linear(1)[1]))
        for unit, model in ((1, fitted_linear()), (4, plain))
    ]
    np.testing.assert_allclose(found[0] - found[1], np.log(4.0), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("gaussian", "discrete"), ("squashed", "discrete"), ("mixture", "discrete"), ("knn", "continuous")],
)
def test_models_refuse_actions_of_the_other_kind(name: str, kind: str) -> None:
    obs, action = linear(0)
    log = log_of(obs[:20], action[:20])
    if kind == "discrete":
        columns = {
            "episode": np.arange(20) // STEPS, "observation": obs[:20], "action": (action[:20] > 0).astype(int),
            "reward": np.ones(20), "terminated": log.terminated,
        }  # fmt: skip
        log = read(columns, Schema.infer(list(columns), num_actions=2, gamma=1.0))
    refused = BEHAVIOR_MODELS[name].refusal(log)
    assert refused is not None
    assert kind in refused or name == "knn"
    with pytest.raises(EvaluationError, match="Leave `behavior` at 'auto'"):
        fitted(log, name)
    for other in ("counts", "logistic", "mlp", "gaussian", "squashed", "mixture", "knn"):
        discrete = other in ("counts", "logistic", "mlp", "knn")
        if discrete == (kind == "continuous"):
            assert BEHAVIOR_MODELS[other].refusal(log) is not None


def test_actions_outside_the_box_of_the_fit_are_an_error_that_says_what_to_do() -> None:
    obs, action = two_ways(0)
    model = fitted(log_of(obs, action), "gaussian")
    with pytest.raises(EvaluationError, match=r"1 of 5 logged actions here are outside. Declare `low` and `high`"):
        log_likelihoods(model.policy, log_of(obs[:5], np.array([0, 0.5, -0.5, 1.5, 1.0])))


# --- calibration ---------------------------------------------------------------------------------------------------


def test_the_curve_of_transformed_actions_is_counted_by_hand() -> None:
    log = log_of(np.zeros((4, 2)), np.zeros(4), steps=1)
    curve = transform_curve([np.array([[0.05], [0.0], [0.55], [1.0]])], [log])
    assert curve.shares == ((0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0.25),)
    assert curve.error[0][0] == pytest.approx(np.sqrt(4 * 0.25) / 4)
    assert curve.expected_error == pytest.approx((0.4 + 0.15 + 0.15 + 7 * 0.1) / 2)
    # Two rows of one episode that always agree are worth one.
    twice = log_of(np.zeros((8, 2)), np.zeros(8), steps=2)
    doubled = transform_curve([np.repeat([[0.05], [0.0], [0.55], [1.0]], 2, 0)], [twice])
    assert doubled.error[0] == pytest.approx(curve.error[0])
    halves = [log_of(np.zeros((2, 2)), np.zeros(2), steps=1)] * 2
    parts = transform_curve([np.array([[0.05], [0.0]]), np.array([[0.55], [1.0]])], halves)
    assert parts == curve


def test_the_curve_passes_a_good_fit_and_sees_one_that_is_too_sure() -> None:
    model, test = fitted_linear(), log_of(*linear(3))
    assert isinstance(model.policy, RescaledPolicy)
    good = transform_curve([probability_transform(model.policy, test)], [test])
    assert good.expected_error < 2.5 * good.by_chance
    inner = model.policy.policy
    assert isinstance(inner, MixturePolicy)
    sure = dataclasses.replace(model.policy, policy=dataclasses.replace(inner, log_scale=inner.log_scale - 0.7))
    wrong = transform_curve([probability_transform(sure, test)], [test])
    assert wrong.expected_error > 6 * wrong.by_chance
    assert min(wrong.shares[0][0], wrong.shares[0][-1]) > 0.15


def test_the_summary_of_a_cross_fitted_density_has_its_curve() -> None:
    log = log_of(*linear(4, 2 * EPISODES))
    settings = dataclasses.replace(QUICK, behavior="gaussian")
    found = summary_of(Fits([], log, estimand=UNDISCOUNTED, settings=settings), Units(log.num_episodes))
    assert found is not None
    assert found.names == ("gaussian", "gaussian")
    assert isinstance(found.curve, TransformCurve)
    assert found.curve.expected_error < 3 * found.curve.by_chance
    assert np.sum(found.to_dict()["curve"]["shares"]) == pytest.approx(1.0)


# --- the noise of the fit --------------------------------------------------------------------------------------------


def mixture_of(kind: str, flat: jax.Array) -> MixturePolicy:
    """A density of one component, whose mean and log standard deviation are linear in the observation."""
    weight = flat.reshape(3, 3)
    return MixturePolicy(MLP((weight[1:],), (weight[0],)), jnp.float32(0.0), 1, kind, UNIFORM)


@functools.partial(jax.jit, static_argnames="kind")
def slope_and_curvature(
    flat: jax.Array, phi: jax.Array, action: jax.Array, present: jax.Array, penalty: jax.Array, *, kind: str
) -> tuple[jax.Array, jax.Array]:
    """Of the penalised log-likelihood; rows that are not present have no part in it."""

    def loss(flat: jax.Array) -> jax.Array:
        outputs = jnp.matmul(phi, flat.reshape(3, 3), precision="highest")
        likelihood = mixture_of(kind, flat).of_outputs(outputs).log_prob(action)
        return -jnp.sum(jnp.where(present, likelihood, 0)) + 0.5 * penalty * jnp.sum(flat**2)

    return jax.grad(loss)(flat), jax.hessian(loss)(flat)


def refitted(
    log: Dataset, penalty: float, start: np.ndarray, *, kind: str, without: Sequence[int] = ()
) -> tuple[RescaledPolicy, np.ndarray]:
    """A density fitted by Newton's method to the rows of a log but for some."""
    phi = jnp.asarray(np.concatenate([np.ones((log.num_transitions, 1)), log.observation], 1), jnp.float32)
    present = np.ones(log.num_transitions, bool)
    present[list(without)] = False
    flat = start
    for _ in range(8):
        slope, curvature = slope_and_curvature(
            flat, phi, jnp.asarray(log.action), jnp.asarray(present), jnp.float32(penalty), kind=kind
        )
        flat = flat - np.linalg.solve(np.asarray(curvature, np.float64), np.asarray(slope, np.float64))
        flat = flat.astype(np.float32)
    ones = jnp.ones(1, jnp.float32)
    return RescaledPolicy(jnp.zeros(2), jnp.ones(2), 0 * ones, ones, mixture_of(kind, jnp.asarray(flat))), flat


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in ("clipped", "truncated") else [pytest.mark.slow]) for k in MIXTURE_KINDS]
)
def test_the_effect_of_a_density_is_what_leaving_episodes_out_does(kind: str) -> None:
    obs, action = linear(5, 600)
    if kind == "squashed":
        action = np.tanh(action)
    elif kind == "clipped":
        action = np.clip(action, -1, 1)
    elif kind == "truncated":
        mean = np.tanh(0.5 * obs[:, 0] - 0.3 * obs[:, 1])
        action = stats.truncnorm.rvs((-1 - mean) / NOISE, (1 - mean) / NOISE, mean, NOISE, random_state=9)
    log = log_of(obs, action, steps=1)
    start = np.zeros((3, 3), np.float32)
    start[:, 1], start[0, 2] = [0.0, 0.5, -0.3], np.log(NOISE)
    policy, weight = refitted(log, 1.0, start.reshape(-1), kind=kind)
    rng = np.random.default_rng(6)
    gradient = rng.normal(size=(3000, 2)) * obs / 3000
    effect = ScoreNoise(policy, 1.0, log).effect(log, gradient)
    here = densities_of(policy, log) @ gradient
    for first in (0, 500, 1000):
        gone = np.arange(first, first + 90)
        without, _ = refitted(log, 1.0, weight, kind=kind, without=gone)  # an episode is a row
        moved = densities_of(without, log) @ gradient - here
        size = np.sqrt(np.diag(effect.expected) * len(gone) / 3000)
        assert (np.abs(moved + effect.episodes[gone].sum(0)) < 0.25 * size + 0.1 * np.abs(moved)).all()
    # The model is right, so what is seen is what it expects.
    seen = np.sqrt((effect.episodes**2).sum(0))
    assert seen == pytest.approx(np.sqrt(np.diag(effect.expected)), rel=0.15)


def test_a_normal_knows_the_noise_of_its_fit_and_a_mixture_does_not_say() -> None:
    model = fitted_linear()
    assert model.noise is not None
    log = log_of(*linear(7))
    gradient = log.observation[:, :1].astype(np.float64) / log.num_transitions
    effect = model.noise.effect(log, gradient)
    assert effect.episodes.shape == (int(0.8 * EPISODES), 1)
    assert 0.2 < float(np.sqrt(effect.expected[0, 0]) / np.sqrt((effect.episodes**2).sum())) < 5
    two = Mixture("two", "two normals", 2).fit(BehaviorData(log_of(*linear(0)), dataclasses.replace(QUICK, updates=4)))
    assert two.noise is None


# --- nearest neighbours ------------------------------------------------------------------------------------------------


def test_neighbours_are_counted_by_hand() -> None:
    obs, action = np.array([[0.0], [1.0], [1.0], [2.0], [4.0]]), np.array([0, 1, 2, 1, 0])
    scaling = Scaling(np.zeros(1, np.float32), np.ones(1, np.float32))
    policy = NeighborsPolicy(scaling, obs, action, actions=3, neighbors=2)
    found = policy.probs(np.array([[0.9], [0.1], [3.9]]))
    # Both rows at 1 count for .9; the row at 0 and then both at 1 for .1; those at 4 and 2 for 3.9.
    shares = np.array([[0, 1 / 2, 1 / 2], [1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0]])
    np.testing.assert_allclose(found, (1 - UNIFORM) * shares + UNIFORM / 3)
    mask = np.array([[True, True, False], [False, True, True], [False, False, True]])
    shares = np.array([[0, 1, 0], [0, 1 / 2, 1 / 2], [0, 0, 1]])  # none of the last two took what is allowed
    uniform = mask / mask.sum(1, keepdims=True)
    masked = policy.probs(np.array([[0.9], [0.1], [3.9]]), action_mask=mask)
    np.testing.assert_allclose(masked, (1 - UNIFORM) * shares + UNIFORM * uniform)
    np.testing.assert_allclose(policy.with_neighbors(50).probs(obs[:1])[0, 0], (1 - UNIFORM) * 2 / 5 + UNIFORM / 3)


def test_neighbours_follow_a_border_that_a_regression_cannot_and_refuse_many_columns() -> None:
    rng = np.random.default_rng(8)
    obs = rng.uniform(-1, 1, (2000, 2))
    chance = np.where(obs[:, 0] * obs[:, 1] > 0, 0.9, 0.1)
    columns = {
        "episode": np.arange(2000), "observation": obs, "action": (rng.random(2000) < chance).astype(int),
        "reward": np.ones(2000), "terminated": np.ones(2000, bool),
    }  # fmt: skip
    log = read(columns, Schema.infer(list(columns), num_actions=2, gamma=1.0))
    best = 0.9 * np.log(0.9) + 0.1 * np.log(0.1)
    assert fitted(log, "knn").held_out == pytest.approx(best, abs=0.08)
    assert fitted(log, "logistic").held_out < best - 0.3
    assert fitted(log, "knn").noise is None
    columns["observation"] = rng.normal(size=(2000, 17))
    wide = read(columns, Schema.infer(list(columns), num_actions=2, gamma=1.0))
    with pytest.raises(EvaluationError, match="at most 16 columns and 100,000 rows; this log has 17 and 2,000"):
        fitted(wide, "knn")
