"""What every algorithm must do, on discrete and on continuous actions; the cases are in support/algorithm_cases.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import (
    ALL,
    CASES,
    CRITICS,
    KEY,
    LEARNERS,
    Case,
    assert_finite,
    differ,
    fitted,
    last_bias,
    model,
    raised,
    rows_of,
    shifted,
    updated,
)
from learning_worlds import KINDS
from worlds import assert_trees_equal, random_log

import stitchrl as st
from stitchrl.algorithms.base import Step
from stitchrl.checking.subject import acts, small_log
from stitchrl.data.scaling import Scaling
from stitchrl.nn.memory import MemoryPolicy, nothing_yet
from stitchrl.testing import check_algorithm

RELATIVES = {
    "COMBO continuous", "EDAC continuous", "SAC discrete", "SAC continuous", "TD3 continuous", "DDPG continuous", "EQL discrete",
    "EQL continuous", "AdvantageBC discrete", "AdvantageBC continuous", "DecisionTransformer continuous", "QChunking continuous",
    "BEAR continuous", "AWAC discrete", "BCQIQL discrete", "XQL discrete", "SQL continuous", "XQL continuous",
    "FilteredBC discrete", "FilteredBC continuous",
}  # fmt: skip
"""Cases that share their update with one in the default suite: MOPO, SACN, TD3BC, SQL, AWR, DecisionTransformer discrete, FQL,
BCQ, AWAC continuous, BC."""


def usual(names: Iterable[str]) -> list[Any]:
    """The cases as parameters, the relatives slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in RELATIVES else name for name in names]


