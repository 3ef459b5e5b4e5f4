"""Twenty updates of FQL against its official implementation, parameter by parameter.

The official numbers were made once by scripts/golden/make_flow_golden.py, which says how.
"""

from __future__ import annotations

from typing import Any

import pytest
from flow_networks import FLOW_NETWORKS

import stitchrl as st
from golden import (
    CONTINUOUS,
    HIDDEN,
    TOLERANCE,
    UPDATES,
    differences,
    fresh_state,
    settings_of,
    states_after,
    stored,
    stored_batches,
    with_parameters,
)


def fql_differences(run: str, **changes: Any) -> dict[str, float]:
    """FQL against a stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("fql"), settings_of(run, "flow")
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "distill_weight": official["alpha"],
        "normalize_q": official["normalize_q_loss"],
        "target_aggregation": official["q_agg"],
        "flow_steps": official["flow_steps"],
        "learning_rate": official["lr"],
        "target_rate": official["tau"],
    }
    algorithm = st.FQL(**{**settings, **changes}, hidden_sizes=HIDDEN)
    draws = [
        {
            "normal": [arrays[f"draws/{name}"][i] for name in ("next", "start", "noise")],
            "uniform": [arrays["draws/time"][i]],
        }
        for i in range(UPDATES)
    ]
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), FLOW_NETWORKS, arrays, "start")
    states = states_after(algorithm, CONTINUOUS, start, stored_batches(), draws)
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(states[updates - 1], FLOW_NETWORKS, arrays, f"{run}/after_{updates}").items()
    }


@pytest.mark.parametrize("run", [pytest.param("fql", marks=pytest.mark.slow), "fql_normalized"])
def test_fql_is_the_official_one(run: str) -> None:
    found = fql_differences(run)
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("change", [{"gamma": 0.98}, {"distill_weight": 9.8}])
def test_a_changed_setting_is_seen(change: dict[str, Any]) -> None:
    """The numbers are sharp enough: a setting that is a little off moves parameters ten tolerances away."""
    found = fql_differences("fql", **change)
    assert max(found.values()) > 10.0 * TOLERANCE, found
