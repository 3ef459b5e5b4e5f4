"""DecisionTransformer: its loss by hand, the official numbers, what a token may see, acting step by step, and what it learns."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import ALL, KEY, fitted, updated
from worlds import assert_trees_equal, schema_of

import stitchrl as st
from golden import GOLDEN
from stitchrl.algorithms.base import Spec
from stitchrl.algorithms.decision_transformer import sequence_loss
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.nn.memory import nothing_yet
from stitchrl.nn.networks import Network
from stitchrl.nn.return_conditioned import ReturnConditionedNetwork, ReturnConditionedPolicy, Steps
from stitchrl.nn.transformer import Affine, Norm

SMALL = ALL["DecisionTransformer"]


def f32(*numbers: Any) -> jax.Array:
    return jnp.asarray(numbers, jnp.float32)


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_of_vectors_by_hand() -> None:
    # tanh of the outputs is 0.5 and 0; two rows of two numbers count, and the third, which is far off, does not
    out = jnp.arctanh(f32([[0.5, 0.0], [0.5, 0.5], [0.9, 0.9]]))
    action, valid = f32([[0.0, 0.0], [0.5, -0.5], [9.0, 9.0]]), f32([1, 1, 0])
    loss, metrics = sequence_loss(out, action, valid)
    assert float(loss) == pytest.approx((0.25 + 0.0 + 0.0 + 1.0) / 4)
    assert float(metrics["policy/mode_error"]) == pytest.approx(np.sqrt(1.25 / 4))
    gradient = jax.grad(lambda o: sequence_loss(o, action, valid)[0])(out)
    np.testing.assert_allclose(gradient[0, 0], [2 * 0.5 * 0.75 / 4, 0.0], atol=1e-6)
    np.testing.assert_allclose(gradient[0, 1], [0.0, 2 * 1.0 * 0.75 / 4], atol=1e-6)
    assert not np.asarray(gradient[0, 2]).any()


def test_the_loss_of_numbered_actions_by_hand() -> None:
    out = jnp.log(f32([[1, 2, 1], [1, 1, 98], [1, 1, 1]]))
    action, valid = jnp.asarray([[1, 0, 2]], jnp.int32), f32([1, 1, 0])
    mask = jnp.asarray([[[True] * 3, [True, True, False], [True] * 3]])
    loss, metrics = sequence_loss(out, action, valid, mask)
    assert float(loss) == pytest.approx(-(np.log(1 / 2) + np.log(1 / 2)) / 2)
    assert float(metrics["policy/agreement"]) == 1.0
    entropy = (0.5 * np.log(2) + 2 * 0.25 * np.log(4) + np.log(2)) / 2
    assert float(metrics["policy/entropy"]) == pytest.approx(entropy, rel=1e-5)


# --- the official numbers --------------------------------------------------------------------------------------------


def official(arrays: Any, kind: str, fresh: ReturnConditionedNetwork) -> ReturnConditionedNetwork:
    """The network with the parameters of the stored run; ours are (inputs, outputs), as GPT-2's own are already."""

    def linear(name: str) -> Affine:
        return Affine(jnp.asarray(arrays[f"{kind}/{name}.weight"].T), jnp.asarray(arrays[f"{kind}/{name}.bias"]))

    def conv(name: str) -> Affine:
        return Affine(jnp.asarray(arrays[f"{kind}/{name}.weight"]), jnp.asarray(arrays[f"{kind}/{name}.bias"]))

    def norm(name: str) -> Norm:
        return Norm(*(jnp.asarray(arrays[f"{kind}/{name}.{part}"]) for part in ("weight", "bias")))

    blocks = []
    for i, block in enumerate(fresh.transformer.blocks):
        at = f"transformer.h.{i}."
        parts = norm(f"{at}ln_1"), conv(f"{at}attn.c_attn"), conv(f"{at}attn.c_proj"), norm(f"{at}ln_2")
        blocks.append(type(block)(*parts, conv(f"{at}mlp.c_fc"), conv(f"{at}mlp.c_proj")))
    body = dataclasses.replace(fresh.transformer, blocks=tuple(blocks), norm=norm("transformer.ln_f"))
    return dataclasses.replace(
        fresh,
        embed_return=linear("embed_return"),
        embed_obs=linear("embed_state"),
        embed_action=linear("embed_action"),
        embed_position=jnp.asarray(arrays[f"{kind}/embed_timestep.weight"]),
        embed_norm=norm("embed_ln"),
        transformer=body,
        head=linear("predict_action.0"),
    )


