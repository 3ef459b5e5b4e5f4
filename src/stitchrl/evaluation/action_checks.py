"""Health checks over continuous actions, which cannot be counted: whether the log shows what the policy does."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.evaluation.balance import balance_of_actions
from stitchrl.evaluation.balance_checks import check_action_balance, check_outside
from stitchrl.evaluation.estimator import Case
from stitchrl.evaluation.health import Check
from stitchrl.types import NumpyArray

__all__ = ["checks_of_actions"]


def checks_of_actions(case: Case, weights: Float[NumpyArray, " N"]) -> tuple[Check, ...]:
    """Whether the weights follow the policy's actions, and whether these lie within the logged ones.

    Args:
        case: an estimate over continuous actions, whose policy can be asked for actions at any observation.
        weights: (N,) weight of each logged transition, state and action together.
    """
    fits = case.fits.fits
    log, draws = fits.timed_log, case.fits.choices
    next_draws = fits.next_choices(case.fits.policy)
    test = balance_of_actions(log, draws, next_draws, weights, case.estimand.gamma, case.units)
    low, high = log.action.min(0), log.action.max(0)
    slack = 1e-6 * np.maximum(high - low, 1e-12)
    outside = float(((draws < low - slack) | (draws > high + slack)).any(2).mean())
    return check_action_balance(test), check_outside(outside)
