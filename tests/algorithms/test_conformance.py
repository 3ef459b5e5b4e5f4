"""What every algorithm must do, on discrete and on continuous actions: settings, purity, masks, ends, seeds, learning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from worlds import (
    assert_trees_equal,
    bandit_log,
    continuous_bandit_log,
    random_continuous_log,
    random_log,
    schema_of,
)

import stitchrl as st
from stitchrl.algorithms import cql
from stitchrl.algorithms.base import Algorithm, Spec
from stitchrl.algorithms.optimizers import apply_gradients
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.feeds.batches import sample_transitions
from stitchrl.feeds.feed import transition_source
from stitchrl.nn.continuous_policy import DeterministicPolicy, GaussianPolicy, SquashedGaussianPolicy
from stitchrl.nn.critics import ContinuousCritics, DiscreteCritics
from stitchrl.nn.networks import MLP, Ensemble
from stitchrl.nn.policy import CategoricalPolicy
from stitchrl.training.compilation import enable_compilation_cache

SIZES = (16,)
ALL: dict[str, Algorithm] = {
    "BC": st.BC(learning_rate=1e-2, hidden_sizes=SIZES),
    "FilteredBC": st.FilteredBC(top_fraction=0.5, learning_rate=1e-2, hidden_sizes=SIZES),
    "IQL": st.IQL(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "CQL": st.CQL(
        gamma=0.9, cql_weight=0.1, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES,
        actor_learning_rate=1e-2, samples=3,
    ),
    "TD3BC": st.TD3BC(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "DQN": st.DQN(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
}  # fmt: skip
WITH_CRITICS = ["IQL", "CQL", "TD3BC", "DQN"]
SPECS = {"discrete": Spec(3, 3), "continuous": Spec(3, None, 2)}
LOGS: dict[str, Callable[..., st.Dataset]] = {"discrete": random_log, "continuous": random_continuous_log}
MASKS = {"action_mask", "next_action_mask"}
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Case:
    """An algorithm on one kind of action."""

    algorithm: Algorithm
    kind: str

    @property
    def spec(self) -> Spec:
        return SPECS[self.kind]

    def log(self, episodes: int = 12, **settings: Any) -> st.Dataset:
        return LOGS[self.kind](episodes, **settings)

    def state(self) -> Any:
        return fresh(self.algorithm, self.kind)

    def update(self, state: Any, batch: dict[str, jax.Array], key: jax.Array = KEY) -> Any:
        inputs = {name: jnp.float32(getattr(self.algorithm, name)) for name in self.algorithm.input_settings()}
        return updater(self.algorithm.structure())(inputs, state, batch, key)

    def with_settings(self, **settings: Any) -> Case:
        return Case(dataclasses.replace(self.algorithm, **settings), self.kind)


CASES = {f"{name} {kind}": Case(algorithm, kind) for name, algorithm in ALL.items() for kind in algorithm.actions}
CRITIC_CASES = [name for name in CASES if name.split()[0] in WITH_CRITICS]


@pytest.fixture(params=ALL)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return ALL[request.param]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=CRITIC_CASES)
def critic(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@cache
def updater(structure: Algorithm) -> Any:
    """(inputs, state, batch, key) -> the update, compiled once a batch shape, as the loop compiles it."""
    enable_compilation_cache()
    return jax.jit(lambda inputs, *rest: structure.with_inputs(inputs).update(*rest))


@cache
def fresh(algorithm: Algorithm, kind: str) -> Any:
    return algorithm.init(KEY, SPECS[kind])


@cache
def _batch(kind: str, rows: int) -> dict[str, jax.Array]:
    source = transition_source(LOGS[kind](40), Scaling.of(LOGS[kind](40), standardize=False))
    return dict(source.sample(source.arrays, jnp.arange(rows), jnp.int32(0)))


def batch_of(kind: str = "discrete", rows: int = 8, update: int = 1) -> dict[str, jax.Array]:
    """The first rows of a random log (with masks where discrete): ends of both kinds and steps between.

    Of update 1, that is the second, which is one of those where TD3+BC also updates its actor and targets.
    """
    return _batch(kind, rows) | {"update": jnp.int32(update)}


def fitted(algorithm: Algorithm, log: st.Dataset, seeds: Any = 1, **settings: Any) -> Any:
    settings = {"updates": 30, "batch_size": 64, "log_every_updates": 30} | settings
    return st.fit(algorithm, log, seeds=seeds, progress=False, **settings)


def differ(a: Any, b: Any) -> bool:
    """Whether any leaf differs in any bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any((np.asarray(x) != np.asarray(y)).any() for x, y in pairs)


