"""The networks in a state of FQL or Q-chunking, by the names that their golden numbers have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from algorithm_cases import mlp_of, model

from golden import Networks


def norms_of(perceptron: Any) -> Any:
    """Scales and offsets of layer normalisation, where weights and biases are looked for."""
    return SimpleNamespace(weights=perceptron.norm_scales, biases=perceptron.norm_offsets)


FLOW_NETWORKS: Networks = {
    "behavior": lambda state: model(state, "behavior").network,
    "actor": lambda state: model(state, "actor").network,
    "critic": lambda state: mlp_of(model(state, "critics")),
    "critic_norm": lambda state: norms_of(mlp_of(model(state, "critics"))),
    "target_critic": lambda state: mlp_of(state.target_critics),
    "target_critic_norm": lambda state: norms_of(mlp_of(state.target_critics)),
}
