"""Q-chunking (Li, Zhou, Levine 2025, arXiv 2507.07969), for continuous actions: FQL over chunks of h actions.

An action is replaced by the next h actions, a chunk c = (a_t, .., a_(t+h-1)), that are all carried out before the
policy looks again. So a TD target over h steps has no bias from the actions in between, and what people do over several
steps, such as a grasp, is imitated as a whole. One update, in the order of the official code (ColinQiyangLi/qc,
agents/acfql.py); all gradients are at the parameters before the update:

    (1)  c'   = clip(mu(s_(t+h), z'), +-1),   z' ~ N(0, 1)
    (2)  y    = sum_(k<m) gamma^k r_(t+k) + gamma^h (1 - terminated) mean_i Qbar_i(s_(t+h), c')
    (3)  L_Q  = E[ w mean_i (y - Q_i(s, c))^2 ]
    (4)  L_v  = E[ u (v(s, x_t, t) - (c - x_0))^2 ],   x_t = (1 - t) x_0 + t c,   x_0 ~ N(0, 1),  t ~ U(0, 1)
    (5)  F(s, z) = clip(x_1, +-1),   x_(t + 1/K) = x_t + v(s, x_t, t) / K from x_0 = z,   K = flow_steps
    (6)  L_mu = distill_weight E[ (mu(s, z) - F(s, z))^2 ] - lambda E[ mean_i Q_i(s, clip(mu(s, z), +-1)) ],  z ~ N(0, 1)
    (7)  Qbar <- Qbar + target_rate (Q - Qbar)

m is h, or fewer where the episode ended within the chunk. u is 1 for the actions that the log has and 0 beyond the end of
the episode. w is 1 where all of the chunk was carried out and what followed is known, and where the episode terminated
within it, after which nothing is earned. It is 0 where the episode was cut within the chunk: what the rest of it would
have earned is not known, and the value of fewer actions is not that of the chunk. The actions of a chunk that the log
does not have are those of F(s, z), in (3) and (4).

With `acting="best of"` there is no mu and no (6): the policy, which also gives c' in (1), takes the best of
`acting_candidates` draws of F by mean_i Q_i, or by min_i Q_i where (2) has it. The paper calls this QC, and the variant
with mu QC-FQL. Lambda, `normalize_q` and `target_aggregation` are as in FQL. With `chunk=1` this is FQL, number by
number, except on logs with a `time_unit`: FQL discounts by the time that elapsed, and Q-chunking, which counts steps,
refuses such a log.

The policy has memory: it chooses a chunk, takes its actions one by one, and only then looks again. `st.rollout` can
play it. Its actions have no density, and its value is not a function of single observations, so that no estimator of
`st.evaluate` applies, except with `chunk=1`. `run.values` give Q(s, a) of a single action a: it is the critics' Q of a
whole chunk, the one that the policy would choose in s by its mode, with its first action replaced by a.

Deviations: the official code leaves out every row whose chunk would reach beyond the end of an episode, even where the
episode terminated. Then nothing is learned of ends within a chunk, and Q is the value of the chunks that survived.
Here, where chance ends an episode within a chunk, how right Q is depends on how well F imitates the log. The official
code also never starts a chunk at the last h - 1 rows of the whole log; here every row may start one. The other
deviations are those of FQL.

Use: continuous actions chosen many times a second, sparse rewards far ahead, and logs of people, whose actions belong
together over several steps.

Avoid: where the policy must react to what happens within a chunk, since it does not look; and wherever it must be
judged from a log alone.

First knob: `chunk`, from 1 to 10: larger carries rewards back faster, and reacts later. Then `distill_weight`, as in FQL.

Metrics: loss/critic (3), loss/behavior (4), q/data_mean, chunk/targets (share of rows with w = 1); with mu also
loss/actor (6), q/policy_mean and policy/flow_error (root mean squared distance of mu from F for the same noise).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.base import Prepared, Spec, Step
from stitchrl.algorithms.critic_settings import RewardNoise
from stitchrl.algorithms.flow_losses import distillation_loss, flow_matching_loss, q_loss
from stitchrl.algorithms.losses import td_loss
from stitchrl.algorithms.optimizers import Trainable, polyak
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.settings import choice, flag, network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.nn.best_of import BestOfPolicy
from stitchrl.nn.chunk import ChunkPolicy, ChunkValue
from stitchrl.nn.critics import ContinuousCritics
from stitchrl.nn.flow import FlowPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.one_step import OneStepPolicy
from stitchrl.types import NumpyArray, PyTree

__all__ = ["QChunking", "chunk_columns", "target_weight"]

SOURCE = "ColinQiyangLi/qc, README.md, the commands of the paper's results on cube-triple"
RUN = "observations and rewards as they are (standardize=False), 1,000,000 updates"


def chunk_columns(log: Dataset, scaling: Scaling, length: int) -> dict[str, NumpyArray]:
    """For every row the actions from it on, (N, length, action), zeros beyond the end of its episode, and how many there are."""
    rows = np.arange(log.num_transitions)[:, None] + np.arange(length)
    inside = rows <= log.run_end[:, None]
    action = scaling.actions(log.action).astype(np.float32)
    chunk = np.where(inside[:, :, None], action[np.minimum(rows, log.run_end[:, None])], np.float32(0))
    return {"chunk": chunk, "chunk_length": inside.sum(1).astype(np.int32)}


def target_weight(
    td_weight: Float[Array, " B"], terminated: Float[Array, " B"], steps: Float[Array, " B"], length: int
) -> Float[Array, " B"]:
    """w of equation (3), given how many steps the target sums, whether the episode then terminated, and `td_weight`."""
    return td_weight * jnp.maximum(terminated, (steps == length).astype(jnp.float32))


class QChunkingState(NamedTuple):
    """Everything a resume needs; no actor where it acts by the best of the flow's draws."""

    behavior: Trainable[FlowPolicy]
    actor: Trainable[OneStepPolicy] | None
    critics: Trainable[ContinuousCritics]
    target_critics: ContinuousCritics