def test_twenty_updates_are_those_of_the_official_code() -> None:
    arrays = np.load(GOLDEN / "decision_transformer.npz")
    algorithm = st.DecisionTransformer(
        length=4, heads=2, positions=9, learning_rate=1e-2, weight_decay=1e-2, warmup_updates=5, network=Network((8, 8))
    )
    given = {"scale": jnp.float32(1.0), "target": jnp.float32(0.0)}
    state = algorithm.init(KEY, Spec.vectors(3, None, 2), given)
    start = official(arrays, "start", state.actor.model)
    state = state._replace(actor=dataclasses.replace(state.actor, model=start))
    there = np.arange(4) < arrays["batch/lengths"][..., None]
    for update in range(20):
        batch = {name: jnp.asarray(arrays[f"batch/{name}"][update]) for name in ("obs", "action", "return_to_go")}
        batch["position"] = jnp.asarray(arrays["batch/first"][update][:, None] + np.arange(4, dtype=np.int32))
        batch["valid"] = jnp.asarray(there[update], jnp.float32)
        state, metrics = updated(algorithm, state, batch, given, KEY, update)
        assert float(metrics["loss/actor"]) == pytest.approx(float(arrays["losses"][update]), abs=2e-5)
        if update == 0:
            assert_alike(state.actor.model, official(arrays, "after_1", start))
    assert_alike(state.actor.model, official(arrays, "after_20", start))


def assert_alike(found: ReturnConditionedNetwork, stored: ReturnConditionedNetwork) -> None:
    """The same parameters to 1e-5, but for the biases of keys: they move all scores of a query alike, so that their gradient
    is rounding, of which Adam makes steps."""
    for i in range(2):
        bias = stored.transformer.blocks[i].attention_in.bias
        of_keys = np.arange(8, 16)
        found = eqx.tree_at(
            lambda net, i=i: net.transformer.blocks[i].attention_in.bias, found,
            found.transformer.blocks[i].attention_in.bias.at[of_keys].set(bias[of_keys]),
        )  # fmt: skip
    assert_trees_equal(found, stored, rtol=1e-5, atol=1e-5)


# --- what a token may see --------------------------------------------------------------------------------------------


@cache
def network(kind: str = "discrete") -> ReturnConditionedNetwork:
    """A network with nothing at its fresh value of 0 or 1."""
    algorithm = dataclasses.replace(SMALL, heads=2, network=Network((8, 8)))
    spec = Spec.vectors(3, 3) if kind == "discrete" else Spec.vectors(3, None, 2)
    fresh = algorithm.init(KEY, spec, None).actor.model
    leaves, structure = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


@eqx.filter_jit
def said(network: ReturnConditionedNetwork, steps: Steps) -> jax.Array:
    """What it says at each step."""
    return network(steps)


def some_steps(length: int = 5, kind: str = "discrete") -> Steps:
    rng = np.random.default_rng(0)
    action = rng.integers(0, 3, (2, length)) if kind == "discrete" else rng.uniform(-1, 1, (2, length, 2))
    return Steps(
        jnp.asarray(rng.normal(size=(2, length)), jnp.float32),
        jnp.asarray(rng.normal(size=(2, length, 3)), jnp.float32),
        jnp.asarray(action, jnp.int32 if kind == "discrete" else jnp.float32),
        jnp.tile(jnp.arange(length, dtype=jnp.int32), (2, 1)),
        jnp.ones((2, length), jnp.bool_),
    )


@pytest.mark.parametrize("name", ["returns", "obs", "action", "position"])
def test_nothing_sees_what_comes_later(name: str) -> None:
    steps = some_steps()
    changed = steps._replace(**{name: (column := getattr(steps, name)).at[:, 2].set((column[:, 2] + 1) % 3)})
    before, after = said(network(), steps), said(network(), changed)
    first = 3 if name == "action" else 2  # what is done is said before it is seen
    np.testing.assert_array_equal(before[:, :first], after[:, :first])
    assert (np.abs(np.asarray(before - after))[:, first:].max(-1) > 1e-4).all()


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_padding_on_either_side_changes_nothing(kind: str) -> None:
    steps = some_steps(kind=kind)

    def padded(before: int, after: int) -> Steps:
        wide = jax.tree.map(
            lambda x: jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2), constant_values=1), steps
        )
        there = jnp.pad(steps.there, [(0, 0), (before, after)], constant_values=False)
        return wide._replace(there=there)

    plain = said(network(kind), steps)
    np.testing.assert_allclose(said(network(kind), padded(3, 0))[:, 3:], plain, atol=2e-6)
    np.testing.assert_allclose(said(network(kind), padded(0, 3))[:, :5], plain, atol=2e-6)


