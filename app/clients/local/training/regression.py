"""Fits the head: softmax regression with an L2 penalty, by scikit-learn."""

import numpy as np
from numpy.typing import NDArray

from app.clients.local.head import CATEGORY_ORDER, Head
from app.clients.local.training.metrics import Labels

Array = NDArray[np.float64]

TOLERANCE = 1e-6
MAX_STEPS = 1000
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
        penalty: weight of the L2 term (half the squared weights) beside the mean log loss.
    """
    # From the extra `train`: the service runs without it.
    from sklearn.linear_model import LogisticRegression

    sizes = np.array(blocks, dtype=np.float64)
    sizes[0] /= NETWORK_SHARE
    mean = features.mean(axis=0)
    scale = (features.std(axis=0) + MIN_DEVIATION) * np.repeat(np.sqrt(sizes), blocks)
    # A row of no weight for each category, so that the head has all of them even where the photos have not.
    every = np.arange(len(CATEGORY_ORDER))
    inputs = np.vstack([(features - mean) / scale, np.zeros((len(every), features.shape[1]))])
    counts = np.bincount(truth, minlength=len(every))
    importance = 1 / counts[truth] / np.count_nonzero(counts)
    model = LogisticRegression(C=1 / penalty, tol=TOLERANCE, max_iter=MAX_STEPS)
    model.fit(inputs, np.append(truth, every), sample_weight=np.append(importance, np.zeros(len(every))))
    return Head(mean, scale, model.coef_, model.intercept_)
