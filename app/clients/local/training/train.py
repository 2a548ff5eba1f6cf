"""Trains a head on labelled photos, and measures it on sources that it has not seen.

The strength of the penalty is chosen, and every number is measured, by cross-validation in which all photos of one
source are on the same side. The head is then trained on all photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.clients.local.features import FEATURE_BLOCKS
from app.clients.local.head import CATEGORY_ORDER, Head
from app.clients.local.training.metrics import Labels, log_losses
from app.clients.local.training.regression import BLOCK_WEIGHTS, fit_head

Array = NDArray[np.float64]

FOLDS = 8
SEEDS = (0, 1, 2)
"""Each shuffles the sources anew; what is measured is the mean over them."""
TIE_BREAK = 1e-9
PENALTIES = (1e-4, 2e-4, 4e-4, 8e-4)


@dataclass(frozen=True, slots=True)
class Trained:
    """A head, and what heads like it say of photos of sources that they were not trained on.

    `probabilities` has shape (repetitions, photos, 8); `losses` is the log loss by penalty, each photo weighted by one
    over the root of the number of its source's photos.
    """

    head: Head
    penalty: float
    probabilities: Array
    losses: dict[float, float]


def train(views: Array, truth: Labels, sources: Sequence[str]) -> Trained:
    """Choose the penalty by cross-validation, and train on all photos with it.

    The chosen one has the lowest log loss where a source of many photos does not count as much as all of them: what
    the head is asked about later is from other sources.

    Args:
        views: features of each view of each photo, shape (photos, views, features).
        truth: index of each photo's category in `CATEGORY_ORDER`, shape (photos,).
        sources: of each photo.
    """
    folds = [assign_folds(sources, truth, seed) for seed in SEEDS]
    measured = {
        penalty: np.stack([_cross_validate(views, truth, fold, penalty) for fold in folds]) for penalty in PENALTIES
    }
    _, source_of, counts = np.unique(np.array(sources), return_inverse=True, return_counts=True)
    weights = counts[source_of] ** -0.5 / (counts**0.5).sum()
    losses = {
        penalty: float(np.mean([(log_losses(truth, run) * weights).sum() for run in runs]))
        for penalty, runs in measured.items()
    }
    best = min(losses, key=losses.__getitem__)
    head = fit_head(*_stack(views, truth), FEATURE_BLOCKS, BLOCK_WEIGHTS, best)
    return Trained(head, best, measured[best], losses)


def assign_folds(sources: Sequence[str], truth: Labels, seed: int) -> Labels:
    """Give each photo a fold so that a source is never split and the categories are spread as evenly as that allows.

    Greedy, the largest sources first; equally large ones in the order that `seed` shuffles them into.
    """
    names, source_of, counts = np.unique(np.array(sources), return_inverse=True, return_counts=True)
    total = np.maximum(np.bincount(truth, minlength=len(CATEGORY_ORDER)), 1)
    filled = np.zeros((FOLDS, len(CATEGORY_ORDER)))
    fold_of = np.zeros(len(names), dtype=np.intp)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    for source in shuffled[np.argsort(-counts[shuffled], kind="stable")]:
        added = np.bincount(truth[source_of == source], minlength=len(CATEGORY_ORDER))
        cost = (((filled + added) / total) ** 2).sum(axis=1) - ((filled / total) ** 2).sum(axis=1)
        # Of equal ones the fold with fewest photos: where each category has one source, all would be in the first.
        fold_of[source] = int((cost + TIE_BREAK * filled.sum(axis=1)).argmin())
        filled[fold_of[source]] += added
    return fold_of[source_of]


def _cross_validate(views: Array, truth: Labels, folds: Labels, penalty: float) -> Array:
    """Return for each photo the probabilities that a head gives it which was trained on the other folds."""
    probabilities = np.zeros((len(truth), len(CATEGORY_ORDER)))
    for fold in np.unique(folds):
        inside = folds == fold
        head = fit_head(*_stack(views[~inside], truth[~inside]), FEATURE_BLOCKS, BLOCK_WEIGHTS, penalty)
        probabilities[inside] = head.probabilities(views[inside, 0])
    return probabilities


def _stack(views: Array, truth: Labels) -> tuple[Array, Labels]:
    return views.reshape(-1, views.shape[2]), np.repeat(truth, views.shape[1])
