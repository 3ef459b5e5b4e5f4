"""DPO: direct preference optimisation (Rafailov and others 2023, arXiv 2305.18290), which learns from pairs of segments.

Of each pair a judge preferred one segment, w, to the other, l. With pi_ref the reference and beta the setting `kl_weight`:

    (1)  R_w = sum_t log pi(a_t | s_t) - log pi_ref(a_t | s_t), over the decisions t of w;   R_l likewise
    (2)  m   = beta (R_w - R_l), the margin
    (3)  L   = -E[ (1 - label_smoothing) log sigma(m) + label_smoothing log sigma(-m) ],   sigma(m) = 1 / (1 + exp(-m))

With label_smoothing 0 this is the paper's equation (7), in which a segment is the answer to a prompt and its decisions
are the tokens. If the judge prefers w to l with probability sigma(u_w - u_l), where u is what a single action is worth
to them, and every action of pi_ref is compared, then (3) without label_smoothing is least where pi = pi_ref exp(u /
beta) / Z. That is the policy that maximises E[u] - beta KL(pi || pi_ref). It fits no reward, and reads none.

It is not AWR with other weights, although both aim at that optimum. AWR maximises a likelihood with weights of at least
0: no term of it lowers the probability of a logged action, and the mean of a normal policy stays among the logged
actions. (3) is a logistic loss on a difference: its gradient pushes R_w up and R_l down with the same force, beta
sigma(-m). Thus a rejected action is pushed below its probability under the reference, and the mean of a normal policy
may move beyond the preferred action, away from the rejected one. (3) depends on the difference alone: R_w and R_l may
both fall.

A sum over the decisions of a segment is the paper's, for tokens, without a discount. Contrastive preference learning
(Hejna and others 2023, arXiv 2310.13639) derives such a loss for judges who go by the advantages of the best policy
under maximum entropy; its sums have a discount, and its main form no reference. Where judges go by the rewards of a
segment, and these depend on chance, (3) credits the policy with luck. Nothing here looks beyond the last decision of a
segment, for nothing is bootstrapped: it stitches only as far as the judges knew what would follow.

The reference is the policy that behaviour cloning fits to all segments, each once, in however many pairs it is
("behavior"), or what the pairs hold in `behavior_log_prob` ("logged"); `preferences.with_reference(policy)` fills that
column with the log-probabilities of any policy. Learning starts from the policy that was cloned in both cases.

Official code: eric-mitchell/direct-preference-optimization, trainers.py (preference_loss, _get_batch_logps): beta 0.1,
batches of 64 pairs, RMSprop with steps of 5e-7 that rise over 150 updates, gradients no longer than 10. `label_smoothing` is
from there.

Deviations: Adam, with steps for small networks. The policy and the reference are small networks that choose one action
in each decision, not language models, and each decision has an observation of its own. The reference imitates both
sides, since both are taken to be drawn from it; where there is none, the paper imitates the preferred side alone.

Use: where people, or a rule, can say which of two actions or pieces of episodes is better, but not how good they are.

Avoid: logs with rewards, which say more; judgements of segments that differ by luck; and tasks in which the first half
of one segment has to be joined to the second half of another, unless the judge knows how good both halves are.

First knob: `kl_weight`, from 0.01 to 1: smaller follows the judge further from the reference, and overfits sooner.

Metrics: loss/actor (3); preference/accuracy (share of pairs with R_w above R_l; a tie counts one half) and preference/margin
(2); log_ratio/preferred and log_ratio/rejected (R_w and R_l); with a cloned reference, reference/kl (KL(pi || pi_ref), nats
a decision).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stitchrl.algorithms.base import Algorithm, Prepared, Spec, Step
from stitchrl.algorithms.behavior_fit import fitted_behavior
from stitchrl.algorithms.heads import Actor
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.settings import choice, setting
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import DataError
from stitchrl.feeds.pairs import REFERENCE
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.types import PyTree

__all__ = ["DPO", "DPOState", "preference_loss"]


class DPOState(NamedTuple):
    """Everything a resume needs."""

    actor: Trainable[Actor]


def preference_loss(
    preferred: Float[Array, " B"], rejected: Float[Array, " B"], kl_weight: Scalar, label_smoothing: Scalar = 0.0
) -> tuple[Float[Array, ""], Metrics]:
    """Equation (3) of the log-ratios (1) of both sides, and what is measured of them."""
    margin = kl_weight * (preferred - rejected)
    kept, swapped = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    loss = -jnp.mean((1.0 - label_smoothing) * kept + label_smoothing * swapped)
    right = 0.5 * (1.0 + jnp.sign(preferred - rejected))
    return loss, {
        "loss/actor": loss,
        "preference/accuracy": jnp.mean(right),
        "preference/margin": jnp.mean(margin),
        "log_ratio/preferred": jnp.mean(preferred),
        "log_ratio/rejected": jnp.mean(rejected),
    }


@dataclasses.dataclass(frozen=True)
class DPO(Algorithm):
    """Direct preference optimisation. Learns from `st.Preferences`, not from a log of rewards."""

    learns_from: ClassVar[str] = "preferences"
    observations: ClassVar[tuple[str, ...]] = ("vectors", "images")
    has_critics: ClassVar[bool] = False

    kl_weight: float = setting(
        0.1, "(0, inf)", "The paper's beta: larger stays closer to the reference, smaller follows the judge further."
    )
    label_smoothing: float = setting(
        0.0, "[0, 0.5)", "Share of the judgements that are taken to be the wrong way round; larger bounds the margins."
    )
    reference: str = choice(
        "behavior",
        ("behavior", "logged"),
        'What pi is measured from: "behavior" clones both sides of the pairs, "logged" reads `behavior_log_prob`.',
    )
    behavior_updates: int = setting(
        2000, "at least 0", "Updates of the cloning that the policy starts from; 0 starts from random weights."
    )
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size.")

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        self._check_reference(log)
        return Prepared(
            log, given={"start": fitted_behavior(log, scaling, self.network, self.behavior_updates, key=key)}
        )

    def prepare_again(self, log: Dataset, scaling: Scaling, given: PyTree, *, key: Key) -> Prepared:
        self._check_reference(log)
        return Prepared(log, given=given)

    def _check_reference(self, log: Dataset) -> None:
        if self.reference == "logged" and log.behavior_log_prob is None:
            raise DataError(
                'DPO(reference="logged") needs the column `behavior_log_prob` in the segments; these have none. Log it, '
                'write it with `preferences.with_reference(policy)`, or take reference="behavior".'
            )

    def init(self, key: Key, spec: Spec, given: PyTree) -> DPOState:
        start = jax.tree.map(jnp.copy, given["start"])
        return DPOState(Trainable.create(start, self.adam(self.learning_rate)))

    def update(self, state: DPOState, batch: Batch, given: PyTree, key: Key, step: Step) -> tuple[DPOState, Metrics]:
        def loss(actor: Actor) -> tuple[Array, Metrics]:
            return self.measured(actor, batch, given)

        gradients, metrics = jax.grad(loss, has_aux=True)(state.actor.model)
        return DPOState(state.actor.step(self.adam(self.learning_rate), gradients)), metrics

    def measured(self, actor: Actor, batch: Batch, given: PyTree) -> tuple[Float[Array, ""], Metrics]:
        """The loss (3) of a policy on a batch of pairs, as `feeds.pairs.Pairs` makes it, and the metrics."""
        valid = batch["valid"]

        def flat(name: str) -> Any:
            field = batch.get(name)
            return None if field is None else field.reshape(-1, *field.shape[3:])

        obs, action, mask = flat("obs"), flat("action"), flat("action_mask")
        # Without a key, for dropout would put noise into the log-ratios.
        pi = actor(obs, action_mask=mask)
        log_prob, metrics = pi.log_prob(action), {}
        if self.reference == "logged":
            reference_log_prob = flat(REFERENCE)
        else:
            reference = given["start"](obs, action_mask=mask)
            reference_log_prob = reference.log_prob(action)
            kl = jnp.sum(valid.reshape(-1) * pi.kl(reference)) / jnp.maximum(jnp.sum(valid), 1.0)
            metrics = {"reference/kl": kl}
        sums = jnp.sum(valid * (log_prob - reference_log_prob).reshape(valid.shape), axis=-1)
        loss, found = preference_loss(sums[0], sums[1], self.kl_weight, self.label_smoothing)
        return loss, found | metrics

    def policy(self, state: DPOState, given: PyTree) -> Actor:
        return state.actor.model
