"""AdvantageBC: behaviour cloning that is told which logged actions were good, and acts as if told so (after Recap).

Recap (Physical Intelligence 2025, arXiv 2511.14759) trains one policy on all of the log, with a bit in its input that
says whether the action turned out better than expected; when it acts, the bit is on. Over rows of a log, with a value
function V:

    (1)  G_t  = r_t + gamma [ (1 - td_lambda) V(s_{t+1}) + td_lambda G_{t+1} ]            return of the log
    (2)  L_V  = E[ (G - V(s))^2 ]
    (3)  bit  = 1 where A = G - V(s) is above its (1 - positive_share)-quantile over the batch, else 0;
                where nothing is above it, 1 where A is the largest of the batch, unless all A are equal
    (4)  L_pi = -E[ log pi(a | s, c) ],   c = no bit with probability bit_dropout, else the bit
    (5)  acts by log pi(a | s, on) guidance + log pi(a | s, no bit) (1 - guidance), renormalised

In (1) nothing follows a true end; where the log was cut or rows are missing, gamma V of what followed stands for the rest,
and where that is unknown a row has weight 0 in (2) and no bit in (4). G is computed anew from V every
`returns_every_updates`, over all rows of the log; with td_lambda 1 and a true end to every episode, without missing rows, it
is the column `return_to_go`. Discrete and continuous actions.

Bad actions are learned from too, with the bit off, and do not disturb what is learned with the bit on. Unlike AWR, it
has no exponential weight whose temperature must fit the scale of the advantages. (3) picks the rows of a batch with the
largest advantages, which need not be above 0: with a `positive_share` of more than half, or where a few very bad rows
pull V down, some actions count as good that were worse than expected. G is a return of the logging policy, so that,
like AWR, this is one step of improvement on the behaviour, and it does not stitch.

Guidance above 1 goes beyond imitation of the good actions, away from what is done anyway (classifier-free guidance, Ho
and Salimans 2021). For normals with one standard deviation (5) is a normal again, whose mean is combined before its tanh
here.

There is no official code. The defaults are chosen for small networks; they are not the paper's.

Deviations: with the paper's way in brackets, V is one number fitted by squared error (a distribution over bins, fitted
by cross-entropy), and is learned at the same time as the policy (before it); the bit has two inputs of its own, (1, 0)
on, (0, 1) off and (0, 0) no bit (words of a prompt); the quantile is of a batch, so that it follows V (of a task's
rows, after V was fitted); where nothing is above it, ties for the largest advantage are good (the paper does not speak
of ties); no interventions of people, which the paper marks as good; a categorical or normal policy (a flow).

Use: on logs of mixed quality whose returns tell good actions from bad, where a weight would be hard to scale.

Avoid: tasks whose best way has to be pieced together from several episodes, and returns that are mostly luck.

First knob: `positive_share`, from 0.1 to 0.5: smaller imitates better actions, and fewer.

Metrics: loss/value, loss/actor; v/mean, adv/mean (of the batch); bit/on (share of the batch that (3) calls good, more than
`positive_share` where as many share the largest A); policy/agreement or policy/mode_error, policy/entropy (under the bits of
the batch).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from stitchrl.algorithms.base import Algorithm, ArraySpec, Prepared, Spec, Step
from stitchrl.algorithms.heads import Actor, create_actor
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.returns import returns_to_go, td_lambda_returns
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.factored import FactoredNetwork
from stitchrl.nn.guided import conditioned, guided
from stitchrl.nn.networks import MLP, Network
from stitchrl.types import PyTree

__all__ = ["AdvantageBC", "AdvantageBCState", "conditions", "good_actions"]

ON, NO_BIT = (1.0, 0.0), (0.0, 0.0)
ROWS_AT_ONCE = 8192


class AdvantageBCState(NamedTuple):
    """Everything a resume needs.

    Attributes:
        value, actor: networks; the actor's has two inputs beside the observation.
        returns: (N,) G of equation (1) for every row of the log; (0,) where the column `return_to_go` holds the same.
    """

    value: Trainable[MLP]
    actor: Trainable[Actor]
    returns: Float[Array, " N"]


def good_actions(adv: Float[Array, " B"], td_weight: Float[Array, " B"], positive_share: Scalar) -> Bool[Array, " B"]:
    """Equation (3): whether each advantage is among the best of those that are known (`td_weight` above 0).

    Where nothing is above the quantile, all that share the largest advantage are good, as where every return is 0 or 1:
    then more than `positive_share` of the rows may be good. Nothing is good where all advantages are equal.
    """
    known = td_weight > 0
    threshold = jnp.nanquantile(jnp.where(known, adv, jnp.nan), 1.0 - positive_share)
    above = (adv > threshold) & known
    largest = jnp.max(adv, where=known, initial=-jnp.inf)
    good = jnp.where(jnp.any(above), above, (adv == largest) & known)
    return good & (largest > jnp.min(adv, where=known, initial=jnp.inf))


def conditions(good: Bool[Array, " B"], told: Bool[Array, " B"]) -> Float[Array, "B 2"]:
    """The inputs for the bit: (1, 0) on, (0, 1) off, and (0, 0) where `told` is False: no bit."""
    bit = jnp.stack([good, ~good], axis=-1).astype(jnp.float32)
    return jnp.where(told[:, None], bit, 0.0)


@dataclasses.dataclass(frozen=True)
class AdvantageBC(Algorithm):
    """Advantage-conditioned behaviour cloning."""

    irregular_time: ClassVar[bool] = True
    has_critics: ClassVar[bool] = False

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.", static=True)
    positive_share: float = setting(
        0.3, "(0, 1)", "Share of the log whose actions count as good; smaller is pickier and learns from less."
    )
    bit_dropout: float = setting(0.3, "[0, 1)", "Share of rows that are learned without the bit.")
    guidance: float = setting(
        1.0, "[0, inf)",
        "1 acts as if told that its actions are good; larger goes further from the log, 0 is behaviour cloning.",
        static=True,
    )  # fmt: skip
    td_lambda: float = setting(
        1.0, "[0, 1]", "Larger trusts logged returns more and V less: less bias, more variance.", static=True
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for both networks.")
    returns_every_updates: int = setting(1000, "at least 1", "Updates after which the bits are computed anew from V.")
    network: Network = network_setting(Network(), "Shape of both networks.")

    def __post_init__(self, hidden_sizes: tuple[int, ...] | None) -> None:
        super().__post_init__(hidden_sizes)
        if self.guidance != 1.0 and self.network.layer_norm != "none":
            raise ConfigurationError(
                f"`guidance` of AdvantageBC adds two networks into one, which layer normalisation does not allow; got "
                f"{self.guidance} with `layer_norm` {self.network.layer_norm!r}. Leave one of the two at its default."
            )

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        columns = {
            "continues": log.continues.astype(np.float32),
            "return_to_go": returns_to_go(log, scaling, self.gamma),
        }
        whole = self.td_lambda == 1.0 and bool((log.terminated | log.continues).all())
        return Prepared(log, columns, {"returns": np.zeros(0 if whole else log.num_transitions, np.float32)})

    @property
    def refresh_every_updates(self) -> int:
        """The number that the setting `returns_every_updates` gives."""
        return self.returns_every_updates

    def init(self, key: Key, spec: Spec, given: PyTree) -> AdvantageBCState:
        value_key, actor_key = jax.random.split(key)
        value = MLP.create(spec.vector_size, self.network, 1, key=value_key)
        told = dataclasses.replace(spec, observation=ArraySpec((spec.vector_size + len(ON),)))
        actor = create_actor(told, self.network, key=actor_key)
        optimizer = self.adam(self.learning_rate)
        states = (Trainable.create(value, optimizer), Trainable.create(actor, optimizer))
        return AdvantageBCState(*states, jnp.copy(given["returns"]))

    def refresh(self, state: AdvantageBCState, arrays: PyTree, given: PyTree, key: Key) -> AdvantageBCState:
        if not state.returns.size:
            return state
        value, table = state.value.model, arrays["observations"]
        seen = jax.lax.map(lambda obs: value(obs[None])[0, 0], table, batch_size=ROWS_AT_ONCE)
        v, next_v = seen[arrays["observation_index"]], seen[arrays["next_observation_index"]]
        returns = td_lambda_returns(
            arrays["reward"], v, next_v, arrays["terminated"], arrays["prepared/continues"], arrays["td_weight"],
            self.gamma, self.td_lambda, arrays.get("elapsed"),
        )  # fmt: skip
        return state._replace(returns=returns)

    def update(
        self, state: AdvantageBCState, batch: Batch, given: PyTree, key: Key, step: Step
    ) -> tuple[AdvantageBCState, Metrics]:
        obs, action, td_weight = batch["obs"], batch["action"], batch["td_weight"]
        returns = state.returns[batch["row"]] if state.returns.size else batch["return_to_go"]
        told_key, actor_key = jax.random.split(key)

        def value_loss(value: MLP) -> tuple[Array, Array]:
            v = value(obs)[:, 0]
            return jnp.mean(td_weight * (returns - v) ** 2), v

        (loss_v, v), gradients = jax.value_and_grad(value_loss, has_aux=True)(state.value.model)
        value = state.value.step(self.adam(self.learning_rate), gradients)

        adv = returns - v
        good = good_actions(adv, td_weight, self.positive_share)
        told = (jax.random.uniform(told_key, adv.shape) >= self.bit_dropout) & (td_weight > 0)
        inputs = jnp.concatenate([obs, conditions(good, told)], axis=-1)

        def actor_loss(actor: Actor) -> tuple[Array, Metrics]:
            pi = actor(inputs, action_mask=batch.get("action_mask"), key=actor_key)
            return -jnp.mean(pi.log_prob(action)), pi.metrics(action)

        (loss_pi, metrics), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state.actor.model)
        actor = state.actor.step(self.adam(self.learning_rate), gradients)

        metrics |= {"loss/value": loss_v, "loss/actor": loss_pi, "v/mean": jnp.mean(v), "adv/mean": jnp.mean(adv)}
        metrics["bit/on"] = jnp.mean(good.astype(jnp.float32))
        return AdvantageBCState(value, actor, state.returns), metrics

    def policy(self, state: AdvantageBCState, given: PyTree) -> Actor:
        actor = state.actor.model
        whole = actor.network
        body = whole.body if isinstance(whole, FactoredNetwork) else whole
        assert isinstance(body, MLP)
        network = conditioned(body, jnp.asarray(ON))
        if self.guidance != 1.0:
            network = guided(network, conditioned(body, jnp.asarray(NO_BIT)), self.guidance)
        told: Any = FactoredNetwork(network, whole.counts) if isinstance(whole, FactoredNetwork) else network
        return dataclasses.replace(actor, network=told)
