"""The estimators there are, by name. A new family is listed here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from stitchrl.data.dataset import Dataset
from stitchrl.errors import ConfigurationError
from stitchrl.evaluation.contributions import Estimand
from stitchrl.evaluation.decisions import judged_as_decisions, of_decisions
from stitchrl.evaluation.estimator import Estimator
from stitchrl.evaluation.estimators.contextual_bandits import CONTEXTUAL_BANDITS
from stitchrl.evaluation.estimators.double_reinforcement import DoubleReinforcementLearning
from stitchrl.evaluation.estimators.doubly_robust import DOUBLY_ROBUST
from stitchrl.evaluation.estimators.fqe import FittedQEvaluation
from stitchrl.evaluation.estimators.importance_sampling import IMPORTANCE_SAMPLING
from stitchrl.evaluation.estimators.lstdq import LSTDQ
from stitchrl.evaluation.estimators.magic import Magic
from stitchrl.evaluation.estimators.marginalised import MARGINALISED
from stitchrl.evaluation.estimators.model_based import MODEL_BASED
from stitchrl.evaluation.estimators.regression_importance_sampling import RegressionImportanceSampling
from stitchrl.evaluation.estimators.weights_then_value import WeightsThenValue

__all__ = [
    "DEFAULT",
    "DEFAULT_OF_DECISIONS",
    "ESTIMATORS",
    "chosen_estimators",
    "default_estimators",
    "first_primary",
    "primary_names",
]

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        *IMPORTANCE_SAMPLING,
        RegressionImportanceSampling(),
        *DOUBLY_ROBUST,
        *MODEL_BASED,
        Magic(),
        WeightsThenValue(),
        FittedQEvaluation(),
        DoubleReinforcementLearning(),
        *MARGINALISED,
        LSTDQ(),
        *CONTEXTUAL_BANDITS,
    )
}
"""Name -> estimator."""
DEFAULT = ("wis", "wdr", "fqe")
"""The estimators of an evaluation that names none, over discrete actions."""
DEFAULT_OF_DECISIONS = ("reward-dr", "snips", "dros")
"""The estimators of an evaluation that names none, where every episode is a single decision."""
CONTINUOUS_DEFAULT = ("wis", "wdr", "fqe", "lstdq")
"""The estimators of an evaluation that names none, over continuous actions with logged propensities."""
UNKNOWN_DENSITY_DEFAULT = ("lstdq",)
"""The estimators over continuous actions without logged propensities: ratios to a fitted density in many dimensions say
little, so those that use them must be asked for by name."""


def default_estimators(log: Dataset, horizon: int | None = None, *, densities: bool = True) -> tuple[str, ...]:
    """The estimators of an evaluation that names none.

    On single decisions without logged propensities FQE is added: it alone does not weight by the fitted behaviour. On single
    decisions with continuous actions lstdq, which fits networks, is added only where nothing else can judge a policy.

    Args:
        log: the log.
        horizon: how many first steps are counted.
        densities: whether every policy to be judged has a density.
    """
    known, alone = log.behavior_log_prob is not None, of_decisions(log, horizon)
    if log.num_actions is None:
        if not known:
            return UNKNOWN_DENSITY_DEFAULT
        if not alone:
            return CONTINUOUS_DEFAULT
        return DEFAULT_OF_DECISIONS if densities else (*DEFAULT_OF_DECISIONS, "lstdq")
    if not alone:
        return DEFAULT
    return DEFAULT_OF_DECISIONS if known else (*DEFAULT_OF_DECISIONS, "fqe")


def chosen_estimators(estimators: Sequence[str | Estimator]) -> tuple[Estimator, ...]:
    """Estimators by name, or objects of your own.

    Raises:
        ConfigurationError: an unknown name, a name twice, or none at all.
    """
    if isinstance(estimators, str):
        raise ConfigurationError(
            f"`estimators` must be a sequence; got {estimators!r}. Write ({estimators!r},) for one."
        )
    unknown = [one for one in estimators if isinstance(one, str) and one not in ESTIMATORS]
    if unknown or not estimators:
        raise ConfigurationError(
            f"`estimators` must be names from {', '.join(ESTIMATORS)}; got {', '.join(unknown) or 'none'}."
        )
    found = []
    for one in estimators:
        if not isinstance(one, str) and not isinstance(one, Estimator):
            raise ConfigurationError(
                f"`estimators` must be names or estimators; got {type(one).__name__}, which lacks members of one. "
                "`stitchrl.testing.check_estimator` says which."
            )
        found.append(ESTIMATORS[one] if isinstance(one, str) else one)
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"`estimators` must have each name once; got {', '.join(names)}.")
    return tuple(found)


def first_primary(log: Dataset, estimand: Estimand) -> Estimator:
    """The first estimator that a verdict may rest on, of those that are used where none is named and that apply to a log; the
    first of all where none applies."""
    alone = judged_as_decisions(log, estimand.horizon)
    names, used = primary_names(decisions=alone), default_estimators(log, estimand.horizon)
    return next(
        (ESTIMATORS[name] for name in names if name in used and ESTIMATORS[name].refusal(log, estimand, ()) is None),
        ESTIMATORS[names[0]],
    )


def primary_names(*, decisions: bool) -> tuple[str, ...]:
    """Names of the estimators that a verdict may rest on, the first choice first.

    Args:
        decisions: whether to name those for logs of single decisions, and not those for longer episodes.
    """
    ranked = [(one.primary_rank, name) for name, one in ESTIMATORS.items() if one.primary_rank is not None]
    special = {one.name for one in CONTEXTUAL_BANDITS}
    return tuple(name for _, name in sorted(ranked) if (name in special) is decisions)
