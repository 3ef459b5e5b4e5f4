"""Every algorithm: nothing compiles twice, a seed has the bits it has alone, runs resume, small logs and streams work."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from training_cases import CLOSED_FORM, EVERY, SETTINGS, Compilations, StopHereError, log_of, python, stop_after
from worlds import assert_trees_equal

import stitchrl as st
from stitchrl.algorithms.base import Algorithm

COMPILATIONS = Compilations()
QUICK = {"TD3BC continuous"}
"""The case whose further programs are compiled in the default suite: with noise and a delayed actor."""
RELATIVES = {
    "SACN discrete", "EDAC continuous", "SAC discrete", "SAC continuous", "TD3 continuous", "DDPG continuous",
    "COMBO continuous", "EQL discrete", "EQL continuous", "XQL discrete", "XQL continuous", "AdvantageBC discrete",
    "AdvantageBC continuous", "DecisionTransformer continuous", "IDQL continuous", "SQL continuous", "AWR continuous",
    "FilteredBC discrete", "FilteredBC continuous", "BCQIQL discrete", "FQL continuous", "AWAC discrete", "BEAR continuous",
    "CQL discrete", "SQL discrete", "ReBRAC continuous", "AWAC continuous", "BCQ discrete", "CQL continuous",
    "IQL continuous bfloat16",
}  # fmt: skip
"""Cases whose state and shared code are those of a case in the default suite: SACN continuous, TD3BC or MOPO; IQL or AWR
discrete; DecisionTransformer discrete; QChunking; BC; BCQ or IQL continuous; DQN."""


class Case(NamedTuple):
    """An algorithm, its log, and one undisturbed run that the tests of the case share.

    Attributes:
        compiled: programs compiled so far: before the run, and after each of its chunks.
    """

    algorithm: Algorithm
    log: st.Dataset
    run: Any
    compiled: list[int]


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_compiled_yet() -> None:
    """What another file compiled would not be compiled here, and its compilation would not be seen."""
    jax.clear_caches()


@pytest.fixture(
    params=[pytest.param(n, marks=[pytest.mark.slow] if n in RELATIVES else []) for n in EVERY], scope="module"
)
def case(request: pytest.FixtureRequest) -> Case:
    algorithm, kind = EVERY[request.param]
    log, compiled = log_of(kind), [COMPILATIONS.count]
    run = st.fit(
        algorithm, log, seeds=[3, 1], callbacks=[lambda *_: compiled.append(COMPILATIONS.count)], **SETTINGS
    )  # fmt: skip
    return Case(algorithm, log, run, compiled)


def test_every_algorithm_of_the_face_is_here_for_every_kind_of_action() -> None:
    named = {f"{name} {kind}" for name in st.ALGORITHMS for kind in getattr(st, name).actions}
    assert named == {" ".join(name.split()[:2]) for name in EVERY} | CLOSED_FORM


def test_nothing_compiles_after_the_first_chunk(case: Case) -> None:
    before, *chunks = case.compiled
    assert len(chunks) >= 5  # the last chunk is shorter; where something is refreshed there are more
    assert before < chunks[0]  # the run was the first to use its program: a compilation would have been seen
    assert chunks[0] == chunks[-1]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a batch axis rounds otherwise")
def test_on_a_cpu_a_seed_ends_with_the_bits_it_has_alone(case: Case) -> None:
    alone = st.fit(case.algorithm, case.log, seeds=[1], **SETTINGS)
    assert_trees_equal(case.run.members[1], alone.members[0])


def test_every_algorithm_resumes_bit_for_bit(case: Case, tmp_path: Path) -> None:
    settings = SETTINGS | {"save_every_updates": 10, "seeds": [3, 1]}
    for chunks in (1, 2):  # interrupted at 10, then at 30
        with pytest.raises(StopHereError):
            st.fit(case.algorithm, case.log, out=tmp_path, callbacks=[stop_after(chunks)], **settings)
    resumed = st.fit(case.algorithm, case.log, out=tmp_path, **settings)
    assert_trees_equal(resumed.members, case.run.members)
    assert resumed.history == case.run.history
    read = st.load(tmp_path)
    assert_trees_equal(read.members, case.run.members)
    assert read.history == case.run.history


def test_a_finished_run_is_trained_further_to_the_bits_of_one_long_run(case: Case, tmp_path: Path) -> None:
    settings = SETTINGS | {"seeds": [3, 1]}
    short = st.fit(case.algorithm, case.log, out=tmp_path, **settings | {"updates": 20})
    assert short.updates == 20
    further = st.fit(case.algorithm, case.log, out=tmp_path, **settings)
    assert further.updates == 45
    assert_trees_equal(further.members, case.run.members)
    assert further.history == case.run.history


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in EVERY]
)
def test_a_log_smaller_than_a_batch_and_a_batch_of_one(name: str) -> None:
    algorithm, log = EVERY[name][0], log_of(EVERY[name][1])
    for size, part in ((64, log.select_episodes([1])), (1, log)):  # an episode of 2 rows
        run = st.fit(algorithm, part, **SETTINGS | {"batch_size": size, "updates": 5})
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.states))


STREAMED = """
    import sys
    import numpy as np
    import stitchrl as st
    from training_cases import EVERY, SETTINGS, log_of
    from worlds import assert_trees_equal

    for name in sys.argv[1:]:
        algorithm, log = EVERY[name][0], log_of(EVERY[name][1])
        runs = [
            st.fit(algorithm, log, seeds=[3, 1], **SETTINGS | chosen)
            for chosen in ({"sampling": "shuffled"}, {"stream": True}, {"stream": True})
        ]
        assert_trees_equal(runs[1].states, runs[2].states)
        assert runs[1].history == runs[2].history, name
        # On some processors XLA fuses the gathering of chunks of actions with what follows it, and rounds otherwise.
        rounded = {"rtol": 1e-4, "atol": 1e-5} if name.startswith("QChunking") else {}
        assert_trees_equal(runs[1].states, runs[0].states, **rounded)
        for one, two in zip(runs[1].history, runs[0].history, strict=True):
            assert one.keys() == two.keys(), name
            np.testing.assert_allclose(list(one.values()), list(two.values()), **({"rtol": 0, "atol": 0} | rounded))
        print(name)
"""
HOW_TO_STREAM = [name for name, (algorithm, _) in EVERY.items() if not algorithm.refresh_every_updates]


@pytest.mark.parametrize(
    "names",
    [
        # A process has five minutes, in which it compiles about ten of them. In the default suite tests/feeds compares the
        # batches of streams with and without masks, and a fit without.
        pytest.param(HOW_TO_STREAM[part::4], marks=pytest.mark.slow)
        for part in range(4)
    ],
    ids=[f"part {part}" for part in range(4)],
)
def test_a_streamed_log_gives_the_numbers_of_the_log_in_memory(names: list[str]) -> None:
    # Two programs that fetch otherwise and compute alike. They are compiled as for users: with the options by which the
    # tests compile fast, XLA rounds the two differently.
    done = python(STREAMED, *names, XLA_FLAGS="")
    assert done.stdout.split("\n")[:-1] == names, done.stderr[-3000:]
