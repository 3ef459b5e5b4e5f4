"""Every algorithm on every kind of action that it learns from, with small batches and updates compiled once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import stitchrl as st
from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.soft_actor import SoftActor
from stitchrl.checking.subject import compiled_update, small_log
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.feed import sequence_source, transition_source
from stitchrl.nn.networks import MLP
from stitchrl.training.compilation import enable_compilation_cache

SIZES = (8,)
MODEL: dict[str, Any] = {
    "rollout_length": 2, "rollouts": 16, "rollouts_every_updates": 2, "retained": 2, "members": 2, "elites": 1,
    "model_updates": 20, "model_network": st.Network(SIZES, activation="silu"),
}  # fmt: skip
"""Settings of a small model of the world and of few rollouts in it."""
ALL: dict[str, Algorithm] = {
    "BC": st.BC(learning_rate=1e-2, hidden_sizes=SIZES),
    "FilteredBC": st.FilteredBC(top_fraction=0.5, learning_rate=1e-2, hidden_sizes=SIZES),
    "IQL": st.IQL(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    **{
        kind.__name__: kind(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES)
        for kind in (st.SQL, st.EQL, st.XQL)
    },
    "AWAC": st.AWAC(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "CQL": st.CQL(
        gamma=0.9, cql_weight=0.1, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES,
        actor_learning_rate=1e-2, samples=3,
    ),
    "BCQ": st.BCQ(
        gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES, candidates=3, acting_candidates=5
    ),
    "BEAR": st.BEAR(
        gamma=0.9, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES, candidates=3,
        acting_candidates=5, warm_start_updates=100, match_samples=3, multiplier_learning_rate=0.1,
    ),
    "BCQIQL": st.BCQIQL(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "TD3BC": st.TD3BC(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "ReBRAC": st.ReBRAC(
        gamma=0.9, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES
    ),
    "FQL": st.FQL(
        gamma=0.9, learning_rate=1e-2, target_rate=0.05, flow_steps=3, normalize_q=True, distill_weight=1.0,
        hidden_sizes=SIZES,
    ),
    "QChunking": st.QChunking(
        gamma=0.9, chunk=2, learning_rate=1e-2, target_rate=0.05, flow_steps=3, normalize_q=True, distill_weight=1.0,
        hidden_sizes=SIZES,
    ),
    "IDQL": st.IDQL(
        gamma=0.9, learning_rate=1e-2, target_rate=0.05, actor_target_rate=0.05, hidden_sizes=SIZES, actor_width=8,
        actor_blocks=1, diffusion_steps=3, acting_candidates=5,
    ),
    "SACN": st.SACN(
        gamma=0.9, num_critics=4, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES
    ),
    "EDAC": st.EDAC(
        gamma=0.9, num_critics=4, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES
    ),
    "MOPO": st.MOPO(
        gamma=0.9, real_share=0.5, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES, **MODEL
    ),
    "COMBO": st.COMBO(
        gamma=0.9, cql_weight=0.1, samples=3, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05,
        hidden_sizes=SIZES, **MODEL,
    ),
    "SAC": st.SAC(gamma=0.9, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "TD3": st.TD3(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "DDPG": st.DDPG(gamma=0.9, learning_rate=1e-2, actor_learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "DQN": st.DQN(gamma=0.9, learning_rate=1e-2, target_rate=0.05, hidden_sizes=SIZES),
    "AWR": st.AWR(gamma=0.9, learning_rate=1e-2, returns_every_updates=2, hidden_sizes=SIZES),
    "AdvantageBC": st.AdvantageBC(gamma=0.9, learning_rate=1e-2, returns_every_updates=2, hidden_sizes=SIZES),
    "DecisionTransformer": st.DecisionTransformer(
        length=3, positions=5, learning_rate=1e-2, warmup_updates=0, network=st.Network((8,))
    ),
    "VILCB": st.VILCB(gamma=0.9),
    "SPIBB": st.SPIBB(gamma=0.9, least_count=2),
}  # fmt: skip
"""One of each registered algorithm; a new one is added here, and to the tables of test_conformance.py."""
KINDS = ("discrete", "continuous")
SPECS = {"discrete": Spec.vectors(3, 3), "continuous": Spec.vectors(3, None, 2)}
KEY = jax.random.key(0)
ROWS = 8

Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """An algorithm on one kind of action."""

    algorithm: Algorithm
    kind: str

    @property
    def name(self) -> str:
        """The name of the algorithm."""
        return self.algorithm.name

    @property
    def spec(self) -> Spec:
        """Observations of 3 numbers; 3 actions, or actions of 2 numbers."""
        return SPECS[self.kind]

    @property
    def given(self) -> Any:
        """What its `prepare` solved."""
        return jax.tree.map(jnp.asarray, prepared(self.algorithm, self.kind).given)

    def batch(self, **changes: Any) -> Fields:
        """The first rows of a random log, ends of both kinds and steps between; a change may be one number for all."""
        batch = dict(first_rows(self.algorithm, self.kind))
        return batch | {
            name: jnp.full(ROWS, value, jnp.float32) if isinstance(value, float) else value
            for name, value in changes.items()
        }

    def state(self, seed: int = 0) -> Any:
        """A fresh state."""
        return fresh(self.algorithm, self.kind, seed)

    def update(self, state: Any, batch: Fields, key: jax.Array = KEY, *, update: int = 1) -> Any:
        """(state, metrics) of update 1, that is the second, one of those where TD3+BC also updates its actor."""
        return updated(self.algorithm, state, batch, self.given, key, update)

    def with_settings(self, **settings: Any) -> Case:
        """The same case with some settings changed."""
        return Case(dataclasses.replace(self.algorithm, **settings), self.kind)


def updated(algorithm: Algorithm, state: Any, batch: Fields, given: Any, key: jax.Array, update: int) -> Any:
    """(state, metrics) of one update, its number settings inputs of a compiled program as in the loop."""
    enable_compilation_cache()
    inputs = {name: jnp.float32(getattr(algorithm, name)) for name in algorithm.input_settings()}
    step = Step(jnp.int32(update), jnp.int32(100))
    return compiled_update(algorithm.structure())(inputs, state, batch, given, key, step)


@cache
def log_of(kind: str) -> st.Dataset:
    """The random log of one kind of action; its 33 rows are fewer than a batch of `fitted`."""
    return small_log(kind)


@cache
def prepared(algorithm: Algorithm, kind: str) -> Prepared:
    """What an algorithm makes of the random log."""
    return algorithm.prepare(log_of(kind), Scaling.of(log_of(kind), standardize=False), key=KEY)


@cache
def first_rows(algorithm: Algorithm, kind: str) -> Fields:
    """The first rows that an algorithm prepared."""
    return rows_of(algorithm, prepared(algorithm, kind), log_of(kind))


def rows_of(algorithm: Algorithm, ready: Prepared, log: st.Dataset) -> Fields:
    """The first rows of a log that an algorithm prepared."""
    scaling = Scaling.of(log, standardize=False)
    if algorithm.sequence_length:
        source = sequence_source(ready.log, scaling, algorithm.sequence_length, columns=ready.columns)
    else:
        source = transition_source(ready.log, scaling, columns=ready.columns, n_steps=algorithm.target_steps or 1)
    return dict(source.sample(source.arrays, jnp.arange(ROWS), jnp.int32(0)))


@cache
def fresh(algorithm: Algorithm, kind: str, seed: int = 0) -> Any:
    """A fresh state."""
    return algorithm.init(jax.random.key(seed), SPECS[kind], Case(algorithm, kind).given)


CASES = {f"{name} {kind}": Case(algorithm, kind) for name, algorithm in ALL.items() for kind in algorithm.actions}
LEARNERS = [name for name, case in CASES.items() if not case.algorithm.closed_form]
"""Those that make updates."""
CRITICS = [name for name in LEARNERS if CASES[name].algorithm.has_critics]
"""Those that learn Q, in a field `critics` of their state."""


def fitted(algorithm: Algorithm, log: st.Dataset, seeds: Any = 1, **settings: Any) -> Any:
    """A short run of `fit`."""
    settings = {"updates": 30, "batch_size": 64, "log_every_updates": 30} | settings
    return st.fit(algorithm, log, seeds=seeds, progress=False, **settings)


# --- looking at states -----------------------------------------------------------------------------------------------


def differ(a: Any, b: Any) -> bool:
    """Whether any leaf differs in any bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any((np.asarray(x) != np.asarray(y)).any() for x, y in pairs)


