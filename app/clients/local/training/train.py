"""Command: train the head from a folder of labelled photos: `python -m app.clients.local.training.train FOLDER`.

It needs scikit-learn, which is in the extra `train`.

The strength of the penalty is chosen, and every number printed is measured, by cross-validation in which all photos
of one source are on the same side. The head that is written is then trained on all photos.
"""

import argparse
import io
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app.clients.local.features import FEATURE_BLOCKS, extract_features, open_photo
from app.clients.local.head import CATEGORY_ORDER, HEAD_PATH, save_head
from app.clients.local.network import Networks, load_networks
from app.clients.local.training.labelled import LabelledPhoto, find_labelled_photos, prepare
from app.clients.local.training.metrics import Labels, log_losses, report
from app.clients.local.training.regression import fit_head

Array = NDArray[np.float64]

FOLDS = 8
SEEDS = (0, 1, 2)
"""Each shuffles the sources anew; what is measured is the mean over them."""
PENALTIES = (1e-4, 2e-4, 5e-4, 1e-3)


def _as_sent(picture: Image.Image) -> Image.Image:
    return picture


def _sent_small(picture: Image.Image) -> Image.Image:
    """As an app sends it that saves every byte."""
    small = picture.copy()
    small.thumbnail((512, 512), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=60)
    return open_photo(buffer.getvalue())


def _cropped(picture: Image.Image) -> Image.Image:
    """As if photographed from a little nearer."""
    width, height = picture.size
    return picture.crop((int(width * 0.06), int(height * 0.06), int(width * 0.94) + 1, int(height * 0.94) + 1))


# The head is trained on all of these views of a photo, and measured on the first.
VIEWS: tuple[Callable[[Image.Image], Image.Image], ...] = (_as_sent, ImageOps.mirror, _sent_small, _cropped)


def main() -> None:
    """Parse the command line, train, print the report and write the head."""
    parser = argparse.ArgumentParser(description="Train the local model's head from a folder of labelled photos.")
    parser.add_argument("folder", type=Path, help="one folder per category, and optionally sources.csv")
    parser.add_argument("--output", type=Path, default=HEAD_PATH, help="where the head is written")
    arguments = parser.parse_args()
    if find_spec("sklearn") is None:
        sys.exit("Training needs scikit-learn: .venv/bin/python -m pip install --editable '.[train]'")
    photos = find_labelled_photos(arguments.folder)
    truth = np.array([CATEGORY_ORDER.index(photo.category) for photo in photos])
    views = np.array([photo_views(photo, load_networks()) for photo in photos], dtype=np.float64)
    penalty = train(views, truth, [photo.source for photo in photos])
    head = fit_head(*_stack(views, truth), FEATURE_BLOCKS, penalty)
    save_head(head, arguments.output)
    sys.stdout.write(f"\nwrote {arguments.output.name} ({arguments.output.stat().st_size} bytes)\n")


def train(views: Array, truth: Labels, sources: list[str]) -> float:
    """Choose the penalty by cross-validation, and print how well the head does with it.

    Args:
        views: features of each view of each photo, shape (photos, views, features).

    Returns:
        The strongest penalty whose log loss is at most one standard error of the difference above the lowest (after
        the one-standard-error rule: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, section
        7.10). A stronger penalty claims less of photos that are unlike those of the folder.
    """
    folds = [assign_folds(sources, truth, seed) for seed in SEEDS]
    repeated = np.tile(truth, len(SEEDS))
    measured: dict[float, Array] = {}
    for penalty in PENALTIES:
        runs = np.concatenate([cross_validate(views, truth, fold, penalty) for fold in folds])
        accuracy = (runs.argmax(axis=1) == repeated).mean()
        sys.stdout.write(
            f"penalty {penalty}: log loss {log_losses(repeated, runs).mean():.4f}, accuracy {accuracy:.4f}\n"
        )
        measured[penalty] = runs
    # A photo's losses in the repetitions are nearly the same number, so they count as one.
    losses = {key: log_losses(repeated, runs).reshape(len(SEEDS), -1).mean(axis=0) for key, runs in measured.items()}
    best = min(losses.values(), key=lambda loss: float(loss.mean()))
    excess = {penalty: loss - best for penalty, loss in losses.items()}
    chosen = max(key for key, more in excess.items() if more.mean() <= more.std(ddof=1) / np.sqrt(len(truth)))
    sys.stdout.write(f"\ncross-validation over sources, penalty {chosen}, {len(SEEDS)} times all photos\n")
    sys.stdout.write(report(repeated, measured[chosen]) + "\n")
    return chosen


def cross_validate(views: Array, truth: Labels, folds: Labels, penalty: float) -> Array:
    """Return for each photo the probabilities that a head gives it which was trained on the other folds."""
    probabilities = np.zeros((len(truth), len(CATEGORY_ORDER)))
    for fold in np.unique(folds):
        inside = folds == fold
        head = fit_head(*_stack(views[~inside], truth[~inside]), FEATURE_BLOCKS, penalty)
        probabilities[inside] = head.probabilities(views[inside, 0])
    return probabilities


def assign_folds(sources: list[str], truth: Labels, seed: int) -> Labels:
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
        fold_of[source] = int(cost.argmin())
        filled[fold_of[source]] += added
    return fold_of[source_of]


def photo_views(photo: LabelledPhoto, networks: Networks) -> list[NDArray[np.float32]]:
    """Return the features of all views of a photo, which the head is trained on; the first is the photo as it is."""
    picture = open_photo(prepare(photo).jpeg)
    return [extract_features(networks, view(picture)) for view in VIEWS]


def _stack(views: Array, truth: Labels) -> tuple[Array, Labels]:
    return views.reshape(-1, views.shape[2]), np.repeat(truth, views.shape[1])


if __name__ == "__main__":
    main()
