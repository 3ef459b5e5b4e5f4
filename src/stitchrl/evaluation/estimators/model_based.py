"""The direct method by a learned model of the world: model, and model-dr.

An ensemble of networks predicts the next observation, the reward and the end of an episode (`algorithms/dynamics.py`), and the
policy is rolled out in it (`evaluation/model_rollouts.py`).

    model       average return of rollouts from the logged first states
    model-dr    weighted doubly robust estimation with the Q of short rollouts and a fitted value behind them

Why both: errors of the model add up along whole rollouts, and the spread over episodes says nothing about them. So `model` is a
number without an interval; it never counts as healthy, and no verdict uses it. In `model-dr` weights correct the Q, and the
interval is that of weighted doubly robust estimation: with right weights it is right whatever the model says, and a good model
leaves little to correct. Its rollouts are short because the error of a rollout grows with its length, above all the error of the
chance that the episode has ended.

Where they do not apply: images, logs with action masks (a simulated state has none), and discounts by time.

Sources: Jiang and Li 2016 (doubly robust with an approximate model); Thomas and Brunskill 2016; Fu and others 2021 (model-based
evaluation in deep OPE benchmarks, arXiv 2103.16596).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.contributions import Contributions, Estimand
from stitchrl.evaluation.doubly_robust_form import WDR, DoublyRobust
from stitchrl.evaluation.estimator import Case, Draft
from stitchrl.evaluation.fit_data import FitRequest
from stitchrl.evaluation.health import Check, check_range
from stitchrl.evaluation.logged_policy import LoggedPolicy
from stitchrl.evaluation.model_health import check_rollout_cap, check_rollouts_alone, model_checks
from stitchrl.evaluation.model_rollouts import FitModelQ, FitModelReturns, ModelReturns, cap_of
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.evaluation.refit import refusal_of_q

__all__ = ["MODEL_BASED", "ModelRollouts"]


def refusal_of_logged_policies(name: str, policies: Sequence[PolicyLike]) -> str | None:
    """Why a policy whose probabilities stand in the log has no rollouts; None where none is of that kind."""
    if not any(isinstance(policy, LoggedPolicy) for policy in policies):
        return None
    return (
        f"{name} asks the policy at simulated states, but the probabilities of a `LoggedPolicy` are known in the rows of the "
        "log alone. fqe and wdr simulate no states."
    )


def refusal_of_model(name: str, log: Dataset, estimand: Estimand) -> str | None:
    """Why an estimator of this name has no model for such a log and estimand; None where it has."""
    if estimand.time_unit is not None:
        return (
            f"{name} simulates step by step, but this log is discounted by time, per {estimand.time_unit}, and the model does "
            "not predict times. fqe applies."
        )
    if log.action_mask is not None:
        return (
            f"{name} asks the policy at simulated states, but this log has action masks, and a simulated state has none. fqe "
            "and wdr simulate no states."
        )
    return refusal_of_q(name, log, estimand)


@dataclasses.dataclass(frozen=True)
class ModelRollouts:
    """Whole rollouts from the logged first states; a number without an interval."""

    name: str = "model"
    title: str = "rollouts in a learned model, without an interval"
    primary_rank: int | None = None

    def refusal(self, log: Dataset, estimand: Estimand, policies: Sequence[PolicyLike]) -> str | None:
        """It refuses what no model is fitted to, and policies that cannot be asked at simulated states."""
        return refusal_of_model(self.name, log, estimand) or refusal_of_logged_policies(self.name, policies)

    def requests(self) -> tuple[FitRequest, ...]:
        """Rollouts of the policy."""
        return (FitModelReturns(),)

    def estimate(self, case: Case) -> Draft:
        """The average return, with the checks that tell how little it can be trusted."""
        (request,) = self.requests()
        found: ModelReturns = case.fits.get(request)
        value, by_member = Contributions.average(found.returns.mean(1)), found.returns.mean(0)
        checks = (
            check_rollouts_alone(float(by_member.min()), float(by_member.max()), len(by_member)),
            *model_checks(found.error),
            check_rollout_cap(float(found.left.mean()), float((found.left > 0).mean()), cap_of(case.estimand)),
            check_range(value.value(), case.attainable),
        )
        assumptions = ("no unmeasured confounding", "the learned model is right wherever the policy goes")
        return Draft(
            value,
            checks,
            assumptions,
            behavior_gradient=np.zeros(case.log.num_transitions),
            weighs_actions=False,
            trusts_values=True,
            interval=False,
        )


def _checks(found: Any) -> tuple[Check, ...]:
    return model_checks(found.error)


MODEL_BASED = (
    DoublyRobust(
        "model-dr",
        "weighted doubly robust: weights that correct short rollouts in a learned model",
        *WDR,
        True,
        request=FitModelQ(),
        refuses=refusal_of_model,
        refuses_policies=refusal_of_logged_policies,
        examine=_checks,
    ),
    ModelRollouts(),
)
"""The estimators by a learned model; a verdict rests on neither."""
