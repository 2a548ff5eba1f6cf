"""Training: the fit reaches the minimum, sources are not split, and the folder is read as documented."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.categories import Category
from app.clients.local.head import FloatArray, Head
from app.clients.local.training.labelled import find_labelled_photos, prepare
from app.clients.local.training.metrics import MAX_SOURCES, by_source, report
from app.clients.local.training.regression import MIN_DEVIATION, fit_head
from app.clients.local.training.train import FOLDS, assign_folds
from app.config.settings import PROJECT_ROOT

APP = PROJECT_ROOT / "app"


def test_the_fit_is_the_minimum() -> None:
    """Against the definition: moving any weight a little either way makes the loss larger."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 3))
    truth = generator.integers(0, 8, 60)
    scale = (features.std(axis=0) + MIN_DEVIATION) * np.sqrt([2, 2, 1]) / [3, 3, 1]
    inputs = (features - features.mean(axis=0)) / scale
    fitted = fit_head(features, truth, (2, 1), (3.0, 1.0), 0.01)
    # The same head over the scaled features, which the penalty is about.
    head = Head(fitted.weights * scale, fitted.bias + fitted.weights @ features.mean(axis=0))
    importance = 1 / np.bincount(truth)[truth] / 8

    def loss(weights: FloatArray, bias: FloatArray) -> float:
        scores = inputs @ weights.T + bias
        log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        fit = -(log_probabilities[np.arange(60), truth] * importance).sum()
        return float(fit + 0.01 / 2 * (weights**2).sum())

    least = loss(head.weights, head.bias)
    for part in (head.weights, head.bias):
        for place in np.ndindex(*part.shape):
            for step in (-1e-3, 1e-3):
                part[place] += step
                assert loss(head.weights, head.bias) > least
                part[place] -= step


def test_a_head_has_every_category_even_if_the_photos_have_not() -> None:
    generator = np.random.default_rng(3)
    truth = np.repeat([1, 4], 30)
    features = np.eye(8)[truth] + generator.normal(size=(60, 8)) / 10
    probabilities = fit_head(features, truth, (8,), (2.0,), 1e-4).probabilities(features)
    assert probabilities.shape == (60, 8)
    assert (probabilities.argmax(axis=1) == truth).all()
    assert probabilities[:, [0, 2, 3, 5, 6, 7]].max() < 0.01


def test_only_training_imports_scikit_learn() -> None:
    """The service runs without it."""
    inside = {path for path in APP.rglob("*.py") if "sklearn" in path.read_text(encoding="utf-8")}
    assert inside == {APP / "clients/local/training/regression.py", APP / "cli/train.py"}


def test_a_head_learns_what_can_be_told_apart() -> None:
    generator = np.random.default_rng(1)
    truth = np.repeat(np.arange(8), 20)
    features = np.hstack([np.eye(8)[truth] * 5 + generator.normal(size=(160, 8)), generator.normal(size=(160, 4))])
    head = fit_head(features, truth, (8, 4), (2.0, 1.0), 1e-4)
    assert (head.probabilities(features).argmax(axis=1) == truth).mean() > 0.97


def test_a_source_is_never_on_both_sides() -> None:
    generator = np.random.default_rng(2)
    sources = [f"source {number}" for number in generator.integers(0, 40, 300)]
    folds = assign_folds(sources, generator.integers(0, 8, 300), seed=0)
    assert set(folds) == set(range(FOLDS))
    assert all(len({folds[i] for i, name in enumerate(sources) if name == source}) == 1 for source in set(sources))
    assert (folds == assign_folds(sources, generator.integers(0, 8, 300) * 0, seed=0)).sum() < 300


def test_each_category_from_one_source_leaves_something_to_train_on() -> None:
    truth = np.repeat(np.arange(8), 5)
    folds = assign_folds([f"source {each}" for each in truth], truth, seed=0)
    assert len(set(folds.tolist())) == FOLDS


def test_folders_and_sources_are_read(tmp_path: Path) -> None:
    for name in ("pets/a.jpg", "foods/b.png", "holiday/c.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (20, 10), "red").save(tmp_path / name)
    (tmp_path / "sources.csv").write_text("file,category,source\npets/a.jpg,pets,somebody\n", encoding="utf-8")
    photos = find_labelled_photos(tmp_path)
    assert [(photo.category, photo.source) for photo in photos] == [
        (Category.PETS, "somebody"),
        (Category.FOODS, "foods/b.png"),
    ]
    assert all(prepare(photo).jpeg.startswith(b"\xff\xd8") for photo in photos)


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no photos"):
        find_labelled_photos(tmp_path)


def test_a_report_counts_right() -> None:
    probabilities = np.full((4, 8), 0.01)
    probabilities[[0, 1, 2, 3], [0, 0, 1, 1]] = 0.93
    text = report(np.array([0, 0, 1, 2]), probabilities)
    assert "accuracy 0.750   macro recall 0.667" in text
    assert "confidence >= 0.9: 1.000 of the photos, of which 0.750 right" in text
    assert "0.9 to 1.0          4  0.930  0.750" in text
    assert "expected calibration error 0.180" in text


def test_the_gain_is_told_by_source_the_largest_change_first() -> None:
    sources = ["shop"] * 4 + ["album"] * 3 + ["web"] * 2
    before = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0], dtype=bool)
    after = np.array([1, 1, 1, 0, 1, 1, 1, 0, 1], dtype=bool)
    table = [line.split() for line in by_source(sources, before, after).splitlines()]
    assert table[1:4] == [
        ["3", "1", "3", "+2", "album"],
        ["4", "4", "3", "-1", "shop"],
        ["2", "1", "1", "+0", "web"],
    ]
    assert " ".join(table[4]) == "better at 1 of 3 sources, worse at 1: +1 photos"
    many = [f"source {number}" for number in range(500)]
    assert len(by_source(many, np.zeros(500, dtype=bool), np.ones(500, dtype=bool)).splitlines()) == MAX_SOURCES + 2
