"""The trained part: one linear layer and a softmax over the features; `image-classifier train` writes its numbers.

Eight rows of weights, kept in the repository: nothing is trained where the service runs. LOCAL_HEAD names another one.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.categories import Category
from app.clients.local.features import FEATURE_BLOCKS

FloatArray = NDArray[np.floating[Any]]

HEAD_PATH = Path(__file__).resolve().parent / "head.npz"
CATEGORY_ORDER = tuple(Category)
_MAX_FILE_BYTES = 1_000_000
_VERSION_DIGITS = 8


class HeadUnusable(Exception):
    """A file is no head for this version of the local model; the text says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """`weights` has shape (8, features), `bias` shape (8,)."""

    weights: FloatArray
    bias: FloatArray

    @property
    def version(self) -> str:
        """The first digits of the SHA-256 of its numbers: two heads that answer differently have different ones."""
        numbers = np.column_stack([self.weights, self.bias]).astype("<f4")
        return hashlib.sha256(numbers.tobytes()).hexdigest()[:_VERSION_DIGITS]

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Give the probability of each category, in the order of `Category`.

        Args:
            features: shape (photos, features), as `features.look_at` gives them.

        Returns:
            Shape (photos, 8); each row sums to 1.
        """
        return softmax(features @ self.weights.T + self.bias)


def softmax(scores: FloatArray) -> NDArray[np.float64]:
    """Turn rows of scores into rows that sum to 1; the largest is subtracted first so that nothing overflows."""
    exponentials = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def save_head(head: Head, path: Path) -> None:
    """Write the head as an `.npz` of float32 arrays; the same head gives the same bytes.

    Raises:
        OSError: the file cannot be written.
    """
    content = io.BytesIO()
    np.savez(
        content,
        allow_pickle=False,
        categories=np.array([category.value for category in CATEGORY_ORDER]),
        blocks=np.array(FEATURE_BLOCKS),
        weights=head.weights.astype(np.float32),
        bias=head.bias.astype(np.float32),
    )
    # A service that starts meanwhile reads the old file or the new one.
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content.getvalue())
    new.replace(path)


def load_head(path: Path = HEAD_PATH) -> Head:
    """Read a head.

    Raises:
        HeadUnusable: it cannot be read, was trained for other categories or features, or its numbers are none.
    """
    try:
        with path.open("rb") as file:
            content = io.BytesIO(file.read(_MAX_FILE_BYTES + 1))
        if len(content.getvalue()) > _MAX_FILE_BYTES or _unpacked_bytes(content) > _MAX_FILE_BYTES:
            raise HeadUnusable(f"{path} is too large for a head.")
        with np.load(content, allow_pickle=False) as arrays:
            categories, blocks = arrays["categories"].tolist(), arrays["blocks"].tolist()
            weights, bias = arrays["weights"], arrays["bias"]
    except OSError as error:
        raise HeadUnusable(f"{path} cannot be read ({error.strerror}).") from None
    except HeadUnusable:
        raise
    except (Exception, MemoryError):  # noqa: BLE001 - zipfile and NumPy raise anything on hostile bytes
        raise HeadUnusable(f"{path} is not a head that `image-classifier train` has written.") from None
    if categories != [category.value for category in CATEGORY_ORDER]:
        raise HeadUnusable(f"{path} was trained for other categories.")
    shapes = (len(CATEGORY_ORDER), sum(FEATURE_BLOCKS)), (len(CATEGORY_ORDER),)
    if blocks != list(FEATURE_BLOCKS) or (weights.shape, bias.shape) != shapes:
        raise HeadUnusable(f"{path} was trained for the features of another version: train it again.")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in (weights, bias)):
        raise HeadUnusable(f"{path} holds something else than numbers.")
    return Head(weights, bias)


def _unpacked_bytes(content: io.BytesIO) -> int:
    """The sizes that the archive claims; no more is unpacked. It raises what `zipfile` does."""
    with zipfile.ZipFile(content) as archive:
        return sum(each.file_size for each in archive.infolist())