@dataclasses.dataclass(frozen=True)
class QChunking(RewardNoise):
    """FQL over chunks of actions, which are carried out as a whole."""

    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            "cube-triple best of": Preset({"acting": "best of"}, SOURCE, RUN),
            "cube-triple one step": Preset({"distill_weight": 100.0}, SOURCE, RUN),
        }
    )

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised, of one step.")
    chunk: int = setting(
        5,
        "at least 1",
        "Actions that are chosen at once and carried out without looking; 1 looks before each, as FQL does.",
    )
    distill_weight: float = setting(
        100.0, "[0, inf)", "Larger holds the one-step policy nearer to the flow that imitates the log."
    )
    normalize_q: bool = flag(
        False, "True divides the actor's Q by its mean size, so that the rewards' scale drops out."
    )
    target_aggregation: Literal["mean", "min"] = choice(
        "mean", ("mean", "min"), 'How critics are joined in the TD target; "min" is pessimistic.'
    )
    acting: Literal["one step", "best of"] = choice(
        "one step", ("one step", "best of"), "Whether a one-step policy acts, or the best of many draws of the flow."
    )
    acting_candidates: int = setting(32, "at least 1", "Draws of the flow among which it takes the best.")
    flow_steps: int = setting(10, "at least 1", "Steps of Euler's method from noise to the flow's chunk.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; the actor maximises their mean.")
    network: Network = network_setting(
        Network((512, 512, 512, 512), activation="gelu", layer_norm="after"),
        "Shape of the critics' networks, with layer normalisation.",
    )
    actor_network: Network | None = network_setting(
        None, "Shape of the networks of both policies; that of `network` without its layer normalisation by default."
    )

    @property
    def has_memory(self) -> bool:
        """Whether its policy remembers the rest of a chunk."""
        return self.chunk > 1

    @property
    def target_steps(self) -> int:
        return self.chunk

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        if self.chunk == 1:
            return Prepared(log)
        self._check_length(log)
        return Prepared(log, chunk_columns(log, scaling, self.chunk))

    def _check_length(self, log: Dataset) -> None:
        """Raise ConfigurationError where no row has a TD target because every piece of an episode is shorter than a chunk."""
        known = log.run_end - np.arange(log.num_transitions) + log.can_bootstrap[log.run_end]
        longest = int(known.max(initial=0))
        if longest < self.chunk and not log.terminated.any():
            raise ConfigurationError(
                f"`chunk` of QChunking is {self.chunk:,}, and the longest episode of this log has {longest:,} rows in "
                "sequence whose next observation is known, so that no chunk has a TD target and the critics would learn "
                f"nothing; use {'at most ' if longest > 1 else ''}{max(longest, 1):,}."
            )

    def init(self, key: Key, spec: Spec, given: PyTree) -> QChunkingState:
        if spec.num_actions is not None:
            raise ConfigurationError(
                "QChunking needs continuous actions; the log's are discrete. IQL or CQL learn from it."
            )
        behavior_key, actor_key, critic_key = jax.random.split(key, 3)
        size, numbers, optimizer = spec.vector_size, self.chunk * spec.action_size, self.adam(self.learning_rate)
        shape = self.actor_network or dataclasses.replace(self.network, layer_norm="none")
        behavior = FlowPolicy.create(size, numbers, shape, self.flow_steps, key=behavior_key)
        critics = ContinuousCritics.create(self.num_critics, size, numbers, self.network, key=critic_key)
        actor = None
        if self.acting == "one step":
            actor = Trainable.create(OneStepPolicy.create(size, numbers, shape, key=actor_key), optimizer)
        return QChunkingState(
            Trainable.create(behavior, optimizer),
            actor,
            Trainable.create(critics, optimizer),
            jax.tree.map(jnp.copy, critics),
        )

    def update(
        self, state: QChunkingState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[QChunkingState, Metrics]:
        obs, optimizer = batch["obs"], self.adam(self.learning_rate)
        next_key, start_key, time_key, noise_key = jax.random.split(key, 4)
        td_target = self.targets(self._td_target(state, batch, key=next_key), batch, self.num_critics)

        noise = jax.random.normal(noise_key, (obs.shape[0], state.behavior.model.noise_size))
        flow_chunk = state.behavior.model.action(obs, noise)
        chunk, logged, weight = self._chunk(batch, flow_chunk)

        def critic_loss(critics: ContinuousCritics) -> tuple[Array, Array]:
            q = critics(obs, chunk)
            return td_loss(q, td_target, weight) / self.num_critics, jnp.mean(q)

        (loss_q, q_mean), gradients = jax.value_and_grad(critic_loss, has_aux=True)(state.critics.model)
        critics = state.critics.step(optimizer, gradients)

        start = jax.random.normal(start_key, chunk.shape)
        time = jax.random.uniform(time_key, (chunk.shape[0], 1))

        def behavior_loss(flow: FlowPolicy) -> Array:
            point = (1.0 - time) * start + time * chunk
            return flow_matching_loss(flow.velocity(obs, point, time), start, chunk, logged)

        loss_v, gradients = jax.value_and_grad(behavior_loss)(state.behavior.model)
        actor, metrics = self._actor_step(state, obs, noise, flow_chunk)
        after = QChunkingState(
            state.behavior.step(optimizer, gradients),
            actor,
            critics,
            polyak(state.target_critics, critics.model, self.target_rate),
        )
        metrics |= {"loss/critic": loss_q, "loss/behavior": loss_v, "q/data_mean": q_mean}
        return after, metrics | {"chunk/targets": jnp.mean(weight)}

    def _td_target(self, state: QChunkingState, batch: Batch, *, key: Key) -> Float[Array, " B"]:
        """Equations (1) and (2)."""
        next_obs = batch["next_obs"]
        next_q = state.target_critics(next_obs, self._planner(state).sample(next_obs, key=key))
        reward, discount = self.td_return(batch)
        joined = jnp.min(next_q, axis=0) if self.target_aggregation == "min" else jnp.mean(next_q, axis=0)
        return reward + discount * joined

    def _chunk(
        self, batch: Batch, flow_chunk: Float[Array, "B chunk"]
    ) -> tuple[Float[Array, "B chunk"], Float[Array, "B chunk"] | None, Float[Array, " B"]]:
        """The chunks c, the weights u of their numbers, None where all are 1, and w."""
        if self.chunk == 1:
            return batch["action"], None, batch["td_weight"]
        logged = (jnp.arange(self.chunk)[None, :] < batch["chunk_length"][:, None]).astype(jnp.float32)
        logged = jnp.repeat(logged, flow_chunk.shape[1] // self.chunk, axis=1)
        chunk = jnp.where(logged > 0, batch["chunk"].reshape(flow_chunk.shape), flow_chunk)
        return chunk, logged, target_weight(batch["td_weight"], batch["terminated"], batch["steps"], self.chunk)

    def _actor_step(
        self, state: QChunkingState, obs: Array, noise: Array, flow_chunk: Array
    ) -> tuple[Trainable[OneStepPolicy] | None, Metrics]:
        """One step of equation (6), where there is an actor."""
        if state.actor is None:
            return None, {}

        def loss(actor: OneStepPolicy) -> tuple[Array, tuple[Array, Array]]:
            one_step = actor.unbounded(obs, noise)
            distance = distillation_loss(one_step, flow_chunk)
            q = jnp.mean(state.critics.model(obs, jnp.clip(one_step, -1.0, 1.0)), axis=0)
            return self.distill_weight * distance + q_loss(q, self.normalize_q), (distance, jnp.mean(q))

        (value, (distance, q)), gradients = jax.value_and_grad(loss, has_aux=True)(state.actor.model)
        metrics = {"loss/actor": value, "q/policy_mean": q, "policy/flow_error": jnp.sqrt(distance)}
        return state.actor.step(self.adam(self.learning_rate), gradients), metrics

    def _planner(self, state: QChunkingState) -> OneStepPolicy | BestOfPolicy:
        """What chooses chunks."""
        if state.actor is not None:
            return state.actor.model
        flow, critics = state.behavior.model, state.critics.model.ensemble
        joined = self.target_aggregation
        return BestOfPolicy.create(flow, critics, self.acting_candidates, flow.noise_size, joined=joined)

    def policy(self, state: QChunkingState, given: PyTree) -> OneStepPolicy | BestOfPolicy | ChunkPolicy:
        planner = self._planner(state)
        size = state.behavior.model.noise_size // self.chunk
        return planner if self.chunk == 1 else ChunkPolicy(planner, self.chunk, size)

    def value(self, state: QChunkingState, given: PyTree) -> ChunkValue:
        return ChunkValue(state.critics.model, self._planner(state))
