"""What every algorithm must do: settings, purity, masks, ends, seeds, and learning."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.data.sample import sample_transitions, transition_source
from stitchrl.data.transform import Scaling
from stitchrl.errors import ConfigurationError
from worlds import assert_trees_equal, bandit_log, random_log, schema_of, tiny_columns

SIZES = (16,)
ALL: dict[str, Algorithm] = {
    "BC": st.BC(learning_rate=1e-2, hidden_sizes=SIZES),
    "FilteredBC": st.FilteredBC(top_fraction=0.5, learning_rate=1e-2, hidden_sizes=SIZES),
    "IQL": st.IQL(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "CQL": st.CQL(gamma=0.9, cql_weight=0.1, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "DQN": st.DQN(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
}
WITH_CRITICS = ["IQL", "CQL", "DQN"]
SPEC = Spec(3, 3)
KEY = jax.random.key(0)


@pytest.fixture(params=ALL)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return ALL[request.param]


@pytest.fixture(params=WITH_CRITICS)
def critic(request: pytest.FixtureRequest) -> Algorithm:
    return ALL[request.param]


@cache
def updater(algorithm: Algorithm) -> Any:
    """The jitted update, compiled once a batch shape."""
    return jax.jit(algorithm.update)


@cache
def batch_of(rows: int = 8) -> dict[str, jax.Array]:
    """The first rows of a random log with masks: ends of both kinds and steps between."""
    source = transition_source(random_log(40), Scaling.identity(3))
    return dict(source.sample(source.arrays, jnp.arange(rows), jnp.int32(0)))


def fitted(algorithm: Algorithm, log: st.Dataset, seeds: Any = 1, **settings: Any) -> Any:
    settings = {"updates": 30, "batch_size": 64, "log_every_updates": 30} | settings
    return st.fit(algorithm, log, seeds=seeds, progress=False, **settings)


# --- settings ----------------------------------------------------------------

REFUSED = [
    (st.BC, "learning_rate", 0.0, "in (0, inf)"),
    (st.BC, "learning_rate", float("nan"), "in (0, inf)"),
    (st.BC, "learning_rate", float("inf"), "in (0, inf)"),
    (st.BC, "hidden_sizes", (16, 0), "at least 1"),
    (st.FilteredBC, "top_fraction", 0.0, "in (0, 1]"),
    (st.FilteredBC, "top_fraction", 1.5, "in (0, 1]"),
    (st.FilteredBC, "learning_rate", -1e-3, "in (0, inf)"),
    (st.IQL, "expectile", 1.5, "in (0, 1)"),
    (st.IQL, "expectile", 0.0, "in (0, 1)"),
    (st.IQL, "expectile", 1.0, "in (0, 1)"),
    (st.IQL, "inverse_temperature", -1.0, "in [0, inf)"),
    (st.IQL, "gamma", 1.1, "in [0, 1]"),
    (st.IQL, "target_rate", 0.0, "in (0, 1]"),
    (st.IQL, "num_critics", 0, "at least 1"),
    (st.IQL, "actor_decay_updates", -1, "in [0, inf)"),
    (st.CQL, "cql_weight", -0.5, "in [0, inf)"),
    (st.CQL, "cql_weight", float("inf"), "in [0, inf)"),
    (st.CQL, "gamma", -0.1, "in [0, 1]"),
    (st.CQL, "num_critics", -2, "at least 1"),
    (st.DQN, "target_rate", 1.1, "in (0, 1]"),
    (st.DQN, "hidden_sizes", (0,), "at least 1"),
]


@pytest.mark.parametrize(("kind", "name", "value", "rule"), REFUSED)
def test_settings_outside_their_range_are_refused(kind: Any, name: str, value: Any, rule: str) -> None:
    meaning = next(field.metadata["meaning"] for field in dataclasses.fields(kind) if field.name == name)
    with pytest.raises(ConfigurationError) as caught:
        kind(**{name: value})
    assert str(caught.value) == f"`{name}` of {kind.__name__} must be {rule}; got {value!r}. {meaning}"


@pytest.mark.parametrize(
    ("kind", "name", "value", "rule"),
    [
        (st.BC, "learning_rate", True, "in (0, inf)"),
        (st.BC, "hidden_sizes", (16, 2.5), "at least 1"),
        (st.BC, "hidden_sizes", "wide", "at least 1"),
        (st.IQL, "expectile", "0.7", "in (0, 1)"),
        (st.IQL, "gamma", None, "in [0, 1]"),
        (st.IQL, "num_critics", 1.5, "at least 1"),
    ],
)
def test_settings_of_another_kind_are_refused(kind: Any, name: str, value: Any, rule: str) -> None:
    # Set behind the constructor's back, where the suite's type checker would speak first.
    algorithm = kind()
    object.__setattr__(algorithm, name, value)
    with pytest.raises(ConfigurationError) as caught:
        algorithm.__post_init__()
    assert f"`{name}` of {kind.__name__} must be {rule}; got {value!r}. " in str(caught.value)


def test_the_message_of_the_design() -> None:
    with pytest.raises(ConfigurationError) as caught:
        st.IQL(expectile=1.5)
    assert str(caught.value).startswith("`expectile` of IQL must be in (0, 1); got 1.5. Larger is more optimistic")


def test_the_ends_of_closed_ranges_are_allowed() -> None:
    assert st.IQL(gamma=0.0, target_rate=1.0, inverse_temperature=0.0, num_critics=1).gamma == 0.0
    assert st.CQL(gamma=1.0, cql_weight=0.0).gamma == 1.0
    assert st.FilteredBC(top_fraction=1.0).top_fraction == 1.0


def test_every_setting_has_a_range_and_a_meaning(algorithm: Algorithm) -> None:
    for field in dataclasses.fields(algorithm):
        assert field.metadata["interval"]
        assert field.metadata["meaning"].endswith(".")


def test_settings_are_frozen(algorithm: Algorithm) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        algorithm.learning_rate = 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": -1}, "`updates` of fit must be at least 0; got -1"),
        ({"batch_size": 0}, "`batch_size` of fit must be at least 1; got 0"),
        ({"log_every_updates": 0}, "`log_every_updates` of fit must be at least 1; got 0"),
        ({"save_every_updates": 0}, "`save_every_updates` of fit must be at least 1; got 0"),
        ({"seeds": 0}, "`seeds` of fit must be at least 1; got 0"),
        ({"seeds": []}, "`seeds` of fit must be at least 1; got 0"),
        ({"reward_scale": 0.0}, "`reward_scale` of fit must be above 0; got 0.0"),
        ({"reward_scale": float("nan")}, "`reward_scale` of fit must be above 0; got nan"),
    ],
)
def test_fit_refuses_numbers_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fitted(ALL["BC"], random_log(4), **settings)


def test_fit_refuses_continuous_actions(algorithm: Algorithm) -> None:
    columns = tiny_columns() | {"action": np.zeros((6, 2), np.float32)}
    log = st.read(columns, schema_of(columns, num_actions=None))
    with pytest.raises(ConfigurationError, match=f"{algorithm.name} needs discrete actions"):
        fitted(algorithm, log)


# --- the contract ------------------------------------------------------------


def test_init_is_a_function_of_the_key(algorithm: Algorithm) -> None:
    first, again = algorithm.init(KEY, SPEC), algorithm.init(jax.random.key(0), SPEC)
    assert_trees_equal(first, again)
    other = algorithm.init(jax.random.key(1), SPEC)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in _pairs(first, other))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))


def test_update_is_pure_and_deterministic(algorithm: Algorithm) -> None:
    state, batch = algorithm.init(KEY, SPEC), batch_of()
    before = jax.tree.map(np.array, state), jax.tree.map(np.array, batch)
    first, metrics = updater(algorithm)(state, batch, KEY)
    again, metrics_again = updater(algorithm)(state, batch, KEY)
    assert_trees_equal(first, again)
    assert_trees_equal(metrics, metrics_again)
    assert_trees_equal((state, batch), jax.tree.map(jnp.asarray, before))
    assert jax.tree.structure(first) == jax.tree.structure(state)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in _pairs(state, first))
    for name, value in metrics.items():
        assert value.shape == (), name
        assert np.isfinite(float(value)), name


def test_needs_names_exactly_what_update_reads(algorithm: Algorithm) -> None:
    state, batch = algorithm.init(KEY, SPEC), batch_of()
    assert set(algorithm.needs) <= set(batch)
    assert len(set(algorithm.needs)) == len(algorithm.needs)
    needed = {name: batch[name] for name in algorithm.needs}
    jax.eval_shape(algorithm.update, state, needed, KEY)
    for name in algorithm.needs:
        with pytest.raises(KeyError, match=name):
            jax.eval_shape(algorithm.update, state, {key: needed[key] for key in needed if key != name}, KEY)


def test_a_batch_of_one(algorithm: Algorithm) -> None:
    state, metrics = updater(algorithm)(algorithm.init(KEY, SPEC), batch_of(1), KEY)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((state, metrics)))


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_constant_rewards_and_a_log_smaller_than_a_batch_stay_finite(algorithm: Algorithm, reward: float) -> None:
    log = random_log(12, constant_reward=reward)
    assert log.num_transitions < 64
    run = fitted(algorithm, log, updates=50, log_every_updates=50)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(run.states))
    assert all(np.isfinite(value) for row in run.history for value in row.values())
    probs = np.asarray(run.policy.probs(jnp.asarray(log.observation), action_mask=jnp.asarray(log.action_mask)))
    np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-5)


def test_no_updates_give_the_initial_state(algorithm: Algorithm) -> None:
    run = fitted(algorithm, random_log(12), seeds=[5], updates=0)
    expected = algorithm.init(jax.random.fold_in(jax.random.key(5), 0), SPEC)
    assert_trees_equal(run.states[0], expected)
    assert run.history == []


# --- masks and ends ----------------------------------------------------------


def raised(state: Any, field: str, action: int, by: float) -> Any:
    """The state with an action's output of one of its networks raised everywhere."""
    network = getattr(state, field)
    mlp = getattr(network, "members", network)
    last = mlp.biases[-1].at[..., action].add(jnp.float32(by))
    planted = dataclasses.replace(mlp, biases=(*mlp.biases[:-1], last))
    return state._replace(**{field: dataclasses.replace(network, members=planted) if mlp is not network else planted})


