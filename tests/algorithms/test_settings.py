"""Settings: what is refused and in which words, and which of them are inputs of a compiled program."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from algorithm_cases import ALL, CASES, KEY, SIZES, SPECS, fitted, mlp_of, model
from worlds import assert_trees_equal, random_continuous_log, random_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Step
from stitchrl.algorithms.behavior import Imitation
from stitchrl.algorithms.settings import default_settings, revived_settings
from stitchrl.errors import ConfigurationError
from stitchrl.nn.networks import Network


@pytest.fixture(params=ALL)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return ALL[request.param]


REFUSED = [
    (st.BC, "learning_rate", 0.0, "in (0, inf)"),
    (st.BC, "learning_rate", float("nan"), "in (0, inf)"),
    (st.BC, "learning_rate", float("inf"), "in (0, inf)"),
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
        algorithm.__post_init__(None)
    assert f"`{name}` of {kind.__name__} must be {rule}; got {value!r}. " in str(caught.value)


def test_a_message_names_the_rule_the_value_and_the_way_out() -> None:
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


def test_settings_of_every_algorithm_are_keywords_after_its_own(algorithm: Algorithm) -> None:
    # A first positional setting is the algorithm's own, not the optimiser's.
    shared = {"max_gradient_norm", "warmup_updates", "decay_updates"}
    assert shared <= {field.name for field in dataclasses.fields(algorithm) if field.kw_only}
    assert not any(field.kw_only for field in dataclasses.fields(algorithm) if field.name in ("gamma", "learning_rate"))


def test_settings_are_frozen(algorithm: Algorithm) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        algorithm.learning_rate = 1.0  # type: ignore[attr-defined]


# --- the network of an algorithm -------------------------------------------------------------------------------------


NETWORKS = [
    ({"hidden_sizes": (16, 0)}, "`hidden_sizes` of Network must be at least 1; got (16, 0)."),
    ({"hidden_sizes": [16, 2.5]}, "`hidden_sizes` of Network must be at least 1; got (16, 2.5)."),
    ({"hidden_sizes": "wide"}, "`hidden_sizes` of Network must be at least 1; got 'wide'."),
    ({"channels": (0,)}, "`channels` of Network must be at least 1; got (0,)."),
    ({"activation": "step"}, '`activation` of Network must be one of "relu", "gelu", "tanh", "silu"; got \'step\'.'),
    ({"layer_norm": "both"}, '`layer_norm` of Network must be one of "none", "before", "after"; got \'both\'.'),
    ({"dropout": 1.0}, "`dropout` of Network must be in [0, 1); got 1.0."),
    ({"dropout": -0.1}, "`dropout` of Network must be in [0, 1); got -0.1."),
    ({"dropout": True}, "`dropout` of Network must be in [0, 1); got True."),
]


@pytest.mark.parametrize(("fields", "message"), NETWORKS)
def test_networks_outside_their_range_are_refused(fields: dict[str, Any], message: str) -> None:
    # Set behind the constructor's back, where the suite's type checker would speak first.
    network = Network()
    for name, value in fields.items():
        object.__setattr__(network, name, value)
    with pytest.raises(ConfigurationError) as caught:
        network.__post_init__()
    assert str(caught.value).startswith(message)


def test_hidden_sizes_are_short_for_a_network(algorithm: Algorithm) -> None:
    kind = type(algorithm)
    deep = Network((256, 256, 256))
    usual = {
        st.AWR: Network((128, 64)),
        st.AWAC: deep,
        st.DDPG: Network((400, 300)),
        st.SACN: deep,
        st.EDAC: deep,
        st.COMBO: deep,
        st.ReBRAC: dataclasses.replace(deep, layer_norm="after"),
        st.DecisionTransformer: Network((128, 128, 128), dropout=0.1),
        st.FQL: Network((512, 512, 512, 512), activation="gelu", layer_norm="after"),
        st.QChunking: Network((512, 512, 512, 512), activation="gelu", layer_norm="after"),
    }
    assert kind().network == usual.get(kind, Network((256, 256)))
    resized = dataclasses.replace(kind().network, hidden_sizes=(4, 4))
    assert kind(hidden_sizes=(4, 4)).network == resized
    assert kind(hidden_sizes=(4, 4)) == kind(network=resized)
    normed = kind(network=Network(layer_norm="before"), hidden_sizes=(4,))
    assert normed.network == Network((4,), layer_norm="before")
    assert dataclasses.replace(normed, warmup_updates=3).network == normed.network


def test_a_network_may_be_given_as_plain_widths_or_as_its_fields() -> None:
    # As JSON and people write it; set behind the constructor's back, where the suite's type checker would speak first.
    for value in ([4, 5], (4, 5), {"hidden_sizes": [4, 5]}):
        algorithm = st.IQL()
        object.__setattr__(algorithm, "network", value)
        algorithm.__post_init__(None)
        assert algorithm == st.IQL(hidden_sizes=(4, 5))
        assert hash(algorithm) == hash(st.IQL(hidden_sizes=(4, 5)))
    algorithm = st.IQL()
    object.__setattr__(algorithm, "network", (4, 5))
    with pytest.raises(ConfigurationError, match=r"`network` is \(4, 5\)\. Give one of them"):
        algorithm.__post_init__((4, 5))
    for value, message in (  # type: ignore[assignment]
        ("wide", r"must be a st.Network or a tuple of widths; got 'wide'"),
        ({"x": 1}, "cannot be read"),
    ):
        algorithm = st.IQL()
        object.__setattr__(algorithm, "network", value)
        with pytest.raises(ConfigurationError, match=f"`network` of IQL {message}"):
            algorithm.__post_init__(None)


def test_settings_survive_their_json() -> None:
    algorithm = st.IQL(network=Network((4,), "tanh", "after", 0.1, (2, 3)), actor_network=Network((5,)), expectile=0.6)
    content = json.loads(json.dumps(dataclasses.asdict(algorithm)))
    assert type(algorithm)(**revived_settings(content, type(algorithm))) == algorithm
    # Runs of older versions had widths and no network.
    old = {"hidden_sizes": [4, 5], "expectile": 0.6}
    assert st.IQL(**revived_settings(old, st.IQL)) == st.IQL(hidden_sizes=(4, 5), expectile=0.6)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A setting that is an object."""

    low: float = 0.0
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Clipped(Imitation):
    """Has such a setting, and one without a default."""

    clip: Clip = Clip()
    needed: float = dataclasses.field(kw_only=True)


