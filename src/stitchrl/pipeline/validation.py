"""How policies are judged on a validation part, for choosing among many: by the main job's ranking and by a race."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.requirements import check_requirements
from stitchrl.evaluation.settings import FitSettings
from stitchrl.progress import ProgressDisplay

__all__ = ["RANKING_RESAMPLES", "validation_fits"]

RANKING_RESAMPLES = 1000
"""Resamples behind intervals on validation, which nothing is decided by."""


def validation_fits(
    policies: Sequence[PolicyLike],
    valid: Dataset,
    train: Dataset,
    *,
    estimand: Estimand,
    settings: FitSettings,
    display: ProgressDisplay,
) -> Fits:
    """The models by which policies are judged on a validation part, fitted on the training part.

    Args:
        policies: what is judged.
        valid, train: parts of one log that share no episode.
        estimand: which quantity.
        settings: of the fits. What several networks disagree by is for the decision on test: here one of them serves, for
            many policies.
        display: where progress is shown.
    """
    fits = Fits(
        policies,
        valid,
        train,
        estimand=estimand,
        settings=dataclasses.replace(settings, networks=1),
        monitors=(display.track(f"FQE of {len(policies)} policies"),),
    )
    check_requirements(fits.log, None, fits.policies)
    return fits
