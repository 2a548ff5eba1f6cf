"""Thresholds of the cascade: chosen by what holds, and measured by sources that have not chosen them."""

from pathlib import Path

import numpy as np
import pytest

from app.categories import Category
from app.clients.errors import ModelConfigurationError
from app.clients.local.training import train
from app.clients.local.training.labelled import LabelledPhoto
from app.clients.thresholds import thresholds_of, write_thresholds
from app.config.model import ModelSettings
from app.evaluation import cross_validation
from app.evaluation.cascade import Scored, choose, choose_and_measure, measure
from tests.support.thresholds import LOCAL_MODEL, thresholds

PETS, FOODS = Category.PETS, Category.FOODS


def scored(truth: Category, said: Category, probability: float, source: str = "a") -> Scored:
    others = (1 - probability) / (len(Category) - 1)
    return Scored(truth, source, dict.fromkeys(Category, others) | {said: probability})


def test_the_lowest_threshold_that_holds_is_chosen() -> None:
    sure = [scored(PETS, PETS, 0.9 + number / 5000) for number in range(400)]
    unsure = [scored(FOODS if number % 2 else PETS, PETS, 0.6 + number / 1000) for number in range(60)]
    chosen = choose([*sure, *unsure], 0.97)
    assert 0.6 < (chosen[PETS].sure_from or 0) < 0.9
    assert choose([*sure, *unsure], 0.5)[PETS].sure_from == 0.6
    assert choose([scored(FOODS, PETS, 0.99) for _ in range(30)], 0.5)[PETS].sure_from is None


def test_of_a_category_with_few_answers_none_counts() -> None:
    others = [scored(FOODS, FOODS, 0.99) for _ in range(500)]
    few = [scored(PETS, PETS, 0.98) for _ in range(19)]
    assert choose([*others, *few], 0.97)[PETS].sure_from is None
    assert choose([*others, *few, few[0]], 0.97)[PETS].sure_from == 0.98
    # Seen three times they are no more photos.
    assert choose([*others, *few] * 3, 0.97, repeats=3)[PETS].sure_from is None


def test_a_category_that_is_often_wrong_has_a_higher_threshold_than_others() -> None:
    others = [scored(FOODS, FOODS, 0.8 + number / 5000) for number in range(900)]
    wrong = [scored(FOODS if number < 20 else PETS, PETS, 0.8 + number / 1000) for number in range(150)]
    chosen = choose([*others, *wrong], 0.97)
    assert (chosen[FOODS].sure_from or 1) < (chosen[PETS].sure_from or 0)


def test_what_must_not_leave_stays_from_below_the_least_likely_one() -> None:
    photos = [scored(PETS, FOODS, 0.9) for _ in range(5)]
    lowest = photos[0].probabilities[PETS]
    assert 0 < choose(photos, 0.97)[PETS].kept_from < lowest
    # Nothing is known of those that are not there.
    assert choose(photos, 0.97)[FOODS].kept_from == 0


def test_what_is_measured_is_measured_on_other_sources() -> None:
    """A source whose mistakes no other has is seen to be wrong, although its own threshold would leave them out."""
    good = [scored(PETS, PETS, 0.9 + number / 5000, f"good {number % 8}") for number in range(400)]
    bad = [scored(FOODS, PETS, 0.93, "bad") for _ in range(40)]
    assert (choose([*good, *bad], 0.97)[PETS].sure_from or 0) > 0.93
    found = measure([*good, *bad], 0.97, cross_validated=True)
    assert (found.photos, found.sources) == (440, 9)
    assert found.answered.whole == 440
    assert found.right.whole - found.right.part == len(bad)
    assert found.right.low < found.right.share < found.right.high
    assert found.categories[PETS].answered.whole == 440
    assert found.categories[FOODS].missed.whole == 40
    again = measure([*good, *bad] * 3, 0.97, repeats=3, cross_validated=True)
    assert (again.photos, again.answered, again.categories) == (found.photos, found.answered, found.categories)