def _pairs(a: Any, b: Any) -> list[tuple[Any, Any]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def changes(algorithm: Algorithm, state: Any, first: dict, second: dict, *, other: Any = None) -> bool:
    """Whether the critics after one update differ between two batches (or two states)."""
    one, _ = updater(algorithm)(state, first, KEY)
    two, _ = updater(algorithm)(state if other is None else other, second, KEY)
    return any((np.asarray(a) != np.asarray(b)).any() for a, b in _pairs(one.critics, two.critics))


def test_the_policy_gives_masked_actions_nothing(algorithm: Algorithm) -> None:
    obs = batch_of()["obs"]
    field = "critics" if algorithm.name in ("CQL", "DQN") else "actor"
    state = raised(algorithm.init(KEY, SPEC), field, 2, 1e6)
    free = algorithm.policy(state)
    assert (np.asarray(free.mode(obs)) == 2).all()
    mask = jnp.broadcast_to(jnp.asarray([[True, True, False]]), (8, 3))
    for policy in (free, free.greedy()):
        assert (np.asarray(policy.probs(obs, action_mask=mask))[:, 2] == 0).all()
        assert (np.asarray(policy.mode(obs, action_mask=mask)) != 2).all()
        assert (np.asarray(policy.sample(obs, key=KEY, action_mask=mask)) != 2).all()


@pytest.mark.parametrize("name", ["CQL", "DQN"])
def test_the_target_ignores_a_huge_value_of_a_forbidden_next_action(name: str) -> None:
    algorithm = ALL[name]
    state = algorithm.init(KEY, SPEC)
    planted = raised(state, "target_critics", 2, 1e6)
    forbidden = batch_of() | {"next_action_mask": jnp.ones((8, 3), jnp.bool_).at[:, 2].set(False)}
    allowed = batch_of() | {"next_action_mask": jnp.ones((8, 3), jnp.bool_)}
    assert not changes(algorithm, state, forbidden, forbidden, other=planted)
    assert changes(algorithm, state, allowed, allowed, other=planted)


def test_the_target_of_iql_asks_for_no_next_action() -> None:
    algorithm = ALL["IQL"]
    state = algorithm.init(KEY, SPEC)
    assert "next_action_mask" not in algorithm.needs
    masked = batch_of() | {"next_action_mask": jnp.zeros((8, 3), jnp.bool_)}
    assert not changes(algorithm, state, batch_of(), masked)


@pytest.mark.parametrize("name", ["BC", "FilteredBC", "IQL", "CQL"])
def test_imitation_ignores_forbidden_actions(name: str) -> None:
    # A logit or value of an action the mask forbids gets no gradient: its bias does not move.
    algorithm = ALL[name]
    field = "critics" if algorithm.name == "CQL" else "actor"
    batch = batch_of() | {
        "action": jnp.zeros(8, jnp.int32),
        "action_mask": jnp.ones((8, 3), jnp.bool_).at[:, 2].set(False),
    }
    state = algorithm.init(KEY, SPEC)
    after, _ = updater(algorithm)(state, batch, KEY)
    old, new = (getattr(s, field) for s in (state, after))
    old, new = (np.asarray(getattr(net, "members", net).biases[-1]) for net in (old, new))
    np.testing.assert_array_equal(new[..., 2], old[..., 2])
    assert (new[..., 1] != old[..., 1]).all()


def test_a_terminal_row_does_not_bootstrap(critic: Algorithm) -> None:
    state, batch = critic.init(KEY, SPEC), batch_of()
    moved = {"next_obs": batch["next_obs"] * 100.0 + 7.0}
    ended = batch | {"terminated": jnp.ones(8, jnp.float32), "td_weight": jnp.ones(8, jnp.float32)}
    assert not changes(critic, state, ended, ended | moved)
    running = ended | {"terminated": jnp.zeros(8, jnp.float32)}
    assert changes(critic, state, running, running | moved)


def test_a_truncated_row_bootstraps(critic: Algorithm) -> None:
    state, batch = critic.init(KEY, SPEC), batch_of()
    cut = batch | {
        "truncated": jnp.ones(8, jnp.float32),
        "terminated": jnp.zeros(8, jnp.float32),
        "td_weight": jnp.ones(8, jnp.float32),
    }
    assert changes(critic, state, cut, cut | {"next_obs": batch["next_obs"] * 100.0 + 7.0})
    assert not changes(critic, state, cut, cut | {"truncated": jnp.zeros(8, jnp.float32)})


def test_rows_of_td_weight_zero_do_not_move_the_critics(critic: Algorithm) -> None:
    state, batch = critic.init(KEY, SPEC), batch_of()
    base = batch | {"terminated": jnp.zeros(8, jnp.float32)}
    row = 3
    wild = {
        "reward": base["reward"].at[row].set(jnp.float32(1e4)),
        "next_obs": base["next_obs"].at[row].set(jnp.float32(50.0)),
    }
    nothing = base | {"td_weight": jnp.ones(8, jnp.float32).at[row].set(jnp.float32(0))}
    assert not changes(critic, state, nothing, nothing | wild)
    everything = base | {"td_weight": jnp.ones(8, jnp.float32)}
    assert changes(critic, state, everything, everything | wild)


def test_without_any_target_critics_do_not_move_at_all() -> None:
    # CQL's penalty is no TD loss; at weight 0 here it would be DQN.
    for name in ("IQL", "DQN"):
        state = ALL[name].init(KEY, SPEC)
        after, _ = updater(ALL[name])(state, batch_of() | {"td_weight": jnp.zeros(8, jnp.float32)}, KEY)
        assert_trees_equal(after.critics, state.critics)


def test_the_actor_of_iql_sends_nothing_back_to_value_and_critics() -> None:
    # The advantage is a constant of the actor's loss: with or without it, the rest moves alike.
    algorithm = ALL["IQL"]
    state = algorithm.init(KEY, SPEC)
    other = state._replace(actor=algorithm.init(jax.random.key(9), SPEC).actor)
    one, two = (updater(algorithm)(s, batch_of(), KEY)[0] for s in (state, other))
    assert_trees_equal((one.value, one.critics, one.target_critics), (two.value, two.critics, two.target_critics))
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in _pairs(one.actor, two.actor))


