"""`check_algorithm` itself: a small sound algorithm passes, and each planted fault fails for its own sentence."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.algorithms.base import Algorithm, Prepared
from stitchrl.algorithms.settings import setting
from stitchrl.checking.algorithms import check_algorithm
from stitchrl.checking.subject import small_log
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.value import DiscreteValue


class LinearPolicy(DiscretePolicy):
    """Takes the best allowed action of a linear Q."""

    weight: jax.Array

    def logits(self, obs: Any, *, action_mask: Any = None) -> jax.Array:
        return 10.0 * jnp.asarray(obs) @ self.weight


class LinearValue(DiscreteValue):
    """A linear Q."""

    weight: jax.Array

    def q_all(self, obs: Any) -> jax.Array:
        return jnp.asarray(obs) @ self.weight

    def v(self, obs: Any, *, action_mask: Any = None) -> jax.Array:
        return jnp.max(self.q_all(obs), axis=1)


class LinearState(NamedTuple):
    weight: jax.Array
    count: jax.Array  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Sound(Algorithm):
    """Q-learning with a linear Q and plain gradient steps: small, and right."""

    actions: ClassVar[tuple[str, ...]] = ("discrete",)
    gamma: float = setting(0.9, "[0, 1]", "Discount.")
    learning_rate: float = setting(0.1, "(0, inf)", "Step size.")
    shrinkage: float = setting(0.5, "[0, 1]", "Factor on the start.", static=True)

    def init(self, key: Any, spec: Any, given: Any) -> Any:
        weight = self.shrinkage * jax.random.normal(key, (spec.vector_size, spec.discrete_actions))
        return LinearState(weight, jnp.int32(0))

    def discount(self, batch: Any) -> Any:
        return self.gamma * (1.0 - batch["terminated"])

    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        next_q = jnp.where(batch["next_action_mask"], batch["next_obs"] @ state.weight, -1e9)
        td_target = batch["reward"] + self.discount(batch) * jnp.max(next_q, axis=1)

        def loss(weight: Any) -> Any:
            chosen = jnp.take_along_axis(batch["obs"] @ weight, batch["action"][:, None], axis=1)[:, 0]
            return jnp.mean(self.weight_of(batch) * (td_target - chosen) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.weight)
        return LinearState(state.weight - self.learning_rate * gradient, state.count + 1), {"loss/critic": value}

    def weight_of(self, batch: Any) -> Any:
        return batch["td_weight"]

    def policy(self, state: Any, given: Any) -> Any:
        return LinearPolicy(state.weight)

    def value(self, state: Any, given: Any) -> Any:
        return LinearValue(state.weight)


def test_a_sound_algorithm_passes() -> None:
    check_algorithm(Sound())


# --- settings and `prepare` ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class WithoutMeaning(Sound):
    bonus: float = 0.5


@dataclasses.dataclass(frozen=True)
class PreparesByAnInput(Sound):
    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        return Prepared(log, {"return_to_go": log.reward * np.float32(self.gamma)})


@dataclasses.dataclass(frozen=True)
class GivesByAnInput(Sound):
    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        return Prepared(log, given={"table": np.full(3, self.learning_rate, np.float32)})


@dataclasses.dataclass(frozen=True)
class KeepsWhatItSolved(Sound):
    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        object.__setattr__(self, "table", log.reward.mean())
        return Prepared(log)


@dataclasses.dataclass(frozen=True)
class ShortColumn(Sound):
    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        return Prepared(log, {"return_to_go": log.reward[1:]})


GROUPS = ((1, 2), (3,))


@dataclasses.dataclass(frozen=True)
class SettingThatIsRefused(Sound):
    layers: Any = dataclasses.field(default=GROUPS, metadata={"choices": (GROUPS,), "meaning": "Groups of layers."})


@dataclasses.dataclass(frozen=True)
class SettingThatIsLost(Sound):
    layers: Any = dataclasses.field(
        default=GROUPS, metadata={"choices": (GROUPS, ([1, 2], [3])), "meaning": "Groups of layers."}
    )


# --- `init` and `update` ---------------------------------------------------------------------------------------------

CALLS: list[int] = []


@dataclasses.dataclass(frozen=True)
class InitByChance(Sound):
    def init(self, key: Any, spec: Any, given: Any) -> Any:
        start = np.random.default_rng().normal(size=(3, 3)).astype(np.float32)
        return LinearState(jnp.asarray(start), jnp.int32(0))


@dataclasses.dataclass(frozen=True)
class PythonNumber(Sound):
    def init(self, key: Any, spec: Any, given: Any) -> Any:
        return super().init(key, spec, given)._replace(count=0)


@dataclasses.dataclass(frozen=True)
class Counts(Sound):
    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        CALLS.append(1)
        state, metrics = super().update(state, batch, given, key, step)
        return state, metrics | {"calls": jnp.float32(len(CALLS))}


@dataclasses.dataclass(frozen=True)
class WritesIntoTheBatch(Sound):
    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        batch["reward"] = 2.0 * batch["reward"]
        return super().update(state, batch, given, key, step)


@dataclasses.dataclass(frozen=True)
class BranchesOnAnInput(Sound):
    def discount(self, batch: Any) -> Any:
        return super().discount(batch) if self.gamma > 0 else 0.0 * batch["reward"]


@dataclasses.dataclass(frozen=True)
class DriftsToHalf(Sound):
    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        state, metrics = super().update(state, batch, given, key, step)
        return state._replace(weight=state.weight.astype(jnp.bfloat16)), metrics


@dataclasses.dataclass(frozen=True)
class ChangesStructure(Sound):
    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        state, metrics = super().update(state, batch, given, key, step)
        return state._replace(count=(state.count, state.count)), metrics


@dataclasses.dataclass(frozen=True)
class MetricOfRows(Sound):
    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        state, metrics = super().update(state, batch, given, key, step)
        return state, metrics | {"reward": batch["reward"]}


@dataclasses.dataclass(frozen=True)
class MetricNotANumber(Sound):
    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        state, metrics = super().update(state, batch, given, key, step)
        return state, metrics | {"ratio": jnp.log(-jnp.ones(()) - metrics["loss/critic"])}


@dataclasses.dataclass(frozen=True)
class Explodes(Sound):
    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        state, _ = super().update(state, batch, given, key, step)
        return state._replace(weight=state.weight * jnp.float32(1e30)), {"loss/critic": jnp.float32(0.0)}


# --- masks, ends, rows without a target, policies that are loaded ----------------------------------------------------


class Deaf(LinearPolicy):
    """Does not hear of masks."""

    def log_probs(self, obs: Any, *, action_mask: Any = None) -> jax.Array:
        return jax.nn.log_softmax(self.logits(obs), axis=-1)


@dataclasses.dataclass(frozen=True)
class IgnoresTheMask(Sound):
    def policy(self, state: Any, given: Any) -> Any:
        return Deaf(state.weight)


@dataclasses.dataclass(frozen=True)
class BootstrapsThroughTheEnd(Sound):
    def discount(self, batch: Any) -> Any:
        return self.gamma + 0.0 * batch["terminated"]


@dataclasses.dataclass(frozen=True)
class FixedDiscountThroughTheEnd(Sound):
    gamma: float = setting(0.9, "[0, 1]", "Discount.", static=True)

    def discount(self, batch: Any) -> Any:
        return 0.9 + 0.0 * batch["terminated"]


@dataclasses.dataclass(frozen=True)
class TakesCutsForEnds(Sound):
    def discount(self, batch: Any) -> Any:
        return super().discount(batch) * (1.0 - batch["truncated"])


@dataclasses.dataclass(frozen=True)
class IgnoresTheWeight(Sound):
    def weight_of(self, batch: Any) -> Any:
        return jnp.ones_like(batch["td_weight"])


@dataclasses.dataclass(frozen=True)
class ActsByTheClock(Sound):
    """Its policy depends on something outside of the state."""

    def policy(self, state: Any, given: Any) -> Any:
        CALLS.append(1)
        return LinearPolicy(state.weight + jnp.float32(len(CALLS)) * jnp.eye(3, dtype=jnp.float32))


def counted(update: Any) -> Any:
    """How often it was called."""
    CALLS.append(int(update))
    return np.float32(len(CALLS))


def since_start(update: Any) -> Any:
    """The number of the update in this run, not in the one that it continues."""
    CALLS.append(int(update))
    return np.float32(int(update) - min(CALLS))


@dataclasses.dataclass(frozen=True)
class ReadsAroundTheCompiler(Sound):
    """What it reads is no argument, and no constant either."""

    reads: ClassVar[Any] = staticmethod(counted)

    def update(self, state: Any, batch: Any, given: Any, key: Any, step: Any) -> Any:
        state, metrics = super().update(state, batch, given, key, step)
        moved = jax.pure_callback(self.reads, jax.ShapeDtypeStruct((), jnp.float32), step.update)
        return state._replace(count=state.count + moved.astype(jnp.int32)), metrics


@dataclasses.dataclass(frozen=True)
class ForgetsWhenInterrupted(ReadsAroundTheCompiler):
    reads: ClassVar[Any] = staticmethod(since_start)

    def prepare(self, log: Any, scaling: Any, *, key: Any) -> Prepared:
        CALLS.clear()
        return Prepared(log)


FAULTS = {
    WithoutMeaning: "`bonus` must have a range and a meaning that is a sentence",
    PreparesByAnInput: "a setting that `prepare` reads must be static, .* `gamma` changes it",
    GivesByAnInput: "a setting that `prepare` reads must be static, .* `learning_rate` changes it",
    KeepsWhatItSolved: "`prepare` must leave the algorithm as it is and hand on what it solved as `given`",
    ShortColumn: "a column that `prepare` adds must have one entry per row; `return_to_go` has 32 for 33 rows",
    SettingThatIsRefused: "a run that was saved must load again",
    SettingThatIsLost: "a run that was saved must have the same settings when it is loaded",
    InitByChance: "`init` must be a function of its arguments alone",
    PythonNumber: r"every leaf of a state must be an array with a dtype of its own; \.count is a Python number",
    Counts: "`update` must be a function of its arguments alone",
    WritesIntoTheBatch: "`update` must leave its arguments and the algorithm as they are",
    BranchesOnAnInput: "`update` must not branch on an input setting",
    DriftsToHalf: r"`update` must keep the shapes and dtypes of the state; \.weight was float32\[3, 3\] and becomes bfloat16",
    ChangesStructure: "`update` must keep the structure of the state",
    MetricOfRows: r"a metric must be a scalar; 'reward' has the shape \(8,\)",
    MetricNotANumber: "a metric must be finite; 'ratio' is nan at update 0",
    Explodes: "a state must stay finite; it is not after update 1",
    IgnoresTheMask: "an action that the mask forbids must have probability 0",
    BootstrapsThroughTheEnd: "a row that terminated must not bootstrap; `gamma` changes",
    FixedDiscountThroughTheEnd: "a row that terminated must not bootstrap; the next observation changes",
    TakesCutsForEnds: "a truncated row must bootstrap",
    IgnoresTheWeight: "a row of `td_weight` 0 must not move the critics",
    ForgetsWhenInterrupted: "a run that was interrupted must end like one that was not",
    ActsByTheClock: "a run that was saved must act the same when it is loaded",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_named_in_one_sentence(fault: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        check_algorithm(fault())
    message = str(caught.value)
    assert re.search(FAULTS[fault], message), message
    assert message.startswith(fault.__name__)
    assert "\n" not in message
    assert message.count(": ") >= 1


def test_a_hidden_counter_is_caught_by_one_of_the_rules() -> None:
    with pytest.raises(AssertionError, match="must"):
        check_algorithm(ReadsAroundTheCompiler())


def test_every_planted_fault_has_a_sentence_of_its_own() -> None:
    assert len(set(FAULTS.values())) == len(FAULTS)


def test_only_the_kinds_that_are_asked_for_are_checked() -> None:
    @dataclasses.dataclass(frozen=True)
    class Both(Sound):
        actions: ClassVar[tuple[str, ...]] = ("discrete", "continuous")

    check_algorithm(Both(), kinds=())
    with pytest.raises(Exception, match="needs discrete actions"):
        check_algorithm(Both(), kinds=["continuous"])


def test_the_log_of_the_checks_has_ends_of_both_kinds_among_its_first_rows() -> None:
    for kind in ("discrete", "continuous"):
        log = small_log(kind)
        first = slice(0, 8)
        assert log.terminated[first].any()
        assert log.truncated[first].any()
        assert log.can_bootstrap[log.truncated].all() == (kind == "continuous")  # with masks, the next one is unknown
        assert not (log.terminated | log.truncated)[first].all()
        assert len(np.unique(log.observation, axis=0)) == len(np.unique(log.observation_id)) == 8
    assert not np.asarray(small_log().action_mask).all()


@pytest.mark.slow
def test_it_runs_under_plain_jax() -> None:
    """No strict numerics, no type checker, no fixture: as in the test suite of somebody else."""
    code = (
        "import sys, stitchrl as st; from stitchrl.testing import check_algorithm; "
        "check_algorithm(st.BC(hidden_sizes=(4,)), kinds=['discrete']); "
        "print(*sorted({'pytest', 'beartype', 'worlds'} & set(sys.modules)))"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_NUMPY")}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
