"""Fits the head: softmax regression with an L2 penalty, by Newton's method with conjugate gradients.

The problem is convex, so the result depends on the data alone. Algorithm: line search Newton-CG, Nocedal and Wright,
Numerical Optimization (2nd edition), algorithm 7.1, with the Armijo condition.
"""

import numpy as np
from numpy.typing import NDArray

from app.clients.local.head import CATEGORY_ORDER, Head, softmax
from app.clients.local.training.metrics import Labels

Array = NDArray[np.float64]

GRADIENT_TOLERANCE = 1e-6
MAX_STEPS = 100
MAX_CONJUGATE_STEPS = 100
ARMIJO = 1e-4
NETWORK_SHARE = 2.0
"""How much more freely the first block may be used than the others; cross-validation prefers 2 to 1 and to 4."""
MIN_DEVIATION = 1e-3
"""Added to a feature's standard deviation, so that one that hardly varies is not blown up."""


def fit_head(features: Array, truth: Labels, blocks: tuple[int, ...], penalty: float) -> Head:
    """Fit a head.

    Every category weighs the same, however many photos it has. Each block of features is scaled by one over the root
    of its size, or 1280 numbers from the network would drown the 11 of faces.

    Args:
        features: shape (photos, features).
        truth: index of each photo's category, shape (photos,).
        blocks: sizes of the blocks that the features consist of, in order.
        penalty: weight of the L2 term beside the mean log loss.
    """
    mean = features.mean(axis=0)
    scale = (features.std(axis=0) + MIN_DEVIATION) * np.repeat(_block_scales(blocks), blocks)
    inputs = np.hstack([(features - mean) / scale, np.ones((len(features), 1))])
    counts = np.bincount(truth, minlength=len(CATEGORY_ORDER))
    importance = 1 / np.maximum(counts, 1)[truth]
    weights = fit_softmax(inputs, truth, importance / importance.sum(), penalty)
    return Head(mean, scale, weights[:-1].T, weights[-1])


def fit_softmax(inputs: Array, truth: Labels, importance: Array, penalty: float) -> Array:
    """Minimise the weighted log loss plus `penalty` / 2 times the squared weights; the last input is the constant 1.

    Returns:
        Weights, shape (inputs, 8).
    """
    target = np.eye(len(CATEGORY_ORDER))[truth]
    # A trace on the constant too: without it, adding one number to all biases would change nothing.
    penalties = np.full((inputs.shape[1], 1), penalty)
    penalties[-1] = 1e-6
    weights = np.zeros((inputs.shape[1], len(CATEGORY_ORDER)))

    def loss(candidate: Array) -> float:
        probabilities = softmax(inputs @ candidate)[np.arange(len(truth)), truth]
        fit = -(np.log(np.maximum(probabilities, 1e-300)) * importance).sum()
        return float(fit + (penalties * candidate**2).sum() / 2)

    for _ in range(MAX_STEPS):
        probabilities = softmax(inputs @ weights)
        gradient = inputs.T @ ((probabilities - target) * importance[:, None]) + penalties * weights
        if np.linalg.norm(gradient) < GRADIENT_TOLERANCE:
            return weights
        direction = _newton_direction(inputs, probabilities, importance, penalties, gradient)
        slope, start, step = float((gradient * direction).sum()), loss(weights), 1.0
        while loss(weights + step * direction) > start + ARMIJO * step * slope and step > 1e-10:
            step /= 2
        weights = weights + step * direction
    raise ArithmeticError("the head's training did not converge")


def _block_scales(blocks: tuple[int, ...]) -> Array:
    sizes = np.array(blocks, dtype=np.float64)
    sizes[0] /= NETWORK_SHARE
    return np.sqrt(sizes)


def _newton_direction(
    inputs: Array, probabilities: Array, importance: Array, penalties: Array, gradient: Array
) -> Array:
    """Solve Hessian times direction = -gradient, roughly while far from the minimum and closely near it."""

    def hessian_times(vector: Array) -> Array:
        scores = inputs @ vector
        change = probabilities * (scores - (probabilities * scores).sum(axis=1, keepdims=True))
        product: Array = inputs.T @ (change * importance[:, None]) + penalties * vector
        return product

    size = float(np.linalg.norm(gradient))
    direction, residual = np.zeros_like(gradient), -gradient
    search, squared = residual, size**2
    for _ in range(MAX_CONJUGATE_STEPS):
        image = hessian_times(search)
        step = squared / float((search * image).sum())
        direction = direction + step * search
        residual = residual - step * image
        new_squared = float((residual**2).sum())
        if new_squared**0.5 < min(0.25, size**0.5) * size:
            break
        search, squared = residual + new_squared / squared * search, new_squared
    return direction
