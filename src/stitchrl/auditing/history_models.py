"""The regressions of the history check: models of the present, and what the past adds to them, held out.

Every model is fitted to one half of the clusters and used on the other half. A first stage predicts a target, and also every
column of the past, from the observation (and the action). A second stage predicts what is left of the target from what is
left of the past. An error of the first stage therefore matters only as the product of two errors, one of each model
(double machine learning: Chernozhukov and others 2018).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import optimize

from stitchrl.auditing.regression import means_by_group
from stitchrl.types import NumpyArray

__all__ = [
    "Gains",
    "Predictor",
    "class_gains",
    "deviations",
    "held_out_probabilities",
    "mean_and_error",
    "number_gains",
]

PENALTIES = np.geomspace(1e-5, 3, 12)
"""Ridge penalties to choose from, relative to the number of rows."""
STATE_WEIGHT = 5.0
"""The mean of a state counts as if this many rows of the smooth model were added to it."""
FLOOR = 1e-3
"""Share of a uniform distribution mixed into predicted probabilities."""
LEAST_Z_SQUARED = 6.0
"""A pair of a column of the past and a target enters the second stage from this squared z score on, and from the logarithm
of the number of pairs on, which keeps chance from filling the model."""
LEAST_INFORMATION = 10.0
"""A pair also needs as much information as this many rows give, so that a handful of rare actions does not decide."""
MOST_PAST = 40
"""The second stage uses at most this many columns of the past."""
LEAST_SPREAD = 0.1
"""Residuals count in units of at least this share of the target's standard deviation: what is left of a nearly exact law
is the error of its model."""
LEAST_LEFT = 1e-3
"""A column of the past of which the observation leaves less, in units of its standard deviation, says nothing more."""
WINSOR = 5.0
"""Residuals are cut at this many standard deviations."""


class Predictor:
    """Ridge regressions on the same features, fitted to each half and used on the other.

    Args:
        x: (n, p) features.
        half: (n,) the half of each row.
        cells: (n,) numbers of cells, such as states, whose means are added to the smooth fit; several levels, coarse first.
        learned: more features for the fit to the first half and for the fit to the second, each learned on that half.
    """

    def __init__(
        self,
        x: NumpyArray,
        half: NumpyArray,
        cells: tuple[NumpyArray, ...] = (),
        learned: tuple[NumpyArray, ...] = (),
    ) -> None:
        self.half, self.cells = half, cells
        self.bases = []
        for k, train in enumerate((half, ~half)):
            here = np.concatenate([x, learned[k]], 1) if learned else x
            self.bases.append((train, here, *_spectrum(here[train])))

    def residuals(self, y: NumpyArray, known: NumpyArray | None = None) -> NumpyArray:
        """(n, k) what is left of y, predicted by the fit to the other half. Rows that are not `known` are 0 and teach
        nothing."""
        known = np.ones(len(y), bool) if known is None else known
        left = np.zeros(y.shape)
        for train, x, values, vectors in self.bases:
            fit, test = train & known, ~train & known
            if not fit.any():
                continue
            if not known.all():
                values, vectors = _spectrum(x[fit])
            weight = _ridge(x[fit], y[fit], values, vectors)[0]
            left[test] = y[test] - x[test] @ weight
            rest = y[fit] - x[fit] @ weight
            for cell in self.cells:
                added = _cell_means(rest, cell[fit], int(cell.max(initial=0)) + 1)
                rest = rest - added[cell[fit]]
                left[test] -= added[cell[test]]
        return left


def _spectrum(x: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Eigenvalues and eigenvectors of the Gram matrix."""
    values, vectors = np.linalg.eigh(x.T @ x)
    return np.maximum(values, 0), vectors


