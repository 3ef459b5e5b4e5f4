"""What algorithms that learn in a model of the world share: its settings, its fit before learning, and its rollouts.

The model is fitted once, before learning, and is the same for every seed (`dynamics_fit`); before the first update and
after every `rollouts_every_updates` updates, the current policy makes fresh rollouts in it (`model_rollouts`).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from stitchrl.algorithms.base import Prepared, Spec
from stitchrl.algorithms.critic_settings import CriticSettings
from stitchrl.algorithms.dynamics import Dynamics
from stitchrl.algorithms.dynamics_fit import fitted_dynamics, model_remarks
from stitchrl.algorithms.heads import Critics
from stitchrl.algorithms.model_rollouts import RolloutBuffer, drawn_rows, empty_buffer, mixed, with_rollouts
from stitchrl.algorithms.optimizers import Trainable
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.algorithms.soft_actor import SoftActor, fresh_soft_state, soft_critic_value
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError
from stitchrl.jax_types import Array, Batch, Key, Metrics, Scalar
from stitchrl.nn.continuous_policy import SquashedGaussianPolicy
from stitchrl.nn.networks import Network
from stitchrl.nn.value import ContinuousCriticValue, CriticValue
from stitchrl.types import PyTree

__all__ = ["ModelSettings", "ModelState"]


class ModelState(NamedTuple):
    """Everything a resume needs."""

    actor: SoftActor
    critics: Trainable[Critics]
    target_critics: Critics
    rollouts: RolloutBuffer


@dataclasses.dataclass(frozen=True)
class ModelSettings(CriticSettings):
    """Base of the algorithms that learn from rollouts of a model, over continuous actions."""

    actions: ClassVar[tuple[str, ...]] = ("continuous",)
    acts: ClassVar[str] = "greedy"  # official evaluations take tanh of the mean

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    real_share: float = setting(
        0.05, "(0, 1]", "Share of every batch that is logged rows; 1 learns from the log alone.", static=True
    )
    rollout_length: int = setting(
        5, "at least 1", "Steps of a rollout; with more, rollouts go further from the log and errors add up."
    )
    rollouts: int = setting(10_000, "at least 1", "Rollouts in a set, made together; more take more time and memory.")
    rollouts_every_updates: int = setting(1000, "at least 1", "Updates between two sets of rollouts.")
    retained: int = setting(5, "at least 1", "Sets of rollouts that are kept, the newest; more take more memory.")
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the critics.")
    actor_learning_rate: float = setting(1e-4, "(0, inf)", "Adam's step size for the actor and the temperature.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; the target takes their minimum.")
    first_temperature: float = setting(
        1.0, "(0, inf)", "Weight of entropy at the start; it should not outweigh a decision's reward."
    )
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")
    members: int = setting(7, "at least 1", "Networks of the model.", kw_only=True)
    elites: int = setting(
        5, "at least 1", "Networks that rollouts are drawn from, the best on held-out rows.", kw_only=True
    )
    model_updates: int = setting(
        10_000, "at least 1",
        "Updates of the model before learning, at most; it ends sooner where held-out rows are predicted no better.",
        kw_only=True,
    )  # fmt: skip
    model_learning_rate: float = setting(1e-3, "(0, inf)", "Adam's step size for the model.", static=True, kw_only=True)
    model_network: Network = network_setting(
        Network((200, 200, 200, 200), activation="silu"), "Shape of each network of the model."
    )

    def __post_init__(self, hidden_sizes: tuple[int, ...] | None) -> None:
        super().__post_init__(hidden_sizes)
        if self.elites > self.members:
            raise ConfigurationError(
                f"`elites` of {self.name} must be at most `members`, {self.members}; got {self.elites}. They are the best "
                "of them."
            )

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        if log.num_actions is not None:
            self._refuse_discrete()
        dynamics = Dynamics(members=self.members, learning_rate=self.model_learning_rate, network=self.model_network)
        return Prepared(log, given=fitted_dynamics(log, scaling, dynamics, self.model_updates, self.elites, key=key))

    def prepare_again(self, log: Dataset, scaling: Scaling, given: PyTree, *, key: Key) -> Prepared:
        return Prepared(log, given=given)

    def remarks(self, given: PyTree) -> tuple[str, ...]:
        """How far the model is off on rows that it was not fitted to."""
        return model_remarks(given)

    def init(self, key: Key, spec: Spec, given: PyTree) -> ModelState:
        if spec.num_actions is not None:
            self._refuse_discrete()
        optimizers = self.adam(self.actor_learning_rate), self.adam(self.learning_rate)
        shapes = self.network, self.actor_network or self.network
        soft = fresh_soft_state(
            spec, self.num_critics, *shapes, optimizers, temperature=self.first_temperature, key=key
        )
        return ModelState(*soft, empty_buffer(spec, self.rollouts * self.rollout_length * self.retained))

    @property
    def refresh_every_updates(self) -> int:
        """The number that the setting `rollouts_every_updates` gives."""
        return self.rollouts_every_updates

    def refresh(self, state: ModelState, arrays: PyTree, given: PyTree, key: Key) -> ModelState:
        after = with_rollouts(
            state.rollouts,
            given,
            self.policy(state, given),
            arrays,
            starts=self.rollouts,
            steps=self.rollout_length,
            elites=self.elites,
            key=key,
        )
        return state._replace(rollouts=after)

    def real_rows(self, batch: Batch) -> int:
        """How many logged rows of a batch are kept, at least one."""
        return max(1, int(len(batch["obs"]) * self.real_share))

    def mixed_batch(
        self, state: ModelState, batch: Batch, given: PyTree, penalty_weight: Scalar, *, key: Key
    ) -> tuple[Batch, Metrics]:
        """A batch in which some rows are logged and the model made the others, and metrics of the model.

        Args:
            state: with its rollouts.
            batch: logged rows; the first of them are kept.
            given: the model.
            penalty_weight: how much of the model's uncertainty is taken from the rewards that it made.
            key: for drawing rows of rollouts.
        """
        real_rows = self.real_rows(batch)
        rows, slot = drawn_rows(state.rollouts, len(batch["obs"]) - real_rows, key=key)
        made = {
            "obs": rows.obs,
            "action": rows.action,
            "reward": rows.reward - penalty_weight * rows.penalty,
            "discount": self.gamma * (1.0 - rows.terminated),
            "next_obs": rows.next_obs,
            "td_weight": jnp.ones_like(rows.reward),
            "row": -1 - slot,  # a number that no logged row has
        }
        count = max(1, len(slot))
        metrics = {
            "model/change_error": given["error"]["change"],
            "model/reward_error": given["error"]["reward"],
            "model/reward": jnp.sum(rows.reward) / count,
            "model/penalty": jnp.sum(rows.penalty) / count,
            "model/ends": jnp.sum(rows.terminated) / count,
        }
        return mixed(batch, self.td_return(batch), made, real_rows, state.rollouts.held > 0), metrics

    def at_logged_rows(self, state: ModelState, batch: Batch, q: Array) -> Metrics:
        """Metrics of critics and actor at the logged rows of a mixed batch; `q` holds the critics' values of all its rows."""
        rows = self.real_rows(batch)
        pi = self.policy(state, None)(batch["obs"][:rows])
        return {
            "q/data_mean": jnp.mean(q[:, :rows]),
            "q/spread": jnp.mean(jnp.std(q, axis=0)),
            "policy/mode_error": pi.metrics(batch["action"][:rows])["policy/mode_error"],
        }

    def policy(self, state: ModelState, given: PyTree) -> SquashedGaussianPolicy:
        policy = state.actor.policy.model
        assert isinstance(policy, SquashedGaussianPolicy)
        return policy

    def value(self, state: ModelState, given: PyTree) -> CriticValue | ContinuousCriticValue:
        return soft_critic_value(state.critics.model, state.actor.policy.model)

    def _refuse_discrete(self) -> None:
        raise ConfigurationError(
            f"{self.name} needs continuous actions; the log's are discrete. IQL, CQL or BCQ learn from it."
        )
