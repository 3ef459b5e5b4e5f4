"""Between each learned policy and the behaviour: policies whose gain is smaller, and surer to be shown.

What cannot be shown cannot be used. A learned policy takes actions that the log hardly knows, and its gain drowns in the
error of its own estimate. For every candidate a ladder of policies is estimated on validation, and the best rung of each label
enters the ranking beside the candidates themselves. Over discrete actions a rung is b (pi / b)^power, on actions that the
behaviour takes with at least a floor of probability (`nn/ladder.py`); over continuous actions it is the behaviour with its
action moved towards that of the policy, by at most so many standard deviations (`nn/continuous_ladder.py`). Test sees the
selected policy alone, so choosing among many costs it nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behavior_registry import fit_behavior
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.ranking import Ranked, rank
from stitchrl.evaluation.registry import first_primary
from stitchrl.evaluation.settings import FitSettings
from stitchrl.nn.continuous_ladder import continuous_rung
from stitchrl.nn.continuous_policy import ContinuousPolicy
from stitchrl.nn.ladder import LadderPolicy
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.units import RescaledPolicy
from stitchrl.pipeline.candidates import Candidate
from stitchrl.pipeline.rungs import AnyRung, ContinuousRung, Rung
from stitchrl.progress import LateProgress

__all__ = [
    "FLOORS",
    "POWERS",
    "REACHES",
    "SPREADS",
    "FootOfLadder",
    "Step",
    "climb",
    "foot_of_ladder",
    "on_rung",
    "rungs_of",
]

FootOfLadder: TypeAlias = DiscretePolicy | RescaledPolicy
"""The behaviour as a model that acts on any observation: over continuous actions a mixture of normals, in logged units."""

POWERS = (1.0, 2.0, 3.0)
"""Powers of the ladder's rungs."""
FLOORS = (0.05, 0.1)
"""Least behaviour probabilities of an action on the ladder's rungs: ratios are then at most 20 and 10."""
FEW_ACTIONS = 25
"""With more actions than this, floors are lower in proportion: none would be left above them."""
REACHES = (0.25, 0.5, 1.0)
"""Over continuous actions: the most standard deviations by which an action is moved. With the behaviour's own spread, the second
moment of the ratio to the model of the behaviour in one decision is then at most 1.07, 1.29 and 2.72."""
SPREADS = (1.0, 0.8)
"""Over continuous actions: factors of the behaviour's standard deviation. At .8, and for actions of two numbers, the moments are
at most 1.21, 1.39 and 2.40; each further number adds 7%."""


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


def foot_of_ladder(log: Dataset, settings: FitSettings) -> FootOfLadder:
    """The behaviour, fitted to a log, where ladders begin."""
    policy = fit_behavior(log, settings).policy
    assert isinstance(policy, DiscretePolicy | RescaledPolicy)
    return policy


def rungs_of(num_actions: int | None) -> list[AnyRung]:
    """Every rung of a ladder.

    Args:
        num_actions: how many actions the log has; None where they are continuous.
    """
    if num_actions is None:
        return [ContinuousRung(reach, spread) for reach, spread in itertools.product(REACHES, SPREADS)]
    few = min(1.0, FEW_ACTIONS / num_actions)
    return [Rung(power, round(floor * few, 4)) for power, floor in itertools.product(POWERS, FLOORS)]


def on_rung(candidate: Candidate, rung: AnyRung, behavior: FootOfLadder) -> Candidate:
    """The candidate as it acts on a rung."""
    if isinstance(rung, ContinuousRung):
        assert isinstance(candidate.trained, ContinuousPolicy)
        assert isinstance(behavior, RescaledPolicy)
        moved = continuous_rung(candidate.trained, behavior, rung.reach, rung.spread)
        return dataclasses.replace(candidate, policy=moved, rung=rung)
    assert isinstance(candidate.trained, DiscretePolicy)
    assert isinstance(behavior, DiscretePolicy)
    policy = LadderPolicy(candidate.trained, behavior, jnp.float32(rung.power), jnp.float32(rung.floor))
    return dataclasses.replace(candidate, policy=policy, rung=rung)


def climb(
    fits: Fits,
    candidates: Sequence[Candidate],
    order: Sequence[Ranked],
    behavior: FootOfLadder,
    rank_sizes: tuple[int, int],
    evaluate: Callable[..., list[Evaluation]] = evaluate_fits,
) -> list[Step]:
    """Every rung of the best candidate of each label, the best rung first.

    Args:
        fits: of the candidates on validation; their models serve the rungs as well.
        candidates: that were ranked.
        order: their ranking.
        behavior: the behaviour as a model that acts on any observation, where the ladders begin.
        rank_sizes: independent units on validation and on test.
        evaluate: `evaluate_fits` with the settings of the run. A baseline stands behind the candidates in `fits`, and gains are
            then over it.
    """
    best: dict[str, int] = {}
    for row in order:
        if row.eligible:
            best.setdefault(candidates[row.index].label, row.index)
    if not best:
        return []
    estimator = first_primary(fits.log, fits.estimand)
    rungs: list[tuple[int, Candidate]] = []
    found: list[Evaluation] = []
    progress = LateProgress("rungs of the ladders", len(best) * len(rungs_of(fits.log.num_actions)), "rungs/s")
    for of in best.values():
        own = [on_rung(candidates[of], rung, behavior) for rung in rungs_of(fits.log.num_actions)]
        baseline = range(len(candidates), len(fits.policies))
        further = fits.with_policies(
            [*(candidate.policy for candidate in own), *(fits.policies[k] for k in baseline)],
            [*(of for _ in own), *baseline],
        )
        found += evaluate(further, (estimator,), confirm=False)[: len(own)]
        rungs += [(of, candidate) for candidate in own]
        progress(len(rungs))
    places = rank([one.gain for one in found], [True] * len(rungs), size=rank_sizes[0], test_size=rank_sizes[1])
    return [Step(*rungs[place.index], found[place.index], place) for place in places]