def largest_step(before: Any, after: Any) -> float:
    """The largest change of any number."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return max(float(np.abs(np.asarray(b, float) - np.asarray(a, float)).max()) for a, b in pairs)


def assert_finite(tree: Any) -> None:
    """No leaf has a NaN or an infinity."""
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def model(state: Any, field: str) -> Any:
    """A network of a state, without its optimiser's state."""
    found = getattr(state, field)
    found = found.policy if isinstance(found, SoftActor) else found
    return found.model if isinstance(found, Trainable) else found


def with_models(state: Any, **models: Any) -> Any:
    """The state with some networks planted beside the optimisers' states that are there."""
    for field, planted in models.items():
        held = getattr(state, field)
        if isinstance(held, SoftActor):
            planted = held._replace(policy=Trainable(planted, held.policy.optimizer_state))
        elif isinstance(held, Trainable):
            planted = Trainable(planted, held.optimizer_state)
        state = state._replace(**{field: planted})
    return state


def mlp_of(module: Any) -> MLP:
    """The perceptron inside a policy, critics or ensemble."""
    while not isinstance(module, MLP):
        module = next(getattr(module, name) for name in ("network", "ensemble", "members") if hasattr(module, name))
    return module


def last_bias(state: Any, field: str) -> jax.Array:
    """The bias of the last layer of a network of a state."""
    return mlp_of(model(state, field)).biases[-1]


