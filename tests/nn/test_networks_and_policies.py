"""Networks against NumPy, policies under masks, and policy files, hostile ones too."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from stitchrl.errors import CheckpointError
from stitchrl.nn.distributions import masked_log_softmax
from stitchrl.nn.networks import MLP, Ensemble
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy, GreedyPolicy, ValueGreedyPolicy
from stitchrl.nn.saving import load_policy_file, save_policy_file
from stitchrl.nn.units import StandardizedPolicy, StandardizedValue
from stitchrl.nn.value import CriticValue

OBS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
MASK = jnp.asarray([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]], jnp.bool_)


def network(seed: int = 0, out: int = 4) -> MLP:
    return MLP.create(3, (5, 4), out, key=jax.random.key(seed))


def critics(count: int = 2) -> Ensemble:
    return Ensemble.create(count, 3, (5,), 4, key=jax.random.key(1))


def standardized(inner: DiscretePolicy) -> StandardizedPolicy:
    mean, std = jnp.asarray([1.0, -2.0, 0.5], jnp.float32), jnp.asarray([2.0, 0.5, 3.0], jnp.float32)
    return StandardizedPolicy(mean, std, inner)


POLICIES: dict[str, Callable[[], DiscretePolicy]] = {
    "categorical": lambda: CategoricalPolicy(network()),
    "value greedy": lambda: ValueGreedyPolicy(critics()),
    "greedy": lambda: CategoricalPolicy(network()).greedy(),
    "standardized": lambda: standardized(CategoricalPolicy(network())),
    "standardized value greedy": lambda: standardized(ValueGreedyPolicy(critics(3))),
    "greedy of standardized": lambda: standardized(CategoricalPolicy(network())).greedy(),
}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> DiscretePolicy:
    return POLICIES[request.param]()


# --- networks -------------------------------------------------------------------------------------------


def test_mlp_forward_is_numpys() -> None:
    net = MLP(
        (
            jnp.asarray([[1, -1], [2, 0.5], [0, 3]], jnp.float32),
            jnp.asarray([[2, -1, 0], [1, 1, -2]], jnp.float32),
        ),
        (jnp.asarray([0.5, -0.25], jnp.float32), jnp.asarray([0, 1, 2], jnp.float32)),
    )
    # x = (1, 1, 1): hidden relu(3.5, 2.25), out (7 + 2.25, -3.5 + 2.25 + 1, -4.5 + 2).
    # x = (1, -1, 0): hidden relu(-.5, -1.75) = 0, out = the bias.
    x = jnp.asarray([[1, 1, 1], [1, -1, 0]], jnp.float32)
    np.testing.assert_array_equal(net(x), [[9.25, -0.25, -2.5], [0, 1, 2]])
    np.testing.assert_array_equal(net.hidden(x), [[3.5, 2.25], [0, 0]])


def test_mlp_of_several_layers_and_batch_axes() -> None:
    net, x = network(), np.random.default_rng(1).normal(size=(2, 6, 3)).astype(np.float32)
    y = x
    for k, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        y = y @ np.asarray(weight) + np.asarray(bias)
        y = np.maximum(y, 0) if k < 2 else y
    assert y.shape == (2, 6, 4)
    np.testing.assert_allclose(net(jnp.asarray(x)), y, rtol=1e-5, atol=1e-6)


def test_fresh_weights_within_bounds() -> None:
    """Uniform draws fill their bounds: a thousand of them reach 99% of the way."""
    sizes = {"in_size": 40, "network": (100, 50), "out_size": 30}
    torch = MLP.create(**sizes, key=jax.random.key(0), start="uniform")
    for weight, bias, inputs in zip(torch.weights, torch.biases, (40, 100, 50), strict=True):
        assert 0.98 * inputs**-0.5 < float(jnp.abs(weight).max()) <= inputs**-0.5
        assert 0.5 * inputs**-0.5 < float(jnp.abs(bias).max()) <= inputs**-0.5


def test_fresh_weights_are_orthogonal_with_their_gains_and_biases_zero() -> None:
    net = MLP.create(3, (8,), 2, key=jax.random.key(0), final_gain=0.01)
    first, last = (np.asarray(weight) for weight in net.weights)
    np.testing.assert_allclose(first @ first.T, 2 * np.eye(3), atol=1e-5)
    np.testing.assert_allclose(last.T @ last, 1e-4 * np.eye(2), atol=1e-7)
    assert all(not np.asarray(bias).any() for bias in net.biases)


def test_ensemble_members_are_those_members_alone() -> None:
    ensemble = critics(3)
    together = ensemble(OBS)
    assert together.shape == (3, 6, 4)
    for k in range(3):
        alone = jax.tree.map(lambda leaf, k=k: leaf[k], ensemble.members)
        np.testing.assert_allclose(together[k], alone(OBS), rtol=1e-5, atol=1e-6)
    assert not np.allclose(together[0], together[1])


# --- masked probabilities -------------------------------------------------------------------------------


def test_masked_log_softmax_by_hand() -> None:
    logits = jnp.log(jnp.asarray([[1, 2, 3, 4]], jnp.float32))
    np.testing.assert_allclose(jnp.exp(masked_log_softmax(logits, None)), [[0.1, 0.2, 0.3, 0.4]], rtol=1e-5)
    mask = jnp.asarray([[False, True, True, False]])
    np.testing.assert_allclose(jnp.exp(masked_log_softmax(logits, mask)), [[0, 0.4, 0.6, 0]], rtol=1e-5)


def test_forbidden_actions_have_probability_exactly_zero(policy: DiscretePolicy) -> None:
    probs = np.asarray(policy.probs(OBS, action_mask=MASK))
    assert (probs[~np.asarray(MASK)] == 0).all()
    np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(policy.probs(OBS)).sum(1), 1.0, rtol=1e-5)


def test_forbidding_renormalises_what_is_left() -> None:
    policy = CategoricalPolicy(network())
    free = np.asarray(policy.probs(OBS)) * np.asarray(MASK)
    np.testing.assert_allclose(
        policy.probs(OBS, action_mask=MASK), free / free.sum(1, keepdims=True), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("scale", [1.0, 1e4, -1e4])
def test_gradients_under_a_mask_are_finite_and_forbidden_ones_zero(scale: float) -> None:
    logits = scale * jnp.asarray(np.random.default_rng(3).normal(size=(6, 4)), jnp.float32)
    action = jnp.argmax(MASK, axis=1)

    def loss(logits: jax.Array) -> jax.Array:
        log_probs = masked_log_softmax(logits, MASK)
        chosen = jnp.take_along_axis(log_probs, action[:, None], axis=1)
        return -jnp.mean(chosen) + jnp.sum(jnp.exp(log_probs) * log_probs)

    gradient = np.asarray(jax.grad(loss)(logits))
    assert np.isfinite(gradient).all()
    assert (gradient[~np.asarray(MASK)] == 0).all()


def test_log_prob_is_the_log_of_the_actions_probability(policy: DiscretePolicy) -> None:
    probs = np.asarray(policy.probs(OBS, action_mask=MASK))
    mode = policy.mode(OBS, action_mask=MASK)
    for action in (mode, jnp.argmax(MASK, axis=1)):
        chosen = probs[np.arange(6), np.asarray(action)]
        found = np.asarray(policy.log_prob(OBS, action, action_mask=MASK))
        np.testing.assert_allclose(np.exp(found), chosen, rtol=1e-5)
        np.testing.assert_allclose(found[chosen > 0], np.log(chosen[chosen > 0]), rtol=1e-5, atol=1e-6)


def test_mode_is_the_most_probable_allowed_action(policy: DiscretePolicy) -> None:
    probs = np.asarray(policy.probs(OBS, action_mask=MASK))
    mode = np.asarray(policy.mode(OBS, action_mask=MASK))
    np.testing.assert_array_equal(mode, probs.argmax(1))
    assert np.asarray(MASK)[np.arange(6), mode].all()
    np.testing.assert_array_equal(policy.mode(OBS), np.asarray(policy.probs(OBS)).argmax(1))


def test_samples_are_allowed_and_as_frequent_as_their_probabilities(policy: DiscretePolicy) -> None:
    copies = 2000
    obs, mask = jnp.repeat(OBS, copies, axis=0), jnp.repeat(MASK, copies, axis=0)
    drawn = np.asarray(policy.sample(obs, key=jax.random.key(5), action_mask=mask))
    assert np.asarray(mask)[np.arange(6 * copies), drawn].all()
    probs = np.asarray(policy.probs(OBS, action_mask=MASK), np.float64)
    shares = np.stack([np.bincount(row, minlength=4) for row in drawn.reshape(6, copies)]) / copies
    assert (np.abs(shares - probs) <= 4.5 * np.sqrt(probs * (1 - probs) / copies) + 1e-9).all()


def test_samples_depend_on_the_key_alone() -> None:
    policy = CategoricalPolicy(network())
    obs = jnp.repeat(OBS, 50, axis=0)
    first, again, other = (policy.sample(obs, key=jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_greedy_is_all_mass_on_the_mode(policy: DiscretePolicy) -> None:
    for mask in (None, MASK):
        greedy = policy.greedy()
        expected = np.eye(4)[np.asarray(policy.mode(OBS, action_mask=mask))]
        np.testing.assert_array_equal(greedy.probs(OBS, action_mask=mask), expected)
        np.testing.assert_array_equal(greedy.mode(OBS, action_mask=mask), expected.argmax(1))
        drawn = greedy.sample(OBS, key=jax.random.key(0), action_mask=mask)
        np.testing.assert_array_equal(drawn, expected.argmax(1))


def test_value_greedy_takes_the_best_mean_of_the_critics() -> None:
    # Critics of constant output, their biases: means (2.5, 2.3, 2.75, 2.275). The smaller of the two is best
    # for action 1, the larger for 0, the first alone for 0, the second alone for 3.
    ensemble = jax.tree.map(jnp.zeros_like, critics(2))
    biases = jnp.asarray([[6, 2.3, 0, -1], [-1, 2.3, 5.5, 5.55]], jnp.float32)
    members = MLP(ensemble.members.weights, (ensemble.members.biases[0], biases))
    policy = ValueGreedyPolicy(Ensemble(members))
    np.testing.assert_array_equal(policy.mode(OBS), np.full(6, 2))
    # Best allowed ones, in the order of MASK's rows.
    np.testing.assert_array_equal(policy.mode(OBS, action_mask=MASK), [2, 2, 3, 2, 0, 2])
    np.testing.assert_array_equal(policy.probs(OBS, action_mask=MASK), np.eye(4)[[2, 2, 3, 2, 0, 2]])


def test_standardized_policy_is_the_inner_one_on_scaled_observations() -> None:
    inner = CategoricalPolicy(network())
    scaled = (np.asarray(OBS) - np.array([1, -2, 0.5], np.float32)) / np.array([2, 0.5, 3], np.float32)
    np.testing.assert_allclose(
        standardized(inner).probs(OBS, action_mask=MASK),
        inner.probs(jnp.asarray(scaled), action_mask=MASK),
        rtol=1e-6,
    )
    assert not np.allclose(standardized(inner).probs(OBS), inner.probs(OBS))


def test_values_are_means_over_critics_and_expectations_over_the_policy() -> None:
    policy = CategoricalPolicy(network())
    value = CriticValue(critics(), policy)
    q = np.asarray(critics()(OBS)).mean(0)
    np.testing.assert_allclose(value.q_all(OBS), q, rtol=1e-5, atol=1e-6)
    action = jnp.asarray([0, 1, 2, 3, 0, 1], jnp.int32)
    np.testing.assert_allclose(value.q(OBS, action), q[np.arange(6), np.asarray(action)], rtol=1e-5, atol=1e-6)
    expected = (np.asarray(policy.probs(OBS, action_mask=MASK)) * q).sum(1)
    np.testing.assert_allclose(value.v(OBS, action_mask=MASK), expected, rtol=1e-5, atol=1e-6)


def test_standardized_value_undoes_observation_and_reward_scaling() -> None:
    inner = CriticValue(critics(), CategoricalPolicy(network()))
    mean, std = jnp.asarray([1.0, -2.0, 0.5], jnp.float32), jnp.asarray([2.0, 0.5, 3.0], jnp.float32)
    value = StandardizedValue(mean, std, jnp.float32(4.0), inner)
    scaled = (OBS - mean[None, :]) / std[None, :]
    np.testing.assert_allclose(value.q_all(OBS), inner.q_all(scaled) / 4.0, rtol=1e-5)
    np.testing.assert_allclose(
        value.v(OBS, action_mask=MASK), inner.v(scaled, action_mask=MASK) / 4.0, rtol=1e-5, atol=1e-7
    )


# --- files ----------------------------------------------------------------------------------------------


def test_policy_files_round_trip_bit_for_bit(policy: DiscretePolicy, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy_file(path, policy)
    loaded = load_policy_file(path)
    assert type(loaded) is type(policy)
    for mask in (None, MASK):
        np.testing.assert_array_equal(loaded.probs(OBS, action_mask=mask), policy.probs(OBS, action_mask=mask))
    assert jax.tree.structure(loaded) == jax.tree.structure(policy)
    assert [file.name for file in tmp_path.iterdir()] == ["policy.safetensors"]


def saved(path: Path) -> dict:
    """Save a policy and give its header's content."""
    save_policy_file(path, CategoricalPolicy(network()))
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["stitchrl"])


