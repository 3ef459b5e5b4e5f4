"""The numbers of the lesson on BCQ and BEAR, against the library's functions and against what is known by hand."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from stitchrl.algorithms.bear import mean_discrepancy
from stitchrl.lab.dosing import DAYS, GIVEN, IMPROVES, counted, likely, limited, ward
from stitchrl.lab.lessons import bcq_bear
from stitchrl.lab.lessons.bcq_bear import averages, discrepancy, divergence
from stitchrl.nn.constrained import likely_actions


def test_the_ward_is_worth_what_its_chances_say() -> None:
    world = ward()
    assert world.policy_value(world.optimal_policy()) == pytest.approx(DAYS * (2 * IMPROVES.max() - 1))
    assert world.policy_value(np.tile(GIVEN, (world.num_states, 1))) == pytest.approx(DAYS * GIVEN @ (2 * IMPROVES - 1))


def test_the_likely_doses_are_those_of_the_library() -> None:
    share = counted(100, 0).share
    for threshold in (0.0, 0.3, 0.9):
        wanted = np.asarray(likely_actions(jnp.log(share.astype(np.float32)), None, threshold))
        assert np.array_equal(likely(share, threshold), wanted)


def test_with_many_episodes_the_claim_is_the_truth_and_with_few_the_middle_is_best() -> None:
    _, claimed, true = limited(counted(30_000, 0), 0.1)
    assert true == pytest.approx(DAYS * 0.5)
    assert claimed == pytest.approx(true, abs=0.1)
    found = averages(100)
    assert found[0.1]["true"] > max(found[0.0]["true"], found[0.99]["true"]) + 0.3
    gaps = [mean["claimed"] - mean["true"] for mean in found.values()]
    assert gaps[0] > 2
    assert all(gap > 0 for gap in gaps)


@pytest.mark.parametrize(("kernel", "width"), [("gaussian", 20.0), ("laplacian", 0.1)])
def test_the_discrepancy_is_that_of_the_library_on_a_sample_that_stands_for_the_distribution(
    kernel: str, width: float
) -> None:
    middle = (np.arange(1000) + 0.5) / 1000
    at = [
        np.interp(middle, np.cumsum(bcq_bear._density(shape)), bcq_bear.LINE).astype(np.float32)[:, None, None]
        for shape in ("as logged", "shifted")
    ]
    wanted = float(mean_discrepancy(jnp.asarray(at[0]), jnp.asarray(at[1]), kernel, width)[0])
    assert discrepancy("shifted", kernel, width) == pytest.approx(wanted, abs=0.01)


def test_a_wide_kernel_compares_means_and_kl_asks_for_the_support() -> None:
    assert discrepancy("sure, inside", "gaussian", 20.0) == pytest.approx(math.sqrt(0.6**2 / 20), abs=0.005)
    assert discrepancy("two peaks outside", "gaussian", 20.0) < discrepancy("sure, inside", "gaussian", 20.0)
    assert divergence("as logged") == 0.0
    assert divergence("shifted") == math.inf
    assert 0 < divergence("wide, inside") < divergence("sure, inside") < math.inf
