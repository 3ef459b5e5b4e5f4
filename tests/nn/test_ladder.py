"""The ladder between a policy and the behaviour, against its formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float

from stitchrl.jax_types import Array
from stitchrl.nn.ladder import LadderPolicy
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import CategoricalPolicy, DiscretePolicy
from stitchrl.nn.saving import load_policy_file, save_policy_file


class Fixed(DiscretePolicy):
    """The same probabilities everywhere."""

    row: Float[Array, " A"]

    def logits(self, obs, *, action_mask=None):
        return jnp.log(jnp.broadcast_to(self.row, (len(obs), len(self.row))))


POLICY, BEHAVIOR = np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.2, 0.4, 0.35, 0.05])
OBS = np.zeros((2, 3), np.float32)


def rung(power: float, floor: float, policy: np.ndarray = POLICY, behavior: np.ndarray = BEHAVIOR) -> LadderPolicy:
    fixed = [Fixed(jnp.asarray(row, jnp.float32)) for row in (policy, behavior)]
    return LadderPolicy(*fixed, jnp.float32(power), jnp.float32(floor))


@pytest.mark.parametrize(("power", "floor"), [(0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (0.5, 0.3), (2.0, 0.1), (1.0, 0.21)])
def test_is_its_formula(power: float, floor: float) -> None:
    weight = np.where(floor <= BEHAVIOR, BEHAVIOR * (POLICY / BEHAVIOR) ** power, 0.0)
    found = np.asarray(rung(power, floor).probs(OBS))
    assert found == pytest.approx(np.tile(weight / weight.sum(), (2, 1)), abs=1e-6)
    if power > 0 and floor > 0:
        assert (found / BEHAVIOR).max() <= 1 / floor


def test_where_nothing_of_the_policy_remains_it_is_the_behaviour() -> None:
    only_rare = np.array([0.0, 0.0, 0.0, 1.0])
    assert np.asarray(rung(2.0, 0.1, only_rare).probs(OBS))[0] == pytest.approx(BEHAVIOR, abs=1e-6)
    assert np.asarray(rung(2.0, 0.5).probs(OBS))[0] == pytest.approx(BEHAVIOR, abs=1e-6)


def test_a_greedy_policy_acts_greedily_where_the_behaviour_does_so_often_enough() -> None:
    greedy = np.array([0.0, 1.0, 0.0, 0.0])
    assert np.asarray(rung(1.0, 0.1, greedy).probs(OBS))[0] == pytest.approx(greedy, abs=1e-6)
    assert np.asarray(rung(1.0, 0.1).greedy().probs(OBS))[0] == pytest.approx([1, 0, 0, 0], abs=1e-6)


def test_masks_are_honoured_before_the_floor() -> None:
    mask = np.array([[False, True, True, True]] * 2)
    allowed = np.where(mask[0], BEHAVIOR, 0)
    behavior, policy = allowed / allowed.sum(), np.where(mask[0], POLICY, 0) / POLICY[1:].sum()
    weight = np.where(behavior >= 0.07, behavior * (policy / np.maximum(behavior, 1e-9)) ** 2, 0)
    assert np.asarray(rung(2.0, 0.07).probs(OBS, action_mask=mask))[0] == pytest.approx(weight / weight.sum(), abs=1e-6)


def test_is_saved_and_loaded(tmp_path) -> None:
    networks = [MLP.create(3, Network((4,)), 4, key=key) for key in jax.random.split(jax.random.key(0))]
    made = LadderPolicy(*map(CategoricalPolicy, networks), jnp.float32(2.0), jnp.float32(0.05))
    save_policy_file(tmp_path / "policy.safetensors", made)
    loaded = load_policy_file(tmp_path / "policy.safetensors")
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.asarray(loaded.probs(obs)) == pytest.approx(np.asarray(made.probs(obs)))