def _with_last_bias(state: Any, field: str, change: Callable[[jax.Array], jax.Array]) -> Any:
    return eqx.tree_at(lambda state: last_bias(state, field), state, change(last_bias(state, field)))


def raised(state: Any, field: str, action: int, by: float) -> Any:
    """The state with an action's output of one of its networks raised everywhere."""
    return _with_last_bias(state, field, lambda bias: bias.at[..., action].add(jnp.float32(by)))


def shifted(state: Any, field: str, by: float) -> Any:
    """The state with the second of some critics raised everywhere."""
    return _with_last_bias(state, field, lambda bias: bias.at[1].add(jnp.float32(by)))


# --- updates by hand -------------------------------------------------------------------------------------------------

# Networks without hidden layers on an observation of 0: only biases (and weights of the action) speak. The first step
# of Adam is the step size against the gradient's sign; it is 0.1 in most of them.


def plain(*, weights: Any, biases: Any) -> MLP:
    """A perceptron (or several, on axis 0) without hidden layers."""
    return MLP((jnp.asarray(weights, jnp.float32),), (jnp.asarray(biases, jnp.float32),))


def row(**changes: Any) -> Fields:
    """A batch of one row, of observations 0."""
    batch = {
        "obs": [[0.0]],
        "next_obs": [[0.0]],
        "reward": [2.0],
        "terminated": [0.0],
        "truncated": [0.0],
        "td_weight": [1.0],
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()} | changes


def one_hand(algorithm: Algorithm, spec: Spec, batch: Fields, **planted: Any) -> tuple[Any, dict[str, float]]:
    """(state, metrics) of one update from planted networks."""
    state = with_models(algorithm.init(KEY, spec, None), **planted)
    after, metrics = updated(algorithm, state, batch, None, KEY, 1)
    return after, {name: float(value) for name, value in metrics.items()}
