"""The trained part: one linear layer and a softmax over standardised features; `train.py` writes its numbers.

Eight rows of weights, 54 KB, kept in the repository: nothing is trained where the service runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.categories import Category

FloatArray = NDArray[np.floating[Any]]

HEAD_PATH = Path(__file__).resolve().parent / "head.npz"
HEAD_VERSION = 1
"""Goes up with every head that answers differently; it is part of the model's name in the cache and the log."""
CATEGORY_ORDER = tuple(Category)


@dataclass(frozen=True, slots=True)
class Head:
    """`mean` and `scale` have one number per feature, `weights` has shape (8, features), `bias` shape (8,)."""

    mean: FloatArray
    scale: FloatArray
    weights: FloatArray
    bias: FloatArray

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Give the probability of each category, in the order of `Category`.

        Args:
            features: shape (photos, features), as `features.extract_features` gives them.

        Returns:
            Shape (photos, 8); each row sums to 1.
        """
        return softmax((features - self.mean) / self.scale @ self.weights.T + self.bias)


def softmax(scores: FloatArray) -> NDArray[np.float64]:
    """Turn rows of scores into rows that sum to 1; the largest is subtracted first so that nothing overflows."""
    exponentials = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def save_head(head: Head, path: Path = HEAD_PATH) -> None:
    """Write the head as an `.npz` of float32 arrays; the same head gives the same bytes."""
    np.savez(
        path,
        allow_pickle=False,
        categories=np.array([category.value for category in CATEGORY_ORDER]),
        mean=head.mean.astype(np.float32),
        scale=head.scale.astype(np.float32),
        weights=head.weights.astype(np.float32),
        bias=head.bias.astype(np.float32),
    )


def load_head(path: Path = HEAD_PATH) -> Head:
    """Read a head.

    Raises:
        ValueError: it was trained for other categories, or its arrays do not fit each other.
    """
    with np.load(path, allow_pickle=False) as arrays:
        if tuple(arrays["categories"]) != CATEGORY_ORDER:
            raise ValueError(f"{path.name} was trained for other categories")
        head = Head(**{name: arrays[name] for name in ("mean", "scale", "weights", "bias")})
    count = head.mean.size
    if head.weights.shape != (len(CATEGORY_ORDER), count) or head.scale.shape != (count,):
        raise ValueError(f"the arrays of {path.name} do not fit each other")
    return head