def _ridge(x: NumpyArray, y: NumpyArray, values: NumpyArray, vectors: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """(p, k) weights and (k,) penalties, chosen for each target by generalised cross-validation."""
    count = len(x)
    inner = vectors.T @ (x.T @ y)
    total = (y**2).sum(0)
    scores = []
    for penalty in PENALTIES * count:
        shrunken = values / (values + penalty)
        fitted = (inner**2 * ((2 - shrunken) / (values + penalty))[:, None]).sum(0)
        free = max(1 - shrunken.sum() / count, 0.05)
        scores.append(np.maximum(total - fitted, 0) / free**2)
    chosen = PENALTIES[np.argmin(scores, 0)] * count
    return vectors @ (inner / (values[:, None] + chosen)), chosen


def _cell_means(rest: NumpyArray, cell: NumpyArray, cells: int) -> NumpyArray:
    """(cells, k) means of the rows of each cell, drawn towards 0 where there are few."""
    order = np.argsort(cell, kind="stable")
    found, start = np.unique(cell[order], return_index=True)
    means = np.zeros((cells, rest.shape[1]))
    counts = np.diff(np.append(start, len(cell)))
    means[found] = np.add.reduceat(rest[order], start, axis=0) / (counts + STATE_WEIGHT)[:, None]
    return means


def held_out_probabilities(
    model: Predictor, action: NumpyArray, classes: int, allowed: NumpyArray | None
) -> NumpyArray:
    """(n, classes) probabilities of each class of actions by a softmax regression fitted to the other half, and by the shares
    in each state where the model has states; 0 where the class is not allowed."""
    hot = np.eye(classes)[action]
    able = np.ones_like(hot) if allowed is None else allowed.astype(np.float64)
    probabilities = np.zeros_like(hot)
    with np.errstate(divide="ignore"):
        offset = np.log(able)
    for train, x, values, vectors in model.bases:
        count = int(train.sum())
        penalty = float(np.median(_ridge(x[train], hot[train], values, vectors)[1]))
        z = x @ (vectors * np.sqrt(count / (values + penalty)))
        shares = hot[train].mean(0)
        shrink = (shares * (1 - shares)).mean() * count * (penalty / (values + penalty))[:, None]
        weight = _softmax_fit(z[train], action[train], offset[train], shrink, np.ones((z.shape[1], classes)))
        fitted = _softmax(z @ weight + offset)
        for cell in model.cells[:1]:
            cells = int(cell.max(initial=0)) + 1
            sums = np.zeros((cells, classes))
            np.add.at(sums, cell[train], hot[train])
            fitted = (sums[cell] + STATE_WEIGHT * fitted) * able
            fitted /= fitted.sum(1, keepdims=True)
        probabilities[~train] = fitted[~train]
    return (1 - FLOOR) * probabilities + FLOOR * able / able.sum(1, keepdims=True)


def _softmax(logits: NumpyArray) -> NumpyArray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    found: NumpyArray = shifted / shifted.sum(1, keepdims=True)
    return found


def _softmax_fit(
    x: NumpyArray, action: NumpyArray, offset: NumpyArray, shrink: NumpyArray, scale: NumpyArray
) -> NumpyArray:
    """(p, classes) weights of a softmax regression with an offset: -sum log-likelihood + sum(shrink * weight^2) / 2 at its
    least. `scale` holds the units of the search; where it is 0 the weight stays 0."""
    taken = np.zeros_like(offset)
    taken[np.arange(len(action)), action] = 1

    def loss(flat: NumpyArray) -> tuple[float, NumpyArray]:
        weight = flat.reshape(scale.shape) * scale
        logits = x @ weight + offset
        top = logits.max(1, keepdims=True)
        raised = np.exp(logits - top)
        total = raised.sum(1, keepdims=True)
        likelihood = (logits[np.arange(len(action)), action] - top[:, 0] - np.log(total[:, 0])).sum()
        slope = x.T @ (raised / total - taken) + shrink * weight
        return float(-likelihood + 0.5 * (shrink * weight**2).sum()), (slope * scale).ravel()

    start = np.zeros(scale.size)
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 40, "ftol": 1e-7})
    weight: NumpyArray = found.x.reshape(scale.shape) * scale
    return weight


@dataclasses.dataclass(frozen=True)
class Gains:
    """What the past adds to the held-out log-likelihood, in nats.

    Attributes:
        rows: (n,) the gain of each row.
        columns: (J,) the part of the total that each column of the past carries, to first order.
    """

    rows: NumpyArray
    columns: NumpyArray


def within(past: NumpyArray) -> NumpyArray:
    """(n, J) what is left of the past in units of its standard deviation, cut at `WINSOR` of them; 0 where the observation
    gives a column of the past exactly."""
    spread = past.std(0)
    return np.where(spread > LEAST_LEFT, past / np.maximum(spread, LEAST_LEFT), 0).clip(-WINSOR, WINSOR)


