"""A summary of a fitted behaviour: which model it is, how well it predicts, and how well it is calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.evaluation.behavior_model import FittedBehavior
from stitchrl.evaluation.behavior_registry import behavior_title
from stitchrl.evaluation.fits import Fits
from stitchrl.evaluation.probability_transform import TransformCurve, probability_transform, transform_curve
from stitchrl.evaluation.reliability import CalibrationCurve, calibration_curve
from stitchrl.evaluation.units import Units
from stitchrl.nn.units import RescaledPolicy

__all__ = ["BehaviorSummary", "summary_of"]


@dataclasses.dataclass(frozen=True)
class BehaviorSummary:
    """A fitted behaviour.

    Attributes:
        names: name of the model, or with cross-fitting that of each half.
        title: the models in words.
        held_out: mean log-likelihood of a logged action, in nats, on the episodes that were held out to choose the model,
            averaged over the fits. They are not the episodes of the estimates.
        tried: name -> the same number for each model that was tried.
        curve: the calibration on the episodes of the estimates: of the probabilities of discrete actions, or by the
            probability integral transform of continuous ones.
    """

    names: tuple[str, ...]
    title: str
    held_out: float
    tried: dict[str, float]
    curve: CalibrationCurve | TransformCurve

    def to_dict(self) -> dict[str, Any]:
        """Plain content for JSON."""
        return dataclasses.asdict(self)


def summary_of(fits: Fits, units: Units) -> BehaviorSummary | None:
    """The summary of the fitted behaviour; None where the log has propensities."""
    fitted: Sequence[FittedBehavior] = fits.fitted_behaviors
    if not fitted:
        return None
    names = tuple(one.name for one in fitted)
    shared = [name for name in fitted[0].tried if all(name in one.tried for one in fitted)]
    return BehaviorSummary(
        names,
        " and ".join(dict.fromkeys(behavior_title(name) for name in names)),
        float(np.mean([one.held_out for one in fitted])),
        {name: float(np.mean([one.tried[name] for one in fitted])) for name in shared},
        _curve(fits, units),
    )


def _curve(fits: Fits, units: Units) -> CalibrationCurve | TransformCurve:
    if fits.log.num_actions is not None:
        return calibration_curve(fits.behavior_probs, fits.log, units)
    values, logs = [], []
    for behavior, log in fits.behavior_and_episodes:
        assert isinstance(behavior.policy, RescaledPolicy)
        values.append(probability_transform(behavior.policy, log))
        logs.append(log)
    groups = None if fits.log.group is None else np.concatenate([log.group for log in logs if log.group is not None])
    return transform_curve(values, logs, groups)
