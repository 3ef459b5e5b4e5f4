"""Strict numerics for the whole suite, shapes checked at every call, and programs that compile fast."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import itertools
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before JAX and NumPy are imported anywhere. Two test processes on two processors need no threads of their own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

# Compiled programs are kept with pytest's own cache, not in the home directory.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ["XDG_CACHE_HOME"] = str(CACHE)

FAST_TO_COMPILE = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}
"""Options of XLA under which the small programs of tests compile in a fifth of the time; they run a little slower."""

MANY_MAPPINGS = 6_000
"""Compiled programs are dropped at the end of the file in which the process comes to hold so many memory mappings. Linux allows
65,530, beyond which XLA crashes; so many are about 1,300 programs, which take 2 GB of memory."""


def known_to_xla(options: dict[str, str]) -> dict[str, str]:
    """Those of the options that the installed jaxlib has: an unknown one would end the process."""
    spec = importlib.util.find_spec("jaxlib")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
    found = set()
    for library in folder.glob("*.so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found |= {name for name in options if content.find(name.encode()) >= 0}
    return {name: value for name, value in options.items() if name in found}


# No test writes into the state folder of whoever runs it.
STATE = tempfile.TemporaryDirectory(prefix="stitchrl-state-")
os.environ["STITCHRL_STATE"] = STATE.name

# Whoever sets XLA_FLAGS, even to nothing, gets programs compiled as users have them.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = " ".join(f"--{name}={value}" for name, value in known_to_xla(FAST_TO_COMPILE).items())

import jax  # noqa: E402 - after the settings above
import pytest  # noqa: E402
from checker import begin_test, install  # noqa: E402

install()

# Importing the package and rewriting the tests makes little garbage that is cyclic, and much that stays for ever.
gc.disable()


def pytest_collection_finish() -> None:
    """What was imported is never garbage: the collector no longer walks through it at the end of every file."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)
    gc.enable()


def mappings() -> int:
    """How many regions of memory this process has mapped, each compiled program a few; 0 where the system does not say."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_stay_few() -> Iterator[None]:
    """Files share compiled programs until these are many."""
    yield
    if mappings() > MANY_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="session")
def _audits_share_their_fits() -> Iterator[None]:
    """Most of an audit's seconds go into regressions, and tests audit a few logs again and again."""
    from shared_fits import once_for_equal_arrays

    from stitchrl.auditing import history_models

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_softmax_fit", "_spectrum"):
            patch.setattr(history_models, name, once_for_equal_arrays(getattr(history_models, name)))
        yield


RESAMPLES = 1_000
"""Of an evaluation that does not say how many; users get ten times as many. The ends of an interval move by .08 standard errors
from seed to seed, and most of an evaluation's seconds on a small log go into them."""


@pytest.fixture(autouse=True, scope="session")
def _intervals_rest_on_fewer_resamples() -> Iterator[None]:
    from stitchrl.evaluation.evaluate import evaluate_all, evaluate_fits

    with pytest.MonkeyPatch.context() as patch:
        for function in (evaluate_all, evaluate_fits):
            patch.setitem(inspect.unwrap(function).__kwdefaults__, "resamples", RESAMPLES)
        yield


FRESH = (str(Path(STATE.name, str(number))) for number in itertools.count())
"""State folders that nobody has used."""


@pytest.fixture(autouse=True, scope="module")
def _module_state() -> Iterator[None]:
    """What the fixtures of a file evaluate was never looked at before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHRL_STATE", next(FRESH))
        yield


@pytest.fixture(autouse=True)
def _test_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test evaluates was never looked at before, and what it calls was never checked."""
    begin_test()
    monkeypatch.setenv("STITCHRL_STATE", next(FRESH))


@pytest.fixture
def stitchrl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command in this process: `stitchrl("audit", log)` gives its exit status and what it printed."""
    from commands import command_runner

    return command_runner(monkeypatch, capsys)