@pytest.fixture(params=usual(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=usual(LEARNERS))
def learner(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=usual(CRITICS))
def critic(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_every_registered_algorithm_is_covered_on_every_kind_of_action() -> None:
    assert set(ALL) == set(st.ALGORITHMS)
    assert set(CASES) == {f"{name} {kind}" for name in st.ALGORITHMS for kind in getattr(st, name).actions}
    assert {name.split()[0] for name in LEARNERS} == set(METRICS)


ALWAYS_CHECKED = ("IQL discrete", "BC continuous")
"""One with V and critics, and one of each kind of action; each case has all other tests of this file."""


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS_CHECKED else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_it_passes_the_check_that_people_run_on_their_own(name: str) -> None:
    check_algorithm(CASES[name].algorithm, kinds=[CASES[name].kind])


# --- the contract ----------------------------------------------------------------------------------------------------


def test_init_depends_on_the_key(learner: Case) -> None:
    assert_trees_equal(learner.state(), learner.algorithm.init(jax.random.key(0), learner.spec, learner.given))
    assert differ(learner.state(), learner.state(1))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(learner.state()))


def test_states_hold_single_precision_numbers_and_counts(learner: Case) -> None:
    assert {leaf.dtype for leaf in jax.tree.leaves(learner.state())} <= {jnp.dtype("float32"), jnp.dtype("int32")}


def test_target_networks_start_as_copies(critic: Case) -> None:
    state = critic.state()
    targets = [name for name in state._fields if name.startswith("target_")]
    assert targets
    for name in targets:
        assert_trees_equal(model(state, name), model(state, name.removeprefix("target_")))
        assert not any(  # donated buffers: a copy, not the same array
            one is two
            for one, two in zip(*map(jax.tree.leaves, (model(state, name), model(state, name[7:]))), strict=True)
        )


def test_only_sampling_algorithms_depend_on_the_key(learner: Case) -> None:
    state, batch = learner.state(), learner.batch()
    one, two = (learner.update(state, batch, jax.random.key(k))[0] for k in (0, 1))
    draws_actions = learner.kind == "continuous" and learner.name in SAMPLING
    assert differ(one, two) == (draws_actions or learner.name == "AdvantageBC")  # which draws who is told


SAMPLING = (
    "AWAC", "CQL", "TD3BC", "ReBRAC", "SACN", "EDAC", "SAC", "TD3", "BCQ", "BEAR", "FQL", "IDQL", "QChunking", "MOPO", "COMBO",
)  # fmt: skip
"""Those that draw actions while they learn, which only continuous ones are."""
IMITATION = {
    "discrete": {"loss/actor", "policy/agreement", "policy/entropy"},
    "continuous": {"loss/actor", "policy/mode_error", "policy/entropy"},
}
Q_LEARNING = {"loss/critic", "q/data_mean"}
SOFT = {kind: names | Q_LEARNING | {"q/spread", "q/policy_mean", "temperature"} for kind, names in IMITATION.items()}
MODEL = {"model/change_error", "model/reward_error", "model/reward", "model/penalty", "model/ends"}
METRICS = {
    "BC": IMITATION,
    "FilteredBC": IMITATION,
    "IQL": {
        kind: names
        | Q_LEARNING
        | {"loss/value", "v/mean", "adv/mean", "weight/mean", "weight/effective_share", "weight/clipped"}
        for kind, names in IMITATION.items()
    },
    **{
        name: {
            kind: names
            | Q_LEARNING
            | {"loss/value", "v/mean", "adv/mean", "weight/mean", "weight/effective_share", "weight/clipped"}
            | more
            for kind, names in IMITATION.items()
        }
        for name, more in (("SQL", {"weight/zero"}), ("EQL", set[str]()), ("XQL", set[str]()))
    },
    "AWAC": {
        kind: names | Q_LEARNING | {"v/mean", "adv/mean", "weight/mean", "weight/effective_share", "weight/largest"}
        for kind, names in IMITATION.items()
    },
    "CQL": {
        "discrete": Q_LEARNING | {"loss/cql", "q/gap", "policy/agreement"},
        "continuous": Q_LEARNING
        | {"loss/cql", "loss/actor", "q/policy_mean", "policy/entropy", "policy/mode_error", "temperature"}
        | {"cql/multiplier"},
    },
    "BCQ": {
        "discrete": Q_LEARNING | {"loss/behavior", "policy/agreement", "behavior/likely"},
        "continuous": Q_LEARNING | {"loss/behavior", "loss/actor", "q/policy_mean", "behavior/error"},
    },
    "BEAR": {
        "continuous": Q_LEARNING
        | {"loss/behavior", "loss/actor", "q/policy_mean", "behavior/error", "mmd/mean", "mmd/multiplier"},
    },
    "BCQIQL": {
        "discrete": Q_LEARNING
        | {"loss/behavior", "loss/value", "v/mean", "adv/mean", "policy/agreement", "behavior/likely"}
    },
    **{
        name: {"continuous": Q_LEARNING | {"loss/actor", "q/policy_mean", "policy/mode_error"}}
        for name in ("TD3BC", "TD3", "DDPG")
    },
    "ReBRAC": {"continuous": Q_LEARNING | {"bc/next", "loss/actor", "q/policy_mean", "policy/mode_error"}},
    "FQL": {"continuous": Q_LEARNING | {"loss/behavior", "loss/actor", "q/policy_mean", "policy/flow_error"}},
    "QChunking": {
        "continuous": Q_LEARNING
        | {"loss/behavior", "loss/actor", "q/policy_mean", "policy/flow_error", "chunk/targets"},
    },
    "IDQL": {"continuous": Q_LEARNING | {"loss/value", "loss/actor", "v/mean", "adv/mean"}},
    "MOPO": {"continuous": SOFT["continuous"] | MODEL},
    "COMBO": {"continuous": SOFT["continuous"] | MODEL | {"loss/cql"}},
    "SACN": SOFT,
    "SAC": SOFT,
    "EDAC": {"continuous": SOFT["continuous"] | {"loss/diversity"}},
    "DQN": {"discrete": Q_LEARNING | {"q/next_max_mean", "policy/agreement"}},
    "AWR": {
        kind: names
        | {"loss/value", "v/mean", "adv/mean", "adv/std", "weight/mean", "weight/effective_share", "weight/clipped"}
        for kind, names in IMITATION.items()
    },
    "DecisionTransformer": {
        "discrete": IMITATION["discrete"],
        "continuous": {"loss/actor", "policy/mode_error"},
    },
    "AdvantageBC": {kind: names | {"loss/value", "v/mean", "adv/mean", "bit/on"} for kind, names in IMITATION.items()},
}
"""What the docstring of each says that it measures; a new algorithm is added here."""


def test_metrics_are_those_that_are_documented(learner: Case) -> None:
    state = learner.state()
    for update in range(3):
        state, metrics = learner.update(state, learner.batch(), jax.random.key(update), update=update)
        assert set(metrics) == METRICS[learner.name][learner.kind]
        assert all(value.dtype == jnp.float32 for value in metrics.values())
        assert_finite(metrics)


def test_a_batch_of_one(learner: Case) -> None:
    # Shapes only, which the suite checks at every call; the updates by hand are of one row, with numbers.
    one = {name: field[:1] for name, field in learner.batch().items()}
    step = Step(jnp.int32(1), jnp.int32(100))
    after, _ = jax.eval_shape(learner.algorithm.update, learner.state(), one, learner.given, KEY, step)
    assert jax.tree.structure(after) == jax.tree.structure(learner.state())


FITTED = ("BC discrete", "IQL continuous")
"""Cases that the default suite takes through `fit` on such a log too: of the others it makes the updates alone."""


@pytest.mark.parametrize("name", usual(CASES))
def test_updates_from_constant_rewards_stay_finite(name: str) -> None:
    case = CASES[name]
    log = small_log(case.kind, reward=0.0)
    ready = case.algorithm.prepare(log, Scaling.of(log, standardize=False), key=KEY)
    given = jax.tree.map(jnp.asarray, ready.given)
    state, seen = case.algorithm.init(KEY, case.spec, given), []
    if not case.algorithm.closed_form:
        batch = rows_of(case.algorithm, ready, log)
        for number in range(50):
            state, metrics = updated(case.algorithm, state, batch, given, jax.random.key(number), number)
            seen.append(metrics)
    assert_finite((state, seen))
    assert_acts(case, case.algorithm.policy(state, given), log)


@pytest.mark.parametrize(
    ("name", "reward"),
    [
        pytest.param(name, reward, marks=[pytest.mark.slow] if reward or name not in FITTED else [])
        for name in CASES
        for reward in (0.0, 1.0)
    ],
)
def test_constant_rewards_and_a_log_smaller_than_a_batch_stay_finite(name: str, reward: float) -> None:
    case = CASES[name]
    log = small_log(case.kind, reward=reward)
    assert log.num_transitions < 64
    run = fitted(case.algorithm, log, updates=50, log_every_updates=50)
    assert_finite(run.states)
    assert all(np.isfinite(value) for row in run.history for value in row.values())
    assert_acts(case, run.policy, log)


def assert_acts(case: Case, policy: Any, log: st.Dataset) -> None:
    """The policy gives probabilities, or actions within the bounds that have a density where any have."""
    obs = jnp.asarray(log.observation)
    if case.algorithm.has_memory:
        assert_finite(acts(policy, log))
    elif case.kind == "discrete":
        probs = np.asarray(policy.probs(obs, action_mask=jnp.asarray(log.action_mask)))
        np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-5)
    else:
        if isinstance(policy, MemoryPolicy):
            action = policy.step(policy.initial_carry(len(obs)), obs, *nothing_yet(policy, len(obs)))[0]
        else:
            action = policy.mode(obs)
        assert (np.abs(np.asarray(action)) <= 1.0).all()
        if policy.has_density:
            assert_finite(policy.log_prob(obs, jnp.asarray(log.action)))


