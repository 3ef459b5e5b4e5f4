"""Small statistical tools that several checks use: ridge regression on quadratic features, means by episode, correlations."""

from __future__ import annotations

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.types import NumpyArray

__all__ = ["RIDGE", "correlations", "features", "means_by_group", "residuals", "same_up_to_unit", "waves", "z_of_mean"]

FULL_QUADRATIC = 24
"""With at most this many columns all products are features; with more, only the squares."""
RIDGE = 1e-4
"""Penalty on standardised features, relative to the number of rows."""
EXACT = 0.999
"""Correlation at which one number explains 99.8% of the variance of the other."""


def features(*parts: NumpyArray, full_up_to: int = FULL_QUADRATIC) -> NumpyArray:
    """(n, features) a constant, the standardised columns of all parts, and their quadratic terms: all products of at most
    `full_up_to` columns, otherwise the squares only."""
    columns = np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
    spread = columns.std(0)
    columns = (columns[:, spread > 0] - columns[:, spread > 0].mean(0)) / spread[spread > 0]
    columns = np.clip(columns, -10, 10)  # one wild row must not decide the whole fit
    count = columns.shape[1]
    if count <= full_up_to:
        i, j = np.triu_indices(count)
        quadratic = columns[:, i] * columns[:, j]
    else:
        quadratic = columns**2
    return np.concatenate([np.ones((len(columns), 1)), columns, quadratic], 1)


def waves(*parts: NumpyArray, count: int) -> NumpyArray:
    """(n, count) random cosines of the standardised columns of all parts; ridge regression on them approximates a Gaussian
    kernel's (Rahimi and Recht 2007)."""
    columns = np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
    spread = columns.std(0)
    columns = np.clip((columns - columns.mean(0)) / np.where(spread > 0, spread, 1), -10, 10)
    rng = draws(8)
    direction = rng.normal(size=(columns.shape[1], count)) / np.sqrt(max(columns.shape[1], 1))
    found: NumpyArray = np.cos(columns @ direction + rng.uniform(0, 2 * np.pi, count))
    return found


def residuals(x: NumpyArray, y: NumpyArray, group: NumpyArray) -> NumpyArray:
    """Held-out residuals of a ridge regression of y (n, k) on x (n, features): even groups are predicted by the fit to odd
    ones, and odd groups by the fit to even ones."""
    left = np.array(y, np.float64)
    half = group % 2 == 0
    for test in (half, ~half):
        train = ~test
        if train.any() and test.any():
            fitted = x[train]
            gram = fitted.T @ fitted
            gram[np.diag_indices(len(gram))] += RIDGE * len(fitted)
            left[test] -= x[test] @ np.linalg.solve(gram, fitted.T @ y[train])
    return left


def means_by_group(values: NumpyArray, group: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Sums (groups, k) and counts (groups,) of the rows of each group, whose rows need not be neighbours."""
    order = np.argsort(group, kind="stable")
    _, start = np.unique(group[order], return_index=True)
    return np.add.reduceat(values[order], start, axis=0), np.diff(np.append(start, len(group)))


def z_of_mean(values: NumpyArray, group: NumpyArray) -> float:
    """How many standard errors the mean lies from 0, where only the sums of groups are independent."""
    sums, counts = means_by_group(values[:, None], group)
    mean = sums.sum() / counts.sum()
    error = np.sqrt(((sums[:, 0] - mean * counts) ** 2).sum())
    return float(sums.sum() / error) if error > 0 else (np.inf if mean > 0 else -np.inf if mean < 0 else 0.0)


def correlations(columns: NumpyArray, target: NumpyArray) -> NumpyArray:
    """(D,) correlation of each column with the target; 0 where either is constant."""
    a, b = columns - columns.mean(0), target - target.mean()
    scale = np.sqrt((a**2).sum(0) * (b**2).sum())
    return np.where(scale > 0, (a * b[:, None]).sum(0) / np.where(scale > 0, scale, 1), 0.0)


def same_up_to_unit(columns: NumpyArray, target: NumpyArray) -> NumpyArray:
    """(D,) whether each column is the target up to unit and offset: over all rows, and also over the middle 98% of the target,
    so that a few wild values do not decide."""
    if not len(target) or target.min() == target.max():
        return np.zeros(columns.shape[1], bool)
    close = np.abs(correlations(columns, target)) > EXACT
    if close.any():
        low, high = np.quantile(target, [0.01, 0.99])
        middle = (target >= low) & (target <= high)
        if target[middle].min() < target[middle].max():
            close &= np.abs(correlations(columns[middle], target[middle])) > EXACT
    return np.asarray(close)
