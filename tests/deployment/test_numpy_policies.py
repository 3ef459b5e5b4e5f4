"""Every kind of policy that can be saved is the same with NumPy alone as with JAX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.deployment.numpy_memory import NumpyMemoryPolicy
from stitchrl.deployment.numpy_saving import FORMAT_VERSION, KINDS, NO_PART_OF_A_POLICY, load_numpy_policy_file
from stitchrl.errors import CheckpointError
from stitchrl.nn import saving
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.chunk import ChunkPolicy
from stitchrl.nn.clipped import ClippedPolicy
from stitchrl.nn.constrained import ConstrainedGreedyPolicy
from stitchrl.nn.continuous_ladder import continuous_rung
from stitchrl.nn.continuous_policy import (
    DeterministicPolicy,
    GaussianPolicy,
    MixturePolicy,
    ModePolicy,
    SquashedGaussianPolicy,
)
from stitchrl.nn.diffusion import DiffusionPolicy
from stitchrl.nn.factored import FactoredNetwork
from stitchrl.nn.floored import FlooredPolicy
from stitchrl.nn.flow import FlowPolicy
from stitchrl.nn.ladder import LadderPolicy
from stitchrl.nn.memory import GreedyMemoryPolicy, MemoryPolicy
from stitchrl.nn.networks import MLP, Ensemble, ImageNetwork, Network
from stitchrl.nn.one_step import OneStepPolicy
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy, GreedyPolicy, ValueGreedyPolicy
from stitchrl.nn.return_conditioned import ReturnConditionedNetwork, ReturnConditionedPolicy
from stitchrl.nn.smoothed import SmoothedPolicy
from stitchrl.nn.tabular import TabularPolicy
from stitchrl.nn.transformer import CausalTransformer
from stitchrl.nn.units import RescaledMemoryPolicy, RescaledPolicy, StandardizedPolicy
from stitchrl.nn.vae import PerturbedPolicy

D, A, ROWS = 5, 4, 64
RNG = np.random.default_rng(0)
OBS = RNG.normal(2.0, 3.0, (ROWS, D)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (3, 9, 8, 2), dtype=np.uint8)
MASK = RNG.random((ROWS, A)) < 0.6
MASK[:, 0] |= ~MASK.any(1)
ENDS = ((True, True), (False, True), (False, False))


def numbers(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def network(outputs: int, seed: int = 0, **shape: Any) -> MLP:
    # Outputs of ordinary size: of standard deviations near 0, float32 knows no density to six digits.
    made = MLP.create(D, Network((16, 12), **shape), outputs, key=jax.random.key(seed), final_gain=0.05)
    # Biases, and normalisation where there is any, start at 0 and 1: their places would be interchangeable.
    return MLP(
        made.weights,
        tuple(bias + 0.2 * numbers(i, *bias.shape) for i, bias in enumerate(made.biases)),
        tuple(one + 0.1 * numbers(i, *one.shape) for i, one in enumerate(made.norm_scales)),
        tuple(one + numbers(i, *one.shape) for i, one in enumerate(made.norm_offsets)),
        made.activation,
        made.layer_norm,
        made.dropout,
    )


def categorical(seed: int = 0, **shape: Any) -> CategoricalPolicy:
    return CategoricalPolicy(network(A, seed, **shape))


def tabular() -> TabularPolicy:
    probs = np.random.default_rng(3).dirichlet(np.full(A, 0.5), 20)
    return TabularPolicy(numbers(4, 20, D) * 3 + 2, jnp.log(jnp.asarray(probs, jnp.float32)))


def rescaled(policy: Any) -> RescaledPolicy:
    return RescaledPolicy(
        jnp.full(D, 2.0), jnp.full(D, 3.0), jnp.asarray([0.0, 1.0, -2.0]), jnp.asarray([1.0, 0.5, 3.0]), policy
    )


def mixture(kind: str, ends: Any = ()) -> RescaledPolicy:
    return rescaled(MixturePolicy(network(2 + 2 * 2 * 3), jnp.float32(0.1), 2, kind, 0.05, ends))


def perturbed() -> PerturbedPolicy:
    decoder, moves = (MLP.create(inputs, (16,), 3, key=jax.random.key(inputs)) for inputs in (D + 6, D + 3))
    return PerturbedPolicy(decoder, moves, jnp.float32(0.2))


def best_of(proposal: Any, size: int) -> RescaledPolicy:
    critic = MLP.create(D + 3, (16,), 1, key=jax.random.key(9))
    return rescaled(BestOfPolicy.create(proposal, critic, 7, size))


def diffusion() -> DiffusionPolicy:
    return DiffusionPolicy.create(D, 3, 8, 2, 3, 0.1, key=jax.random.key(8))


def several_best_of(joined: Any) -> RescaledPolicy:
    critics = Ensemble.create(2, D + 3, (16,), 1, key=jax.random.key(9))
    return rescaled(BestOfPolicy.create(diffusion(), critics, 5, 9, joined=joined))


MADE: dict[str, Callable[[], Any]] = {
    "categorical": categorical,
    "categorical gelu, norm before": lambda: categorical(activation="gelu", layer_norm="before", dropout=0.1),
    "categorical tanh, norm after": lambda: categorical(activation="tanh", layer_norm="after"),
    "factored": lambda: CategoricalPolicy(
        FactoredNetwork(MLP.create(D, Network((16,)), 2 + 2, key=jax.random.key(1)), (2, 2))
    ),
    "value-greedy, factored": lambda: ValueGreedyPolicy(
        Ensemble(FactoredNetwork(Ensemble.create(3, D, (16,), 2 + 2, key=jax.random.key(5)).members, (2, 2)))
    ),
    "categorical silu": lambda: categorical(activation="silu"),
    "value-greedy": lambda: ValueGreedyPolicy(Ensemble.create(3, D, (16,), A, key=jax.random.key(5))),
    "constrained": lambda: ConstrainedGreedyPolicy(
        Ensemble.create(2, D, (16,), A, key=jax.random.key(5)), categorical(), jnp.float32(0.9)
    ),
    "greedy": lambda: GreedyPolicy(categorical()),
    "standardized": lambda: StandardizedPolicy(jnp.full(D, 2.0), jnp.full(D, 3.0), categorical()),
    "tabular": tabular,
    "floored": lambda: FlooredPolicy(categorical(), 0.1),
    "ladder": lambda: LadderPolicy(tabular(), categorical(), jnp.float32(2.0), jnp.float32(0.05)),
    "ladder of a greedy one": lambda: LadderPolicy(
        GreedyPolicy(tabular()), categorical(), jnp.float32(1.0), jnp.float32(0.3)
    ),
    "ladder of power 0": lambda: LadderPolicy(tabular(), categorical(), jnp.float32(0.0), jnp.float32(0.1)),
    "continuous ladder": lambda: continuous_rung(
        rescaled(GaussianPolicy(network(3), jnp.zeros(3))), mixture("plain"), 0.5, 0.8
    ),
    "continuous ladder, truncated": lambda: continuous_rung(
        rescaled(DeterministicPolicy(network(3))), mixture("truncated"), 1.0, 1.0
    ),
    "continuous ladder, squashed": lambda: continuous_rung(
        rescaled(DeterministicPolicy(network(3))), mixture("squashed"), 0.25, 0.8
    ),
    "continuous ladder, clipped": lambda: continuous_rung(
        rescaled(DeterministicPolicy(network(3))), mixture("clipped", ENDS), 0.5, 1.0
    ),
    "gaussian": lambda: rescaled(GaussianPolicy(network(3), jnp.asarray([-1.0, 0.0, 3.0]))),
    "squashed gaussian": lambda: rescaled(SquashedGaussianPolicy(network(6))),
    "deterministic": lambda: rescaled(DeterministicPolicy(network(3))),
    "mode": lambda: ModePolicy(rescaled(GaussianPolicy(network(3), jnp.zeros(3)))),
    "mixture": lambda: mixture("plain"),
    "truncated mixture": lambda: mixture("truncated"),
    "squashed mixture": lambda: mixture("squashed"),
    "clipped mixture": lambda: mixture("clipped", ENDS),
    "clipped mixture at all ends": lambda: mixture("clipped"),
    "smoothed": lambda: SmoothedPolicy(
        rescaled(DeterministicPolicy(network(3))), np.float32([0.3, 1.0, 0.5]), -1.0, np.float32([1.0, 2.0, np.inf])
    ),
    "perturbed": lambda: rescaled(perturbed()),
    "best of generated ones": lambda: best_of(perturbed(), 6),
    "best of a squashed gaussian": lambda: best_of(SquashedGaussianPolicy(network(6)), 3),
    "flow": lambda: rescaled(FlowPolicy.create(D, 3, Network((16,), activation="gelu"), 4, key=jax.random.key(8))),
    "one step": lambda: rescaled(OneStepPolicy.create(D, 3, Network((16,), activation="gelu"), key=jax.random.key(8))),
    "diffusion": lambda: rescaled(diffusion()),
    "best of a diffusion": lambda: several_best_of("min"),
    "best of a diffusion by the mean": lambda: several_best_of("mean"),
    "clipped": lambda: ClippedPolicy(
        rescaled(GaussianPolicy(network(3), jnp.zeros(3))), np.float32([-1, 0.5, -np.inf]), np.float32([1, 1.5, np.inf])
    ),
}
"""One policy or more of every kind."""


def return_conditioned(*, numbered: bool) -> ReturnConditionedPolicy:
    transformer = CausalTransformer.create(12, 2, heads=3, activation="gelu", dropout=0.1, key=jax.random.key(11))
    made = ReturnConditionedNetwork.create(D, 3, A if numbered else None, 5, transformer, 12, key=jax.random.key(12))
    # Norms start at 1 and 0, and biases inside at 0: their places would be interchangeable.
    leaves, tree = jax.tree.flatten(made)
    shaken = [one + 0.2 * numbers(i, *one.shape) for i, one in enumerate(leaves)]
    shaken[-2] *= 3.0 if numbered else 1.0  # of the head: the preferred action differs between rows
    return ReturnConditionedPolicy(jax.tree.unflatten(tree, shaken), jnp.float32(3.0), jnp.float32(2.0), 4)


def in_units(policy: Any, *, numbered: bool) -> RescaledMemoryPolicy:
    units = (None, None) if numbered else (jnp.asarray([0.0, 1.0, -2.0]), jnp.asarray([1.0, 0.5, 3.0]))
    return RescaledMemoryPolicy(jnp.full(D, 2.0), jnp.full(D, 3.0), *units, jnp.float32(0.5), jnp.float32(0.1), policy)


def chunks(planner: Any) -> RescaledMemoryPolicy:
    return in_units(ChunkPolicy(planner, 3, 3), numbered=False)


def flow_of_chunks() -> FlowPolicy:
    return FlowPolicy(MLP.create(D + 9 + 1, (16,), 9, key=jax.random.key(6)), 4)


REMEMBERING: dict[str, Callable[[], Any]] = {
    "towards a return, numbered": lambda: in_units(return_conditioned(numbered=True), numbered=True),
    "towards a return, vectors": lambda: in_units(return_conditioned(numbered=False), numbered=False),
    "greedy": lambda: GreedyMemoryPolicy(in_units(return_conditioned(numbered=True), numbered=True)),
    "greedy vectors": lambda: GreedyMemoryPolicy(in_units(return_conditioned(numbered=False), numbered=False)),
    "chunks of a flow": lambda: chunks(flow_of_chunks()),
    "chunks of the best of several": lambda: chunks(
        BestOfPolicy.create(flow_of_chunks(), MLP.create(D + 9, (16,), 1, key=jax.random.key(9)), 5, 9)
    ),
}


def kinds_in(content: Any) -> set[str]:
    if isinstance(content, dict):
        named = {content["class"]} if "class" in content else set()
        return named.union(*map(kinds_in, content.values()))
    return set().union(*map(kinds_in, content)) if isinstance(content, list) else set()


def both(policy: Any, folder: Path) -> tuple[Any, Any]:
    file = folder / "policy.safetensors"
    saving.save_policy_file(file, policy)
    return saving.load_policy_file(file), load_numpy_policy_file(file)


def close(ours: Any, theirs: Any, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=1e-6, atol=atol)


def test_every_kind_that_is_saved_is_known_or_is_no_part_of_a_policy() -> None:
    assert set(KINDS) | set(NO_PART_OF_A_POLICY) == set(saving.CLASSES)
    assert not set(KINDS) & set(NO_PART_OF_A_POLICY)
    assert saving.FORMAT_VERSION == FORMAT_VERSION
    tested: set[str] = set()
    for make in [*MADE.values(), *REMEMBERING.values()]:
        tested |= kinds_in(saving._encode(make(), "policy", {}))
    assert tested | {"ImageNetwork"} == set(KINDS)


@pytest.mark.parametrize("name", MADE)
def test_numpy_gives_what_jax_gives(name: str, tmp_path: Path) -> None:
    ours, theirs = both(MADE[name](), tmp_path)
    assert type(theirs).__module__.startswith("stitchrl.deployment.numpy_")
    if isinstance(ours, DiscretePolicy):
        for mask in (None, MASK):
            probs = np.asarray(ours.probs(OBS, action_mask=mask))
            close(theirs.probs(OBS, action_mask=mask), probs)
            np.testing.assert_array_equal(theirs.mode(OBS, action_mask=mask), ours.mode(OBS, action_mask=mask))
            action = probs.argmax(1)
            close(theirs.log_prob(OBS, action, action_mask=mask), ours.log_prob(OBS, action, action_mask=mask))
            np.testing.assert_array_equal(
                theirs.greedy().probs(OBS, action_mask=mask), ours.greedy().probs(OBS, action_mask=mask)
            )
        return
    atol = 3e-5 if "diffusion" in name else 1e-6  # its steps multiply what is rounded by up to 12
    close(theirs.mode(OBS), ours.mode(OBS), atol)
    close(theirs.greedy().mode(OBS), ours.greedy().mode(OBS), atol)
    assert theirs.has_density == ours.has_density
    if not ours.has_density:
        return
    drawn = np.asarray(ours.sample(OBS, key=jax.random.key(7)))
    wanted = np.asarray(ours.log_prob(OBS, drawn), np.float64)
    found = theirs.log_prob(OBS, drawn)
    scale = np.maximum(
        np.abs(wanted), 1.0
    )  # float32 undoes tanh and squares distances: some log-densities lose a digit
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=2e-6)
    beyond = drawn + np.float32(1e4)
    close(np.maximum(theirs.log_prob(OBS, beyond), -1e3), np.maximum(ours.log_prob(OBS, beyond), -1e3))


@pytest.mark.parametrize("name", REMEMBERING)
def test_numpy_gives_what_jax_gives_step_by_step(name: str, tmp_path: Path) -> None:
    ours, theirs = both(REMEMBERING[name](), tmp_path)
    assert isinstance(ours, MemoryPolicy)
    assert isinstance(theirs, NumpyMemoryPolicy)
    assert (theirs.has_density, theirs.uses_reward) == (ours.has_density, ours.uses_reward)
    assert theirs.action_shape == ours.action_shape
    numbered, rng = not ours.action_shape, np.random.default_rng(2)
    wanted: Any
    carry, other = ours.initial_carry(ROWS), theirs.initial_carry(ROWS)
    last: Any = np.zeros((ROWS, *ours.action_shape), np.int32 if numbered else np.float32)
    for step in range(7):  # beyond what the policies remember, and beyond their positions
        obs, paid = RNG.normal(2.0, 3.0, (ROWS, D)).astype(np.float32), rng.normal(0, 5, ROWS).astype(np.float32)
        mask = MASK if numbered and step % 2 else None
        found, other = theirs.answer(other, obs, last, paid, action_mask=mask)
        wanted, carry = ours.respond(carry, obs, jnp.asarray(last), paid, action_mask=mask)
        close(found, jnp.exp(wanted.log_probs) if numbered else wanted.mode(), 1e-5)
        differ = np.ptp(found, axis=0).max() > 1e-2
        assert differ or name == "greedy"  # which may take one action everywhere at a step
        last = rng.integers(0, A, ROWS) if numbered else rng.uniform(-1, 1, last.shape).astype(np.float32)


@pytest.mark.slow
def test_images_give_the_same(tmp_path: Path) -> None:
    made = ImageNetwork.create((9, 8, 2), Network((8,), channels=(4, 6)), A, key=jax.random.key(0))
    ours, theirs = both(CategoricalPolicy(made), tmp_path)
    close(theirs.probs(IMAGES), ours.probs(IMAGES))
    ensemble = Ensemble.create(2, (9, 8, 2), Network((8,), channels=(4,)), A, key=jax.random.key(1))
    ours, theirs = both(ValueGreedyPolicy(ensemble), tmp_path)
    close(theirs.probs(IMAGES), ours.probs(IMAGES))


@pytest.mark.parametrize(
    "name", ["gaussian", "squashed gaussian", "truncated mixture", "squashed mixture", "clipped mixture", "smoothed"]
)
def test_draws_have_the_law_that_jax_draws_from(name: str, tmp_path: Path) -> None:
    ours, theirs = both(MADE[name](), tmp_path)
    many = np.repeat(OBS[:1], 20_000, 0)
    drawn, other = (
        theirs.sample(many, rng=np.random.default_rng(1)),
        np.asarray(ours.sample(many, key=jax.random.key(1))),
    )
    for quantile in (0.1, 0.5, 0.9):
        one, two = np.quantile(drawn, quantile, 0), np.quantile(other, quantile, 0)
        np.testing.assert_allclose(one, two, atol=0.05 * max(1.0, float(other.std(0).max())))


def test_a_class_without_a_numpy_path_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "policy.safetensors"
    saving.save_tree_file(file, {})
    with pytest.raises(CheckpointError, match="does not describe a policy"):
        load_numpy_policy_file(file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_numpy_policy_file(tmp_path / "nowhere")
    from stitchrl.storage.tensors import write_tensors

    write_tensors(file, {}, {"format": 1, "policy": {"class": "TabularValue", "fields": {}}})
    with pytest.raises(CheckpointError, match="'TabularValue', which NumPy does not compute: it is a value"):
        load_numpy_policy_file(file)