def largest_step(before: Any, after: Any) -> float:
    """The largest change of any number."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return max(float(np.abs(np.asarray(b, float) - np.asarray(a, float)).max()) for a, b in pairs)


def assert_finite(tree: Any) -> None:
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def test_both_kinds_of_action_are_covered() -> None:
    assert set(CASES) == {
        "BC discrete", "FilteredBC discrete", "IQL discrete", "CQL discrete", "DQN discrete",
        "BC continuous", "FilteredBC continuous", "IQL continuous", "CQL continuous", "TD3BC continuous",
    }  # fmt: skip


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
    (st.IQL, "actor_decay_updates", -1, "at least 0"),
    (st.CQL, "cql_weight", -0.5, "in [0, inf)"),
    (st.CQL, "cql_weight", float("inf"), "in [0, inf)"),
    (st.CQL, "gamma", -0.1, "in [0, 1]"),
    (st.CQL, "num_critics", -2, "at least 1"),
    (st.CQL, "samples", 0, "at least 1"),
    (st.CQL, "lagrange_gap", -1.0, "in [0, inf)"),
    (st.CQL, "lagrange_gap", float("nan"), "in [0, inf)"),
    (st.CQL, "actor_learning_rate", 0.0, "in (0, inf)"),
    (st.TD3BC, "q_weight", -0.1, "in [0, inf)"),
    (st.TD3BC, "q_weight", float("inf"), "in [0, inf)"),
    (st.TD3BC, "target_noise", -0.2, "in [0, inf)"),
    (st.TD3BC, "noise_clip", -0.5, "in [0, inf)"),
    (st.TD3BC, "actor_every_updates", 0, "at least 1"),
    (st.TD3BC, "target_rate", 0.0, "in (0, 1]"),
    (st.TD3BC, "gamma", 1.5, "in [0, 1]"),
    (st.TD3BC, "num_critics", 0, "at least 1"),
    (st.DQN, "target_rate", 1.1, "in (0, 1]"),
    (st.DQN, "hidden_sizes", (0,), "at least 1"),
]
REFUSED += [
    (type(algorithm), name, value, rule)
    for algorithm in ALL.values()
    for name, value, rule in (
        ("max_gradient_norm", -1.0, "in [0, inf)"),
        ("max_gradient_norm", float("inf"), "in [0, inf)"),
        ("warmup_updates", -1, "at least 0"),
        ("decay_updates", -5, "at least 0"),
    )
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
        (st.BC, "warmup_updates", 10.0, "at least 0"),
        (st.BC, "decay_updates", True, "at least 0"),
        (st.CQL, "samples", 2.5, "at least 1"),
        (st.TD3BC, "actor_every_updates", "2", "at least 1"),
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
    assert st.CQL(lagrange_gap=0.0, samples=1).samples == 1
    assert st.TD3BC(q_weight=0.0, target_noise=0.0, noise_clip=0.0, actor_every_updates=1).q_weight == 0.0
    assert st.BC(max_gradient_norm=0.0, warmup_updates=0, decay_updates=0).decay_updates == 0


def test_every_setting_has_a_range_and_a_meaning(algorithm: Algorithm) -> None:
    for field in dataclasses.fields(algorithm):
        assert field.metadata.get("interval") or field.default in field.metadata["choices"]
        assert field.metadata["meaning"].endswith(".")


def test_settings_of_every_algorithm_are_keywords_after_its_own(algorithm: Algorithm) -> None:
    # A first positional setting is the algorithm's own, not the optimiser's.
    shared = {"max_gradient_norm", "warmup_updates", "decay_updates"}
    assert shared <= {field.name for field in dataclasses.fields(algorithm) if field.kw_only}
    assert not any(field.kw_only for field in dataclasses.fields(algorithm) if field.name in ("gamma", "learning_rate"))


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
        ({"reward_scale": 0.0}, "`reward_scale` of fit must be above 0 and finite; got 0.0"),
        ({"reward_scale": float("nan")}, "`reward_scale` of fit must be above 0 and finite; got nan"),
        ({"reward_scale": float("inf")}, "`reward_scale` of fit must be above 0 and finite; got inf"),
    ],
)
def test_fit_refuses_numbers_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fitted(ALL["BC"], random_log(4), **settings)


@pytest.mark.parametrize(("name", "kind"), [("DQN", "continuous"), ("TD3BC", "discrete")])
def test_fit_refuses_the_wrong_kind_of_action(name: str, kind: str) -> None:
    other = "continuous" if kind == "discrete" else "discrete"
    with pytest.raises(ConfigurationError) as caught:
        fitted(ALL[name], LOGS[kind](4))
    assert str(caught.value) == f"{name} learns from {other} actions; this log's are {kind}."
    with pytest.raises(ConfigurationError, match=f"needs {other} actions; the log's are {kind}"):
        ALL[name].init(KEY, SPECS[kind])


# --- settings as inputs of a program -----------------------------------------

INPUTS = {
    "BC": {"learning_rate"},
    "FilteredBC": {"learning_rate"},
    "IQL": {"gamma", "expectile", "inverse_temperature", "learning_rate", "target_rate"},
    "CQL": {"gamma", "cql_weight", "learning_rate", "target_rate", "actor_learning_rate"},
    "TD3BC": {"gamma", "q_weight", "target_noise", "noise_clip", "learning_rate", "target_rate"},
    "DQN": {"gamma", "learning_rate", "target_rate"},
}


def test_input_settings_are_the_numbers(algorithm: Algorithm) -> None:
    names = algorithm.input_settings()
    assert set(names) == INPUTS[algorithm.name]
    assert len(set(names)) == len(names)
    assert all(isinstance(getattr(algorithm, name), float) for name in names)


def test_algorithms_that_differ_only_in_inputs_have_one_structure(algorithm: Algorithm) -> None:
    inputs = {name: 0.5 * getattr(algorithm, name) for name in algorithm.input_settings()}
    other = dataclasses.replace(algorithm, **inputs)
    assert other != algorithm
    assert other.structure() == algorithm.structure()
    assert hash(other.structure()) == hash(algorithm.structure())
    assert algorithm.structure().structure() == algorithm.structure()
    # Each of the rest is built into the program.
    for name, value in (
        ("hidden_sizes", (4, 4)),
        ("max_gradient_norm", 1.0),
        ("warmup_updates", 3),
        ("decay_updates", 7),
        ("num_critics", 3),
        ("actor_decay_updates", 5),
        ("samples", 2),
        ("lagrange_gap", 5.0),
        ("actor_every_updates", 3),
    ):
        if hasattr(algorithm, name):
            assert dataclasses.replace(algorithm, **{name: value}).structure() != algorithm.structure(), name


def test_with_inputs_is_another_algorithm_unchecked() -> None:
    algorithm = ALL["IQL"]
    changed = algorithm.with_inputs({"gamma": 0.5, "expectile": 7.0})
    assert (changed.gamma, changed.expectile, changed.learning_rate) == (0.5, 7.0, 1e-2)
    assert (algorithm.gamma, algorithm.expectile) == (0.9, 0.7)
    assert type(changed) is st.IQL
    assert algorithm.with_inputs({"gamma": 0.5}) == dataclasses.replace(algorithm, gamma=0.5)
    assert algorithm.structure() == st.IQL(hidden_sizes=SIZES)


@pytest.mark.parametrize("name", ["IQL discrete", "TD3BC continuous"])
def test_inputs_traced_are_inputs_built_in(name: str) -> None:
    # All tests here give number settings to one program as arguments; built into another they mean the same.
    case = CASES[name]
    found = jax.jit(case.algorithm.update)(case.state(), batch_of(case.kind), KEY)
    assert_trees_equal(case.update(case.state(), batch_of(case.kind)), found, rtol=1e-3, atol=1e-5)


# --- the optimiser -----------------------------------------------------------


def steps_of(optimizer: optax.GradientTransformation, gradients: Any) -> np.ndarray:
    """The change of a parameter of two numbers at each of these gradients."""
    apply = jax.jit(lambda gradient, state, w: apply_gradients(optimizer, gradient, state, w))
    w = jnp.zeros(2, jnp.float32)
    state, path = optimizer.init(w), [np.zeros(2)]
    for gradient in gradients:
        w, state = apply(jnp.asarray(gradient, jnp.float32), state, w)
        path.append(np.asarray(w, float))
    return np.diff(path, axis=0)


def adam_by_hand(gradients: Any, rates: Any) -> np.ndarray:
    m, v, steps = np.zeros(2), np.zeros(2), []
    for t, (gradient, rate) in enumerate(zip(np.asarray(gradients, float), rates, strict=True), 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        steps.append(-rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return np.array(steps)


HALF = 0.5 * math.sqrt(0.5)


@pytest.mark.parametrize(
    ("settings", "decay", "shares"),
    [
        # Under a constant gradient every step of Adam is the step size, against the gradient's sign.
        ({}, None, [1, 1, 1, 1, 1, 1]),
        ({"warmup_updates": 4}, None, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"warmup_updates": 1}, None, [1, 1, 1, 1, 1, 1]),
        # (1 + cos(pi k / 4)) / 2, then 0 for good.
        ({"decay_updates": 4}, None, [1, 0.5 + HALF, 0.5, 0.5 - HALF, 0, 0]),
        ({"warmup_updates": 2, "decay_updates": 4}, None, [0.5, 0.5 + HALF, 0.5, 0.5 - HALF, 0, 0]),
        # A network's own length of decay goes first; 0 is off.
        ({"decay_updates": 4}, 2, [1, 0.5, 0, 0, 0, 0]),
        ({"decay_updates": 4}, 0, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_step_sizes_by_hand(settings: dict[str, int], decay: int | None, shares: list[float]) -> None:
    optimizer = st.BC(**settings).adam(0.1, decay_updates=decay)
    found = steps_of(optimizer, [[2.0, -0.5]] * 6)
    np.testing.assert_allclose(found, 0.1 * np.array(shares)[:, None] * [-1, 1], rtol=1e-4, atol=1e-6)


def test_gradients_are_shortened_to_the_largest_norm_and_keep_their_direction() -> None:
    # Lengths 5, 0.5 and 1: only the first is cut, to (.6, .8). Adam remembers, so later steps show it.
    gradients, cut = [[3, 4], [0.4, -0.3], [1, 0]], [[0.6, 0.8], [0.4, -0.3], [1, 0]]
    found = steps_of(st.BC(max_gradient_norm=1.0).adam(0.1), gradients)
    np.testing.assert_allclose(found, adam_by_hand(cut, [0.1] * 3), rtol=1e-3, atol=1e-6)
    free = steps_of(st.BC().adam(0.1), gradients)
    np.testing.assert_allclose(free, adam_by_hand(gradients, [0.1] * 3), rtol=1e-3, atol=1e-6)
    assert not np.allclose(found, free, rtol=0.05)
    both = steps_of(st.BC(max_gradient_norm=1.0, warmup_updates=2).adam(0.1), gradients)
    np.testing.assert_allclose(both, adam_by_hand(cut, [0.05, 0.1, 0.1]), rtol=1e-3, atol=1e-6)


MOVED_FIRST = {
    "BC": "actor",
    "FilteredBC": "actor",
    "IQL": "value",
    "CQL": "critics",
    "TD3BC": "critics",
    "DQN": "critics",
}
"""A network whose first step depends on no other's."""


