"""Twenty updates of DPO against the official loss and sums of log-probabilities, parameter by parameter.

The official numbers were made once by scripts/golden/make_preference_golden.py, which says how.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import DISCRETE, HIDDEN, TOLERANCE, UPDATES, differences, relative, settings_of, stored, with_parameters
from stitchrl.algorithms.base import Step
from stitchrl.algorithms.dpo import DPO
from stitchrl.algorithms.heads import create_actor
from stitchrl.nn.networks import Network

NETWORKS = {"actor": lambda state: state.actor.model.network}


@cache
def update_of(structure: DPO) -> Any:
    """The compiled update, with number settings as inputs."""

    def update(settings: Any, state: Any, batch: Any, given: Any, number: Any) -> Any:
        step = Step(number, jnp.int32(UPDATES))
        return structure.with_inputs(settings).update(state, batch, given, jax.random.key(0), step)

    return jax.jit(update)


def found_differences(run: str, **changes: Any) -> dict[str, float]:
    """The largest difference of a parameter after 1 and 20 updates, and of a loss, some of our settings changed."""
    arrays, official = stored("dpo"), settings_of(run, "preference")
    settings = {
        "kl_weight": official["beta"],
        "label_smoothing": official["label_smoothing"],
        "learning_rate": official["learning_rate"],
    }
    algorithm = DPO(hidden_sizes=HIDDEN, **{**settings, **changes})
    actor = create_actor(DISCRETE, Network(HIDDEN), key=jax.random.key(0))
    own = {"reference": lambda policy: policy.network}
    given = {"start": with_parameters(actor, own, arrays, "start")}
    state = with_parameters(algorithm.init(jax.random.key(0), DISCRETE, given), NETWORKS, arrays, "start")
    inputs = {name: np.float32(getattr(algorithm, name)) for name in algorithm.input_settings()}
    found, losses = {}, []
    for number in range(UPDATES):
        batch = {name: arrays[name][number] for name in ("obs", "action", "valid")}
        state, metrics = update_of(algorithm.structure())(inputs, state, batch, given, np.int32(number))
        losses.append(metrics["loss/actor"])
        if number + 1 in (1, UPDATES):
            after = differences(state, NETWORKS, arrays, f"{run}/after_{number + 1}")
            found |= {f"{name} after {number + 1}": value for name, value in after.items()}
    return found | {"loss": relative(losses, arrays[f"{run}/loss"])}


@pytest.mark.parametrize("run", ["dpo", "dpo_smoothed"])
def test_it_is_the_official_one(run: str) -> None:
    found = found_differences(run)
    assert max(found.values()) <= TOLERANCE, found
    start = stored("dpo")["start/actor"]
    assert np.abs(stored("dpo")[f"{run}/after_20/actor"] - start).max() > 0.01  # it was trained


@pytest.mark.parametrize(
    ("run", "changes"),
    [("dpo", {"kl_weight": 0.51}), ("dpo", {"label_smoothing": 0.01}), ("dpo_smoothed", {"learning_rate": 1.01e-3})],
)
def test_a_changed_setting_is_seen(run: str, changes: dict[str, float]) -> None:
    found = found_differences(run, **changes)
    assert max(found.values()) > 10.0 * TOLERANCE, found
