"""The file with the temperatures is one of an operator: it may hold anything."""

import math
from pathlib import Path

import pytest

from app.categories import Category
from app.clients.calibration import model_key, read_temperature, tempered, write_temperature


def test_a_temperature_of_one_changes_nothing_but_the_floor() -> None:
    probabilities = tempered({Category.PETS: 0.75, Category.FOODS: 0.25}, 1.0)
    assert set(probabilities) == set(Category)
    assert math.isclose(sum(probabilities.values()), 1.0)
    assert probabilities[Category.PETS] == pytest.approx(0.75, abs=1e-4)


def test_a_higher_temperature_is_less_sure_of_the_same() -> None:
    before = {Category.PETS: 0.9, Category.OTHER: 0.1}
    after = tempered(before, 2.0)
    assert max(after, key=after.__getitem__) is Category.PETS
    assert after[Category.PETS] < 0.9


def test_each_model_keeps_its_own(tmp_path: Path) -> None:
    file = tmp_path / "new" / "calibration.json"
    write_temperature(file, model_key("openai", "gpt-6-luna"), 1.53, photos=700)
    write_temperature(file, model_key("local", "local/a/1"), 0.8)
    assert read_temperature(file, "openai/gpt-6-luna") == 1.53
    assert read_temperature(file, "local/a/1") == 0.8
    assert read_temperature(file, "openai/gpt-6") is None
    assert [each.name for each in file.parent.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", '{"models": []}', '{"models": {"m": 3}}', '{"models": {"m": {"temperature": "1"}}}'),
        *('{"models": {"m": {"temperature": 0}}}', '{"models": {"m": {"temperature": NaN}}}', "[" * 100_000),
        '{"models": {"m": {"temperature": 1e9}}}',
    ],
)
def test_a_file_that_cannot_be_used_calibrates_nothing(content: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content, encoding="utf-8")
    assert read_temperature(file, "m") is None
    write_temperature(file, "other", 2.0)
    assert read_temperature(file, "other") == 2.0


def test_no_file_is_no_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert read_temperature(tmp_path / "none.json", "m") is None
    assert capfd.readouterr().err == ""
