"""What the tests of training share: every algorithm with tiny networks, ways to break off a run, and other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from algorithm_cases import MODEL
from worlds import random_continuous_log, random_log

import stitchrl as st
from stitchrl.algorithms.base import Algorithm

TINY: dict[str, Any] = {"hidden_sizes": (8,), "learning_rate": 1e-2}
EVERY: dict[str, tuple[Algorithm, str]] = {
    "BC discrete": (st.BC(**TINY), "discrete"),
    "FilteredBC discrete": (st.FilteredBC(**TINY), "discrete"),
    "IQL discrete": (st.IQL(actor_decay_updates=50, **TINY), "discrete"),
    "SQL discrete": (st.SQL(**TINY), "discrete"),
    "EQL discrete": (st.EQL(**TINY), "discrete"),
    "XQL discrete": (st.XQL(**TINY), "discrete"),
    "AWAC discrete": (st.AWAC(weighting="batch", **TINY), "discrete"),
    "CQL discrete": (st.CQL(**TINY), "discrete"),
    "DQN discrete": (st.DQN(**TINY), "discrete"),
    "BCQ discrete": (st.BCQ(**TINY), "discrete"),
    "BCQIQL discrete": (st.BCQIQL(**TINY), "discrete"),
    "AWR discrete": (st.AWR(returns_every_updates=15, **TINY), "discrete"),
    "BC continuous": (st.BC(average_rate=0.1, **TINY), "continuous"),
    "FilteredBC continuous": (st.FilteredBC(**TINY), "continuous"),
    "IQL continuous": (st.IQL(warmup_updates=5, decay_updates=50, max_gradient_norm=1.0, **TINY), "continuous"),
    "SQL continuous": (st.SQL(actor_decay_updates=50, **TINY), "continuous"),
    "EQL continuous": (st.EQL(**TINY), "continuous"),
    "XQL continuous": (st.XQL(**TINY), "continuous"),
    "AWAC continuous": (st.AWAC(**TINY), "continuous"),
    "CQL continuous": (st.CQL(samples=2, lagrange_gap=1.0, **TINY), "continuous"),
    "TD3BC continuous": (st.TD3BC(**TINY), "continuous"),
    "ReBRAC continuous": (st.ReBRAC(**TINY), "continuous"),
    "FQL continuous": (st.FQL(flow_steps=2, **TINY), "continuous"),
    "QChunking continuous": (st.QChunking(chunk=2, flow_steps=2, **TINY), "continuous"),
    "IDQL continuous": (st.IDQL(actor_width=8, actor_blocks=1, diffusion_steps=2, **TINY), "continuous"),
    "MOPO continuous": (st.MOPO(**MODEL | TINY | {"rollouts_every_updates": 15}), "continuous"),
    "COMBO continuous": (st.COMBO(samples=2, **MODEL | TINY | {"rollouts_every_updates": 15}), "continuous"),
    "SACN discrete": (st.SACN(num_critics=2, **TINY), "discrete"),
    "SACN continuous": (st.SACN(num_critics=9, **TINY), "continuous"),
    "EDAC continuous": (st.EDAC(num_critics=2, **TINY), "continuous"),
    "SAC discrete": (st.SAC(**TINY), "discrete"),
    "SAC continuous": (st.SAC(**TINY), "continuous"),
    "TD3 continuous": (st.TD3(**TINY), "continuous"),
    "DDPG continuous": (st.DDPG(**TINY), "continuous"),
    "BEAR continuous": (st.BEAR(candidates=3, match_samples=2, warm_start_updates=20, **TINY), "continuous"),
    "BCQ continuous": (st.BCQ(candidates=3, acting_candidates=5, **TINY), "continuous"),
    "AWR continuous": (st.AWR(returns_every_updates=15, td_lambda=0.5, **TINY), "continuous"),
    "AdvantageBC discrete": (st.AdvantageBC(returns_every_updates=15, **TINY), "discrete"),
    "AdvantageBC continuous": (st.AdvantageBC(returns_every_updates=15, **TINY), "continuous"),
    "DecisionTransformer discrete": (st.DecisionTransformer(length=3, positions=5, **TINY), "discrete"),
    "DecisionTransformer continuous": (st.DecisionTransformer(length=3, positions=5, **TINY), "continuous"),
    "IQL continuous bfloat16": (st.IQL(hidden_sizes=(32, 32), precision="bfloat16"), "continuous"),
}
"""Name and kind of action -> an algorithm; between them they use every setting that all algorithms have."""
CLOSED_FORM = {"SPIBB discrete", "VILCB discrete"}
"""Those that `prepare` solves: they make no update."""
SETTINGS: dict[str, Any] = {"updates": 45, "batch_size": 8, "log_every_updates": 10, "progress": False}


def log_of(kind: str) -> st.Dataset:
    """A small random log with this kind of action."""
    return random_log(12) if kind == "discrete" else random_continuous_log(12)


class StopHereError(Exception):
    """Raised by a callback to break off a run."""


def stop_after(chunks: int) -> Callable[..., None]:
    """A callback that breaks off the run after so many calls."""
    seen: list[int] = []

    def stop(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        seen.append(done)
        if len(seen) == chunks:
            raise StopHereError

    return stop


def stop_at(update: int) -> Callable[..., None]:
    """A callback that breaks off the run once so many updates are done."""

    def stop(done: int, total: int, metrics: dict[str, list[float]]) -> None:
        if done == update:
            raise StopHereError

    return stop


class Compilations:
    """Counts the programs that were compiled since it was made."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, seconds: float, **details: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def environment() -> dict[str, str]:
    """The environment of another process that imports this package and these helpers."""
    support = Path(__file__).parent
    paths = os.pathsep.join([str(support), str(support.parent.parent / "src")])
    own = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return own | {"PYTHONPATH": paths}


def python(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in another process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        capture_output=True, text=True, check=False, timeout=300, env=environment() | variables,
    )  # fmt: skip