def moments(state: Any) -> list[float]:
    """The length of the first moment of each Adam in a state."""

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    nodes = [node for node in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(node)]
    return [math.sqrt(sum(float((np.asarray(leaf) ** 2).sum()) for leaf in jax.tree.leaves(node.mu))) for node in nodes]


OPTIMISED = [
    "BC discrete", "FilteredBC continuous", "IQL discrete", "CQL discrete", "CQL continuous", "TD3BC continuous",
    "DQN discrete",
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIMISED)
def test_every_optimiser_warms_up_and_clips(name: str) -> None:
    case = CASES[name]
    gentle = case.with_settings(warmup_updates=10, max_gradient_norm=1e-2)
    batch, field = batch_of(case.kind), MOVED_FIRST[case.algorithm.name]
    full, small = (c.update(c.state(), batch)[0] for c in (case, gentle))
    # The first step of a warm-up over 10 updates is a tenth of the step size, whatever the gradient's length.
    networks = [
        jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(getattr(x, field))])
        for x in (case.state(), full, small)
    ]
    old, far, near = (np.asarray(network, float) for network in networks)
    clear = np.abs(far - old) > 0.0099
    assert clear.any()
    assert np.median((near - old)[clear] / (far - old)[clear]) == pytest.approx(0.1, rel=0.02)
    assert np.abs(near - old).max() <= 1e-3 * 1.001
    # Adam's first moment is a tenth of the gradient it saw.
    assert len(moments(full)) == len(moments(small))
    assert max(moments(full)) > 1e-3 * 1.01
    assert 0.9e-3 < max(moments(small)) <= 1e-3 * 1.001


def test_only_the_actor_of_iql_decays_with_its_own_setting() -> None:
    # Step sizes 1, 1/2, 0: the third update leaves the actor where it was, and nothing else.
    for settings, resting in (
        ({"actor_decay_updates": 2, "decay_updates": 50}, {"actor"}),
        ({"decay_updates": 2}, {"actor", "value", "critics"}),
    ):
        case = CASES["IQL continuous"].with_settings(**settings)
        state = case.state()
        for _ in range(2):
            before, state = state, case.update(state, batch_of(case.kind))[0]
        assert all(differ(getattr(before, name), getattr(state, name)) for name in ("actor", "value", "critics"))
        after = case.update(state, batch_of(case.kind))[0]
        still = {
            name for name in ("actor", "value", "critics") if not differ(getattr(state, name), getattr(after, name))
        }
        assert still == resting


def test_the_schedule_of_td3bcs_actor_counts_all_updates() -> None:
    # Over 4 updates the step size of the second is 1 for the actor (its first), of the fourth 1/2; then 0 for both.
    case = CASES["TD3BC continuous"].with_settings(decay_updates=4)
    state, moved = case.state(), {"actor": [], "critics": []}
    for update in range(6):
        before, state = state, case.update(state, batch_of(case.kind, update=update))[0]
        for name, seen in moved.items():
            seen.append(largest_step(getattr(before, name), getattr(state, name)))
    assert moved["actor"] == pytest.approx([0, 1e-2, 0, 5e-3, 0, 0], rel=0.25, abs=1e-9)
    assert min(moved["critics"][:4]) > 1e-3
    assert moved["critics"][4:] == [0, 0]
    # And of a warm-up over 8, the actor's first step is the first of 4.
    warm = CASES["TD3BC continuous"].with_settings(warmup_updates=8)
    after, _ = warm.update(warm.state(), batch_of(warm.kind))
    assert largest_step(warm.state().actor, after.actor) == pytest.approx(0.25 * 1e-2, rel=0.01)


# --- the contract ------------------------------------------------------------


def test_init_is_a_function_of_the_key(case: Case) -> None:
    first, again = case.state(), case.algorithm.init(jax.random.key(0), case.spec)
    assert_trees_equal(first, again)
    assert differ(first, case.algorithm.init(jax.random.key(1), case.spec))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(first))


def test_target_networks_start_as_copies(critic: Case) -> None:
    state = critic.state()
    for name in state._fields:
        if name.startswith("target_"):
            assert_trees_equal(getattr(state, name), getattr(state, name.removeprefix("target_")))
            assert not differ(getattr(state, name), getattr(state, name.removeprefix("target_")))


def test_update_is_pure_and_deterministic(case: Case) -> None:
    state, batch = case.state(), batch_of(case.kind)
    before = jax.tree.map(np.array, state), jax.tree.map(np.array, batch)
    first, metrics = case.update(state, batch)
    again, metrics_again = case.update(state, batch)
    assert_trees_equal(first, again)
    assert_trees_equal(metrics, metrics_again)
    assert_trees_equal((state, batch), jax.tree.map(jnp.asarray, before))
    assert differ(state, first)


def test_only_sampling_algorithms_depend_on_the_key(case: Case) -> None:
    state, batch = case.state(), batch_of(case.kind)
    one, two = (case.update(state, batch, jax.random.key(k))[0] for k in (0, 1))
    samples = case.kind == "continuous" and case.algorithm.name in ("CQL", "TD3BC")
    assert differ(one, two) == samples


def test_states_keep_their_structure_shapes_and_dtypes(case: Case) -> None:
    state = case.state()
    after, _ = jax.eval_shape(case.algorithm.update, state, batch_of(case.kind), KEY)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (new.shape, new.dtype, new.weak_type) == (old.shape, old.dtype, False)
        assert new.dtype in (jnp.float32, jnp.int32)


