"""What it takes to start a bundle and to ask it: NumPy beside JAX, eager and compiled.

    python benchmarks/deployment.py DEMO/run/policy [--out benchmarks/results/deployment.md]

Every number is the least of several repetitions, so that other work on the machine counts least; medians stand beside.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

import stitchrl as st
from environment import describe
from stitchrl.deployment.numpy_policy import load_policy

ROWS = 10_000
STARTS = {
    "Python alone": "pass",
    "`import numpy`": "import numpy",
    "`from stitchrl.deployment.numpy_policy import load_policy`": "from stitchrl.deployment.numpy_policy import load_policy",
    "... and `load_policy(folder)`": "from stitchrl.deployment.numpy_policy import load_policy; load_policy({folder!r})",
    "... and the first action": (
        "from stitchrl.deployment.numpy_policy import load_policy; p = load_policy({folder!r}); p.predict(p.guard.low)"
    ),
    "JAX: `st.load_policy(folder)`": "import stitchrl as st; st.load_policy({folder!r})",
    "... and the first action, eager": "import stitchrl as st; p = st.load_policy({folder!r}); p.predict(p.guard.low)",
}


def started(code: str, repeats: int = 15) -> tuple[float, float]:
    """Least and median wall seconds of an interpreter that runs some code."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - begun)
    return min(times), float(np.median(times))


def asked(ask: Callable[[], Any], *, calls: int, repeats: int = 15) -> tuple[float, float]:
    """Least and median seconds of a call."""
    ask()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(calls):
            ask()
        times.append((time.perf_counter() - begun) / calls)
    return min(times), float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "deployment.md")
    given = parser.parse_args()
    folder = str(given.folder.resolve())
    plain, native = load_policy(folder), st.load_policy(folder)
    assert isinstance(native, st.Bundle)
    inner = native.policy
    compiled = eqx.filter_jit(lambda rows: inner.mode(rows))
    rng, guard = np.random.default_rng(0), plain.guard
    many = rng.uniform(guard.low, guard.high, (ROWS, len(guard.low))).astype(np.float32)
    one = many[0]
    named = {"observation": one.tolist()} if len(plain.schema.observation_columns) == 1 else None
    ways: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
        "NumPy: `policy.predict`, with the guard": (lambda: plain.predict(one), lambda: plain.predict(many)),
        "NumPy: the policy inside": (lambda: plain.policy.mode(one[None]), lambda: plain.policy.mode(many)),
        "JAX, eager: `policy.predict`, with the guard": (lambda: native.predict(one), lambda: native.predict(many)),
        "JAX, compiled: the policy inside": (
            lambda: jax.device_get(compiled(one[None])),
            lambda: jax.device_get(compiled(many)),
        ),
    }
    if named is not None:
        ways["NumPy: `policy.predict`, named columns"] = (lambda: plain.predict(named), None)
    lines = [
        "# A bundle in use",
        "",
        describe("python benchmarks/deployment.py DEMO/run/policy"),
        f"- policy: {plain.provenance.get('label')} of `stitchrl demo`, rung {plain.provenance.get('rung')}; "
        f"{len(guard.low)} numbers an observation, {plain.schema.num_actions or 'continuous'} actions",
        "",
        "| an interpreter that starts, does this and ends | least seconds | median |",
        "|---|---|---|",
    ]
    for name, code in STARTS.items():
        least, median = started(code.format(folder=folder))
        lines.append(f"| {name} | {least:.3f} | {median:.3f} |")
    lines += ["", "| one action | least microseconds | median | rows a second, 10,000 at once |", "|---|---|---|---|"]
    for name, (single, batch) in ways.items():
        eager = "eager" in name
        least, median = asked(single, calls=20 if eager else 1000)
        rate = "" if batch is None else f"{ROWS / asked(batch, calls=1, repeats=9)[0]:,.0f}"
        lines.append(f"| {name} | {least * 1e6:,.1f} | {median * 1e6:,.1f} | {rate} |")
    if plain.discrete:
        apart = float(np.abs(plain.probs(many) - native.probs(many)).max())
        lines += ["", f"The probabilities of NumPy and of JAX differ by {apart:.1e} at most on these {ROWS:,} rows."]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
