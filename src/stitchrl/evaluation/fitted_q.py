"""FQE, fitted Q evaluation (Le, Voloshin, Yue 2019, arXiv 1903.08738): how the network is fitted, and what is read off it.

A network is fitted by repeated regression, all policies in one program:

    (1)  Q <- argmin E[ (r + gamma (1 - terminated) Qbar(s', a') - Q(s, a))^2 ],   a' ~ policy(s')

with Qbar a slowly moving copy of Q. Its value alone, E[V(s0)], has no valid interval, since the spread over episodes does not
show the error of the fit (a nominal 95% interval covered about 20% in a trial). `refit.py` corrects it on the episodes of the
estimate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from stitchrl.algorithms.base import Algorithm, Spec, Step
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling, unit_return_scale
from stitchrl.evaluation.drawn_q import features_and_q, read_drawn
from stitchrl.evaluation.pieces import pieces
from stitchrl.evaluation.settings import FitSettings
from stitchrl.feeds.batches import sample_transitions
from stitchrl.feeds.feed import Source, transition_source
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.networks import MLP, Network
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.progress import LoopMonitor
from stitchrl.training.loop import train
from stitchrl.types import NumpyArray, PyTree

__all__ = ["FQE", "FittedQ", "evaluation_source", "fit_q", "logged_and_next_actions"]

ROWS_AT_ONCE, CELLS_AT_ONCE = 4096, 2**16
"""Rows whose features are computed in one call, and pairs of a row and an action."""
KINDS = (("none", 1.0), ("after", 1.0), ("none", 3.0), ("after", 3.0))
"""The kinds of networks: where there is layer normalisation, and what the step size is divided by. They extrapolate
differently."""
CONTINUOUS_TIMES = 10
"""Updates over continuous actions, whose logs have long episodes, as a multiple of `FitSettings.updates`."""


class FQEState(NamedTuple):
    """Everything a resume needs."""

    critic: Trainable[MLP]
    target_critic: MLP


@dataclasses.dataclass(frozen=True)
class FQE(Algorithm):
    """Fitted Q evaluation of a fixed policy; a discrete action enters the network one-hot, a continuous one in [-1, 1]."""

    irregular_time: ClassVar[bool] = True

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is estimated.")
    learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size.")
    target_rate: float = setting(0.02, "(0, 1]", "Share of the way the target critic moves each update.")
    network: Network = network_setting(Network((128, 128)), "Shape of the network that is fitted.")
    start: float = setting(
        0.0, "(-inf, inf)", "Value every Q starts from, in scaled units; the mean return saves the climb."
    )

    def init(self, key: Key, spec: Spec, given: PyTree) -> FQEState:
        action_size = spec.action_size or spec.discrete_actions
        critic = MLP.create(spec.vector_size + action_size, self.network, 1, key=key, final_gain=0.01)
        critic = dataclasses.replace(critic, biases=(*critic.biases[:-1], critic.biases[-1] + self.start))
        return FQEState(Trainable.create(critic, self.adam(self.learning_rate)), jax.tree.map(jnp.copy, critic))

    def update(self, state: FQEState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[FQEState, Metrics]:
        action, next_action = logged_and_next_actions(batch, key)
        next_q = _q(state.target_critic, batch["next_obs"], next_action)
        reward, discount = self.td_return(batch)
        td_target = reward + discount * next_q

        def loss(critic: MLP) -> tuple[Array, Array]:
            q = _q(critic, batch["obs"], action)
            return td_loss(q[None, :], td_target, batch["td_weight"]), jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(loss, has_aux=True)(state.critic.model)
        critic = state.critic.step(self.adam(self.learning_rate), gradients)
        target = polyak(state.target_critic, critic.model, self.target_rate)
        return FQEState(critic, target), {"loss/critic": loss_q, "q/data_mean": q_mean}

    def policy(self, state: FQEState, given: PyTree) -> DiscretePolicy:
        raise TypeError("FQE evaluates a policy; it has none of its own.")


def _q(critic: MLP, obs: Float[Array, "B D"], action: Float[Array, "B action"]) -> Float[Array, " B"]:
    return critic(jnp.concatenate([obs, action], axis=-1))[:, 0]


def logged_and_next_actions(batch: Batch, key: Key) -> tuple[Float[Array, "B action"], Float[Array, "B action"]]:
    """The logged action, and an action that the policy draws at the next state, in the form that the network takes."""
    if "next_cdf" in batch:
        next_cdf = batch["next_cdf"]
        drawn = jnp.sum(next_cdf <= jax.random.uniform(key, (next_cdf.shape[0], 1)), axis=-1)
        count, dtype = next_cdf.shape[-1], batch["obs"].dtype
        return jax.nn.one_hot(batch["action"], count, dtype=dtype), jax.nn.one_hot(drawn, count, dtype=dtype)
    drawn = jax.random.randint(key, (batch["reward"].shape[0],), 0, batch["next_draws"].shape[1])
    return batch["action"], batch["next_draws"][jnp.arange(drawn.shape[0]), drawn]


def evaluation_source(
    log: Dataset, scaling: Scaling, next_choices: Iterable[Float[NumpyArray, "N ..."]], count: int
) -> Source:
    """Transitions of a log for the FQE of several policies at once; member k of the fit is for the k-th of `next_choices`.

    Args:
        log: the episodes to fit to.
        scaling: scaling of observations, rewards and continuous actions.
        next_choices: what each policy does at the next states: (N, A) probabilities, or (N, K, D) drawn actions in logged
            units.
        count: how many policies there are.
    """
    source = transition_source(log, scaling)
    if log.num_actions is None:
        draws = [scaling.actions(one) for one in next_choices]
        # A deterministic policy has one draw: beside others it is repeated, so that all are of one shape.
        shape = (count, log.num_transitions, max(one.shape[1] for one in draws), log.action.shape[1])
        held = np.empty(shape, np.float32)
        for k, one in enumerate(draws):
            held[k] = one
        return Source(source.arrays | {"next_draws": jnp.asarray(held)}, source.count, _sample_with_policy)
    # One array for all, filled in place: it is the largest of an evaluation.
    cdf = np.empty((count, log.num_transitions, log.num_actions), np.float32)
    for k, probs in enumerate(next_choices):
        np.cumsum(probs, axis=-1, out=cdf[k])
        cdf[k] /= cdf[k, :, -1:]  # exactly 1 from the last possible action on: rounding never draws a forbidden one
    arrays = source.arrays | {"next_cdf": jnp.asarray(cdf)}
    return Source(arrays, source.count, _sample_with_policy)


def _sample_with_policy(arrays: PyTree, index: Int[Array, " B"], member: Int[Array, ""]) -> Batch:
    name = "next_cdf" if "next_cdf" in arrays else "next_draws"
    return dict(sample_transitions(arrays, index, member)) | {name: arrays[name][member, index]}


@dataclasses.dataclass(frozen=True, eq=False)
class FittedQ:
    """A fitted network and the scaling of its inputs and outputs.

    Attributes:
        critic: the network, on scaled observations, in scaled reward units.
        scaling: scaling of observations, continuous actions and rewards.
        num_actions: A; None where actions are continuous.
    """

    critic: MLP
    scaling: Scaling
    num_actions: int | None

    def on(
        self,
        log: Dataset,
        choices: Float[NumpyArray, "N ..."],
        next_choices: Float[NumpyArray, "N ..."],
        *,
        logged: bool = False,
    ) -> dict[str, NumpyArray]:
        """What the network says of each transition of a log for one policy, by name.

        q, v and next_v are (N,) values in raw reward units: of the logged action, and of the policy here and at the next state.
        psi and next_psi are (N, H + 1) features of the states, averaged over the policy's actions. With `logged` there is also
        phi, (N, H + 1) features of the logged action. Where actions are drawn there is also `instrument`, (N, H + 1), which is
        psi over other draws.

        Args:
            log: the log.
            choices, next_choices: what the policy does at its states and at the next ones: (N, A) probabilities, or (N, K, D)
                drawn actions in logged units.
            logged: whether phi is asked for.
        """
        return self.on_many(log, [(choices, next_choices)], logged=logged)[0]

    def on_many(
        self,
        log: Dataset,
        of_policies: Sequence[tuple[Float[NumpyArray, "N ..."], Float[NumpyArray, "N ..."]]],
        *,
        logged: bool = False,
    ) -> list[dict[str, NumpyArray]]:
        """`on` for several policies, of each its `choices` and `next_choices`.

        Where actions are discrete the network is evaluated once for all policies.
        """
        table = self.scaling.observations(log.observation_table)
        if self.num_actions is None:
            found = [
                read_drawn(self.critic, self.scaling, table, log, draws, next_draws, logged=logged)
                for draws, next_draws in of_policies
            ]
        else:
            found = self._averages(table, log, of_policies, logged=logged)
        for of_policy in found:
            for name in ("q", "v", "next_v"):
                of_policy[name] = of_policy[name].astype(np.float64) / self.scaling.reward_scale
        return found

    def _averages(
        self,
        table: NumpyArray,
        log: Dataset,
        of_policies: Sequence[tuple[NumpyArray, NumpyArray]],
        *,
        logged: bool,
    ) -> list[dict[str, NumpyArray]]:
        """The numbers of each policy over discrete actions, in scaled reward units."""
        found: list[dict[str, NumpyArray]] = [{} for _ in of_policies]
        at_once = max(1, min(ROWS_AT_ONCE, CELLS_AT_ONCE // (self.num_actions or 1)))
        if len(table) <= at_once:  # each observation goes through the network once, however many rows share it
            of_table = tuple(map(np.asarray, _read(self.critic, jnp.asarray(table))))
            here, following = (_RowsOf(index) for index in (log.observation_index, log.next_observation_index))
            return [_averaged_by_observation(of_table, log, here, following, *p, logged=logged) for p in of_policies]
        for first, start, stop in pieces(log.num_transitions, at_once):
            rows = slice(first, stop)
            following = np.maximum(log.next_observation_index[rows], 0)
            read = [_read(self.critic, jnp.asarray(table[at])) for at in (log.observation_index[rows], following)]
            action = jnp.asarray(log.action[rows])
            for whole, (choices, next_choices) in zip(found, of_policies, strict=True):
                piece = _averaged(read, action, jnp.asarray(choices[rows]), jnp.asarray(next_choices[rows]))
                for name, numbers in piece.items():
                    if name == "phi" and not logged:
                        continue
                    if name not in whole:
                        whole[name] = np.empty((log.num_transitions, *numbers.shape[1:]), numbers.dtype)
                    whole[name][start:stop] = np.asarray(numbers)[start - first :]
        return found


@jax.jit
def _read(critic: MLP, obs: Array) -> tuple[Array, Array]:
    """phi (B, A, H + 1) and q (B, A) of every action; the first layer is shared between actions."""
    return features_and_q(critic, obs, critic.weights[0][obs.shape[1] :][None, :, :])


class _RowsOf:
    """The rows of each observation of a table, which share what a network says of it.

    Attributes:
        index: (N,) place of each row's observation in the table; 0 where there is none.
        groups: of each observation that occurs, its place and its rows.
    """

    def __init__(self, index: Int[NumpyArray, " N"]) -> None:
        self.index = np.maximum(index, 0)
        order = np.argsort(self.index, kind="stable")
        places, first = np.unique(self.index[order], return_index=True)
        self.groups = list(zip(places.tolist(), np.split(order, first[1:]), strict=True))

    def averages(self, choices: Float[NumpyArray, "N A"], phi: Float[NumpyArray, "S A H"]) -> Float[NumpyArray, "N H"]:
        """(N, H) features averaged over each row's probabilities."""
        found = np.empty((len(choices), phi.shape[2]), phi.dtype)
        for place, rows in self.groups:
            found[rows] = choices[rows] @ phi[place]
        return found


