"""What an evaluation refuses, in one sentence, before anything is fitted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from evaluation_worlds import QUICK, Broken, Table, draw, small_world

import stitchrl as st
from stitchrl.errors import ConfigurationError, EvaluationError
from stitchrl.evaluation.evaluate import evaluate
from stitchrl.evaluation.requirements import check_size


@pytest.mark.parametrize("row", [[0.7, 0.7], [1.5, -0.5], [np.nan, 1.0]])
def test_policies_that_are_no_probabilities_are_refused(row: list[float]) -> None:
    world, behavior, _ = small_world()
    with pytest.raises(EvaluationError, match="sum to 1"):
        evaluate(Broken(row), draw(world, behavior, 20, 0), settings=QUICK)


def test_wrong_arguments() -> None:
    world, behavior, policy = small_world()
    log = draw(world, behavior, 20, 0)
    with pytest.raises(ConfigurationError, match="names from is, pdis"):
        evaluate(Table(policy), log, estimators=("wis", "spell"))
    with pytest.raises(ConfigurationError, match="gamma"):
        evaluate(Table(policy), log, gamma=1.5)
    with pytest.raises(ConfigurationError, match="confidence"):
        evaluate(Table(policy), log, confidence=95.0, settings=QUICK)
    with pytest.raises(EvaluationError, match="probs"):
        evaluate(object(), log, settings=QUICK)
    with pytest.raises(EvaluationError, match="horizon"):
        evaluate(Table(policy), log, horizon=0, settings=QUICK)


def test_mass_on_a_forbidden_action_is_refused() -> None:
    log = st.demo_log().select_episodes(range(5))
    with pytest.raises(EvaluationError, match="forbidden"):
        evaluate(Broken([1 / 25] * 25), log, settings=QUICK)


def test_a_log_of_one_group_is_refused() -> None:
    world, behavior, target = small_world()
    log = dataclasses.replace(draw(world, behavior, 20, 1), group=np.zeros(20, int))
    with pytest.raises(EvaluationError, match=r"at least 2 groups: .* all 20 are of 0\. Leave `gap`"):
        evaluate(Table(target), log, settings=QUICK)


def test_an_evaluation_that_would_not_fit_is_refused() -> None:
    world, behavior, _ = small_world()
    log = draw(world, behavior, 5, 1)
    with pytest.raises(
        EvaluationError, match=r"13 policies, 100,000,000 rows and 2 actions come to 15,600,000,000 numbers"
    ):
        check_size(log, 100_000_000, None, 13)
    check_size(log, 100_000_000, 500_000_000, 1)


@pytest.mark.parametrize("margin", [np.nan, -np.inf])
def test_a_margin_that_is_no_number_is_refused(margin: float) -> None:
    world, behavior, target = small_world()
    with pytest.raises(ConfigurationError, match="`margin` must be a finite number"):
        evaluate(Table(target), draw(world, behavior, 20, 1), margin=margin, settings=QUICK)