# --- acting ----------------------------------------------------------------------------------------------------------


def test_step_by_step_it_says_what_the_whole_sequence_says() -> None:
    # Episodes of 5 steps and a memory of 3: at each step the last 3 at once, with the returns that are left.
    steps = some_steps()
    policy = ReturnConditionedPolicy(network(), f32(4.0)[0], f32(2.0)[0], 3)
    reward = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5)), jnp.float32)
    found = eqx.filter_jit(policy.log_probs_along)(steps.obs, steps.action, reward)
    left = (4.0 - jnp.cumsum(reward, axis=1) + reward) / 2.0
    whole = steps._replace(returns=left)
    for t in range(5):
        last = Steps(*(column[:, max(0, t - 2) : t + 1] for column in whole))
        log_probs = jax.nn.log_softmax(said(network(), last)[:, -1])
        np.testing.assert_allclose(found[:, t], np.take_along_axis(log_probs, steps.action[:, [t]], 1)[:, 0], atol=1e-5)


def test_vectors_are_acted_without_chance_and_have_no_density() -> None:
    policy = ReturnConditionedPolicy(network("continuous"), f32(4.0)[0], f32(2.0)[0], 3)
    obs = some_steps().obs[:, 0]
    first, _ = policy.step(policy.initial_carry(2), obs, *nothing_yet(policy, 2))
    drawn, _ = policy.step(policy.initial_carry(2), obs, *nothing_yet(policy, 2), key=KEY)
    alone = Steps(
        f32([2.0], [2.0]), obs[:, None], jnp.zeros((2, 1, 2)), jnp.zeros((2, 1), jnp.int32), jnp.ones((2, 1), bool)
    )
    np.testing.assert_allclose(first, np.tanh(said(network("continuous"), alone)[:, 0]), atol=1e-6)
    np.testing.assert_array_equal(first, drawn)
    assert not policy.has_density


STEPS = 4


@cache
def counted() -> st.Dataset:
    """Random episodes of 4 steps with the same observation throughout; an action pays its number, 0 or 1."""
    rng = np.random.default_rng(0)
    action = rng.integers(0, 2, 400 * STEPS)
    columns = {
        "episode": np.repeat(np.arange(400), STEPS),
        "observation": np.ones((400 * STEPS, 1), np.float32),
        "action": action,
        "reward": action.astype(np.float32),
        "terminated": np.tile(np.arange(STEPS) == STEPS - 1, 400),
        "behavior_probs": np.full((400 * STEPS, 2), 0.5),
    }
    return st.read(columns, schema_of(columns, 2, 1.0))


def returned(policy: Any) -> float:
    """What the mode of a policy is paid in an episode."""
    carry, last, total = policy.initial_carry(1), nothing_yet(policy, 1), 0.0
    for _ in range(STEPS):
        action, carry = policy.step(carry, jnp.ones((1, 1)), *last)
        last, total = (action, action.astype(jnp.float32)), total + float(action[0])
    return total


