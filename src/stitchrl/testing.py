"""Checks for your own algorithms, estimators and formats, like scikit-learn's `check_estimator`, for use in your test suite.

    from stitchrl.testing import check_algorithm, check_estimator, check_format

    def test_mine():
        check_algorithm(MyAlgorithm(hidden_sizes=(8,)))
        check_estimator(MyEstimator())
        check_format(MY_FORMAT, "a sound file of it")

A check that fails raises an AssertionError that says in one sentence what was expected and what was seen.
"""

from __future__ import annotations

from stitchrl.checking.algorithms import check_algorithm
from stitchrl.checking.estimators import check_estimator
from stitchrl.checking.formats import check_format

__all__ = ["check_algorithm", "check_estimator", "check_format"]
