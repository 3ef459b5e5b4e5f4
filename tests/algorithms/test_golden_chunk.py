"""Twenty updates of Q-chunking against its official implementation, parameter by parameter, where no episode ends in a chunk.

The official numbers were made once by scripts/golden/make_chunk_golden.py, which says how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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

LENGTH = 2
ACTING = {"distill-ddpg": "one step", "best-of-n": "best of"}


def chunked(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows with a chunk: the action and the reward of the row and of the next row of the batch."""
    count = len(batch["reward"])
    pairs = {name: np.stack([batch[name], np.roll(batch[name], -1, 0)], 1) for name in ("action", "reward")}
    lengths = {"steps": np.full(count, LENGTH, np.float32), "chunk_length": np.full(count, LENGTH, np.int32)}
    return batch | lengths | {"chunk": pairs["action"], "rewards": pairs["reward"]}


def chunk_differences(run: str, **changes: Any) -> dict[str, float]:
    """Q-chunking against a stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("q_chunking"), settings_of(run, "chunk")
    settings: dict[str, Any] = {
        "chunk": official["horizon_length"],
        "acting": ACTING[official["actor_type"]],
        "acting_candidates": official.get("actor_num_samples", 32),
        "gamma": official["discount"],
        "distill_weight": official.get("alpha", 1.0),
        "target_aggregation": official["q_agg"],
        "flow_steps": official["flow_steps"],
        "learning_rate": official["lr"],
        "target_rate": official["tau"],
    }
    algorithm = st.QChunking(**{**settings, **changes}, hidden_sizes=HIDDEN)
    first = "next" if run == "one_step" else "candidates"
    draws = [
        {
            "normal": [arrays[f"draws/{name}"][i] for name in (first, "noise", "start")],
            "uniform": [arrays["draws/time"][i]],
        }
        for i in range(UPDATES)
    ]
    networks = {name: find for name, find in FLOW_NETWORKS.items() if name != "actor" or run == "one_step"}
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), networks, arrays, "start")
    states = states_after(algorithm, CONTINUOUS, start, [chunked(batch) for batch in stored_batches()], draws)
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(states[updates - 1], networks, arrays, f"{run}/after_{updates}").items()
    }


@pytest.mark.parametrize("run", [pytest.param("one_step", marks=pytest.mark.slow), "best_of"])
def test_q_chunking_is_the_official_one(run: str) -> None:
    found = chunk_differences(run)
    assert max(found.values()) <= TOLERANCE, found


def test_a_changed_setting_is_seen() -> None:
    """The numbers are sharp enough: a discount that is a little off moves parameters ten tolerances away."""
    found = chunk_differences("one_step", gamma=0.98)
    assert max(found.values()) > 10.0 * TOLERANCE, found