def test_target_critics_move_their_share(critic: Algorithm) -> None:
    state = critic.init(KEY, SPEC)
    after, _ = updater(critic)(state, batch_of(), KEY)
    for old, slow, fast in zip(
        *map(jax.tree.leaves, (state.target_critics, after.target_critics, after.critics)), strict=True
    ):
        np.testing.assert_allclose(slow, 0.95 * old + 0.05 * fast, rtol=1e-5, atol=1e-7)


def test_batches_hold_what_the_log_says() -> None:
    log = random_log(40)
    source = transition_source(log, Scaling.identity(3, reward_scale=0.5))
    index = jnp.asarray([0, 5, 33, 2], jnp.int32)
    rows = np.asarray(index)
    batch = sample_transitions(source.arrays, index, jnp.int32(0))
    np.testing.assert_array_equal(batch["obs"], log.observation[rows])
    np.testing.assert_array_equal(batch["next_obs"], log.next_observation[rows])
    np.testing.assert_array_equal(batch["reward"], log.reward[rows] * np.float32(0.5))
    for name in ("action", "action_mask", "next_action_mask"):
        np.testing.assert_array_equal(batch[name], getattr(log, name)[rows], err_msg=name)
    for name, column in (
        ("terminated", "terminated"),
        ("truncated", "truncated"),
        ("td_weight", "can_bootstrap"),
    ):
        np.testing.assert_array_equal(batch[name], getattr(log, column)[rows].astype(np.float32), err_msg=name)
    assert source.count == log.num_transitions


