"""What heads say of photos that they have not been trained on: each photo is judged by one of other sources.

For the photos that the shipped head was trained on: it is right about those. It needs scikit-learn (the extra `train`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from app.clients.local.head import CATEGORY_ORDER
from app.clients.local.network import load_networks
from app.clients.local.training.labelled import LabelledPhoto
from app.clients.local.training.train import train
from app.clients.local.training.views import view_features
from app.evaluation.cascade import PROBABILITY_DIGITS, Scored


def cross_validated(photos: Sequence[LabelledPhoto], on_photo: Callable[[], object]) -> list[Scored]:
    """Return what is said of the photos, all of them once for each of SEEDS.

    Args:
        photos: with their sources.
        on_photo: is called when one has been looked at, which takes some tenths of a second.

    Raises:
        WeightsMissing: the local model's weights are not there.
    """
    networks = load_networks()
    views = []
    for photo in photos:
        views.append(view_features(photo, networks))
        on_photo()
    truth = np.array([CATEGORY_ORDER.index(photo.category) for photo in photos])
    trained = train(np.array(views, dtype=np.float64), truth, [photo.source for photo in photos])
    return [
        Scored(
            photo.category,
            photo.source,
            {key: round(float(p), PROBABILITY_DIGITS) for key, p in zip(CATEGORY_ORDER, row, strict=True)},
        )
        for run in trained.probabilities
        for photo, row in zip(photos, run, strict=True)
    ]
