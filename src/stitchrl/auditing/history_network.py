"""A small neural network in NumPy whose last hidden layer gives features, for where fixed features may be too poor."""

from __future__ import annotations

import itertools

import numpy as np

from stitchrl.auditing.draws import draws
from stitchrl.types import NumpyArray

__all__ = ["learned_features"]

WIDTH, EPOCHS, BATCH = 64, 25, 128
LEARNING_RATE = 3e-3
"""Adam's step size at the first update; it falls linearly to 0."""
MOST_PRODUCTS = 2**18
"""OpenBLAS computes a product of matrices in one thread up to so many multiplications. The many small products here must not
be larger: where other programs share the processors, waiting for a second thread takes a hundred times as long as they do."""


def learned_features(x: NumpyArray, y: NumpyArray, train: NumpyArray) -> NumpyArray:
    """(n, WIDTH) the last hidden layer of a network with two hidden layers that predicts y (n, k) from x (n, d), fitted to the
    rows in `train` by Adam on the squared error."""
    rng = draws(6)
    inputs = np.ascontiguousarray(x[train], np.float32)
    wanted = y[train] - y[train].mean(0)
    wanted = np.ascontiguousarray(wanted / np.maximum(wanted.std(0), 1e-9), np.float32).clip(-5, 5)
    sizes = (x.shape[1], WIDTH, WIDTH, y.shape[1])
    weights = [
        (rng.normal(size=(a, b)) * np.sqrt((2.0 if k < 2 else 0.1) / a)).astype(np.float32)
        for k, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    parameters = [*weights, *(np.zeros(b, np.float32) for b in sizes[1:])]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    steps = EPOCHS * (len(inputs) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(inputs))
        for begin in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[begin : begin + BATCH]
            slopes = _slopes(parameters, inputs[chosen], wanted[chosen])
            step += 1
            rate = LEARNING_RATE * (1 - step / (steps + 1))
            for k, slope in enumerate(slopes):
                first[k] += 0.1 * (slope - first[k])
                second[k] += 0.001 * (slope * slope - second[k])
                unbiased = np.sqrt(second[k] / (1 - 0.999**step)) + 1e-8
                parameters[k] -= (rate / (1 - 0.9**step)) * first[k] / unbiased
    return _hidden(parameters, x.astype(np.float32))[1].astype(np.float64)


def _hidden(parameters: list[NumpyArray], x: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    first = np.tanh(x @ parameters[0] + parameters[3])
    return first, np.tanh(first @ parameters[1] + parameters[4])


def _slopes(parameters: list[NumpyArray], x: NumpyArray, y: NumpyArray) -> list[NumpyArray]:
    """The gradient of the mean squared error, half of it, with respect to each parameter.

    The rows are taken in parts, as an axis in front, so that no product is larger than `MOST_PRODUCTS`.
    """
    rows = len(x)
    parts = _parts(rows, max(weights.size for weights in parameters[:3]))
    x, y = (values.reshape(parts, rows // parts, -1) for values in (x, y))
    first, second = _hidden(parameters, x)
    error = (second @ parameters[2] + parameters[5] - y) / np.float32(rows)
    back_second = (error @ parameters[2].T) * (1 - second**2)
    back_first = (back_second @ parameters[1].T) * (1 - first**2)
    return [
        _summed(x, back_first),
        _summed(first, back_second),
        _summed(second, error),
        back_first.sum((0, 1)),
        back_second.sum((0, 1)),
        error.sum((0, 1)),
    ]


def _parts(rows: int, size: int) -> int:
    """The least number of equal parts of some rows whose products with a matrix of this size are small."""
    return next((k for k in range(1, rows) if rows % k == 0 and rows * size <= k * MOST_PRODUCTS), rows)


def _summed(a: NumpyArray, b: NumpyArray) -> NumpyArray:
    """The products a.T @ b of each part, added up."""
    found: NumpyArray = (a.transpose(0, 2, 1) @ b).sum(0)
    return found