def test_a_log_without_masks_allows_everything() -> None:
    source = transition_source(random_log(12, with_masks=False), Scaling.identity(3))
    batch = sample_transitions(source.arrays, jnp.arange(5), jnp.int32(0))
    assert batch["action_mask"].shape == (5, 3)
    assert np.asarray(batch["action_mask"]).all()
    assert np.asarray(batch["next_action_mask"]).all()


# --- seeds -------------------------------------------------------------------


def test_each_seed_trains_as_it_would_alone(algorithm: Algorithm) -> None:
    log = random_log(12)
    together = fitted(algorithm, log, seeds=[3, 1, 4])
    assert together.seeds == (3, 1, 4)
    for k, seed in enumerate([3, 1, 4]):
        alone = fitted(algorithm, log, seeds=[seed])
        assert_trees_equal(together.states[k], alone.states[0], rtol=1e-4, atol=1e-6)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in _pairs(together.states[0], together.states[1]))


def test_fitting_twice_is_bit_identical(algorithm: Algorithm) -> None:
    log = random_log(12)
    first, again = (fitted(algorithm, log, seeds=[3, 1, 4]) for _ in range(2))
    assert_trees_equal(first.states, again.states)
    assert first.history == again.history


def test_an_int_of_seeds_means_the_first_ones() -> None:
    run = fitted(ALL["BC"], random_log(12), seeds=3, updates=0)
    assert run.seeds == (0, 1, 2)
    assert len(run.policies) == 3


