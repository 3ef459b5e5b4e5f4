"""What every algorithm learns in worlds whose answers are known: support/learning_worlds.py describes them."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from learning_worlds import (
    DISAGREEMENT,
    GAMMAS,
    GRID,
    KINDS,
    LEARNED,
    LOOP_VALUE,
    NOTHING,
    PAIRS,
    WAY,
    grows,
    improved,
    kind_of,
    looped,
    names,
    overestimated,
    paired,
    paired_log,
    stitched,
    stitching_log,
    takes_unlogged,
    world_named,
)

import stitchrl as st
from stitchrl.algorithms.dqn import max_target
from stitchrl.algorithms.returns import returns_to_go
from stitchrl.data.scaling import Scaling
from stitchrl.mdp.finite_log import draw_log
from stitchrl.mdp.overestimation import overestimation_columns, overestimation_world
from stitchrl.mdp.stitching import STATES, stitching_columns, stitching_world

PAYS = {"s7": 3.0, "s8": 7.0, "s9": 10.0}
RANDOM = tuple(f"random {number}" for number in range(4))
WORLDS = (*RANDOM, "grid")
WITH_CRITICS = [name for name in names() if KINDS[kind_of(name)].values.startswith("TD")]


WITHOUT_MEMORY = [name for name in names() if not getattr(st, kind_of(name))().has_memory]
"""Those whose policies are functions of the observation, which exact values are of."""

SOLVING = [
    pytest.param(name, marks=[] if name in ("BC", "IQL", "AWAC", "CQL", "BCQ", "DQN", "SACN") else [pytest.mark.slow])
    for name in WITHOUT_MEMORY
]
"""The same; those that share a rule with another, or imitate, are slow."""


DEAR = {
    "DecisionTransformer", "AdvantageBC", "EQL", "XQL", "SAC", "IQL, expectile 0.5", "IQL, expectile 0.9",
    "CQL, penalty behavior",
}  # fmt: skip
"""Slow: other settings of one that is here, relatives of one that is here, and the one that learns by many more products than the
tables of the others; its own file has what it must learn."""


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.slow] if n in DEAR else []) for n in names()])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_algorithm_that_learns_from_discrete_actions_is_here() -> None:
    wanted = {n for n in st.ALGORITHMS if "discrete" in (kind := getattr(st, n)).actions and not kind.closed_form}
    assert {kind_of(n) for n in LEARNED} == KINDS.keys() == wanted


# --- the stitching world ---------------------------------------------------------------------------------------------


def test_the_best_route_of_the_stitching_world_is_in_no_episode() -> None:
    world, columns = stitching_world(), stitching_columns(1)
    best = world.optimal_policy()
    assert world.policy_value(best) == 10.0
    returns = np.bincount(columns["episode"], columns["reward"])
    first = columns["observation"][columns["step"] == 0].argmax(1)
    assert {STATES[s]: [] for s in first}.keys() == {"s1", "s4"}
    assert returns[first == 0].tolist() == [3.0, 7.0]


def test_where_it_arrives_from_s1(name: str) -> None:
    wanted = LEARNED[name][1]
    if wanted == "splits":
        assert stitched(name).splits
    else:
        assert (stitched(name).route, stitched(name).splits) == (wanted, False)


def test_what_the_way_to_s3_is_worth_by_its_returns_and_by_solving_the_world() -> None:
    log, world = stitching_log(), stitching_world()
    state = log.observation.argmax(1)
    returns = returns_to_go(log, Scaling.of(log, standardize=False), 1.0)
    assert set(returns[(state == 0) & (log.action == 0)]) == {3.0}
    # the log's own shares of the two actions
    counts = np.zeros((9, 2))
    np.add.at(counts, (state, log.action), 1)
    behavior = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    assert world.action_values(behavior)[0, 0] == 6.5
    assert world.action_values(world.optimal_policy())[0, 0] == 10.0


@pytest.mark.parametrize(("name", "value"), [("IQL, expectile 0.5", 6.5), ("IQL", 7.9), ("IQL, expectile 0.9", 9.3)])
def test_expectiles_join_the_two_continuations_as_by_hand(name: str, value: float) -> None:
    # of {3, 10} the expectile m solves e (10 - m) = (1 - e) (m - 3)
    expectile = LEARNED[name][0]["expectile"]
    assert expectile * (10 - value) == pytest.approx((1 - expectile) * (value - 3))
    assert stitched(name).q == pytest.approx(value, abs=0.25)


SOFT_MAXIMUM = 2 * math.log((math.exp(3 / 2) + math.exp(10 / 2)) / 2)


@pytest.mark.parametrize(("name", "value"), [("SQL", 8.0), ("EQL", SOFT_MAXIMUM), ("XQL", SOFT_MAXIMUM)])
def test_soft_values_join_the_two_continuations_as_by_hand(name: str, value: float) -> None:
    # of {3, 10} SQL's V at temperature 1 makes the mean of max(1 + (x - V) / 2, 0) one; the others have temperature 2
    assert stitched(name).q == pytest.approx(value, abs=0.25)


def test_what_its_values_are_learned_from_shows_in_the_way_to_s3(name: str) -> None:
    found, values = stitched(name).q, KINDS[kind_of(name)].values
    if not values.startswith("TD"):
        assert math.isnan(found)
    elif "expectile" in values or "soft maximum" in values:
        assert 6.0 < found < 9.5
    else:
        assert found == pytest.approx(10.0, abs=0.25)


# --- the loop, and the overestimation world --------------------------------------------------------------------------


def test_who_takes_the_action_that_nobody_took(name: str) -> None:
    found, expected = looped(name), takes_unlogged(name)
    assert found.chosen == expected
    assert (found.probability > 0.5) == expected


def test_who_claims_more_than_the_best_of_the_logged_actions(name: str) -> None:
    claimed = looped(name).claimed
    if not math.isnan(claimed):
        assert (claimed > LOOP_VALUE + 0.5) == takes_unlogged(name), claimed


def test_nothing_in_the_overestimation_world_is_worth_more_than_0() -> None:
    world, columns = overestimation_world(), overestimation_columns(2)
    for gamma in GAMMAS:
        np.testing.assert_array_equal(world.state_values(world.optimal_policy(gamma=gamma), gamma=gamma), 0.0)
    pairs = set(zip(columns["observation"][:, 0], columns["action"], strict=True))
    assert pairs == {(0.0, 1), (1.0, 0), (1.0, 2), (1.0, 3)}


@pytest.mark.parametrize("gamma", GAMMAS)
def test_an_error_is_multiplied_backup_by_backup(gamma: float) -> None:
    # equations (2) to (4) of the world, the target being DQN's own
    eps, q = 3.0, jnp.float32(0.0)
    for backup in range(1, 200):
        in_b = jnp.stack([jnp.float32(0.0), q + eps, jnp.float32(-1.0), jnp.float32(-1.0)])
        assert float(in_b[1]) == pytest.approx(eps * (1 - gamma**backup) / (1 - gamma), rel=1e-5)
        nothing, allowed = jnp.zeros(1, jnp.float32), jnp.ones((1, 4), jnp.bool_)
        q = max_target(nothing, nothing + gamma, in_b[None], allowed)[0]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_an_error_of_naive_q_learning_grows_to_eps_over_one_less_gamma(gamma: float) -> None:
    learned = [overestimated("DQN", gamma, seed) for seed in range(4)]
    for found in learned:
        wanted = found.eps / (1 - gamma) if found.eps > 0 else 0.0
        assert found.error == pytest.approx(wanted, rel=0.02, abs=0.01)
    assert max(found.eps for found in learned) > 0.05


def test_an_error_grows_where_the_critics_of_naive_sac_agree() -> None:
    # the smaller of two critics escapes where one of them errs downwards
    learned = [overestimated("SAC", GAMMAS[-1], seed) for seed in range(3)]
    assert max(found.error for found in learned) > 1.0
    assert min(found.error for found in learned) < 0.1


@pytest.mark.parametrize("gamma", [*(pytest.param(gamma, marks=pytest.mark.slow) for gamma in GAMMAS[:-1]), GAMMAS[-1]])
@pytest.mark.parametrize("name", [name for name in WITH_CRITICS if not grows(name) and name != "SAC"])
def test_no_error_grows_elsewhere(name: str, gamma: float) -> None:
    # the critics of SAC-N err in different directions: their minimum is no maximum
    learned = [overestimated(name, gamma, seed) for seed in range(3)]
    assert max(abs(found.error) for found in learned) < 0.06
    if kind_of(name) != "CQL":  # which holds the value of the untried action down
        assert max(found.eps for found in learned) > 0.01


# --- random worlds and a grid ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVING)
def test_a_learner_of_values_nears_the_best_policy_among_the_logged_actions(name: str) -> None:
    gone = [improved(name, world).gone for world in WORLDS]
    if not KINDS[kind_of(name)].values.startswith("TD"):
        assert np.mean(gone) < 0.3
    elif takes_unlogged(name):
        assert np.mean(gone) < 0.5
    else:
        assert np.mean(gone) > WAY
        assert min(gone) > 0.5


@pytest.mark.parametrize("name", [name for name in names() if kind_of(name) in ("DQN", "SAC", "SACN")])
def test_naive_learners_end_below_the_behaviour_and_claim_more_than_can_be_had(name: str) -> None:
    learned = [improved(name, world) for world in RANDOM]
    assert np.mean([found.gone for found in learned]) < 0
    assert all(found.claimed > 1.1 for found in learned)


@pytest.mark.parametrize("name", SOLVING)
def test_who_keeps_to_the_log(name: str) -> None:
    unlogged = np.mean([improved(name, world).unlogged for world in WORLDS])
    if KINDS[kind_of(name)].constraint in (NOTHING, DISAGREEMENT):
        assert unlogged > 0.2
    else:
        assert unlogged < 0.01


# --- actions of two components ---------------------------------------------------------------------------------------


def test_an_action_of_two_components_is_learned_as_their_product() -> None:
    # What the components pay, and how often they are taken, cannot be told by either of them alone.
    run = {name: paired(name) for name in ("BC", "IQL", "AWAC")}
    obs = np.eye(16, dtype=np.float32)[:1]
    np.testing.assert_allclose(np.asarray(run["BC"].policy.probs(obs))[0], PAIRS, atol=0.04)
    for name in ("IQL", "AWAC"):
        best = np.asarray(run[name].policy.greedy().mode(obs))
        assert paired_log().schema.action_components(best).tolist() == [[1, 1]]


@pytest.mark.parametrize("world", [RANDOM[0], "grid"])
def test_closed_forms_find_the_best_policy_among_the_logged_actions(world: str) -> None:
    found = world_named(world)
    log = draw_log(found.mdp, found.behavior, 200, seed=0, gamma=GRID.gamma)
    obs = np.eye(found.mdp.num_states, dtype=np.float32)
    for algorithm in (st.VILCB(gamma=GRID.gamma), st.SPIBB(gamma=GRID.gamma, least_count=10)):
        probs = np.asarray(st.fit(algorithm, log, updates=0, progress=False).policy.probs(obs), float)
        assert found.way(found.value(probs / probs.sum(1, keepdims=True))) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4, 20))
def test_more_random_worlds(number: int) -> None:
    world = f"random {number}"
    gone = {name: improved(name, world).gone for name in WITHOUT_MEMORY}
    for name, share in gone.items():
        if KINDS[kind_of(name)].values.startswith("TD") and not takes_unlogged(name):
            assert share > 0.4, gone
    assert max(gone["BC"], gone["FilteredBC"], gone["AWR"]) < 0.4
