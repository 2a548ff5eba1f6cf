"""Fits the head: softmax regression with an L2 penalty, by scikit-learn."""

import numpy as np
from numpy.typing import NDArray

from app.clients.local.head import CATEGORY_ORDER, Head
from app.clients.local.training.metrics import Labels

Array = NDArray[np.float64]

TOLERANCE = 1e-5
MAX_STEPS = 1000
BLOCK_WEIGHTS = (3.0, 1.5, 1.5, 1.0, 1.0)
"""How freely each of `features.FEATURE_BLOCKS` may be used, by cross-validation: cues and faces that are used as freely
as the network are taken for more than they are worth in photos of another source."""
MIN_DEVIATION = 1e-3
"""Added to a feature's standard deviation, so that one that hardly varies is not blown up."""


def fit_head(
    features: Array, truth: Labels, blocks: tuple[int, ...], block_weights: tuple[float, ...], penalty: float
) -> Head:
    """Fit a head.

    Every category weighs the same, however many photos it has. Each block of features is scaled by one over the root
    of its size, or 1280 numbers from the network would drown the 11 of faces.

    Args:
        features: shape (photos, features).
        truth: index of each photo's category, shape (photos,).
        blocks: sizes of the blocks that the features consist of, in order.
        block_weights: what each block is multiplied with besides.
        penalty: weight of the L2 term (half the squared weights) beside the mean log loss.
    """
    # From the extra `train`: the service runs without it.
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean = features.mean(axis=0)
    block_scales = np.sqrt(np.array(blocks, dtype=np.float64)) / block_weights
    scale = (features.std(axis=0) + MIN_DEVIATION) * np.repeat(block_scales, blocks)
    # A row of no weight for each category, so that the head has all of them even where the photos have not.
    every = np.arange(len(CATEGORY_ORDER))
    inputs = np.vstack([(features - mean) / scale, np.zeros((len(every), features.shape[1]))])
    counts = np.bincount(truth, minlength=len(every))
    importance = 1 / counts[truth] / np.count_nonzero(counts)
    model = LogisticRegression(C=1 / penalty, tol=TOLERANCE, max_iter=MAX_STEPS)
    # The matrices are small: threads that share one wait for each other longer than they compute.
    with threadpool_limits(1):
        model.fit(inputs, np.append(truth, every), sample_weight=np.append(importance, np.zeros(len(every))))
    weights = model.coef_ / scale
    return Head(weights, model.intercept_ - weights @ mean)