# --- learning ----------------------------------------------------------------


def outcomes(returns: list[float]) -> st.Dataset:
    """One-step episodes with these returns."""
    count = len(returns)
    columns = {
        "episode": np.arange(count),
        "observation": np.zeros((count, 1), np.float32),
        "action": np.arange(count) % 2,
        "reward": np.array(returns, np.float32),
        "terminated": np.ones(count, bool),
    }
    return st.read(columns, schema_of(columns, num_actions=2))


def test_filtered_bc_keeps_every_episode_tied_with_the_threshold() -> None:
    log = outcomes([0, 1, 0, 0, 1, 0, 1, 0, 0, 1])
    kept = st.FilteredBC(top_fraction=0.1).prepare(log)
    assert kept.episode_id.tolist() == [1, 4, 6, 9]
    assert st.FilteredBC(top_fraction=1.0).prepare(log).num_episodes == 10
    assert st.FilteredBC(top_fraction=0.1).prepare(outcomes([2.0] * 5)).num_episodes == 5


@pytest.mark.parametrize("top_fraction", [0.05, 0.1, 0.5])
def test_filtered_bc_keeps_the_share_asked_for_and_the_best(top_fraction: float) -> None:
    returns = np.random.default_rng(0).permutation(1000).astype(float)
    kept = st.FilteredBC(top_fraction=top_fraction).prepare(outcomes(returns.tolist()))
    assert 1000 * top_fraction <= kept.num_episodes <= 1000 * top_fraction + 1
    assert sorted(kept.reward.tolist()) == sorted(returns.tolist())[-kept.num_episodes :]


