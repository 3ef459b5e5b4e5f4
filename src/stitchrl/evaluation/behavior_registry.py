"""The models of the behaviour there are, by name, and the choice between them. A new one is listed here and nowhere else."""

from __future__ import annotations

import dataclasses

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.behavior_model import BehaviorData, BehaviorModel, FittedBehavior
from stitchrl.evaluation.behavior_models.counts import Counts
from stitchrl.evaluation.behavior_models.logistic import Logistic
from stitchrl.evaluation.behavior_models.mlp import Network
from stitchrl.evaluation.settings import FitSettings

__all__ = ["BEHAVIOR_MODELS", "behavior_title", "fit_behavior"]

BEHAVIOR_MODELS: dict[str, BehaviorModel] = {model.name: model for model in (Counts(), Logistic(), Network())}
"""Name -> model, the cheapest first: of equally good ones the first is taken."""


def behavior_title(name: str) -> str:
    """A model of the behaviour in words."""
    return BEHAVIOR_MODELS[name].title


def fit_behavior(log: Dataset, settings: FitSettings) -> FittedBehavior:
    """Fit the model of the behaviour that the settings name; "auto" fits all that apply and takes the best.

    The best one gives the actions of held-out episodes, a part of `log`, the largest likelihood. These are not the episodes
    that an estimate is made on.

    Raises:
        EvaluationError: the model that was asked for cannot be fitted to such a log.
    """
    data = BehaviorData(log, settings)
    if settings.behavior != "auto":
        model = BEHAVIOR_MODELS[settings.behavior]
        refusal = model.refusal(log)
        if refusal is not None:
            raise EvaluationError(f"{refusal} Leave `behavior` at 'auto'.")
        found = [model.fit(data)]
    else:
        found = [model.fit(data) for model in BEHAVIOR_MODELS.values() if model.refusal(log) is None]
    best = max(found, key=lambda one: one.held_out)
    return dataclasses.replace(best, tried={one.name: one.held_out for one in found})