IMITATION = {
    "discrete": {"loss/actor", "policy/agreement", "policy/entropy"},
    "continuous": {"loss/actor", "policy/mode_error", "policy/entropy"},
}
Q_LEARNING = {"loss/critic", "q/data_mean"}
METRICS = {
    "BC": IMITATION,
    "FilteredBC": IMITATION,
    "IQL": {
        kind: names | Q_LEARNING | {"loss/value", "v/mean", "adv/mean", "weight/mean", "weight/clipped"}
        for kind, names in IMITATION.items()
    },
    "CQL": {
        "discrete": Q_LEARNING | {"loss/cql", "q/gap", "policy/agreement"},
        "continuous": Q_LEARNING
        | {"loss/cql", "loss/actor", "q/policy_mean", "policy/entropy", "policy/mode_error", "temperature"}
        | {"cql/multiplier"},
    },
    "TD3BC": {"continuous": Q_LEARNING | {"loss/actor", "q/policy_mean", "policy/mode_error"}},
    "DQN": {"discrete": Q_LEARNING | {"q/next_max_mean", "policy/agreement"}},
}


def test_metrics_are_the_same_finite_scalars_at_every_update(case: Case) -> None:
    state = case.state()
    for update in range(3):
        state, metrics = case.update(state, batch_of(case.kind, update=update), jax.random.key(update))
        assert set(metrics) == METRICS[case.algorithm.name][case.kind]
        for name, value in metrics.items():
            assert value.shape == (), name
            assert value.dtype == jnp.float32, name
            assert np.isfinite(float(value)), name


class Recorder(dict):
    """A batch that remembers what was read."""

    def __init__(self, batch: dict[str, jax.Array]) -> None:
        super().__init__(batch)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> jax.Array:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def test_needs_names_exactly_what_update_reads(case: Case) -> None:
    needs, state, batch = case.algorithm.needs, case.state(), batch_of(case.kind)
    assert len(set(needs)) == len(needs)
    assert set(needs) - MASKS <= set(batch)
    needed = Recorder({name: batch[name] for name in needs if name in batch})
    jax.eval_shape(lambda state, key: case.algorithm.update(state, needed, key), state, KEY)
    assert needed.read - MASKS == set(needs) - MASKS
    if case.kind == "discrete":
        assert needed.read & MASKS == set(needs) & MASKS
    for name in set(needs) - MASKS:
        without = {key: value for key, value in needed.items() if key != name}
        with pytest.raises(KeyError, match=name):
            jax.eval_shape(case.algorithm.update, state, without, KEY)


def test_a_batch_of_one(case: Case) -> None:
    assert_finite(case.update(case.state(), batch_of(case.kind, rows=1)))


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_constant_rewards_and_a_log_smaller_than_a_batch_stay_finite(case: Case, reward: float) -> None:
    log = case.log(constant_reward=reward)
    assert log.num_transitions < 64
    run = fitted(case.algorithm, log, updates=50, log_every_updates=50)
    assert_finite(run.states)
    assert all(np.isfinite(value) for row in run.history for value in row.values())
    obs = jnp.asarray(log.observation)
    if case.kind == "discrete":
        probs = np.asarray(run.policy.probs(obs, action_mask=jnp.asarray(log.action_mask)))
        np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-5)
    else:
        assert (np.abs(np.asarray(run.policy.mode(obs))) <= 1.0).all()
        if run.policy.has_density:
            assert_finite(run.policy.log_prob(obs, jnp.asarray(log.action)))


def test_values_are_there_where_there_are_critics(case: Case) -> None:
    obs, action = batch_of(case.kind)["obs"], batch_of(case.kind)["action"]
    value = case.algorithm.value(case.state())
    if case.algorithm.name not in WITH_CRITICS:
        assert value is None
        return
    assert value.q(obs, action).shape == value.v(obs).shape == (8,)
    assert_finite((value.q(obs, action), value.v(obs)))


def test_no_updates_give_the_initial_state(case: Case) -> None:
    run = fitted(case.algorithm, case.log(), seeds=[5], updates=0)
    expected = case.algorithm.init(jax.random.fold_in(jax.random.key(5), 0), case.spec)
    assert_trees_equal(run.states[0], expected)
    assert run.history == []


# --- masks and ends ----------------------------------------------------------


def mlp_of(module: Any) -> MLP:
    """The perceptron inside a policy, critics or ensemble."""
    while not isinstance(module, MLP):
        module = next(getattr(module, name) for name in ("network", "ensemble", "members") if hasattr(module, name))
    return module


def last_bias(state: Any, field: str) -> jax.Array:
    return mlp_of(getattr(state, field)).biases[-1]


def raised(state: Any, field: str, action: int, by: float) -> Any:
    """The state with an action's output of one of its networks raised everywhere."""
    bias = last_bias(state, field).at[..., action].add(jnp.float32(by))
    return eqx.tree_at(lambda state: last_bias(state, field), state, bias)


def changes(case: Case, state: Any, first: dict, second: dict, *, other: Any = None) -> bool:
    """Whether the critics after one update differ between two batches (or two states)."""
    one, _ = case.update(state, first)
    two, _ = case.update(state if other is None else other, second)
    return differ(one.critics, two.critics)


def td_part(case: Case) -> Case:
    """The case without CQL's penalty, for which continuous actions are also drawn from the policy at the next state."""
    return case.with_settings(cql_weight=0.0) if case.algorithm.name == "CQL" else case


DISCRETE = [name for name in CASES if name.endswith("discrete")]


@pytest.mark.parametrize("name", DISCRETE)
def test_the_policy_gives_masked_actions_nothing(name: str) -> None:
    case, obs = CASES[name], batch_of()["obs"]
    field = "critics" if case.algorithm.name in ("CQL", "DQN") else "actor"
    free = case.algorithm.policy(raised(case.state(), field, 2, 1e6))
    assert (np.asarray(free.mode(obs)) == 2).all()
    mask = jnp.broadcast_to(jnp.asarray([[True, True, False]]), (8, 3))
    for policy in (free, free.greedy()):
        assert (np.asarray(policy.probs(obs, action_mask=mask))[:, 2] == 0).all()
        assert (np.asarray(policy.mode(obs, action_mask=mask)) != 2).all()
        assert (np.asarray(policy.sample(obs, key=KEY, action_mask=mask)) != 2).all()


@pytest.mark.parametrize("name", ["CQL discrete", "DQN discrete"])
def test_the_target_ignores_a_huge_value_of_a_forbidden_next_action(name: str) -> None:
    case = CASES[name]
    state = case.state()
    planted = raised(state, "target_critics", 2, 1e6)
    forbidden = batch_of() | {"next_action_mask": jnp.ones((8, 3), jnp.bool_).at[:, 2].set(False)}
    allowed = batch_of() | {"next_action_mask": jnp.ones((8, 3), jnp.bool_)}
    assert not changes(case, state, forbidden, forbidden, other=planted)
    assert changes(case, state, allowed, allowed, other=planted)


def test_the_target_of_iql_asks_for_no_next_action() -> None:
    case = CASES["IQL discrete"]
    assert "next_action_mask" not in case.algorithm.needs
    masked = batch_of() | {"next_action_mask": jnp.zeros((8, 3), jnp.bool_)}
    assert not changes(case, case.state(), batch_of(), masked)


@pytest.mark.parametrize("name", ["BC discrete", "FilteredBC discrete", "IQL discrete", "CQL discrete"])
def test_imitation_ignores_forbidden_actions(name: str) -> None:
    # A logit or value of an action the mask forbids gets no gradient: its bias does not move.
    case = CASES[name]
    field = "critics" if case.algorithm.name == "CQL" else "actor"
    batch = batch_of() | {
        "action": jnp.zeros(8, jnp.int32),
        "action_mask": jnp.ones((8, 3), jnp.bool_).at[:, 2].set(False),
    }
    state = case.state()
    after, _ = case.update(state, batch)
    old, new = (np.asarray(last_bias(s, field)) for s in (state, after))
    np.testing.assert_array_equal(new[..., 2], old[..., 2])
    assert (new[..., 1] != old[..., 1]).all()


