"""Stationary distribution corrections by two networks: DualDICE and BestDICE, in a form that holds at every discount.

zeta(s, a) stands for the ratio of discounted visits of state and action, policy over log, and nu for the multiplier of the
balance of visits that every such ratio obeys. With E over episodes and sums over their steps,

    (1)  min_{nu, lambda} max_zeta  E[ nu(s_0, a_0) ] - 1/2 E[ sum_t gamma^t zeta_t^2 ]
             + E[ sum_t gamma^t zeta_t (rewarded r_t + gamma (1 - terminated) nu(s_{t+1}, a') - nu(s_t, a_t)) ]
             + normed lambda (1 - E[ sum_t gamma^t zeta_t (1 - gamma (1 - terminated)) ])

with a_0 and a' drawn from the policy (Nachum, Chow, Dai, Li 2019, arXiv 1906.04733; the family: Yang, Nachum, Dai, Li, Schuurmans
2020, arXiv 2007.03438; code: google-research/dice_rl).

    dualdice   rewarded 0, normed 0, zeta free
    bestdice   rewarded 1, normed 1, zeta a square: the member of the family that did best in the second paper

The papers multiply the first term by 1 - gamma, so that zeta is a ratio of probabilities; at gamma 1 that term would vanish.
Here visits of whole episodes are counted instead. At a gamma below 1 this differs by a constant factor only, and at gamma 1 it
is right where episodes end. The constraint that probabilities sum to 1 becomes the constraint that every episode ends as often
as it begins.

Every network learns from a random half of the episodes. How far the networks disagree says how far the fit can be trusted: the
squared distance between an estimate from half of the data and that from all of it is, on average, the variance of the latter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.settings import flag, network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling, unit_return_scale
from stitchrl.evaluation.fit_data import FitData, Fold, Order
from stitchrl.feeds.batches import sample_transitions
from stitchrl.feeds.feed import Source, transition_source
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.training.loop import train
from stitchrl.types import NumpyArray, PyTree

__all__ = ["DICE", "NETWORKS", "FitDICE"]

NETWORKS = 4
"""Pairs of networks of a policy, each from a random half of the episodes."""
TIMES = 10
"""Their updates as a multiple of those of FQE: a saddle point is reached more slowly than a minimum."""
ROWS_AT_ONCE = 16_384


class DICEState(NamedTuple):
    """Everything a resume needs."""

    nu: Trainable[MLP]
    zeta: Trainable[MLP]
    multiplier: Trainable[Array]


@dataclasses.dataclass(frozen=True)
class DICE(Algorithm):
    """Equation (1) for a fixed policy over discrete actions, which enter the networks one-hot."""

    gamma: float = setting(0.99, "[0, 1]", "Discount of the visits.")
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size of both networks.")
    network: Network = network_setting(Network((128, 128)), "Shape of both networks.")
    best: bool = flag(
        False, "BestDICE: rewards and the constraint are in equation (1), and zeta is a square; otherwise DualDICE."
    )
    start: float = setting(0.0, "(-inf, inf)", "Where nu starts, in scaled units; BestDICE's nu is near the value.")
    start_share: float = setting(1.0, "(0, inf)", "Episodes for each row of the log.")

    def init(self, key: Key, spec: Spec, given: PyTree) -> DICEState:
        nu_key, zeta_key = jax.random.split(key)
        size = spec.vector_size + spec.discrete_actions
        nu = MLP.create(size, self.network, 1, key=nu_key, final_gain=0.01)
        nu = dataclasses.replace(nu, biases=(*nu.biases[:-1], nu.biases[-1] + self.start))
        zeta = MLP.create(size, self.network, 1, key=zeta_key, final_gain=0.01)
        zeta = dataclasses.replace(zeta, biases=(*zeta.biases[:-1], zeta.biases[-1] + 1.0))  # the log's own visits
        optimizer = self.adam(self.learning_rate)
        return DICEState(
            Trainable.create(nu, optimizer),
            Trainable.create(zeta, optimizer),
            Trainable.create(jnp.zeros((), jnp.float32), optimizer),
        )

    def update(self, state: DICEState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[DICEState, Metrics]:
        next_key, first_key = jax.random.split(key)
        next_action = _drawn(batch["next_cdf"], next_key)
        first_action = _drawn(batch["first_cdf"], first_key)
        go_on = self.gamma * (1.0 - batch["terminated"])
        share = batch["discount"] * batch["td_weight"]

        def saddle(models: tuple[MLP, MLP, Array]) -> Array:
            nu, zeta, multiplier = models
            weight = self.zeta(zeta, batch["obs"], batch["action"])
            left = go_on * _of(nu, batch["next_obs"], next_action) - _of(nu, batch["obs"], batch["action"])
            if self.best:
                left = left + batch["reward"] - multiplier * (1.0 - go_on)
            begun = jnp.mean(_of(nu, batch["first_obs"], first_action)) + (multiplier if self.best else 0.0)
            return self.start_share * begun + jnp.mean(share * (weight * left - 0.5 * weight**2))

        loss, gradients = jax.value_and_grad(saddle)((state.nu.model, state.zeta.model, state.multiplier.model))
        down, up, free = gradients
        optimizer = self.adam(self.learning_rate)
        after = DICEState(
            state.nu.step(optimizer, down),
            state.zeta.step(optimizer, jax.tree.map(jnp.negative, up)),
            state.multiplier.step(optimizer, free),
        )
        return after, {"loss/saddle": loss}

    def zeta(self, network: MLP, obs: Float[Array, "B D"], action: Int[Array, " B"]) -> Float[Array, " B"]:
        """The ratio of visits of state and action."""
        found = _of(network, obs, action)
        return found**2 if self.best else found

    def policy(self, state: DICEState, given: PyTree) -> DiscretePolicy:
        raise TypeError("DICE evaluates a policy; it has none of its own.")


def _of(network: MLP, obs: Float[Array, "B D"], action: Int[Array, " B"]) -> Float[Array, " B"]:
    count = network.weights[0].shape[0] - obs.shape[1]
    return network(jnp.concatenate([obs, jax.nn.one_hot(action, count, dtype=obs.dtype)], axis=-1))[:, 0]


def _drawn(cdf: Float[Array, "B A"], key: Key) -> Int[Array, " B"]:
    return jnp.sum(cdf <= jax.random.uniform(key, (cdf.shape[0], 1)), axis=-1)


def _source(data: FitData, scaling: Scaling) -> tuple[Source, float]:
    """Transitions and first states for all networks, and the number of episodes divided by the number of rows."""
    log, rng = data.timed_log, np.random.default_rng(data.settings.seed)
    source = transition_source(log, scaling)
    assert data.choices is not None
    start = log.episode_start[:-1]
    next_cdf = np.stack([_cdf(one) for one in data.next_choices()])
    first_cdf = np.stack([_cdf(one[start]) for one in data.choices()])
    halves, rows_of = [], log.episode_of_transition
    for _ in range(NETWORKS):
        half = np.sort(rng.permutation(log.num_episodes)[: max(log.num_episodes // 2, 1)])
        halves.append((np.flatnonzero(np.isin(rows_of, half)), half))
    # Halves differ in their number of rows. Each is repeated until it has as many as the log, so that its rows are drawn about
    # equally often.
    rows = np.stack([np.resize(one, log.num_transitions) for one, _ in halves])
    arrays = {
        "rows": jnp.asarray(rows, jnp.int32),
        "episodes": jnp.asarray(np.stack([half for _, half in halves]), jnp.int32),
        "first_row": jnp.asarray(start, jnp.int32),
        "next_cdf": jnp.asarray(next_cdf),
        "first_cdf": jnp.asarray(first_cdf),
        "discount": jnp.asarray(np.power(float(data.gamma), log.position), jnp.float32),
    }
    share = log.num_episodes / log.num_transitions
    return Source({"transitions": source.arrays, **arrays}, source.count, _sample), share


def _cdf(probs: Float[NumpyArray, "N A"]) -> Float[NumpyArray, "N A"]:
    cdf = np.cumsum(probs, axis=-1, dtype=np.float32)
    cdf /= cdf[:, -1:]
    return cdf


def _sample(arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
    policy, network = member // NETWORKS, member % NETWORKS
    row = arrays["rows"][network, index]
    # A product with a prime, modulo their number, spreads the rows that were drawn evenly over the episodes.
    count = arrays["episodes"].shape[1]
    episode = arrays["episodes"][network, (index * 7919 + row) % count]
    first = sample_transitions(arrays["transitions"], arrays["first_row"][episode], member)
    return dict(sample_transitions(arrays["transitions"], row, member)) | {
        "next_cdf": arrays["next_cdf"][policy, row],
        "first_obs": first["obs"],
        "first_cdf": arrays["first_cdf"][policy, episode],
        "discount": arrays["discount"][row],
    }


class FittedDICE(NamedTuple):
    """The zeta networks of a policy, and the scaling of their inputs."""

    algorithm: DICE
    networks: tuple[MLP, ...]
    scaling: Scaling

    def on(self, log: Dataset) -> Float[NumpyArray, "N K"]:
        """(N, K) zeta of each transition by each network."""
        table = self.scaling.observations(log.observation_table)
        found = np.empty((log.num_transitions, len(self.networks)))
        for start in range(0, log.num_transitions, ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            obs, action = jnp.asarray(table[log.observation_index[rows]]), jnp.asarray(log.action[rows])
            for k, network in enumerate(self.networks):
                found[rows, k] = np.asarray(self.algorithm.zeta(network, obs, action))
        return found


@dataclasses.dataclass(frozen=True)
class FitDICE:
    """The request for zeta at each transition by each network, (N, K), fitted on other episodes.

    Attributes:
        best: whether to fit BestDICE, and not DualDICE.
    """

    best: bool

    def fit(self, data: FitData) -> list[FittedDICE]:
        """The networks of all policies, in one program."""
        log, settings = data.timed_log, data.settings
        scaling = Scaling.of(log, reward_scale=unit_return_scale(log, gamma=data.gamma))
        source, share = _source(data, scaling)
        algorithm = DICE(
            gamma=data.gamma,
            network=Network(settings.hidden_sizes),
            learning_rate=settings.learning_rate,
            best=self.best,
            start=round(float(log.episode_returns(data.gamma).mean()) * scaling.reward_scale, 4) if self.best else 0.0,
            start_share=share,
        )
        trained = train(
            algorithm,
            source,
            Spec.of(log),
            updates=settings.updates * TIMES,
            seeds=[settings.seed + k for k in range(NETWORKS)] * data.policies,
            batch_size=settings.batch_size,
            monitors=data.monitors,
        )
        return [
            FittedDICE(
                algorithm,
                tuple(trained.member(policy * NETWORKS + k).algorithm.zeta.model for k in range(NETWORKS)),
                scaling,
            )
            for policy in range(data.policies)
        ]

    def apply(self, model: FittedDICE, fold: Fold, policy: int) -> Float[NumpyArray, "N K"]:
        """zeta at the rows of a fold."""
        return model.on(fold.timed_log)

    def join(self, parts: Sequence[Float[NumpyArray, "_ K"]], order: Order) -> Float[NumpyArray, "N K"]:
        """zeta at all rows, in the order of the log."""
        found: NumpyArray = order.per_row(parts)
        return found
