"""The settings of CQL, for discrete and for continuous actions; see `cql` for what they mean in the equations."""

from __future__ import annotations

import dataclasses

from stitchrl.algorithms.settings import choice, flag, network_setting, setting
from stitchrl.algorithms.source_critics import SourceCriticSettings
from stitchrl.nn.networks import Network

__all__ = ["CQLSettings"]


@dataclasses.dataclass(frozen=True)
class CQLSettings(SourceCriticSettings):
    """`actor_learning_rate`, `actor_network`, `samples`, `gradient_samples`, `target_samples` and `bc_weight` are for
    continuous actions only."""

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    cql_weight: float = setting(
        5.0, "[0, inf)",
        "Larger stays nearer to what the log did often; 0 is naive Q-learning. Official runs: 5 or 10 (MuJoCo), 1 to 4 (Atari).",
    )  # fmt: skip
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for the critics and the multiplier of (8).")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the target critics move each update.")
    num_critics: int = setting(2, "at least 1", "Critics; the target takes their minimum.")
    actor_learning_rate: float = setting(1e-4, "(0, inf)", "Adam's step size for the actor and the temperature.")
    samples: int = setting(10, "at least 1", "Actions from each of the three distributions in the penalty.")
    gradient_samples: int = setting(
        0, "at least 0",
        "Actions of the penalty whose gradient is taken, drawn by their weight in it; 0 takes every one: slower, less noise.",
    )  # fmt: skip
    lagrange_gap: float = setting(
        0.0,
        "[0, inf)",
        "Weighted penalty at which the multiplier of (8) stays as it is; 0 leaves the penalty's weight fixed.",
        static=True,
    )
    actor_network: Network | None = network_setting(None, "Shape of the actor's network; that of `network` by default.")
    target_samples: int = setting(
        1, "at least 1", "Actions drawn for each target, which takes the best; more is less pessimistic.", kw_only=True
    )
    penalty: str = choice(
        "H", ("H", "rho", "behavior"),
        "What is pushed down: every action alike, what the policy does, or what the behaviour rarely does.",
    )  # fmt: skip
    return_weighted: bool = flag(False, "Push logged actions up by the return of their episode, (12).")
    bc_weight: float = setting(
        0.0,
        "[0, inf)",
        "Behaviour cloning in the actor's loss; larger stays nearer to the log.",
        static=True,
        kw_only=True,
    )
    kl_weight: float = setting(
        0.0, "[0, inf)", "KL divergence from the fitted behaviour; larger stays nearer to it; 0 is off.",
        static=True, kw_only=True,
    )  # fmt: skip
    behavior_updates: int = setting(
        2000,
        "at least 1",
        "Updates that fit the behaviour before learning, where (11) or the KL needs it.",
        kw_only=True,
    )

    @property
    def needs_behavior(self) -> bool:
        """Whether a model of the behaviour is fitted before learning."""
        return self.penalty == "behavior" or self.kl_weight > 0
