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


# --- a wrong setting is seen -----------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[], dict[str, float]]] = {
    "discrete BCQ gamma": lambda: discrete_bcq_differences(gamma=0.98),
    "discrete BCQ threshold": lambda: discrete_bcq_differences(threshold=0.35),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_seen(change: str) -> None:
    """The numbers are sharp enough: a setting that is a little off moves parameters ten tolerances away."""
    found = CHANGES[change]()
    assert max(found.values()) > 10.0 * TOLERANCE, found