def test_a_terminal_row_does_not_bootstrap(critic: Case) -> None:
    state, batch = critic.state(), batch_of(critic.kind)
    moved = {"next_obs": batch["next_obs"] * 100.0 + 7.0}
    ended = batch | {"terminated": jnp.ones(8, jnp.float32), "td_weight": jnp.ones(8, jnp.float32)}
    assert not changes(td_part(critic), state, ended, ended | moved)
    losses = [critic.update(state, b)[1]["loss/critic"] for b in (ended, ended | moved)]
    assert float(losses[0]) == float(losses[1])
    running = ended | {"terminated": jnp.zeros(8, jnp.float32)}
    assert changes(td_part(critic), state, running, running | moved)


def test_a_truncated_row_bootstraps(critic: Case) -> None:
    state, batch = critic.state(), batch_of(critic.kind)
    cut = batch | {
        "truncated": jnp.ones(8, jnp.float32),
        "terminated": jnp.zeros(8, jnp.float32),
        "td_weight": jnp.ones(8, jnp.float32),
    }
    assert changes(td_part(critic), state, cut, cut | {"next_obs": batch["next_obs"] * 100.0 + 7.0})
    assert not changes(critic, state, cut, cut | {"truncated": jnp.zeros(8, jnp.float32)})


def test_rows_of_td_weight_zero_do_not_move_the_critics(critic: Case) -> None:
    state, batch = critic.state(), batch_of(critic.kind)
    critic = td_part(critic)
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


def test_without_any_target_critics_do_not_move_at_all(critic: Case) -> None:
    # CQL's penalty is no TD loss; at weight 0 it is DQN or SAC.
    state = critic.state()
    after, _ = td_part(critic).update(state, batch_of(critic.kind) | {"td_weight": jnp.zeros(8, jnp.float32)})
    assert_trees_equal(after.critics, state.critics)


@pytest.mark.parametrize("kind", SPECS)
def test_the_penalty_of_cql_reaches_rows_without_target(kind: str) -> None:
    case = CASES[f"CQL {kind}"]
    after, metrics = case.update(case.state(), batch_of(kind) | {"td_weight": jnp.zeros(8, jnp.float32)})
    assert float(metrics["loss/critic"]) == 0.0
    assert differ(after.critics, case.state().critics)


@pytest.mark.parametrize("kind", SPECS)
def test_the_actor_of_iql_sends_nothing_back_to_value_and_critics(kind: str) -> None:
    # The advantage is a constant of the actor's loss: with or without it, the rest moves alike.
    case = CASES[f"IQL {kind}"]
    state = case.state()
    other = state._replace(actor=case.algorithm.init(jax.random.key(9), case.spec).actor)
    one, two = (case.update(s, batch_of(kind))[0] for s in (state, other))
    assert_trees_equal((one.value, one.critics, one.target_critics), (two.value, two.critics, two.target_critics))
    assert differ(one.actor, two.actor)


def shifted(state: Any, field: str, by: float) -> Any:
    """The state with the second of some critics raised everywhere."""
    bias = last_bias(state, field).at[1].add(jnp.float32(by))
    return eqx.tree_at(lambda state: last_bias(state, field), state, bias)


@pytest.mark.parametrize("name", [name for name in CRITIC_CASES if not name.startswith("DQN")])
def test_the_smaller_target_critic_counts(name: str) -> None:
    # Far above the first, the second is not heard; far below, it alone is.
    case, batch = CASES[name], batch_of(CASES[name].kind) | {"terminated": jnp.zeros(8, jnp.float32)}

    def after(by: float) -> Any:
        state, _ = case.update(shifted(case.state(), "target_critics", by), batch)
        return state._replace(target_critics=None)

    assert_trees_equal(after(50.0), after(60.0))
    assert differ(after(-50.0).critics, after(50.0).critics)


def test_the_actor_of_cql_follows_the_smaller_critic() -> None:
    case, batch = CASES["CQL continuous"], batch_of("continuous")
    actors = {by: case.update(shifted(case.state(), "critics", by), batch)[0].actor for by in (-50.0, 50.0, 60.0)}
    assert_trees_equal(actors[50.0], actors[60.0])
    assert differ(actors[-50.0], actors[50.0])


def test_targets_move_their_share(critic: Case) -> None:
    state = critic.state()
    after, _ = critic.update(state, batch_of(critic.kind))
    targets = [name for name in state._fields if name.startswith("target_")]
    assert "target_critics" in targets
    for name in targets:
        old, slow, fast = getattr(state, name), getattr(after, name), getattr(after, name.removeprefix("target_"))
        for a, b, c in zip(*map(jax.tree.leaves, (old, slow, fast)), strict=True):
            np.testing.assert_allclose(b, 0.95 * a + 0.05 * c, rtol=1e-5, atol=1e-7)
        assert differ(old, slow)


@pytest.mark.parametrize(("every", "due"), [(2, [1, 3]), (3, [2, 5])])
def test_td3bc_updates_actor_and_targets_every_so_often(every: int, due: list[int]) -> None:
    case = CASES["TD3BC continuous"].with_settings(actor_every_updates=every)
    state = case.state()
    for update in range(max(due) + 1):
        after, metrics = case.update(state, batch_of(case.kind, update=update))
        assert differ(state.critics, after.critics)
        slow = ("actor", "target_actor", "target_critics", "actor_optimizer", "actor_metrics")
        for name in slow:
            assert differ(getattr(state, name), getattr(after, name)) == (update in due), (name, update)
        assert all(float(metrics[name]) == float(after.actor_metrics[name]) for name in after.actor_metrics)
        state = after


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


# --- one update by hand --------------------------------------------------------

# Networks without hidden layers on an observation of 0: only biases (and weights of the action) speak. The first step
# of Adam is the step size against the gradient's sign; it is 0.1 here.


def plain(*, weights: Any, biases: Any) -> MLP:
    """A perceptron (or several, on axis 0) without hidden layers."""
    return MLP((jnp.asarray(weights, jnp.float32),), (jnp.asarray(biases, jnp.float32),))


def row(**changes: Any) -> dict[str, jax.Array]:
    """A batch of one row, of observations 0."""
    batch = {
        "obs": [[0.0]],
        "next_obs": [[0.0]],
        "reward": [2.0],
        "terminated": [0.0],
        "truncated": [0.0],
        "td_weight": [1.0],
    }
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()}
    return arrays | {"update": jnp.int32(1)} | changes


def one_hand(
    algorithm: Algorithm, spec: Spec, batch: dict[str, jax.Array], **planted: Any
) -> tuple[Any, dict[str, float]]:
    state = algorithm.init(KEY, spec)._replace(**planted)
    after, metrics = Case(algorithm, "").update(state, batch)
    return after, {name: float(value) for name, value in metrics.items()}


