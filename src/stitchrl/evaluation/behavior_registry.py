"""The models of the behaviour by name, and the choice between them. A new model is listed here and nowhere else."""

from __future__ import annotations

import dataclasses

from stitchrl.data.dataset import Dataset
from stitchrl.errors import EvaluationError
from stitchrl.evaluation.behavior_model import BehaviorData, BehaviorModel, FittedBehavior, first_of_the_best
from stitchrl.evaluation.behavior_models.counts import Counts
from stitchrl.evaluation.behavior_models.knn import Neighbors
from stitchrl.evaluation.behavior_models.logistic import Logistic
from stitchrl.evaluation.behavior_models.mixture import Mixture
from stitchrl.evaluation.behavior_models.mlp import Network
from stitchrl.evaluation.settings import FitSettings

__all__ = ["BEHAVIOR_MODELS", "behavior_title", "fit_behavior"]

BEHAVIOR_MODELS: dict[str, BehaviorModel] = {
    model.name: model
    for model in (
        Counts(),
        Logistic(),
        Network(),
        Neighbors(),
        Mixture("gaussian", "a network that gives the mean and the spread of a normal", 1),
        Mixture("squashed", "a network that gives the mean and the spread of a normal before tanh", 1, squashed=True),
        Mixture("mixture", "a network that gives a mixture of five normals", 5),
    )
}
"""Name -> model: those of discrete actions, then those of continuous ones, the simplest first."""
ONLY_WHEN_ASKED_FOR = ("knn",)
"""Models that "auto" leaves out: intervals cannot count the noise of their fit."""


def behavior_title(name: str) -> str:
    """A model of the behaviour in words."""
    return BEHAVIOR_MODELS[name].title


def fit_behavior(log: Dataset, settings: FitSettings, *, maximum_likelihood: bool = False) -> FittedBehavior:
    """Fit the model of the behaviour that the settings name; "auto" fits all that apply and takes one of them.

    The best model gives the actions of held-out episodes, a part of `log`, the largest likelihood. The simplest model that is
    within one standard error of the best is taken (Breiman and others 1984): the settings of each were chosen on the same
    episodes, and a richer model had more settings to choose from.

    Args:
        log: episodes to fit to.
        settings: how models are fitted, and which model is asked for.
        maximum_likelihood: whether to take only models that are fitted by maximum likelihood to all episodes.

    Raises:
        EvaluationError: the model that was asked for cannot be fitted to such a log, or none can.
    """
    data = BehaviorData(log, settings)
    names = [name for name in BEHAVIOR_MODELS if name not in ONLY_WHEN_ASKED_FOR]
    asked = [BEHAVIOR_MODELS[name] for name in (names if settings.behavior == "auto" else [settings.behavior])]
    models = [model for model in asked if model.maximum_likelihood or not maximum_likelihood]
    refusals = [model.refusal(log) for model in models]
    found = [model.fit(data) for model, refusal in zip(models, refusals, strict=True) if refusal is None]
    if not found:
        raise EvaluationError(f"{' '.join(one for one in refusals if one)} Leave `behavior` at 'auto'.")
    best = found[first_of_the_best([one.scores for one in found], data.held_out)]
    return dataclasses.replace(best, tried={one.name: one.held_out for one in found})