def test_filtered_bc_goes_by_the_return_of_whole_episodes() -> None:
    columns = {
        "episode": np.array([0, 0, 1]),
        "observation": np.zeros((3, 1), np.float32),
        "action": np.array([0, 1, 0]),
        "reward": np.array([2, 2, 3], np.float32),
        "terminated": np.array([False, True, True]),
    }
    kept = st.FilteredBC(top_fraction=0.01).prepare(st.read(columns).select_episodes([1, 0, 1, 1]))
    assert set(kept.episode_id.tolist()) >= {0}
    top = st.FilteredBC(top_fraction=0.01).prepare(st.read(columns).select_episodes([1, 0, 0]))
    assert top.episode_id.tolist() == [0, 0]


def test_other_algorithms_learn_from_the_whole_log() -> None:
    log = random_log(12)
    for name, algorithm in ALL.items():
        if name != "FilteredBC":
            assert algorithm.prepare(log) is log


STATE = jnp.ones((1, 1), jnp.float32)


def test_bc_learns_the_frequencies_of_a_bandit_log() -> None:
    log = bandit_log()
    run = fitted(ALL["BC"], log, updates=300, log_every_updates=300)
    share = np.bincount(log.action, minlength=2) / 500
    np.testing.assert_allclose(np.asarray(run.policy.probs(STATE))[0], share, atol=0.05)
    assert abs(share[0] - 0.7) < 0.05


def test_filtered_bc_learns_from_the_better_half_of_a_bandit_log() -> None:
    run = fitted(ALL["FilteredBC"], bandit_log(share=0.5), updates=300, log_every_updates=300)
    assert float(run.policy.probs(STATE)[0, 1]) > 0.85


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_value_learners_pick_the_better_and_rarer_action(name: str) -> None:
    run = fitted(ALL[name], bandit_log(), updates=300, log_every_updates=300)
    assert int(run.policy.greedy().mode(STATE)[0]) == 1
    value = run.values[0]
    assert value is not None
    claimed = np.asarray(value.q_all(STATE))[0]
    assert claimed[1] - claimed[0] > 0.3
    if name != "CQL":  # whose penalty shifts its values
        np.testing.assert_allclose(claimed, [0.2, 0.8], atol=0.1)


def test_a_heavy_conservative_weight_stays_with_what_the_log_did_often() -> None:
    heavy = dataclasses.replace(ALL["CQL"], cql_weight=10.0)
    run = fitted(heavy, bandit_log(), updates=300, log_every_updates=300)
    assert int(run.policy.mode(STATE)[0]) == 0