IQL_BY_HAND = st.IQL(
    gamma=0.9, expectile=0.7, inverse_temperature=3.0, learning_rate=0.1, target_rate=0.25, hidden_sizes=()
)
IQL_NUMBERS = {
    # u = min(1, 2) - 0.5, of the target critics; V rises by 0.1 to 0.6, which is what the rest sees.
    "loss/value": 0.7 * 0.5**2,
    "v/mean": 0.6,
    "adv/mean": 0.4,
    "weight/mean": math.exp(3 * 0.4),
    "weight/clipped": 0.0,
    # y = 2 + 0.9 0.6, against 1.5 and 2.5.
    "loss/critic": 1.04**2 + 0.04**2,
    "q/data_mean": 2.0,
}


def test_an_update_of_iql_by_hand_discrete() -> None:
    batch = row(action=jnp.zeros(1, jnp.int32), action_mask=jnp.ones((1, 2), jnp.bool_))
    after, metrics = one_hand(
        IQL_BY_HAND,
        Spec(1, 2),
        batch,
        value=plain(weights=[[0]], biases=[0.5]),
        actor=CategoricalPolicy(plain(weights=[[0, 0]], biases=[0, 0])),
        critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1.5, 4], [2.5, 5]]))),
        target_critics=DiscreteCritics(Ensemble(plain(weights=np.zeros((2, 1, 2)), biases=[[1, 3], [2, 0]]))),
    )
    expected = IQL_NUMBERS | {"loss/actor": math.exp(1.2) * math.log(2), "policy/entropy": math.log(2)}
    assert metrics == pytest.approx(expected | {"policy/agreement": 1.0}, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "value"), [0.6], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1, -0.1], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1.6, 4], [2.6, 5]], rtol=1e-4)
    # A quarter of the way from (1, 3) to (1.6, 4), from (2, 0) to (2.6, 5).
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[1.15, 3.25], [2.15, 1.25]], rtol=1e-4)


