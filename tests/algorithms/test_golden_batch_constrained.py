"""Twenty updates of BCQ and BEAR against the official implementations, parameter by parameter.

The official numbers were made once by scripts/golden/make_batch_constrained.py, which says how.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
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
    relative,
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


# --- BEAR ------------------------------------------------------------------------------------------------------------

BEAR_NETWORKS: Networks = {
    "encoder": lambda state: model(state, "behavior").encoder,
    "decoder": lambda state: model(state, "behavior").decoder,
    "actor": lambda state: model(state, "actor").network,
    "target_actor": lambda state: state.target_actor.network,
    "critic": lambda state: model(state, "critics").ensemble.members,
    "target_critic": lambda state: state.target_critics.ensemble.members,
}


def bear_differences(run: str, **changes: Any) -> dict[str, float]:
    """BEAR against a stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("bear"), settings_of(run, RUNS)
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "kernel": official["kernel_type"],
        "kernel_width": official["mmd_sigma"],
        "candidates": official["candidates"],
        "match_samples": official["num_samples_match"],
        "warm_start_updates": official["warm_start"],
        "learning_rate": official["learning_rate"],
        "actor_learning_rate": official["learning_rate"],
        "multiplier_learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
    }
    algorithm = st.BEAR(**{**settings, **changes}, hidden_sizes=HIDDEN)
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), BEAR_NETWORKS, arrays, "start")
    start = eqx.tree_at(lambda s: s.log_multiplier.model, start, jnp.asarray(arrays["start/log_multiplier"]))
    draws = ("encoder", "next", "latent", "actor")
    normal = [{"normal": [arrays[f"draws/{name}"][i] for name in draws]} for i in range(UPDATES)]
    states = states_after(algorithm, CONTINUOUS, start, stored_batches(), normal)
    found = {}
    for updates in (1, UPDATES):
        state, at = states[updates - 1], f"{run}/after_{updates}"
        ours = differences(state, BEAR_NETWORKS, arrays, at)
        ours["log_multiplier"] = relative(state.log_multiplier.model, arrays[f"{at}/log_multiplier"])
        found |= {f"{name} after {updates}": value for name, value in ours.items()}
    return found


@pytest.mark.parametrize("run", ["bear_laplacian", "bear_gaussian"])
def test_bear_is_the_official_one(run: str) -> None:
    """With each kernel, through the end of the warm start."""
    found = bear_differences(run)
    assert max(found.values()) <= TOLERANCE, found


# --- a wrong setting is seen -----------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[], dict[str, float]]] = {
    "discrete BCQ gamma": lambda: discrete_bcq_differences(gamma=0.98),
    "discrete BCQ threshold": lambda: discrete_bcq_differences(threshold=0.35),
    "BCQ gamma": lambda: bcq_differences(gamma=0.95),
    "BCQ weight of the least critic": lambda: bcq_differences(min_weight=0.72),
    "BEAR gamma": lambda: bear_differences("bear_laplacian", gamma=0.95),
    "BEAR width of the kernel": lambda: bear_differences("bear_laplacian", kernel_width=9.5),
    "BEAR threshold": lambda: bear_differences("bear_laplacian", mmd_threshold=0.2),
    "BCQ limit of the perturbation": lambda: bcq_differences(perturbation_limit=0.049),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_seen(change: str) -> None:
    """The numbers are sharp enough: a setting that is a little off moves parameters ten tolerances away."""
    found = CHANGES[change]()
    assert max(found.values()) > 10.0 * TOLERANCE, found