def forge(path: Path, header: object) -> None:
    """A sound safetensors file with some other header."""
    arrays = {"policy.network.weights.0": np.ones((3, 4), np.float32)}
    save_file(arrays, path, metadata={"stitchrl": json.dumps(header)})


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (witness,))

    path = tmp_path / "policy.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy_file(path)
    assert not witness.exists()
    pickle.loads(path.read_bytes())
    assert witness.exists()  # it would have


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 5000])
def test_random_bytes_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(np.random.default_rng(size).bytes(size))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy_file(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "policy.safetensors"
    saved(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy_file(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_policy_file(path)


@pytest.mark.parametrize("name", ["os.system", "Popen", "__import__", "BCState", "Path", ""])
def test_a_class_that_is_no_policys_is_refused_and_not_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / "policy.safetensors"
    fields = {"command": "touch witness", "network": "policy.network.weights.0"}
    forge(path, {"format": 1, "policy": {"class": name, "fields": fields}})
    with pytest.raises(CheckpointError, match="does not describe a policy"):
        load_policy_file(path)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(tmp_path: Path, version: object) -> None:
    path = tmp_path / "policy.safetensors"
    header = saved(path)
    forge(path, header | {"format": version})
    with pytest.raises(CheckpointError, match=f"must have format 1; got {version}"):
        load_policy_file(path)


HEADERS = {
    "nothing": None,
    "a list": [1],
    "no policy": {"format": 1},
    "unknown array": {"format": 1, "policy": "policy.missing"},
    "unknown field": {
        "format": 1,
        "policy": {"class": "MLP", "fields": {"weights": [], "biases": [], "x": []}},
    },
    "missing field": {"format": 1, "policy": {"class": "CategoricalPolicy", "fields": {}}},
    "fields is a list": {"format": 1, "policy": {"class": "MLP", "fields": []}},
    "class is a list": {"format": 1, "policy": {"class": ["MLP"], "fields": {}}},
    "a network, no policy": {
        "format": 1,
        "policy": {"class": "MLP", "fields": {"weights": [], "biases": []}},
    },
    "an array, no policy": {"format": 1, "policy": "policy.network.weights.0"},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_headers_that_describe_no_policy_are_refused(tmp_path: Path, header: object) -> None:
    path = tmp_path / "policy.safetensors"
    forge(path, header)
    with pytest.raises(CheckpointError, match=str(path)):
        load_policy_file(path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_file({"x": np.ones(3, np.float32)}, path)
    with pytest.raises(CheckpointError, match="must have format 1; got None"):
        load_policy_file(path)


def test_a_policy_of_another_class_cannot_be_saved(tmp_path: Path) -> None:
    class Mine(DiscretePolicy):
        def logits(self, obs: jax.Array, *, action_mask: jax.Array | None = None) -> jax.Array:
            return jnp.zeros((obs.shape[0], 4), jnp.float32)

    with pytest.raises(CheckpointError, match="A Mine cannot be saved; savable are MLP, "):
        save_policy_file(tmp_path / "policy.safetensors", GreedyPolicy(Mine()))
    assert list(tmp_path.iterdir()) == []
