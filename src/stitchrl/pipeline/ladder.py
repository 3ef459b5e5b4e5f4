"""Between each learned policy and the behaviour: policies whose gain is smaller, and surer to be shown.

What cannot be shown cannot be used. A learned policy takes actions that the log hardly knows, and its gain drowns in the
error of its own estimate. For every candidate a ladder of policies b (pi / b)^power, on actions that the behaviour takes
with at least a floor of probability, is estimated on validation, and the best rung of each label enters the ranking
beside the candidates themselves. Test sees the selected policy alone, so choosing among many costs it nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.ranking import Ranked, rank
from stitchrl.evaluation.registry import first_primary
from stitchrl.nn.ladder import LadderPolicy
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.pipeline.candidates import Candidate, Rung

__all__ = ["FLOORS", "POWERS", "Step", "climb", "on_rung"]

POWERS = (1.0, 2.0, 3.0)
"""Powers of the ladder's rungs."""
FLOORS = (0.05, 0.1)
"""Least behaviour probabilities of an action on the ladder's rungs: ratios are then at most 20 and 10."""
FEW_ACTIONS = 25
"""With more actions than this, floors are lower in proportion: none would be left above them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One rung of the ladder of one candidate, as validation sees it.

    Attributes:
        of: number of the candidate.
        candidate: the policy of the rung.
        evaluation: its estimates on validation.
        ranked: its place among all rungs, with the predicted lower end.
    """

    of: int
    candidate: Candidate
    evaluation: Evaluation
    ranked: Ranked


def on_rung(candidate: Candidate, rung: Rung, behavior: DiscretePolicy) -> Candidate:
    """The candidate as it acts on a rung."""
    assert isinstance(candidate.trained, DiscretePolicy)
    policy = LadderPolicy(candidate.trained, behavior, jnp.float32(rung.power), jnp.float32(rung.floor))
    return dataclasses.replace(candidate, policy=policy, rung=rung)


def climb(
    fits: Fits,
    candidates: Sequence[Candidate],
    order: Sequence[Ranked],
    behavior: DiscretePolicy,
    rank_sizes: tuple[int, int],
    evaluate: Callable[..., list[Evaluation]] = evaluate_fits,
) -> list[Step]:
    """Every rung of the best candidate of each label, the best rung first.

    Args:
        fits: of the candidates on validation; their models serve the rungs as well.
        candidates: that were ranked.
        order: their ranking.
        behavior: the behaviour as a model that acts on any observation.
        rank_sizes: independent units on validation and on test.
        evaluate: `evaluate_fits` with the settings of the run. A baseline stands behind the candidates in `fits`, and gains are
            then over it.
    """
    best: dict[str, int] = {}
    for row in order:
        if row.eligible:
            best.setdefault(candidates[row.index].label, row.index)
    few = min(1.0, FEW_ACTIONS / (fits.log.num_actions or 1))
    floors = [round(floor * few, 4) for floor in FLOORS]
    rungs = [
        (of, on_rung(candidates[of], Rung(power, floor), behavior))
        for of, power, floor in itertools.product(best.values(), POWERS, floors)
    ]
    if not rungs:
        return []
    baseline = range(len(candidates), len(fits.policies))
    further = fits.with_policies(
        [*(candidate.policy for _, candidate in rungs), *(fits.policies[k] for k in baseline)],
        [*(of for of, _ in rungs), *baseline],
    )
    found = evaluate(further, (first_primary(fits.log, fits.estimand),), confirm=False)[: len(rungs)]
    places = rank([one.gain for one in found], [True] * len(rungs), size=rank_sizes[0], test_size=rank_sizes[1])
    return [Step(*rungs[place.index], found[place.index], place) for place in places]