def test_the_aim_rises_until_the_interval_holds_the_target() -> None:
    generator = np.random.default_rng(0)
    photos = []
    for number in range(600):
        probability = 0.5 + number / 1300
        truth = PETS if generator.random() < probability else FOODS
        photos.append(scored(truth, PETS, probability, str(number % 40)))
    once = measure(photos, 0.8, cross_validated=False)
    found = choose_and_measure(photos, 0.8, cross_validated=False)
    assert once.right.low < 0.8 <= found.right.low
    assert found.answered.part < once.answered.part
    assert found.target_precision == 0.8
    # What cannot be had is not claimed.
    assert choose_and_measure(photos, 0.99, cross_validated=False).right.low < 0.99


def test_thresholds_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "cascade.json"
    one, other = thresholds(0.8), thresholds(kept_from=0.1)
    write_thresholds(file, "local/a", one)
    write_thresholds(file, "local/b", other)
    assert (thresholds_of("local/a", file), thresholds_of("local/b", file)) == (one, other)
    assert thresholds_of("local/c", file) is None
    assert one.is_sure(PETS, 0.8)
    assert not one.is_sure(PETS, 0.79)
    assert not other.is_sure(PETS, 1.0)
    assert other.stays(dict.fromkeys(Category, 0.1), frozenset({FOODS}))
    assert not other.stays(dict.fromkeys(Category, 0.09), frozenset(Category))


def test_the_shipped_head_has_shipped_thresholds() -> None:
    """Another head needs others (docs/local-model.md has the command)."""
    shipped = thresholds_of(LOCAL_MODEL, None)
    assert shipped is not None
    assert shipped.cross_validated
    assert shipped.right.low >= shipped.target_precision >= ModelSettings().cascade_target_precision
    assert all(each.kept_from < (each.sure_from or 1) for each in shipped.categories.values())


def test_a_file_that_lacks_a_category_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cascade.json"
    write_thresholds(file, "local/a", thresholds())
    file.write_text(file.read_text(encoding="utf-8").replace('"pets"', '"cats"'), encoding="utf-8")
    with pytest.raises(ModelConfigurationError, match="cascade"):
        thresholds_of("local/a", file)


def test_each_photo_is_judged_by_a_head_of_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pets that look like food are taken for food where no other source has such."""
    monkeypatch.setattr(train, "FEATURE_BLOCKS", (4, 4))
    monkeypatch.setattr(train, "BLOCK_WEIGHTS", (1.0, 1.0))
    monkeypatch.setattr(train, "PENALTIES", (1e-3, 1e-2))
    monkeypatch.setattr(train, "FOLDS", 3)
    monkeypatch.setattr(cross_validation, "load_networks", lambda: None)
    generator = np.random.default_rng(0)
    place = {"common": 0, "food": 1, "own": 1}

    def views(photo: LabelledPhoto, _: object) -> np.ndarray:
        features = np.zeros(8, dtype=np.float32)
        features[place[photo.path.name]] = 1
        return features + generator.normal(size=(2, 8)).astype(np.float32) / 100

    monkeypatch.setattr(cross_validation, "view_features", views)
    photos = [LabelledPhoto(Path("common"), PETS, f"s{n % 3}") for n in range(9)]
    photos += [LabelledPhoto(Path("food"), FOODS, f"s{n % 3}") for n in range(9)]
    photos += [LabelledPhoto(Path("own"), PETS, "alone") for n in range(3)]
    seen: list[None] = []
    found = cross_validation.cross_validated(photos, lambda: seen.append(None))
    assert len(seen) == len(photos)
    assert len(found) == len(train.SEEDS) * len(photos)
    for photo, each in zip(photos, found, strict=False):
        assert (each.truth, each.source) == (photo.category, photo.source)
        if photo.path.name != "food":
            assert (each.said is photo.category) == (photo.source != "alone")