def test_an_update_of_iql_by_hand_continuous() -> None:
    # The logged action is 0.5: of it the critics 3 a and 5 a say 1.5 and 2.5, the target critics 2 a and 4 a 1 and 2.
    critics, target_critics = (
        ContinuousCritics(Ensemble(plain(weights=[[[0], [w]], [[0], [w + 2]]], biases=[[0], [0]]))) for w in (3, 2)
    )
    after, metrics = one_hand(
        IQL_BY_HAND,
        Spec(1, None, 1),
        row(action=jnp.full((1, 1), 0.5, jnp.float32)),
        value=plain(weights=[[0]], biases=[0.5]),
        actor=GaussianPolicy(plain(weights=[[0]], biases=[0]), jnp.zeros(1, jnp.float32)),
        critics=critics,
        target_critics=target_critics,
    )
    half_log_two_pi = 0.5 * math.log(2 * math.pi)
    expected = IQL_NUMBERS | {
        "loss/actor": math.exp(1.2) * (0.5 * 0.5**2 + half_log_two_pi),
        "policy/mode_error": 0.5,
        "policy/entropy": 0.5 + half_log_two_pi,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1], rtol=1e-4)  # towards the action
    np.testing.assert_allclose(after.actor.log_std, [-0.1], rtol=1e-4)  # which is nearer than one standard deviation
    np.testing.assert_allclose(mlp_of(after.critics).weights[0], [[[0], [3.1]], [[0], [5.1]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "critics"), [[0.1], [0.1]], rtol=1e-4)
    np.testing.assert_allclose(mlp_of(after.target_critics).weights[0], [[[0], [2.275]], [[0], [4.275]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[0.025], [0.025]], rtol=1e-4)


def test_an_update_of_td3bc_by_hand() -> None:
    algorithm = st.TD3BC(
        gamma=0.9, q_weight=2.5, target_noise=0.0, learning_rate=0.1, target_rate=0.25, hidden_sizes=()
    )
    start = math.atanh(0.5)
    after, metrics = one_hand(
        algorithm,
        Spec(1, None, 1),
        row(action=jnp.full((1, 1), 0.5, jnp.float32)),
        actor=DeterministicPolicy(plain(weights=[[0]], biases=[0])),
        target_actor=DeterministicPolicy(plain(weights=[[0]], biases=[start])),
        critics=ContinuousCritics(Ensemble(plain(weights=[[[0], [2]], [[0], [4]]], biases=[[1], [0]]))),
        target_critics=ContinuousCritics(Ensemble(plain(weights=[[[0], [2]], [[0], [4]]], biases=[[0], [0]]))),
    )
    expected = {
        # The target actor says 0.5, the target critics 1 and 2 of it: y = 2 + 0.9, against 2 and 2.
        "loss/critic": 2 * 0.9**2,
        "q/data_mean": 2.0,
        # The first critic is 2.1 a + 1.1 by now, and the actor at 0: q = 1.1, so the first term is -2.5 whatever q.
        "q/policy_mean": 1.1,
        "loss/actor": -2.5 + 0.5**2,
        "policy/mode_error": 0.5,
    }
    assert metrics == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(last_bias(after, "actor"), [0.1], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_actor"), [start + 0.25 * (0.1 - start)], rtol=1e-4)
    np.testing.assert_allclose(mlp_of(after.critics).weights[0], [[[0], [2.1]], [[0], [4.1]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "critics"), [[1.1], [0.1]], rtol=1e-4)
    np.testing.assert_allclose(mlp_of(after.target_critics).weights[0], [[[0], [2.025]], [[0], [4.025]]], rtol=1e-4)
    np.testing.assert_allclose(last_bias(after, "target_critics"), [[0.275], [0.025]], rtol=1e-4)


@pytest.mark.parametrize(("q_weight", "direction"), [(0.0, 1), (0.9, 1), (1.1, -1), (2.5, -1)])
def test_the_actor_of_td3bc_weighs_value_against_imitation(q_weight: float, direction: int) -> None:
    # At 0 the first critic, 4 - 2 a, says 4; the logged action is 0.25. The slope is 2 q_weight / 4 - 2 0.25: 0 at 1.
    algorithm = st.TD3BC(q_weight=q_weight, learning_rate=1e-3, hidden_sizes=())
    critics = ContinuousCritics(Ensemble(plain(weights=[[[0], [-2]]] * 2, biases=[[4]] * 2)))
    after, _ = one_hand(
        algorithm,
        Spec(1, None, 1),
        row(action=jnp.full((1, 1), 0.25, jnp.float32)),
        actor=DeterministicPolicy(plain(weights=[[0]], biases=[0])),
        critics=critics,
        target_critics=critics,
    )
    np.testing.assert_allclose(last_bias(after, "actor"), [direction * 1e-3], rtol=1e-3)


@pytest.mark.parametrize(("cql_weight", "moved"), [(0.0, -0.1), (1.5, -0.1), (2.5, 0.1)])
def test_an_update_of_discrete_cql_by_hand(cql_weight: float, moved: float) -> None:
    # min over the target critics is (1, 5, 0.5), the best allowed 1: y = r + 0.9 = ln 2 - 0.5. The first critic says
    # ln 2 of the logged action: the squared error pulls it down with 2 0.5, the penalty up with cql_weight (1 - 0.5).
    two, four = math.log(2), math.log(4)
    batch = row(
        reward=jnp.full(1, two - 0.5 - 0.9, jnp.float32),
        action=jnp.ones(1, jnp.int32),
        action_mask=jnp.ones((1, 3), jnp.bool_),
        next_action_mask=jnp.asarray([[True, False, True]]),
    )
    after, metrics = one_hand(
        st.CQL(gamma=0.9, cql_weight=cql_weight, learning_rate=0.1, target_rate=0.25, hidden_sizes=()),
        Spec(1, 3),
        batch,
        critics=Ensemble(plain(weights=np.zeros((2, 1, 3)), biases=[[0, two, 0], [0, 0, two]])),
        target_critics=Ensemble(plain(weights=np.zeros((2, 1, 3)), biases=[[1, 5, 4], [3, 6, 0.5]])),
    )
    expected = {
        "loss/critic": 0.5**2 + (two - 0.5) ** 2,
        "loss/cql": (four - two) + four,
        "q/data_mean": two / 2,
        # Means over critics: (0, ln 2 / 2, ln 2 / 2); the first of equals is the mode.
        "q/gap": 0.0,
        "policy/agreement": 1.0,
    }
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    others = 0.0 if cql_weight == 0 else -0.1
    biases = np.asarray(last_bias(after, "critics"))
    np.testing.assert_allclose(biases[0], [others, two + moved, others], atol=1e-4)
    np.testing.assert_allclose(biases[1], [others, 0.1, two + others], atol=1e-4)
    old = np.array([[1, 5, 4], [3, 6, 0.5]])
    np.testing.assert_allclose(last_bias(after, "target_critics"), old + 0.25 * (biases - old), rtol=1e-4)


# --- continuous CQL ------------------------------------------------------------

CCQL = CASES["CQL continuous"]


def with_policy_bias(state: Any, mean: float, log_std: float) -> Any:
    """The state with a policy that is the same at every observation."""
    network = mlp_of(state.actor)
    zeros = jax.tree.map(jnp.zeros_like, network)
    bias = jnp.asarray([mean, mean, log_std, log_std], jnp.float32)
    return state._replace(actor=SquashedGaussianPolicy(MLP(zeros.weights, (*zeros.biases[:-1], bias))))


def test_the_penalty_of_a_value_that_ignores_the_action_is_the_log_volume() -> None:
    # Every candidate is divided by its own density and valued at the observation of the logged action: with Q(s, a) =
    # f(s) a critic's penalty is log(3 K) + log 4, the box of two actions, whatever f and whatever the policy.
    samples = 300
    case = CCQL.with_settings(samples=samples)
    state = case.state()
    network = mlp_of(state.actor)  # means that differ by row, and a standard deviation about 1
    last = 160 * network.weights[-1].at[:, 2:].set(jnp.float32(0))
    actor = MLP((*network.weights[:-1], last), (*network.biases[:-1], jnp.asarray([0.1, 0.1, 0.1, 0.1], jnp.float32)))
    members = mlp_of(state.critics)
    members = MLP((members.weights[0].at[:, 3:].set(jnp.float32(0)), *members.weights[1:]), members.biases)
    state = state._replace(actor=SquashedGaussianPolicy(actor), critics=ContinuousCritics(Ensemble(members)))
    assert np.asarray(state.actor.mode(batch_of("continuous")["obs"])).std(0).min() > 0.2
    _, metrics = case.update(state, batch_of("continuous"))
    assert float(metrics["loss/cql"]) == pytest.approx(2 * (math.log(3 * samples) + math.log(4)), abs=0.04)


def test_some_actions_of_the_penalty_come_from_the_policy_at_the_next_observation() -> None:
    batch = batch_of("continuous") | {"terminated": jnp.ones(8, jnp.float32)}
    moved = batch | {"next_obs": 30.0 * batch["next_obs"] + 7.0}
    one, two = (CCQL.update(CCQL.state(), b)[1] for b in (batch, moved))
    assert float(one["loss/critic"]) == float(two["loss/critic"])
    assert abs(float(one["loss/cql"]) - float(two["loss/cql"])) > 1e-3


def test_the_target_of_cql_has_no_entropy_in_it() -> None:
    # A policy of hardly any spread: the next action is known, and its log-density huge.
    state, batch = with_policy_bias(CCQL.state(), 0.4, -20.0), batch_of("continuous")
    _, metrics = CCQL.update(state, batch)
    next_action = jnp.full((8, 2), math.tanh(0.4), jnp.float32)
    next_q = np.asarray(state.target_critics(batch["next_obs"], next_action)).min(0)
    target = np.asarray(batch["reward"]) + 0.9 * (1 - np.asarray(batch["terminated"])) * next_q
    error = np.asarray(state.critics(batch["obs"], batch["action"])) - target
    expected = (np.asarray(batch["td_weight"]) * error**2).mean(1).sum()
    assert float(metrics["loss/critic"]) == pytest.approx(expected, rel=1e-3)
    assert float(metrics["policy/entropy"]) < -30


@pytest.mark.parametrize(("log_std", "direction"), [(0.0, -1), (-2.1, -1), (-2.8, 1)])
def test_the_temperature_moves_first_and_the_actor_feels_it(log_std: float, direction: int) -> None:
    # Entropy above -2, the target, cools; below, it heats. The actor's loss has the new temperature in it.
    _, metrics = CCQL.update(with_policy_bias(CCQL.state(), 0.0, log_std), batch_of("continuous"))
    metrics = {name: float(value) for name, value in metrics.items()}
    assert (metrics["policy/entropy"] > -2) == (direction < 0)
    assert metrics["temperature"] == pytest.approx(math.exp(direction * 1e-2), rel=1e-5)
    expected = -metrics["temperature"] * metrics["policy/entropy"] - metrics["q/policy_mean"]
    assert metrics["loss/actor"] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_actor_and_critics_of_cql_are_updated_from_where_both_were() -> None:
    state, batch = CCQL.state(), batch_of("continuous")
    base, _ = CCQL.update(state, batch)
    other_actor, _ = CCQL.with_settings(actor_learning_rate=0.5).update(state, batch)
    assert_trees_equal(base.critics, other_actor.critics)
    assert differ(base.actor, other_actor.actor)
    other_critic, _ = CCQL.with_settings(learning_rate=0.5, cql_weight=7.0).update(state, batch)
    assert_trees_equal((base.actor, base.log_temperature), (other_critic.actor, other_critic.log_temperature))
    assert differ(base.critics, other_critic.critics)


def lagrange(gap: float, **settings: Any) -> Case:
    return CCQL.with_settings(lagrange_gap=gap, cql_weight=1.0, **settings)


def test_the_multiplier_rises_above_its_gap_and_falls_below() -> None:
    _, metrics = CCQL.update(CCQL.state(), batch_of("continuous"))
    penalty = float(metrics["loss/cql"]) / 2  # a critic
    assert penalty > 0.5
    for gap, direction in ((0.5 * penalty, 1), (2 * penalty, -1)):
        case, state = lagrange(gap), CCQL.state()
        for update in range(1, 4):
            state, metrics = case.update(state, batch_of("continuous", update=update))
            # Adam's steps are about the step size while the difference stays about the same.
            assert float(state.log_multiplier) == pytest.approx(direction * 1e-2 * update, rel=0.1)
        assert float(metrics["cql/multiplier"]) == pytest.approx(math.exp(direction * 2e-2), rel=2e-3)


def test_without_a_gap_the_multiplier_rests_at_one() -> None:
    after, metrics = CCQL.update(CCQL.state(), batch_of("continuous"))
    assert float(after.log_multiplier) == 0.0
    assert float(metrics["cql/multiplier"]) == 1.0


def test_the_multiplier_multiplies_the_penalty_and_the_gap_shifts_nothing_else() -> None:
    state, batch = CCQL.state(), batch_of("continuous")
    doubled = state._replace(log_multiplier=jnp.float32(math.log(2.0)))
    found, _ = lagrange(1.0).update(doubled, batch)
    expected, _ = CCQL.with_settings(cql_weight=2.0).update(state, batch)
    assert_trees_equal(found.critics, expected.critics, rtol=1e-3, atol=1e-5)
    assert_trees_equal(found.actor, expected.actor)


def test_the_multiplier_is_capped() -> None:
    far = CCQL.state()._replace(log_multiplier=jnp.float32(50.0))
    after, metrics = lagrange(1.0).update(far, batch_of("continuous"))
    assert float(metrics["cql/multiplier"]) == pytest.approx(1e6)
    assert_finite(after)


def test_a_batch_in_parts_gives_the_update_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    state, batch = CCQL.state(), batch_of("continuous")
    whole = CCQL.update(state, batch)
    monkeypatch.setattr(cql, "tile_count", lambda rows, evaluations: 4)
    parts = jax.jit(CCQL.algorithm.update)(state, batch, KEY)
    assert_trees_equal(parts[1], whole[1], rtol=1e-4, atol=1e-5)
    assert_trees_equal(parts[0], whole[0], rtol=1e-2, atol=1e-4)


def test_the_actor_of_td3bc_follows_the_first_critic_alone() -> None:
    case, batch = CASES["TD3BC continuous"], batch_of("continuous")
    state = case.state()
    members = mlp_of(state.critics)
    second = jax.tree.map(lambda leaf: leaf.at[1].add(jnp.float32(0.5)), members)
    planted = state._replace(critics=ContinuousCritics(Ensemble(second)))
    one, two = (case.update(s, batch)[0] for s in (state, planted))
    assert differ(one.critics, two.critics)
    assert_trees_equal((one.actor, one.target_actor), (two.actor, two.target_actor))


def test_target_noise_is_clipped_and_gone_at_zero() -> None:
    case, batch = CASES["TD3BC continuous"], batch_of("continuous")
    for settings in ({"target_noise": 0.0}, {"noise_clip": 0.0}):
        still = case.with_settings(**settings)
        one, two = (still.update(case.state(), batch, jax.random.key(k))[0] for k in (0, 1))
        assert_trees_equal(one, two)
    # Noise this large is all clip: only its signs are left of it.
    losses = [
        float(case.with_settings(target_noise=noise, noise_clip=0.1).update(case.state(), batch)[1]["loss/critic"])
        for noise in (1e5, 1e6)
    ]
    assert losses[0] == losses[1]


# --- seeds -------------------------------------------------------------------


def test_each_seed_trains_as_it_would_alone(case: Case) -> None:
    log = case.log()
    together = fitted(case.algorithm, log, seeds=[3, 1, 4])
    assert together.seeds == (3, 1, 4)
    for k, seed in enumerate([3, 1, 4]):
        alone = fitted(case.algorithm, log, seeds=[seed])
        assert_trees_equal(together.states[k], alone.states[0], rtol=1e-4, atol=1e-6)
    assert differ(together.states[0], together.states[1])


def test_fitting_twice_is_bit_identical(case: Case) -> None:
    log = case.log()
    first, again = (fitted(case.algorithm, log, seeds=[3, 1, 4]) for _ in range(2))
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


@pytest.mark.parametrize("name", ["IQL", "CQL", "DQN"])
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


# --- learning on continuous actions --------------------------------------------

CONTINUOUS = ["BC", "FilteredBC", "IQL", "CQL", "TD3BC"]


BEST = {"TD3BC": 1.0}
"""What the best action pays: TD3+BC divides by mean |Q|, so it must not be 0 where the policy goes."""


@cache
def bandit_run(name: str) -> Any:
    """Actions spread evenly over [-1, 1], of which 0.5 is best."""
    tuned = {"IQL": {"inverse_temperature": 10.0}}.get(name, {})
    algorithm = dataclasses.replace(ALL[name], **tuned)
    updates = 1000 if name == "TD3BC" else 400
    return fitted(algorithm, continuous_bandit_log(best=BEST.get(name, 0.0)), updates=updates, log_every_updates=400)


def bandit_mode(name: str) -> float:
    return float(bandit_run(name).policy.mode(STATE)[0, 0])


def test_bc_learns_the_mean_and_spread_of_a_continuous_bandit_log() -> None:
    assert abs(bandit_mode("BC")) < 0.1
    # A uniform on [-1, 1] has standard deviation 1 / sqrt 3.
    std = float(jnp.exp(bandit_run("BC").states[0].actor.log_std)[0])
    assert std == pytest.approx(1 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("name", ["FilteredBC", "IQL", "CQL", "TD3BC"])
def test_learners_find_the_better_actions_that_bc_does_not(name: str) -> None:
    assert abs(bandit_mode(name) - 0.5) < 0.2
    assert abs(bandit_mode(name) - 0.5) < abs(bandit_mode("BC") - 0.5) - 0.2


def test_td3bc_stands_between_the_best_action_and_imitation_as_by_hand() -> None:
    # Q = 1 - (a - 1/2)^2, so lambda is about 5/2; lambda Q - a^2 - 1/3 is largest at a = 5/14.
    assert bandit_mode("TD3BC") == pytest.approx(5 / 14, abs=0.1)


@pytest.mark.parametrize("name", ["IQL", "CQL", "TD3BC"])
def test_learned_values_prefer_the_better_action(name: str) -> None:
    value = bandit_run(name).values[0]
    obs = jnp.ones((3, 1), jnp.float32)
    q = np.asarray(value.q(obs, jnp.asarray([[-0.8], [0.5], [1.0]], jnp.float32)))
    assert q[1] > q[0] + 0.5
    assert q[1] > q[2]
    if name != "CQL":  # whose penalty shifts its values
        np.testing.assert_allclose(q - BEST.get(name, 0.0), [-1.69, 0.0, -0.25], atol=0.25)
    assert float(value.v(STATE)[0]) == pytest.approx(float(value.q(STATE, bandit_run(name).policy.mode(STATE))[0]))


def test_continuous_actions_are_learned_in_the_units_of_the_log() -> None:
    # The same bandit with actions from 10 to 30: the same training, and a policy and value in those units.
    algorithm, log = bandit_run("IQL").algorithm, continuous_bandit_log(center=20.0, half_width=10.0)
    run = fitted(algorithm, log, updates=400, log_every_updates=400)
    np.testing.assert_allclose(run.policy.mode(STATE), [[20 + 10 * bandit_mode("IQL")]], rtol=1e-2)
    assert run.policy.mode(STATE).shape == (1, 1)
    action = jnp.full((1, 1), 0.3, jnp.float32)
    inner = bandit_run("IQL").policy.log_prob(STATE, action)
    outer = run.policy.log_prob(STATE, 20 + 10 * action)
    np.testing.assert_allclose(outer, np.asarray(inner) - math.log(10), atol=0.05)
    values = [r.values[0].q(STATE, a) for r, a in ((bandit_run("IQL"), action), (run, 20 + 10 * action))]
    np.testing.assert_allclose(values[0], values[1], atol=0.05)
