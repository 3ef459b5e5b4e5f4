"""The settings of BCQ; see `bcq` for what they mean in the equations."""

from __future__ import annotations

import dataclasses

from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.settings import network_setting, setting
from stitchrl.nn.networks import Network

__all__ = ["BCQSettings"]


@dataclasses.dataclass(frozen=True)
class BCQSettings(Algorithm):
    """`threshold` is for discrete actions only; the settings of critics, candidates and perturbation are for continuous ones."""

    gamma: float = setting(0.99, "[0, 1]", "Discount of the return that is maximised.")
    threshold: float = setting(
        0.3, "[0, 1)",
        "An action may be taken if its probability under the behaviour is more than this share of the most likely one's; "
        "0 is naive Q-learning, towards 1 it is behaviour cloning.",
    )  # fmt: skip
    learning_rate: float = setting(3e-4, "(0, inf)", "Adam's step size for all networks.")
    target_rate: float = setting(0.005, "(0, 1]", "Share of the way the targets move each update.")
    perturbation_limit: float = setting(
        0.05, "[0, inf)",
        "Largest change of a generated action, whose numbers are in [-1, 1]; 0 keeps to what the log's actions look like.",
    )  # fmt: skip
    min_weight: float = setting(
        0.75,
        "[0, 1]",
        "Weight of the smallest critic in the target; the largest has the rest. Larger is more cautious.",
    )
    candidates: int = setting(10, "at least 1", "Generated actions over which the target takes its maximum.")
    acting_candidates: int = setting(100, "at least 1", "Generated actions among which the policy chooses.")
    num_critics: int = setting(2, "at least 1", "Critics of continuous actions; discrete ones have one.")
    behavior_network: Network | None = network_setting(
        None, "Shape of the networks that model the behaviour; that of `network` by default."
    )
