"""Twenty updates of BCQ and BEAR against the official implementations, parameter by parameter.

The official numbers were made once by scripts/golden/make_batch_constrained.py, which says how.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from algorithm_cases import model

import stitchrl as st
from golden import (
    CONTINUOUS,
    DISCRETE,
    HIDDEN,
    TOLERANCE,
    UPDATES,
    Networks,
    differences,
    discrete_batches,
    fresh_state,
    settings_of,
    states_after,
    stored,
    stored_batches,
    with_parameters,
)

RUNS = "batch_constrained"
"""The file that tells about the runs."""

# --- BCQ, discrete ---------------------------------------------------------------------------------------------------

DISCRETE_BCQ: Networks = {
    "critic": lambda state: model(state, "critics").members,
    "behavior": lambda state: model(state, "behavior").network,
    "target_critic": lambda state: state.target_critics.members,
}


def discrete_bcq_differences(**changes: Any) -> dict[str, float]:
    """Discrete BCQ against the stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("discrete_bcq"), settings_of("discrete_bcq", RUNS)
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "threshold": official["BCQ_threshold"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
    }
    algorithm = st.BCQ(**{**settings, **changes}, hidden_sizes=HIDDEN)
    start = with_parameters(fresh_state(algorithm, DISCRETE), DISCRETE_BCQ, arrays, "start")
    states = states_after(algorithm, DISCRETE, start, discrete_batches())
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(
            states[updates - 1], DISCRETE_BCQ, arrays, f"discrete_bcq/after_{updates}"
        ).items()
    }


def test_discrete_bcq_is_the_official_one() -> None:
    found = discrete_bcq_differences()
    assert max(found.values()) <= TOLERANCE, found


# --- BCQ, continuous -------------------------------------------------------------------------------------------------

BCQ_NETWORKS: Networks = {
    "encoder": lambda state: model(state, "behavior").encoder,
    "decoder": lambda state: model(state, "behavior").decoder,
    "perturbation": lambda state: model(state, "perturbation"),
    "target_perturbation": lambda state: state.target_perturbation,
    "critic": lambda state: model(state, "critics").ensemble.members,
    "target_critic": lambda state: state.target_critics.ensemble.members,
}


def bcq_differences(**changes: Any) -> dict[str, float]:
    """Continuous BCQ against the stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("bcq"), settings_of("bcq", RUNS)
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "min_weight": official["lmbda"],
        "perturbation_limit": official["phi"],
        "candidates": official["candidates"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
    }
    algorithm = st.BCQ(**{**settings, **changes}, hidden_sizes=HIDDEN)
    states = states_after(
        algorithm,
        CONTINUOUS,
        with_parameters(fresh_state(algorithm, CONTINUOUS), BCQ_NETWORKS, arrays, "start"),
        stored_batches(),
        [{"normal": [arrays[f"draws/{name}"][i] for name in ("encoder", "next", "actor")]} for i in range(UPDATES)],
    )
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(states[updates - 1], BCQ_NETWORKS, arrays, f"bcq/after_{updates}").items()
    }


def test_continuous_bcq_is_the_official_one() -> None:
    found = bcq_differences()
    assert max(found.values()) <= TOLERANCE, found


# --- a wrong setting is seen -----------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[], dict[str, float]]] = {
    "discrete BCQ gamma": lambda: discrete_bcq_differences(gamma=0.98),
    "discrete BCQ threshold": lambda: discrete_bcq_differences(threshold=0.35),
    "BCQ gamma": lambda: bcq_differences(gamma=0.95),
    "BCQ weight of the least critic": lambda: bcq_differences(min_weight=0.72),
    "BCQ limit of the perturbation": lambda: bcq_differences(perturbation_limit=0.049),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_seen(change: str) -> None:
    """The numbers are sharp enough: a setting that is a little off moves parameters ten tolerances away."""
    found = CHANGES[change]()
    assert max(found.values()) > 10.0 * TOLERANCE, found