def _averaged_by_observation(
    of_table: tuple[NumpyArray, ...],
    log: Dataset,
    here: _RowsOf,
    following: _RowsOf,
    choices: Float[NumpyArray, "N A"],
    next_choices: Float[NumpyArray, "N A"],
    *,
    logged: bool,
) -> dict[str, NumpyArray]:
    """What `_averaged` gives, from phi (S, A, H + 1) and q (S, A) of a table of observations."""
    phi, q = of_table
    found = {
        "q": q[here.index, log.action],
        "psi": here.averages(choices, phi),
        "v": (choices * q[here.index]).sum(1),
        "next_psi": following.averages(next_choices, phi),
        "next_v": (next_choices * q[following.index]).sum(1),
    }
    return found | ({"phi": phi[here.index, log.action]} if logged else {})


@jax.jit
def _averaged(read: Any, action: Array, probs: Array, next_probs: Array) -> Any:
    """Averages of what `_read` gives over a policy's probabilities."""
    (phi, q), (next_phi, next_q) = read
    return {
        "q": jnp.take_along_axis(q, action[:, None], axis=1)[:, 0],
        "phi": jnp.take_along_axis(phi, action[:, None, None], axis=1)[:, 0],
        "psi": jnp.einsum("ba,bah->bh", probs, phi),
        "v": jnp.sum(probs * q, axis=1),
        "next_psi": jnp.einsum("ba,bah->bh", next_probs, next_phi),
        "next_v": jnp.sum(next_probs * next_q, axis=1),
    }