def test_settings_that_are_objects_survive_their_json() -> None:
    algorithm = Clipped(clip=Clip(1.5, (3,)), needed=2.0)
    content = json.loads(json.dumps(dataclasses.asdict(algorithm)))
    assert Clipped(**revived_settings(content, Clipped)) == algorithm
    assert default_settings(Clipped)["clip"] == {"low": 0.0, "sizes": (1, 2)}
    assert "needed" not in default_settings(Clipped)


def test_a_network_of_the_actor_is_the_actors_alone() -> None:
    for name in ("IQL continuous", "CQL continuous", "TD3BC continuous"):
        case = CASES[name].with_settings(actor_network=Network((3,)))
        state = jax.eval_shape(lambda key, case=case: case.algorithm.init(key, case.spec, None), KEY)
        assert mlp_of(model(state, "actor")).weights[0].shape == (3, 3)
        assert mlp_of(model(state, "critics")).weights[0].shape == (2, 5, *SIZES)


# --- settings of fit -------------------------------------------------------------------------------------------------


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
        fitted(ALL[name], random_log(4) if kind == "discrete" else random_continuous_log(4))
    assert (
        str(caught.value)
        == f"{name} learns from {other} actions; this log's are {kind}. BC, IQL and CQL learn from both kinds."
    )
    with pytest.raises(ConfigurationError, match=f"needs {other} actions; the log's are {kind}"):
        ALL[name].init(KEY, SPECS[kind], None)


# --- settings as inputs of a program ---------------------------------------------------------------------------------


