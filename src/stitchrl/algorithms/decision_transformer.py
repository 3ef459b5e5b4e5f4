"""DecisionTransformer: imitation conditioned on the return to reach (Chen and others 2021, arXiv 2106.01345).

A causal transformer reads the last K steps of an episode, each as three tokens, and learns to predict the logged action
from everything before it and the return that the episode went on to have:

    (1)  G_t  = r_t + r_{t+1} + ... + r_T                            undiscounted, to the end of the episode
    (2)  tokens  ..., G_t / scale, s_t, a_t, G_{t+1} / scale, s_{t+1}, a_{t+1}, ...
         each embedded, plus a learned embedding of the step t; then layer normalisation
    (3)  L = mean over the rows of the pieces of (tanh f(..., G_t, s_t) - a_t)^2       vectors
         L = mean of -log softmax f(..., G_t, s_t)[a_t], under the action mask         numbered actions
    (4)  acts with G_0 = the target return and G_{t+1} = G_t - r_t

Pieces of K rows start at rows that are drawn alike, so that episodes are drawn in proportion to their lengths, and end
with their episode; what is missing is padding that nothing attends to and that has no loss. The policy remembers its
episode (`stitchrl.nn.memory`).

The target is a part of the method: a lower target gives a policy with a lower return. Without `target_return` it is the
`target_quantile` of the returns of the log's whole episodes, and `Run.remarks` says which. An episode is whole if it
truly ended, or was cut at the length of the longest, as by a time limit; where none truly ended, all count. Logs in
which rows are missing inside an episode are refused.

Official code: kzl/decision-transformer, gym/ (decision_transformer.py, trajectory_gpt2.py, seq_trainer.py, experiment.py):
K 20, 3 blocks of width 128 with 1 head, ReLU, dropout 0.1; AdamW with steps of 1e-4, a decay of 1e-4, a warm-up of 10,000
updates and gradients no longer than 0.25; batches of 64, 100,000 updates; returns divided by 1,000.

Deviations: padding comes after an episode's end (there before its rows; no valid row attends to either); returns are
divided by the largest of the log (there by 1,000); the target is a quantile of the log's returns (there a number for
each task, sometimes above every return of the log); numbered actions go through a linear embedding of their one-hot and
the same small network (the paper's Atari code has an embedding with tanh, images and other sizes).

Use: on logs of nearly deterministic tasks that hold whole good episodes, and where the past matters because the
observation does not show everything.

Avoid: noisy outcomes, where it takes luck for skill (it imitates episodes with a high return that no action earned);
tasks whose best way has to be pieced together from several episodes; logs of cut episodes, whose returns are not whole;
and actions that are vectors, where the policy must be judged from a log alone: it is deterministic, so that its actions
have no density and `st.evaluate` cannot judge it. `st.rollout` can play it.

First knob: `target_quantile`, from 0.5 to 1: larger asks for better episodes, and rarer ones. `target_return` sets any
return, even one that is not in the log, and `policy.towards(return)` another one without training again.

Metrics: loss/actor; policy/agreement (share of logged actions that are the mode) and policy/entropy (nats), or
policy/mode_error (root mean squared distance of the action, per action dimension), over the rows of the pieces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.presets import Preset
from stitchrl.algorithms.returns import returns_to_go
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.jax_types import Array, Batch, Key, Metrics
from stitchrl.messages import plain_number
from stitchrl.nn.distributions import masked_log_softmax, take_action
from stitchrl.nn.networks import Network
from stitchrl.nn.return_conditioned import ReturnConditionedNetwork, ReturnConditionedPolicy, Steps
from stitchrl.nn.transformer import CausalTransformer
from stitchrl.types import PyTree

__all__ = ["DecisionTransformer", "DecisionTransformerState", "sequence_loss"]

SOURCE = "kzl/decision-transformer, gym/experiment.py"


class DecisionTransformerState(NamedTuple):
    """Everything a resume needs."""

    actor: Trainable[ReturnConditionedNetwork]


def sequence_loss(
    out: Float[Array, "B K out"], action: Array, valid: Float[Array, "B K"], action_mask: Array | None = None
) -> tuple[Float[Array, ""], Metrics]:
    """Equation (3) of the network's outputs, over the rows where `valid` is 1; also what is measured."""
    rows = jnp.maximum(jnp.sum(valid), 1.0)
    if jnp.issubdtype(action.dtype, jnp.integer):
        log_probs = masked_log_softmax(out, action_mask)
        agreed = (jnp.argmax(log_probs, axis=-1) == action).astype(jnp.float32)
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
        loss = -jnp.sum(valid * take_action(log_probs, action)) / rows
        found = {"policy/agreement": agreed, "policy/entropy": entropy}
        return loss, {"loss/actor": loss} | {name: jnp.sum(valid * one) / rows for name, one in found.items()}
    loss = jnp.sum(valid[..., None] * (jnp.tanh(out) - action) ** 2) / (rows * action.shape[-1])
    return loss, {"loss/actor": loss, "policy/mode_error": jnp.sqrt(loss)}


