"""Twenty updates of AWAC, SQL, EQL, XQL and CQL(rho) against the official implementations, parameter by parameter.

The official numbers were made once by scripts/golden/make_weighted_golden.py, which says how.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from algorithm_cases import model

from golden import (
    CONTINUOUS,
    HIDDEN,
    TOLERANCE,
    UPDATES,
    Networks,
    differences,
    fresh_state,
    relative,
    settings_of,
    states_after,
    stored,
    stored_batches,
    with_parameters,
)
from stitchrl.algorithms.awac import AWAC
from stitchrl.algorithms.base import Algorithm
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.sql import EQL, SQL
from stitchrl.algorithms.xql import XQL

AWAC_NETWORKS: Networks = {
    "actor": lambda state: model(state, "actor").network,
    "critic": lambda state: model(state, "critics").ensemble.members,
    "target_critic": lambda state: state.target_critics.ensemble.members,
}


def against(algorithm: Algorithm, run: str, file: str, networks: Networks, batches: Any, draws: Any = None) -> Any:
    """The largest difference of each network, and of the log standard deviations, after 1 and after 20 updates."""
    arrays, found = stored(file), {}
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), networks, arrays, "start")
    start = eqx.tree_at(lambda s: model(s, "actor").log_std, start, jnp.asarray(arrays["start/log_std"]))
    states = states_after(algorithm, CONTINUOUS, start, batches, draws)
    for updates in (1, UPDATES):
        state, at = states[updates - 1], f"{run}/after_{updates}"
        ours = differences(state, networks, arrays, at)
        ours["log_std"] = relative(model(state, "actor").log_std, arrays[f"{at}/log_std"])
        found |= {f"{name} after {updates}": value for name, value in ours.items()}
    return found


def awac_differences(**changes: Any) -> dict[str, float]:
    """AWAC against the stored run, some of our settings changed."""
    arrays, official = stored("awac"), settings_of("awac", "weighted")
    settings: dict[str, Any] = {
        "gamma": official["gamma"],
        "inverse_temperature": 1.0 / official["awac_lambda"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
    }
    algorithm = AWAC(**{**settings, **changes}, hidden_sizes=tuple(official["hidden_sizes"]))
    draws = [{"normal": [arrays["draws/target"][i], arrays["draws/actor"][i]]} for i in range(UPDATES)]
    return against(algorithm, "awac", "awac", AWAC_NETWORKS, stored_batches(), draws)


# --- SQL, EQL and XQL ------------------------------------------------------------------------------------------------


def in_sample_differences(run: str, file: str, **changes: Any) -> dict[str, float]:
    """SQL, EQL or XQL against a stored run, some of our settings changed."""
    official, networks = settings_of(run, "weighted"), AWAC_NETWORKS | {"value": lambda state: model(state, "value")}
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
        "value_layer_norm": False,
    }
    if file == "xql":
        settings |= {"temperature": official["loss_temp"], "inverse_temperature": official["temperature"]}
        settings["largest_exponent"] = official["max_clip"]
    else:
        settings["temperature"] = official["alpha"]
    scale = np.float32(official.get("reward_scale", 1.0))
    batches = [{**batch, "reward": scale * batch["reward"]} for batch in stored_batches()]
    kind = {"sql": SQL, "eql": EQL, "xql": XQL}[run[:3]]
    return against(kind(**{**settings, **changes}, hidden_sizes=HIDDEN), run, file, networks, batches)


# --- CQL(rho) --------------------------------------------------------------------------------------------------------


def rho_differences(run: str = "cql_rho", **changes: Any) -> dict[str, float]:
    """Continuous CQL(rho) against a stored run, from the start and with the draws of CQL(H)'s runs."""
    arrays, draws, official = stored("cql_rho"), stored("cql"), settings_of(run, "weighted")
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "cql_weight": official["min_q_weight"],
        "learning_rate": official["qf_lr"],
        "actor_learning_rate": official["policy_lr"],
        "target_rate": official["soft_target_tau"],
        "samples": official["num_random"],
        "lagrange_gap": official["lagrange_thresh"] if official["with_lagrange"] else 0.0,
    }
    algorithm = CQL(**{"penalty": "rho", **settings, **changes}, hidden_sizes=HIDDEN)
    kinds = {"normal": ("actor", "target", "policy", "next_policy"), "uniform": ("uniform",)}
    handed = [{kind: [draws[f"draws/{n}"][i] for n in names] for kind, names in kinds.items()} for i in range(UPDATES)]
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), AWAC_NETWORKS, draws, "start")
    states, found = states_after(algorithm, CONTINUOUS, start, stored_batches(), handed), {}
    for updates in (1, UPDATES):
        at = f"{run}/after_{updates}"
        ours = differences(states[updates - 1], AWAC_NETWORKS, arrays, at)
        if f"{at}/log_multiplier" in arrays:
            ours["log_multiplier"] = relative(states[updates - 1].log_multiplier.model, arrays[f"{at}/log_multiplier"])
        found |= {f"{name} after {updates}": value for name, value in ours.items()}
    return found


RUNS: dict[str, Callable[[], dict[str, float]]] = {
    "AWAC": awac_differences,
    "SQL": lambda: in_sample_differences("sql", "sql"),
    "SQL at a low temperature": lambda: in_sample_differences("sql_sparse", "sql"),
    "EQL": lambda: in_sample_differences("eql", "sql"),
    "XQL": lambda: in_sample_differences("xql", "xql"),
    "XQL with exponents cut off and errors beyond the threshold": lambda: in_sample_differences("xql_clipped", "xql"),
    "CQL(rho)": rho_differences,
    "CQL(rho) with a multiplier": lambda: rho_differences("cql_rho_lagrange"),
}


@pytest.mark.parametrize("run", RUNS)
def test_it_is_the_official_one(run: str) -> None:
    found = RUNS[run]()
    assert max(found.values()) <= TOLERANCE, found


CHANGES: dict[str, Callable[[], dict[str, float]]] = {
    "AWAC gamma": lambda: awac_differences(gamma=0.98),
    "AWAC temperature": lambda: awac_differences(inverse_temperature=2.97),
    "CQL(H) for CQL(rho)": lambda: rho_differences(penalty="H"),
    "SQL temperature": lambda: in_sample_differences("sql", "sql", temperature=1.02),
    "EQL temperature": lambda: in_sample_differences("eql", "sql", temperature=2.02),
    "XQL temperature": lambda: in_sample_differences("xql", "xql", temperature=1.02),
    "XQL largest exponent": lambda: in_sample_differences("xql_clipped", "xql", largest_exponent=1.9),
    "AWAC target rate": lambda: awac_differences(target_rate=0.006),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_seen(change: str) -> None:
    """The numbers are sharp enough: a setting that is a little off moves parameters ten tolerances away."""
    found = CHANGES[change]()
    assert max(found.values()) > 10.0 * TOLERANCE, found