INPUTS = {
    "BC": {"learning_rate"},
    "FilteredBC": {"learning_rate"},
    "IQL": {"gamma", "expectile", "inverse_temperature", "learning_rate", "target_rate"},
    "SQL": {"gamma", "temperature", "learning_rate", "target_rate"},
    "EQL": {"gamma", "temperature", "learning_rate", "target_rate"},
    "XQL": {"gamma", "temperature", "inverse_temperature", "largest_exponent", "learning_rate", "target_rate"},
    "AWAC": {"gamma", "inverse_temperature", "learning_rate", "target_rate"},
    "BCQ": {"gamma", "threshold", "perturbation_limit", "min_weight", "learning_rate", "target_rate"},
    "BEAR": {"gamma", "mmd_threshold", "kernel_width", "min_weight", "learning_rate", "actor_learning_rate"}
    | {"multiplier_learning_rate", "target_rate"},
    "BCQIQL": {"gamma", "threshold", "expectile", "learning_rate", "target_rate"},
    "CQL": {"gamma", "cql_weight", "learning_rate", "target_rate", "actor_learning_rate"},
    "TD3BC": {"gamma", "q_weight", "target_noise", "noise_clip", "learning_rate", "target_rate"},
    "ReBRAC": {"gamma", "actor_bc_weight", "critic_bc_weight", "target_noise", "noise_clip", "learning_rate"}
    | {"actor_learning_rate", "target_rate"},
    "FQL": {"gamma", "distill_weight", "learning_rate", "target_rate"},
    "QChunking": {"gamma", "distill_weight", "learning_rate", "target_rate"},
    "IDQL": {"gamma", "expectile", "learning_rate", "target_rate", "actor_target_rate", "actor_weight_decay"},
    "MOPO": {"gamma", "penalty_weight", "learning_rate", "actor_learning_rate", "target_rate", "first_temperature"},
    "COMBO": {"gamma", "cql_weight", "learning_rate", "actor_learning_rate", "target_rate", "first_temperature"},
    "SACN": {"gamma", "learning_rate", "actor_learning_rate", "target_rate", "entropy_share"} | {"first_temperature"},
    "EDAC": {"gamma", "learning_rate", "actor_learning_rate", "target_rate", "diversity_weight"}
    | {"first_temperature"},
    "SAC": {"gamma", "learning_rate", "actor_learning_rate", "target_rate", "entropy_share"} | {"first_temperature"},
    "TD3": {"gamma", "target_noise", "noise_clip", "learning_rate", "target_rate"},
    "DDPG": {"gamma", "learning_rate", "actor_learning_rate", "target_rate"},
    "DQN": {"gamma", "learning_rate", "target_rate"},
    "AWR": {"inverse_temperature", "learning_rate"},
    "AdvantageBC": {"positive_share", "bit_dropout", "learning_rate"},
    "DecisionTransformer": {"learning_rate", "weight_decay"},
    "VILCB": set(),
    "SPIBB": set(),
}


def test_input_settings_are_the_numbers(algorithm: Algorithm) -> None:
    names = algorithm.input_settings()
    assert set(names) == INPUTS[algorithm.name]
    assert len(set(names)) == len(names)
    assert all(isinstance(getattr(algorithm, name), float) for name in names)


def test_algorithms_that_differ_only_in_inputs_have_one_structure(algorithm: Algorithm) -> None:
    inputs = {name: 0.5 * getattr(algorithm, name) for name in algorithm.input_settings()}
    other = dataclasses.replace(algorithm, **inputs)
    assert (other != algorithm) == bool(inputs)
    assert other.structure() == algorithm.structure()
    assert hash(other.structure()) == hash(algorithm.structure())
    assert algorithm.structure().structure() == algorithm.structure()
    # Each of the rest is built into the program.
    for name, value in (
        ("network", Network((4, 4))),
        ("actor_network", Network((4, 4))),
        ("max_gradient_norm", 1.0),
        ("warmup_updates", 3),
        ("decay_updates", 7),
        ("num_critics", 3),
        ("deviations", 1.0),
        ("reward_noise", 0.5),
        ("actor_decay_updates", 5),
        ("samples", 2),
        ("lagrange_gap", 5.0),
        ("actor_every_updates", 3),
        ("gradient_samples", 1),
        ("td_lambda", 0.5),
        ("returns_every_updates", 3),
        ("standardize_advantage", False),
        ("penalty_weight", 0.7),
        ("least_count", 3),
    ):
        if hasattr(algorithm, name) and name not in algorithm.input_settings():  # which `INPUTS` holds
            assert dataclasses.replace(algorithm, **{name: value}).structure() != algorithm.structure(), name


def test_with_inputs_is_another_algorithm_unchecked() -> None:
    algorithm = ALL["IQL"]
    changed = algorithm.with_inputs({"gamma": 0.5, "expectile": 7.0})
    assert (changed.gamma, changed.expectile, changed.learning_rate) == (0.5, 7.0, 1e-2)
    assert (algorithm.gamma, algorithm.expectile) == (0.9, 0.7)  # type: ignore[attr-defined]
    assert type(changed) is st.IQL
    assert algorithm.with_inputs({"gamma": 0.5}) == dataclasses.replace(algorithm, gamma=0.5)
    assert algorithm.structure() == st.IQL(hidden_sizes=SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IQL discrete", "TD3BC continuous"])
def test_inputs_traced_are_inputs_built_in(name: str) -> None:
    # All tests here give number settings to one program as arguments; built into another they mean the same.
    case = CASES[name]
    step = Step(jnp.int32(1), jnp.int32(100))
    found = jax.jit(case.algorithm.update)(case.state(), case.batch(), None, KEY, step)
    assert_trees_equal(case.update(case.state(), case.batch()), found, rtol=1e-3, atol=1e-5)
