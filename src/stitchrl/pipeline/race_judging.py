"""How the candidates of a race are judged: on the validation part, as the main job ranks its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from stitchrl.data.atoms import Atoms, action_atoms
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.clock import first_steps
from stitchrl.evaluation.confirmation import can_confirm
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.decisions import of_decisions
from stitchrl.evaluation.estimator import Estimator
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.evaluation import Evaluation
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.ranking import Ranked, rank
from stitchrl.evaluation.registry import chosen_estimators, default_estimators
from stitchrl.evaluation.settings import FitSettings
from stitchrl.nn.memory import MemoryPolicy
from stitchrl.pipeline.candidates import Candidate, forms_of
from stitchrl.pipeline.knobs import Entrant
from stitchrl.pipeline.ladder import FootOfLadder, Step, climb, foot_of_ladder, on_rung
from stitchrl.pipeline.race_places import Judged
from stitchrl.pipeline.race_result import Row
from stitchrl.pipeline.race_settings import RaceSettings
from stitchrl.pipeline.rungs import rung_from
from stitchrl.pipeline.validation import RANKING_RESAMPLES, validation_fits
from stitchrl.progress import ProgressDisplay
from stitchrl.training.run import Run

__all__ = ["Jury"]


@dataclasses.dataclass(eq=False)
class Jury:
    """Judges candidates on a validation part, with models that are fitted on the training part.

    Args:
        train, validation: the two parts.
        test_units: how many independent units the test part has, the only thing that is known of it here.
        validation_units: how many the validation part has.
        settings: of the race.
    """

    train: Dataset
    validation: Dataset
    test_units: int
    validation_units: int
    settings: RaceSettings

    def candidates(self, entrant: Entrant, run: Run) -> list[Candidate]:
        """Every way in which the policy of a candidate may act."""
        trained = run.policy
        assert not isinstance(trained, MemoryPolicy)  # refused before anything was trained
        return [
            Candidate(entrant.title, entrant.algorithm, entrant.seed, policy, run.values[0], trained, acts=acts)
            for acts, policy in forms_of(entrant.algorithm, trained, self._atoms)
        ]

    def judge(self, candidates: Sequence[Candidate], display: ProgressDisplay) -> list[Judged]:
        """The candidates, and the best rung of the ladder of each, best first."""
        fits = validation_fits(
            [candidate.policy for candidate in candidates],
            self.validation,
            self.train,
            estimand=Estimand.of(self.validation, horizon=self.settings.horizon),
            settings=self._fit_settings,
            display=display,
        )

        def evaluated(fits: Fits, estimators: Sequence[Estimator], **how: Any) -> list[Evaluation]:
            confidence = self.settings.confidence
            return evaluate_fits(fits, estimators, confidence=confidence, resamples=RANKING_RESAMPLES, **how)

        chosen = chosen_estimators(default_estimators(fits.log, self.settings.horizon, densities=self.settings.ladder))
        evaluations, everyone = evaluated(fits, chosen, confirm=False), list(candidates)
        order = self._order(evaluations)
        if self.settings.ladder:
            best: dict[str, Step] = {}
            sizes = (self.validation_units, self.test_units)
            for step in climb(fits, everyone, order, self._behavior, sizes, evaluated):
                best.setdefault(step.candidate.label, step)
            everyone += [step.candidate for step in best.values()]
            evaluations += [step.evaluation for step in best.values()]
            order = self._order(evaluations)
        return [Judged(everyone[row.index], evaluations[row.index], row) for row in order]

    def deployed(self, entrant: Entrant, run: Run, row: Row) -> Candidate:
        """A candidate in the way of acting that a row of a round says."""
        chosen = next(one for one in self.candidates(entrant, run) if one.acts == row.acts)
        rung = rung_from(dataclasses.asdict(row))
        return chosen if rung is None else on_rung(chosen, rung, self._behavior)

    def _order(self, evaluations: Sequence[Evaluation]) -> list[Ranked]:
        gains = [one.gain for one in evaluations]
        log = first_steps(self.validation, self.settings.horizon)
        how = {
            "fitted": log.behavior_log_prob is None,
            "continuous": log.num_actions is None,
            "decisions": of_decisions(log, self.settings.horizon),
        }
        return rank(
            gains, [True] * len(gains), size=self.validation_units, test_size=self.test_units,
            confirms=lambda name, gain: can_confirm(name, gain, **how),
        )  # fmt: skip

    @cached_property
    def _atoms(self) -> Atoms | None:
        return action_atoms(self.train)

    @cached_property
    def _behavior(self) -> FootOfLadder:
        """The behaviour, fitted to the training part, to act on any observation."""
        return foot_of_ladder(self.train, self._fit_settings)

    @property
    def _fit_settings(self) -> FitSettings:
        settings = self.settings
        return FitSettings(updates=settings.evaluation_updates, batch_size=settings.batch_size, seed=settings.seed)
