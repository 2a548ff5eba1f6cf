"""Says how good answers are, in the same words for training and for evaluation."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.clients.local.head import CATEGORY_ORDER, FloatArray

Labels = NDArray[np.intp]

CONFIDENCE_BANDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0001)
SURE = 0.8
MAX_SOURCES = 20
"""Lines of the table by source."""


def summary(name: str, truth: Labels, probabilities: FloatArray) -> str:
    """Return accuracy, log loss, and what a confidence of 0.8 is worth, in one line; arguments as of `report`."""
    right, sure = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1) >= SURE
    return (
        f"{name}: accuracy {right.mean():.3f}, log loss {log_losses(truth, probabilities).mean():.3f},"
        f" confidence >= {SURE}: {_coverage(right, sure)}"
    )


def log_losses(truth: Labels, probabilities: FloatArray) -> FloatArray:
    """Negative logarithm of the probability that each photo's true category was given: lower is better."""
    losses: FloatArray = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-9))
    return losses


def report(truth: Labels, probabilities: FloatArray) -> str:
    """Report accuracy, recall, confusion and calibration as text.

    Args:
        truth: index of each photo's category in `CATEGORY_ORDER`, shape (photos,).
        probabilities: shape (photos, 8).
    """
    answer, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = answer == truth
    confusion = np.zeros((len(CATEGORY_ORDER),) * 2, dtype=int)
    np.add.at(confusion, (truth, answer), 1)
    recalls = [float(right[truth == index].mean()) for index in np.unique(truth)]
    lines = [
        f"photos {len(truth)}",
        f"accuracy {right.mean():.3f}   macro recall {np.mean(recalls):.3f}",
        f"log loss {log_losses(truth, probabilities).mean():.3f}",
        *(f"confidence >= {limit}: {_coverage(right, confidence >= limit)}" for limit in (0.8, 0.9)),
        "",
        "confusion (rows: truth, columns in the same order), recall and precision",
    ]
    for index, category in enumerate(CATEGORY_ORDER):
        counts = " ".join(f"{count:4d}" for count in confusion[index])
        recall = _share(confusion[index, index], confusion[index].sum())
        precision = _share(confusion[index, index], confusion[:, index].sum())
        lines.append(f"{category:18s} {counts}   {recall} {precision}")
    lines += ["", "confidence     photos   says  right"]
    error = 0.0
    for low, high in pairwise(CONFIDENCE_BANDS):
        band = (confidence >= low) & (confidence < high)
        says, is_right = _share(confidence[band].sum(), band.sum()), _share(right[band].sum(), band.sum())
        lines.append(f"{low:.1f} to {min(high, 1):.1f}     {band.sum():6d}  {says}  {is_right}")
        error += abs(float(confidence[band].sum() - right[band].sum())) / len(truth)
    lines.append(f"expected calibration error {error:.3f}")
    return "\n".join(lines)


def by_source(sources: Sequence[str], right_before: NDArray[np.bool_], right_after: NDArray[np.bool_]) -> str:
    """Say as text at which sources a head gains and loses against another: where the whole gain comes from.

    Args:
        sources: of each photo.
        right_before: whether the head in use is right about each photo, shape (photos,).
        right_after: whether the new one is.

    Returns:
        A table of at most `MAX_SOURCES` sources, the largest change first and the most photos first among equals, and
        one line about all of them.
    """
    names, source_of, counts = np.unique(np.array(sources), return_inverse=True, return_counts=True)
    before, after = (np.bincount(source_of[right], minlength=len(names)) for right in (right_before, right_after))
    gains = after - before
    lines = ["photos  in use right  new right   gain  source"]
    for index in np.lexsort((-counts, -np.abs(gains)))[:MAX_SOURCES]:
        numbers = f"{counts[index]:6d}  {before[index]:12d}  {after[index]:9d}  {gains[index]:+5d}"
        lines.append(f"{numbers}  {names[index]}")
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    lines.append(f"better at {better} of {len(names)} sources, worse at {worse}: {gains.sum():+d} photos")
    return "\n".join(lines)


def _coverage(right: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> str:
    return (
        f"{_share(chosen.sum(), chosen.size)} of the photos, of which {_share(right[chosen].sum(), chosen.sum())} right"
    )


def _share(part: Any, whole: Any) -> str:
    return f"{part / whole:.3f}" if whole else "    -"