@dataclasses.dataclass(frozen=True)
class DecisionTransformer(Algorithm):
    """Decision Transformer."""

    has_critics: ClassVar[bool] = False

    length: int = setting(20, "at least 1", "Steps that it looks back, K; more cost more.")
    heads: int = setting(1, "at least 1", "Attention heads of each block; they divide its width.")
    positions: int = setting(
        1000, "at least 1", "Steps of an episode that have an embedding of their own; later steps share the last one."
    )
    target_return: float | None = setting(
        None,
        "(-inf, inf)",
        "The return that the policy acts towards, in units of the log; None takes `target_quantile` of the log's returns.",
    )
    target_quantile: float = setting(
        0.95, "[0, 1]", "Which of the log's returns is the target where none is given; 1 is the largest.", static=True
    )
    return_scale: float | None = setting(
        None, "(0, inf)", "What returns are divided by; None takes the largest of the log, in size."
    )
    learning_rate: float = setting(1e-4, "(0, inf)", "AdamW's step size.")
    weight_decay: float = setting(1e-4, "[0, inf)", "Each step shrinks every weight by this share times the step size.")
    warmup_updates: int = setting(
        10_000, "at least 0", "The step size rises linearly from 0 over this many updates; 0 is off.", kw_only=True
    )
    max_gradient_norm: float = setting(
        0.25, "[0, inf)", "Gradients longer than this are shortened to it; 0 is off.", static=True, kw_only=True
    )
    network: Network = network_setting(
        Network((128, 128, 128), dropout=0.1), "One width for each block, all equal; its activation and dropout."
    )

    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            name: Preset(
                {"target_return": target, "return_scale": 1000.0}, SOURCE, "fit(batch_size=64, updates=100_000)"
            )
            for name, target in (("hopper", 3600.0), ("halfcheetah", 12000.0), ("walker2d", 5000.0))
        }
    )

    def __post_init__(self, hidden_sizes: tuple[int, ...] | None) -> None:
        super().__post_init__(hidden_sizes)
        widths = self.network.hidden_sizes
        if not widths or len(set(widths)) > 1 or widths[0] % self.heads:
            raise ConfigurationError(
                "`network` of DecisionTransformer must have one width for each block, all equal and divided by `heads`; got "
                f"{widths} and {self.heads} heads. The default is (128, 128, 128) and 1."
            )
        if self.network.outputs != "joint":
            raise ConfigurationError(
                f'`outputs` of the network of DecisionTransformer must be "joint"; got {self.network.outputs!r}. Its head has an '
                "output for each combination of several components."
            )

    @property
    def has_memory(self) -> bool:
        return True

    @property
    def sequence_length(self) -> int:
        """The number that the setting `length` gives."""
        return self.length

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        if log.num_gaps:
            raise DataError(
                f"DecisionTransformer learns from the returns of whole episodes, and in {log.num_gaps:,} places of this log rows "
                "are missing inside an episode: what they paid is not known. Give it the episodes without such gaps."
            )
        returns = returns_to_go(log, scaling, 1.0)
        ended = log.terminated[log.episode_start[1:] - 1]
        cut = ~ended & (log.episode_lengths < log.episode_lengths.max())
        of_episodes = returns[log.episode_start[:-1]][~cut if ended.any() else ...]
        if self.target_return is None:
            target = float(np.quantile(of_episodes, self.target_quantile))
        elif scaling.reward_shift:
            raise ConfigurationError(
                f"`target_return` of DecisionTransformer, {self.target_return:g}, is a sum of the log's rewards, and "
                "`reward_shift` of fit makes it depend on the length of an episode. Leave one of them out."
            )
        else:
            target = self.target_return * scaling.reward_scale
        largest = float(np.abs(returns).max(initial=0.0)) or 1.0
        scale = largest if self.return_scale is None else self.return_scale * scaling.reward_scale
        given = {"target": target, "scale": scale, "unit": scaling.reward_scale}
        given |= {"least": of_episodes.min(), "most": of_episodes.max()}
        counts = {"episodes": log.num_episodes, "cut": cut.sum(), "counted": len(of_episodes)}
        numbers: PyTree = {name: np.float32(number) for name, number in given.items()}
        numbers |= {name: np.int32(number) for name, number in counts.items()}
        return Prepared(log, {"return_to_go": returns}, numbers)

    def remarks(self, given: PyTree) -> tuple[str, ...]:
        """Which return the policy acts towards, the range of the log's returns, and how many episodes were cut short."""
        target, least, most = (float(given[name] / given["unit"]) for name in ("target", "least", "most"))
        episodes, cut, counted = (int(given[name]) for name in ("episodes", "cut", "counted"))
        known = "the log's returns" if counted == episodes else "the returns of the log's whole episodes"
        acts = f"The policy acts towards a return of {plain_number(target)}"
        span = f"go from {plain_number(least)} to {plain_number(most)}"
        beyond = target > most + 1e-4 * max(abs(target), abs(most))
        caution = "; nothing in it shows how to reach more than that" if beyond else ""
        found = (
            f"{acts}, the {self.target_quantile:g} quantile of {known}, which {span}."
            if self.target_return is None
            else f"{acts}, as `target_return` says. {known[:1].upper()}{known[1:]} {span}{caution}."
        )
        if not cut:
            return (found,)
        return (
            found,
            f"Of {episodes:,} episodes {cut:,} were cut short: the rewards that would have followed are missing from the returns "
            "that the policy learned with.",
        )

    def init(self, key: Key, spec: Spec, given: PyTree) -> DecisionTransformerState:
        body_key, rest_key = jax.random.split(key)
        shape, width = self.network, self.network.hidden_sizes[0]
        body = CausalTransformer.create(
            width,
            len(shape.hidden_sizes),
            heads=self.heads,
            activation=shape.activation,
            dropout=shape.dropout,
            key=body_key,
        )
        network = ReturnConditionedNetwork.create(
            spec.vector_size, spec.action_size, spec.num_actions, self.positions, body, width, key=rest_key
        )
        return DecisionTransformerState(Trainable.create(network, self._optimizer))

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return self.adam(self.learning_rate, weight_decay=self.weight_decay)

    def update(
        self, state: DecisionTransformerState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[DecisionTransformerState, Metrics]:
        steps = Steps(
            batch["return_to_go"] / given["scale"], batch["obs"], batch["action"], batch["position"], batch["valid"] > 0
        )

        def loss(network: ReturnConditionedNetwork) -> tuple[Array, Metrics]:
            return sequence_loss(network(steps, key=key), batch["action"], batch["valid"], batch.get("action_mask"))

        gradients, metrics = jax.grad(loss, has_aux=True)(state.actor.model)
        return DecisionTransformerState(state.actor.step(self._optimizer, gradients)), metrics

    def policy(self, state: DecisionTransformerState, given: PyTree) -> ReturnConditionedPolicy:
        target, scale = (jnp.asarray(given[name], jnp.float32) for name in ("target", "scale"))
        return ReturnConditionedPolicy(state.actor.model, target, scale, self.length)