def test_values_are_there_where_there_are_critics(case: Case) -> None:
    obs, action = case.batch()["obs"], case.batch()["action"]
    value = case.algorithm.value(case.state(), case.given)
    assert (value is None) == (not case.algorithm.has_critics)
    if value is not None:
        assert value.q(obs, action).shape == value.v(obs).shape == (8,)
        assert_finite((value.q(obs, action), value.v(obs)))


@pytest.mark.parametrize(
    "name", [name if name in FITTED else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_no_updates_give_the_initial_state(name: str) -> None:
    case = CASES[name]
    run = fitted(case.algorithm, small_log(case.kind), seeds=[5], updates=0)
    expected = case.algorithm.init(jax.random.fold_in(jax.random.key(5), 0), case.spec, run.given)
    assert_trees_equal(run.states[0], expected, rtol=1e-6, atol=1e-7)
    assert run.history == []


def test_an_int_of_seeds_means_the_first_ones() -> None:
    run = fitted(ALL["BC"], small_log(), seeds=3, updates=0)
    assert run.seeds == (0, 1, 2)
    assert len(run.policies) == 3
    assert differ(run.states[0], run.states[1])


def test_by_default_an_algorithm_learns_from_the_whole_log() -> None:
    log = random_log(12)
    for name in ("BC", "IQL", "CQL", "DQN"):
        ready = ALL[name].prepare(log, Scaling.of(log), key=KEY)
        assert ready.log is log
        assert dict(ready.columns) == {}
        assert ready.given is None


# --- masks and ends --------------------------------------------------------------------------------------------------


def changes(case: Case, first: Any, second: Any, *, state: Any = None, other: Any = None) -> bool:
    """Whether the critics after one update differ between two batches (or two states)."""
    state = case.state() if state is None else state
    one, _ = case.update(state, first)
    two, _ = case.update(state if other is None else other, second)
    return differ(one.critics, two.critics)


def td_part(case: Case) -> Case:
    """The case without CQL's penalty, for which continuous actions are also drawn from the policy at the next state."""
    return case.with_settings(cql_weight=0.0) if case.name in ("CQL", "COMBO") else case


@pytest.mark.parametrize(
    "name", [name for name in LEARNERS if CASES[name].kind == "discrete" and not CASES[name].algorithm.has_memory]
)
def test_the_policy_gives_masked_actions_nothing(name: str) -> None:
    # However much it prefers them.
    case = CASES[name]
    obs, field = case.batch()["obs"], "actor" if hasattr(case.state(), "actor") else "critics"
    free = case.algorithm.policy(raised(case.state(), field, 2, 1e6), case.given)
    assert (np.asarray(free.mode(obs)) == 2).all()
    mask = jnp.broadcast_to(jnp.asarray([[True, True, False]]), (8, 3))
    for policy in (free, free.greedy()):
        assert (np.asarray(policy.probs(obs, action_mask=mask))[:, 2] == 0).all()
        assert (np.asarray(policy.mode(obs, action_mask=mask)) != 2).all()
        assert (np.asarray(policy.sample(obs, key=KEY, action_mask=mask)) != 2).all()


@pytest.mark.parametrize("name", ["AWAC discrete", "CQL discrete", "DQN discrete", "BCQ discrete"])
def test_the_target_ignores_a_huge_value_of_a_forbidden_next_action(name: str) -> None:
    case = CASES[name]
    planted = raised(case.state(), "target_critics", 2, 1e6)
    allowed = case.batch(next_action_mask=jnp.ones((8, 3), jnp.bool_))
    forbidden = allowed | {"next_action_mask": allowed["next_action_mask"].at[:, 2].set(False)}
    assert not changes(case, forbidden, forbidden, other=planted)
    assert changes(case, allowed, allowed, other=planted)


@pytest.mark.parametrize(
    "name",
    [
        "BC discrete",
        "FilteredBC discrete",
        "AdvantageBC discrete",
        "IQL discrete",
        "SQL discrete",
        "AWAC discrete",
        "CQL discrete",
        "BCQ discrete",
        "BCQIQL discrete",
    ],
)
def test_imitation_ignores_forbidden_actions(name: str) -> None:
    # A logit or value of an action the mask forbids gets no gradient: its bias does not move.
    case = CASES[name]
    field = {"CQL": "critics", "BCQ": "behavior", "BCQIQL": "behavior"}.get(case.name, "actor")
    batch = case.batch(
        action=jnp.zeros(8, jnp.int32), action_mask=jnp.ones((8, 3), jnp.bool_).at[:, 2].set(False), td_weight=1.0
    )
    after, _ = case.update(case.state(), batch)
    old, new = (np.asarray(last_bias(s, field)) for s in (case.state(), after))
    np.testing.assert_array_equal(new[..., 2], old[..., 2])
    assert (new[..., 1] != old[..., 1]).all()


@pytest.mark.parametrize("name", [name for name in CRITICS if CASES[name].kind == "discrete"])
def test_which_actions_targets_ask_for(name: str) -> None:
    # Where all logged actions are 0, does a huge Q of action 2 reach the critics? Some only ask for it where it is likely.
    case, asks = CASES[name], KINDS[name.split()[0]].asks
    batch = case.batch(action=jnp.zeros(8, jnp.int32), terminated=0.0, td_weight=1.0)
    batch |= {f: jnp.ones((8, 3), jnp.bool_) for f in ("action_mask", "next_action_mask")}

    def reached(unlikely: str | None) -> bool:
        state = case.state() if unlikely is None else raised(case.state(), unlikely, 2, -1e4)
        critics = [case.update(s, batch)[0].critics for s in (state, raised(state, "target_critics", 2, 50.0))]
        return differ(*critics)

    assert reached(None) == (asks != "none")
    if asks in ("likely", "the policy's"):
        assert not reached("behavior" if asks == "likely" else "actor")


def test_a_terminal_row_does_not_bootstrap(critic: Case) -> None:
    ended = critic.batch(terminated=1.0, td_weight=1.0)
    moved = {"next_obs": ended["next_obs"] * 100.0 + 7.0}
    assert not changes(td_part(critic), ended, ended | moved)
    losses = [critic.update(critic.state(), b)[1]["loss/critic"] for b in (ended, ended | moved)]
    assert float(losses[0]) == float(losses[1])
    running = critic.batch(terminated=0.0, td_weight=1.0)
    assert changes(td_part(critic), running, running | moved)


def test_a_truncated_row_bootstraps(critic: Case) -> None:
    cut = critic.batch(truncated=1.0, terminated=0.0, td_weight=1.0)
    assert changes(td_part(critic), cut, cut | {"next_obs": cut["next_obs"] * 100.0 + 7.0})
    assert not changes(critic, cut, cut | {"truncated": jnp.zeros(8, jnp.float32)})


def test_rows_of_td_weight_zero_do_not_move_the_critics(critic: Case) -> None:
    everything = critic.batch(terminated=0.0, td_weight=1.0)
    # The other way from the wild one: a clipped error knows the sign alone.
    everything |= {"reward": everything["reward"].at[3].set(jnp.float32(-1e4))}
    wild = {
        "reward": everything["reward"].at[3].set(jnp.float32(1e4)),
        "next_obs": everything["next_obs"].at[3].set(jnp.float32(50.0)),
    }
    nothing = everything | {"td_weight": everything["td_weight"].at[3].set(jnp.float32(0))}
    assert not changes(critic, nothing, nothing | wild)
    assert changes(critic, everything, everything | wild)


def test_without_any_target_critics_do_not_move_at_all(critic: Case) -> None:
    after, _ = critic.update(critic.state(), critic.batch(td_weight=0.0))
    assert_trees_equal(model(after, "critics"), model(critic.state(), "critics"))


@pytest.mark.parametrize(
    "name", [name for name in CRITICS if name.split()[0] not in ("DQN", "DDPG", "BCQ", "BEAR", "FQL", "QChunking")]
)
def test_the_smaller_target_critic_counts(name: str) -> None:
    # Far above the first, the second is not heard; far below, it alone is.
    case = CASES[name]

    def after(by: float) -> Any:
        state, _ = case.update(shifted(case.state(), "target_critics", by), case.batch(terminated=0.0))
        return state._replace(target_critics=None)

    assert_trees_equal(after(50.0), after(60.0))
    assert differ(after(-50.0).critics, after(50.0).critics)


def test_targets_move_their_share(critic: Case) -> None:
    state = critic.state()
    after, _ = critic.update(state, critic.batch())
    targets = [name for name in state._fields if name.startswith("target_")]
    assert "target_critics" in targets
    for name in targets:
        old, slow, fast = model(state, name), model(after, name), model(after, name.removeprefix("target_"))
        for a, b, c in zip(*map(jax.tree.leaves, (old, slow, fast)), strict=True):
            np.testing.assert_allclose(b, 0.95 * a + 0.05 * c, rtol=1e-5, atol=1e-7)
        assert differ(old, slow)
