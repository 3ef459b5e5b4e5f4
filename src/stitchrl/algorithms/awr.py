"""AWR: advantage-weighted regression (Peng, Kumar, Zhang, Levine 2019, arXiv 1910.00177), on a fixed log.

Returns of the logged behaviour, a value function regressed on them, and imitation weighted by the advantage:

    (1)  G_t  = r_t + gamma [ (1 - td_lambda) V(s_{t+1}) + td_lambda G_{t+1} ]        TD(lambda) return
    (2)  L_V  = E[ (G - V(s))^2 ]
    (3)  A    = G - V(s);  standardised: (A - mean A) / (std A + 1e-5), mean and std over the whole log
    (4)  L_pi = -E[ min(exp(inverse_temperature A), 20) log pi(a | s) ]

In (1) nothing follows a true end; where the log was cut or rows are missing, gamma V of what followed stands for the rest
(so with td_lambda 1 too), and where what followed is unknown, G is V(s): such a row has no advantage and weight 0 in (2). G,
and the mean and std of (3), are computed anew from V every `returns_every_updates`, over all rows of the log, however rows
are drawn. With td_lambda 1 and a true end to every episode, without missing rows, G is the column `return_to_go`, and V
enters only (3).

AWR is a step of policy improvement on the behaviour: G follows what the logging policy did next, so it cannot stitch
episodes together as TD learning can. The advantage is MULTIPLIED by the inverse temperature (the paper divides by a
temperature): 1 suits standardised advantages (official code); raw ones need a value for the scale of the returns.

Official code: xbpeng/awr (learning/awr_agent.py, awr_configs.py): td_lambda 0.95, standardised advantages, temperature
1, weights up to 20, networks of 128 and 64 units.

Deviations: Adam for both networks (there SGD with momentum 0.9, with steps of 0.01 for V and 2.5e-5 to 5e-4, by task,
for the actor); one step of each an update (there 200 of V, then 1,000 of the actor, for every 2,048 fresh samples:
online there, a fixed log here); a normal with tanh on its mean and a learned standard deviation (there fixed at 0.4,
with a penalty on leaving the box); weights are taken from V before its step.

Use: as a step above imitation that has no Q to go wrong, on logs whose returns tell good actions from bad.

Avoid: long episodes with noisy returns, and tasks whose best way has to be pieced together from several episodes.

First knob: `inverse_temperature`, from 0.3 to 10 on standardised advantages: larger follows them further from the
log.

Metrics: loss/value, loss/actor; v/mean, adv/mean, adv/std (of the batch, unstandardised); weight/mean, weight/effective_share,
weight/clipped; policy/agreement or policy/mode_error, policy/entropy.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.algorithms.heads import Actor, create_actor
from stitchrl.algorithms.losses import effective_share
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.returns import returns_to_go, td_lambda_returns
from stitchrl.algorithms.settings import flag, network_setting, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.networks import MLP, ImageNetwork, Network, create_network
from stitchrl.types import PyTree

__all__ = ["AWR", "AWRState", "weighted_imitation_loss"]

MAX_WEIGHT = 20.0
"""Cap on the weight of equation (4) (official code)."""
SMALLEST_SPREAD = 1e-5
"""Added to the standard deviation of equation (3) (official code)."""
ROWS_AT_ONCE = 8192


class Returns(NamedTuple):
    """G of equation (1) for every row of the log, and the mean and spread of its advantage.

    Attributes:
        td_lambda: (N,) G of every row; (0,) where the column `return_to_go` holds the same.
        adv_mean, adv_spread: () mean and standard deviation of A over the log; 0 and 1 for raw advantages.
    """

    td_lambda: Float[Array, " N"]
    adv_mean: Float[Array, ""]
    adv_spread: Float[Array, ""]


class AWRState(NamedTuple):
    """Everything a resume needs."""

    value: Trainable[MLP | ImageNetwork]
    actor: Trainable[Actor]
    returns: Returns


def weighted_imitation_loss(
    log_prob: Float[Array, " B"], adv: Float[Array, " B"], inverse_temperature: Scalar
) -> tuple[Float[Array, ""], Float[Array, " B"]]:
    """Equation (4), of the log-probabilities of the logged actions; also its weights (B,), in [0, 20]."""
    weight = jnp.minimum(jnp.exp(inverse_temperature * jax.lax.stop_gradient(adv)), MAX_WEIGHT)
    return -jnp.mean(weight * log_prob), weight


@dataclasses.dataclass(frozen=True)
class AWR(Algorithm):
    """Advantage-weighted regression."""

    irregular_time: ClassVar[bool] = True
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    has_critics: ClassVar[bool] = False

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.", static=True)
    inverse_temperature: float = setting(
        1.0, "[0, inf)", "Larger follows the advantage further from the log; 0 is behaviour cloning."
    )
    td_lambda: float = setting(
        0.95, "[0, 1]", "Larger trusts logged returns more and V less: less bias, more variance.", static=True
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for both networks.")
    returns_every_updates: int = setting(1000, "at least 1", "Updates after which returns are computed anew from V.")
    standardize_advantage: bool = flag(True, "Divide advantages by their spread over the log, so that scales drop out.")
    network: Network = network_setting(Network((128, 64)), "Shape of both networks.")

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        columns = {
            "continues": log.continues.astype(np.float32),
            "return_to_go": returns_to_go(log, scaling, self.gamma),
        }
        whole = self.td_lambda == 1.0 and bool((log.terminated | log.continues).all())
        return Prepared(log, columns, {"td_lambda": np.zeros(0 if whole else log.num_transitions, np.float32)})

    @property
    def refresh_every_updates(self) -> int:
        """The number that the setting `returns_every_updates` gives."""
        return self.returns_every_updates

    def init(self, key: Key, spec: Spec, given: PyTree) -> AWRState:
        value_key, actor_key = jax.random.split(key)
        value = create_network(spec.observation.shape, self.network, 1, key=value_key)
        actor = create_actor(spec, self.network, key=actor_key)
        optimizer = self.adam(self.learning_rate)
        returns = Returns(jnp.copy(given["td_lambda"]), jnp.float32(0.0), jnp.float32(1.0))
        return AWRState(Trainable.create(value, optimizer), Trainable.create(actor, optimizer), returns)

    def refresh(self, state: AWRState, arrays: PyTree, given: PyTree, key: Key) -> AWRState:
        value, table = state.value.model, arrays["observations"]
        seen = jax.lax.map(lambda obs: value(obs[None])[0, 0], table, batch_size=ROWS_AT_ONCE)
        v, next_v = seen[arrays["observation_index"]], seen[arrays["next_observation_index"]]
        returns = arrays["prepared/return_to_go"]
        td_lambda = state.returns.td_lambda
        if td_lambda.size:
            returns = td_lambda = td_lambda_returns(
                arrays["reward"],
                v,
                next_v,
                arrays["terminated"],
                arrays["prepared/continues"],
                arrays["td_weight"],
                self.gamma,
                self.td_lambda,
                arrays.get("elapsed"),
            )
        mean, spread = state.returns.adv_mean, state.returns.adv_spread
        if self.standardize_advantage:
            mean, spread = jnp.mean(returns - v), jnp.std(returns - v) + SMALLEST_SPREAD
        return state._replace(returns=Returns(td_lambda, mean, spread))

    def update(self, state: AWRState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[AWRState, Metrics]:
        obs, action, td_weight = batch["obs"], batch["action"], batch["td_weight"]
        held = state.returns
        returns = held.td_lambda[batch["row"]] if held.td_lambda.size else batch["return_to_go"]

        def value_loss(value: MLP | ImageNetwork) -> tuple[Array, Array]:
            v = value(obs)[:, 0]
            return jnp.mean(td_weight * (returns - v) ** 2), v

        (loss_v, v), gradients = jax.value_and_grad(value_loss, has_aux=True)(state.value.model)
        value = state.value.step(self.adam(self.learning_rate), gradients)

        raw = jnp.where(td_weight > 0, returns - v, held.adv_mean)
        adv = (raw - held.adv_mean) / held.adv_spread

        def actor_loss(actor: Actor) -> tuple[Array, tuple[Array, Metrics]]:
            pi = actor(obs, action_mask=batch.get("action_mask"), key=key)
            loss, weight = weighted_imitation_loss(pi.log_prob(action), adv, self.inverse_temperature)
            return loss, (weight, pi.metrics(action))

        (loss_pi, (weight, metrics)), gradients = jax.value_and_grad(actor_loss, has_aux=True)(state.actor.model)
        actor = state.actor.step(self.adam(self.learning_rate), gradients)

        metrics |= {"loss/value": loss_v, "loss/actor": loss_pi, "v/mean": jnp.mean(v)}
        metrics |= {"adv/mean": jnp.mean(raw), "adv/std": jnp.std(raw), "weight/mean": jnp.mean(weight)}
        metrics["weight/effective_share"] = effective_share(weight)
        metrics["weight/clipped"] = jnp.mean((weight >= MAX_WEIGHT).astype(jnp.float32))
        return AWRState(value, actor, held), metrics

    def policy(self, state: AWRState, given: PyTree) -> Actor:
        return state.actor.model