def _pairs(past: NumpyArray, left: NumpyArray, expected: NumpyArray) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """The columns of the past that the second stage uses, and for each pair with a target its squared z score and whether it
    takes part. `expected` holds the variance of `left` that the model expects."""
    score = past.T @ left
    square = past**2
    information = square.T @ expected
    squared = score**2 / np.maximum(np.maximum(square.T @ left**2, information), 1e-300)
    enough = (squared > max(LEAST_Z_SQUARED, np.log(max(squared.size, 1)))) & (information >= LEAST_INFORMATION)
    kept = np.argsort(-np.where(enough, squared, 0).max(1), kind="stable")[:MOST_PAST]
    kept = kept[enough[kept].any(1)]
    return kept, squared[kept], enough[kept]


def class_gains(past: NumpyArray, action: NumpyArray, probabilities: NumpyArray, half: NumpyArray) -> Gains:
    """Gains for a discrete action: logits `log(probabilities) + past @ weight`, fitted to one half and scored on the other."""
    rows, columns = np.zeros(len(past)), np.zeros(past.shape[1])
    with np.errstate(divide="ignore"):
        offset = np.log(probabilities)
    left = -probabilities
    left[np.arange(len(action)), action] += 1
    past, expected = within(past), probabilities * (1 - probabilities)
    for train in (half, ~half):
        test = ~train
        kept, squared, enough = _pairs(past[train], left[train], expected[train])
        if not len(kept):
            continue
        x = past[:, kept]
        curvature = (x[train] ** 2).T @ expected[train] + 1e-9
        shrink = curvature / np.maximum(squared - 1, 1)
        scale = np.where(enough, 1 / np.sqrt(curvature + shrink), 0)
        weight = _softmax_fit(x[train], action[train], offset[train], shrink, scale)
        with np.errstate(divide="ignore"):
            better = np.log(_softmax(x[test] @ weight + offset[test])[np.arange(test.sum()), action[test]])
        rows[test] = better - offset[test, action[test]]
        columns[kept] += (x[test] * (left[test] @ weight.T)).sum(0)
    return Gains(rows, columns)


def deviations(left: NumpyArray) -> NumpyArray:
    """(k,) the units in which residuals (n, k) of standardised numbers count."""
    return np.maximum(np.sqrt((left**2).mean(0)), LEAST_SPREAD)


def number_gains(past: NumpyArray, left: NumpyArray, half: NumpyArray) -> Gains:
    """Gains for numbers, as Gaussian log-likelihoods: ridge regressions of what is left of them (n, k) on the past, fitted to
    one half and scored on the other."""
    rows, columns = np.zeros(len(past)), np.zeros(past.shape[1])
    left = (left / deviations(left)).clip(-WINSOR, WINSOR)
    past, expected = within(past), np.ones(left.shape)
    for train in (half, ~half):
        test = ~train
        kept, squared, enough = _pairs(past[train], left[train], expected[train])
        if not len(kept):
            continue
        x = past[:, kept]
        gram, inner = x[train].T @ x[train], x[train].T @ left[train]
        weight = np.zeros(squared.shape)
        for k in np.flatnonzero(enough.any(0)):
            use = np.flatnonzero(enough[:, k])
            penalty = np.diag(gram)[use] / np.maximum(squared[use, k] - 1, 1)
            weight[use, k] = np.linalg.solve(gram[np.ix_(use, use)] + np.diag(penalty), inner[use, k])
        fitted = x[test] @ weight
        rows[test] = (fitted * left[test] - 0.5 * fitted**2).sum(1)
        columns[kept] += (x[test] * (left[test] @ weight.T)).sum(0)
    return Gains(rows, columns)


def mean_and_error(values: NumpyArray, cluster: NumpyArray) -> tuple[float, float]:
    """The mean of rows and its standard error, where only clusters are independent."""
    sums, counts = means_by_group(values[:, None], cluster)
    mean = float(sums.sum() / counts.sum())
    count = len(counts)
    scale = count / max(count - 1, 1)
    return mean, float(np.sqrt(scale * ((sums[:, 0] - mean * counts) ** 2).sum()) / counts.sum())
