"""The peers' side of `peers_ope.py`: SCOPE-RL's and skdr-eval's numbers on given arrays. Runs where they are installed.

    echo '{"task": "numbers", "arrays": "log.npz"}' | python benchmarks/peers_ope_worker.py

One JSON job on standard input, one JSON result on the last line of standard output. Needs the packages of
`requirements-peers-ope.txt` and nothing of stitchrl: peers pin versions that stitchrl does not.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402 - the filter comes first

with contextlib.redirect_stderr(io.StringIO()):
    from scope_rl.ope import discrete
    from scope_rl.utils import (
        estimate_confidence_interval_by_hoeffding,
        estimate_confidence_interval_by_t_test,
    )

SET = {
    "is": discrete.TrajectoryWiseImportanceSampling,
    "pdis": discrete.PerDecisionImportanceSampling,
    "wis": discrete.SelfNormalizedTIS,
    "pdwis": discrete.SelfNormalizedPDIS,
}
WITH_Q = {"dm": discrete.DirectMethod, "dr": discrete.DoublyRobust, "wdr": discrete.SelfNormalizedDR}


def given(arrays: Any) -> dict[str, Any]:
    """A log as SCOPE-RL's estimators take it."""
    found = {
        "step_per_trajectory": int(arrays["steps"]),
        "action": arrays["action"],
        "reward": arrays["reward"],
        "pscore": arrays["pscore"],
        "evaluation_policy_action_dist": arrays["policy"],
        "gamma": float(arrays["gamma"]),
    }
    if "q" in arrays:
        found["state_action_value_prediction"] = arrays["q"]
    return found


def numbers(arrays: Any) -> dict[str, Any]:
    """Every estimator's value on a log with a given Q and given ratios of visits."""
    log = given(arrays)
    found = {name: float(one().estimate_policy_value(**log)) for name, one in (SET | WITH_Q).items()}
    weight = {"state_marginal_importance_weight": arrays["visits"]}
    state = discrete.StateMarginalIS()
    for steps in (0, 1):
        found[f"smis, n_step_pdis={steps}"] = float(state.estimate_policy_value(n_step_pdis=steps, **log, **weight))
    pairs = {"state_action_marginal_importance_weight": arrays["pairs"]}
    found["drl"] = float(discrete.DoubleReinforcementLearning().estimate_policy_value(**log, **pairs))
    return found


def intervals(arrays: Any) -> dict[str, Any]:
    """Intervals by each method of many samples, (samples, n); and of self-normalised estimates of many logs."""
    found: dict[str, Any] = {"hoeffding": [], "ttest": []}
    for sample in arrays["samples"]:
        for name, ask in (
            ("hoeffding", estimate_confidence_interval_by_hoeffding),
            ("ttest", estimate_confidence_interval_by_t_test),
        ):
            found[name].append(_ends(ask(sample)))
    found["self-normalised"] = []
    for k in range(len(arrays["logs_reward"])):
        log = {
            "step_per_trajectory": 1,
            "action": arrays["logs_action"][k],
            "reward": arrays["logs_reward"][k],
            "pscore": arrays["logs_pscore"][k],
            "evaluation_policy_action_dist": arrays["logs_policy"][k],
        }
        found["self-normalised"].append(
            _ends(discrete.SelfNormalizedTIS().estimate_interval(**log, n_bootstrap_samples=500, random_state=k))
        )
    return found


def one_step(arrays: Any) -> dict[str, Any]:
    """skdr-eval's doubly robust values of single decisions, with a model of the reward of every action."""
    import skdr_eval

    log = {
        "propensities": arrays["propensities"],
        "policy_probs": arrays["policy"],
        "Y": arrays["reward"],
        "A": arrays["action"],
        "elig": np.ones_like(arrays["policy"]),
    }
    found: dict[str, Any] = {}
    for name, transform, normalised in (
        ("reward-dr", "IdentityTransform", False),
        ("sndr", "IdentityTransform", True),
        ("switch-dr, limit 3", "SwitchTauTransform", False),
        ("dros, limit 20", "DRosShrinkTransform", False),
    ):
        settings = {"SwitchTauTransform": {"tau": 3.0}, "DRosShrinkTransform": {"lam": 20.0}}.get(transform, {})
        strategy = skdr_eval.EstimatorStrategy(
            name=name,
            weight_transform=getattr(skdr_eval, transform)(**settings),
            outcome_loss=skdr_eval.MSEOutcomeLoss(),
            self_normalised=normalised,
        )
        result = skdr_eval.dr_value_with_strategy(q_hat=arrays["q"], strategy=strategy, **log)
        found[name] = [float(result.V_hat), float(result.SE_if)]
    try:
        result = skdr_eval.dr_value_with_clip(q_hat=arrays["q"], clip_grid=(float("inf"),), **log)
        found["dr_value_with_clip"] = float(result["DR"].V_hat)
    except ValueError as error:
        found["dr_value_with_clip"] = f"{type(error).__name__}: {error}"
    marginal = (arrays["propensities"] * arrays["q"]).sum(1)
    result = skdr_eval.dr_value_with_clip(q_hat=marginal, clip_grid=(float("inf"),), **log)
    found["marginal"] = {name: [float(one.V_hat), float(one.SE_if)] for name, one in result.items()}
    return found


def held_now() -> float:
    """Kilobytes of memory that this process holds; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def speed(arrays: Any) -> dict[str, Any]:
    """Seconds of the four estimators, values and intervals of 10,000 resamples, and what the process held."""
    log = given(arrays)
    before = held_now()
    wall, used = time.perf_counter(), sum(os.times()[:2])
    values = {}
    for name, one in SET.items():
        value = float(one().estimate_policy_value(**log))
        found = one().estimate_interval(**log, ci="bootstrap", n_bootstrap_samples=10_000, random_state=0)
        values[name] = [value, *_ends(found)]
    wall, used = time.perf_counter() - wall, sum(os.times()[:2]) - used
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    inputs = sum(one.nbytes for one in log.values() if isinstance(one, np.ndarray)) / 2**20
    return {"seconds": wall, "cpu_seconds": used, "megabytes": held, "input_megabytes": inputs, "values": values}


def _ends(found: dict[str, Any]) -> list[float]:
    return [float(found["95.0% CI (lower)"]), float(found["95.0% CI (upper)"])]


def main() -> None:
    job = json.loads(sys.stdin.read())
    with np.load(job["arrays"]) as file:
        arrays = dict(file)
    task = {"numbers": numbers, "intervals": intervals, "one_step": one_step, "speed": speed}[job["task"]]
    result = task(arrays)
    result["versions"] = {name: version(name) for name in ("scope-rl", "skdr-eval", "numpy", "torch", "d3rlpy")}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