def fit_q(
    log: Dataset,
    next_choices: Iterable[NumpyArray],
    count: int,
    *,
    gamma: float,
    settings: FitSettings,
    monitors: Sequence[LoopMonitor] = (),
) -> list[list[FittedQ]]:
    """The FQE networks of every policy, fitted in one program for each kind of network.

    All policies share a seed, so that the fit of a policy does not depend on its place among them. Over discrete actions each
    policy gets one network, over continuous ones `settings.networks`.

    Args:
        log: the episodes to fit to.
        next_choices: what each policy does at the next states of `log`: (N, A) probabilities, or (N, K, D) drawn actions.
        count: how many policies there are.
        gamma: discount.
        settings: how networks are fitted.
        monitors: shown the progress of long fits.
    """
    scaling = Scaling.of(log, reward_scale=unit_return_scale(log, gamma=gamma))
    source, continuous = evaluation_source(log, scaling, next_choices, count), log.num_actions is None
    found: list[list[FittedQ]] = [[] for _ in range(count)]
    for kind, (layer_norm, slower) in enumerate(KINDS[: settings.networks] if continuous else KINDS[:1]):
        algorithm = FQE(
            gamma=gamma,
            network=Network(settings.hidden_sizes, layer_norm=layer_norm),
            learning_rate=settings.learning_rate / slower,
            start=round(float(log.episode_returns(gamma).mean()) * scaling.reward_scale, 4),
        )
        trained = train(
            algorithm,
            source,
            Spec.of(log),
            updates=settings.updates * (CONTINUOUS_TIMES if continuous else 1),
            seeds=[settings.seed + kind] * count,
            batch_size=settings.batch_size,
            monitors=monitors,
        )
        for k in range(count):
            found[k].append(FittedQ(trained.member(k).algorithm.critic.model, scaling, log.num_actions))
    return found
