"""Twenty updates of IDQL against its official implementation, parameter by parameter.

The official numbers were made once by scripts/golden/make_diffusion_golden.py, which says how.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from algorithm_cases import mlp_of, model

import stitchrl as st
from golden import (
    CONTINUOUS,
    HIDDEN,
    TOLERANCE,
    UPDATES,
    Networks,
    differences,
    fresh_state,
    settings_of,
    states_after,
    stored,
    stored_batches,
    with_parameters,
)

WIDTH, BLOCKS = 16, 2


def diffusion(name: str) -> Networks:
    """The parts of a diffusion."""

    def network(state: Any) -> Any:
        return model(state, name).network

    return {
        f"{name}_frequencies": lambda state: SimpleNamespace(weights=(model(state, name).frequencies,), biases=()),
        f"{name}_condition": lambda state: model(state, name).condition,
        f"{name}_first": lambda state: network(state).first,
        f"{name}_block_0": lambda state: network(state).blocks[0],
        f"{name}_block_1": lambda state: network(state).blocks[1],
        f"{name}_last": lambda state: network(state).last,
        f"{name}_norm": lambda state: SimpleNamespace(
            weights=network(state).norm_scales, biases=network(state).norm_offsets
        ),
    }


NETWORKS: Networks = {
    **diffusion("actor"),
    **diffusion("target_actor"),
    "value": lambda state: mlp_of(model(state, "value")),
    "critic": lambda state: mlp_of(model(state, "critics")),
    "target_critic": lambda state: mlp_of(state.target_critics),
}


def idql_differences(run: str, **changes: Any) -> dict[str, float]:
    """IDQL against a stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("idql"), settings_of(run, "diffusion")
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "expectile": official["critic_hyperparam"],
        "diffusion_steps": official["T"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
        "actor_target_rate": official["actor_tau"],
        "actor_weight_decay": official["weight_decay"],
        "actor_decay_updates": official["decay_steps"] or 0,
    }
    algorithm = st.IDQL(
        **{**settings, **changes}, hidden_sizes=HIDDEN, actor_width=WIDTH, actor_blocks=BLOCKS, actor_dropout=0.0
    )
    draws = [
        {"randint": [arrays[f"{run}/draws/step"][i]], "normal": [arrays["draws/noise"][i]]} for i in range(UPDATES)
    ]
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), NETWORKS, arrays, "start")
    states = states_after(algorithm, CONTINUOUS, start, stored_batches(), draws)
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(states[updates - 1], NETWORKS, arrays, f"{run}/after_{updates}").items()
    }


@pytest.mark.parametrize("run", ["idql", pytest.param("idql_decayed", marks=pytest.mark.slow)])
def test_idql_is_the_official_one(run: str) -> None:
    found = idql_differences(run)
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("change", [{"gamma": 0.98}, {"expectile": 0.88}, {"actor_weight_decay": 0.08}])
def test_a_changed_setting_is_seen(change: dict[str, Any]) -> None:
    """The numbers are sharp enough: a setting that is a little off moves parameters beyond the tolerance."""
    found = idql_differences("idql_decayed", **change)
    assert max(found.values()) > 3.0 * TOLERANCE, found