@pytest.mark.slow
def test_it_reaches_the_return_that_it_is_asked_for() -> None:
    # Nothing that is seen tells how much was paid so far: only what is remembered does.
    algorithm = dataclasses.replace(SMALL, length=STEPS, target_quantile=1.0, network=Network((16,)))
    run = fitted(algorithm, counted(), updates=400, log_every_updates=400, reward_scale=0.5, standardize=False)
    assert run.remarks == (
        "The policy acts towards a return of 4, the 1 quantile of the log's returns, which go from 0 to 4.",
    )
    for nothing in (float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="`target_return` of `towards` must be a finite number"):
            run.policy.towards(nothing)
    assert returned(run.policy) == 4.0
    assert [returned(run.policy.towards(target)) for target in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert float(run.policy.greedy().towards(3.0).policy.policy.target) == 3.0 * 0.5
    assert returned(run.policy.greedy().towards(3.0)) == 3.0
    # and its value by the log: the weights of whole histories, for a policy that asks for 4 and is paid 4
    found = st.evaluate(run.policy, counted(), estimators=("wis",)).estimates["wis"]
    assert found.value == pytest.approx(4.0, abs=0.3)


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_target_is_in_units_of_the_log() -> None:
    log = counted()
    returns = log.reward.reshape(-1, STEPS).sum(1)
    for algorithm, target in (
        (dataclasses.replace(SMALL, target_quantile=0.5), np.quantile(returns, 0.5)),
        (dataclasses.replace(SMALL, target_return=7.0, return_scale=10.0), 7.0),
    ):
        scaling = Scaling.of(log, reward_scale=0.25)
        ready = algorithm.prepare(log, scaling, key=KEY)
        assert float(ready.given["target"]) == pytest.approx(0.25 * target)
        beyond = "The log's returns go from 0 to 4; nothing in it shows how to reach more than that."
        assert (beyond in algorithm.remarks(ready.given)[0]) == (target > 4)
        assert float(ready.given["scale"]) == pytest.approx(2.5 if target == 7.0 else 1.0)
        assert (
            ready.columns["return_to_go"][:STEPS].tolist() == (0.25 * log.reward[:STEPS][::-1].cumsum()[::-1]).tolist()
        )
    shifted = dataclasses.replace(Scaling.of(log), reward_shift=1.0)
    with pytest.raises(
        ConfigurationError, match="`target_return` of DecisionTransformer, 7, is a sum of the log's rewards"
    ):
        dataclasses.replace(SMALL, target_return=7.0).prepare(log, shifted, key=KEY)


def cut_log(*, ends: bool = True) -> st.Dataset:
    """Returns of 3 and 0 that ended, of 6 that was cut at the length of the longest, and of 100 that was cut short."""
    end = np.array([0, 0, 1, 1, 0, 0, 0, 0], bool) & ends
    columns = {
        "episode": [0, 0, 0, 1, 2, 2, 2, 3],
        "observation": np.arange(8, dtype=np.float32)[:, None],
        "action": np.arange(8) % 2,
        "reward": np.float32([1, 1, 1, 0, 2, 2, 2, 100]),
        "terminated": end,
        "truncated": np.array([0, 0, 1, 1, 0, 0, 1, 1], bool) & ~end,
    }
    return st.read(columns, schema_of(columns, 2, 1.0))


def test_returns_that_were_cut_short_are_no_target() -> None:
    algorithm = dataclasses.replace(SMALL, target_quantile=0.5)
    for ends, target, known in (
        (True, 3.0, "3, the 0.5 quantile of the returns of the log's whole episodes, which go from 0 to 6."),
        (False, 4.5, "4.5, the 0.5 quantile of the log's returns, which go from 0 to 100."),
    ):
        log = cut_log(ends=ends)
        given = algorithm.prepare(log, Scaling.of(log, reward_scale=0.25), key=KEY).given
        assert float(given["target"]) == pytest.approx(0.25 * target)
        assert algorithm.remarks(given) == (
            f"The policy acts towards a return of {known}",
            f"Of 4 episodes {1 if ends else 2} were cut short: the rewards that would have followed are missing from the returns "
            "that the policy learned with.",
        )
    told = dataclasses.replace(SMALL, target_return=7.0)
    given = told.prepare(log, Scaling.of(log), key=KEY).given
    assert (
        told.remarks(given)[0]
        == "The policy acts towards a return of 7, as `target_return` says. The log's returns go from 0 to 100."
    )


def test_rows_that_are_missing_inside_an_episode_are_refused() -> None:
    log = cut_log()
    after = log.next_observation_index.copy()
    after[4] = -1
    gappy = dataclasses.replace(log, next_observation_index=after)
    with pytest.raises(
        DataError, match=r"in 1 places of this log rows are missing inside an episode.*without such gaps"
    ):
        SMALL.prepare(gappy, Scaling.of(gappy), key=KEY)


def test_what_does_not_fit_is_refused() -> None:
    for shape in (Network(()), Network((8, 16)), Network((9,))):
        with pytest.raises(
            ConfigurationError, match="must have one width for each block, all equal and divided by `heads`"
        ):
            st.DecisionTransformer(network=shape, heads=2)
    with pytest.raises(ConfigurationError, match="`n_steps` of fit, 3, does nothing for DecisionTransformer"):
        fitted(SMALL, counted(), n_steps=3)
    with pytest.raises(ConfigurationError, match="The policy remembers its episode and cannot answer"):
        fitted(SMALL, counted(), updates=0).policy.mode(jnp.ones((1, 1)))
