"""The commands behind docs/quality.md's tables of similar photos, on few of them."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from app.config.settings import PROJECT_ROOT
from app.services.near_duplicates.bands import near_bands
from bench import near_duplicates, second_rule, similar_photos

SAMPLES = PROJECT_ROOT / "docs" / "samples" / "labelled"


def test_look_ups_are_timed_and_none_misses_its_neighbour(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bench.db"
    rows = near_duplicates.measure("SQLite", url, create_engine(url), 500)
    assert [row[:3] for row in rows] == [["SQLite", "500", "similar"], ["SQLite", "500", "new"]]
    for row in rows:
        median, most, slowest = map(float, row[3:])
        assert 0 < median <= most <= slowest


def test_changed_photos_are_found_and_pairs_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert similar_photos.main([str(SAMPLES)]) == 0
    recall, _, pairs = capsys.readouterr().out.partition("| distance |")
    found = {cells[0]: cells[1:] for line in recall.splitlines()[2:] if (cells := line.strip("| ").split(" | "))}
    photos = len([path for path in SAMPLES.glob("*/*") if path.suffix in similar_photos.SUFFIXES])
    # The browser's canvas is one of the ways; of drawings, JPEG alone changes little.
    assert {cells[0] for cells in found.values()} <= {str(number) for number in range(1, photos + 1)}
    assert float(found["JPEG quality 90"][2]) == 1.0
    assert "Chromium's canvas, JPEG 1024" in found
    assert f"| any | {photos * (photos - 1) // 2} |" in pairs


def test_the_second_rule_is_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for category in ("foods", "pets"):
        (tmp_path / category).symlink_to(SAMPLES / category)
    photos = len([path for path in tmp_path.glob("*/*") if path.suffix in similar_photos.SUFFIXES])
    assert second_rule.main([str(tmp_path)]) == 0
    recall, pairs, rows = capsys.readouterr().out.split("\n\n")
    found = {cells[0]: cells[1:] for line in recall.splitlines()[2:] if (cells := line.strip("| ").split(" | "))}
    assert found["JPEG quality 90"] == [str(photos), "1.000", "1.000", "1.000"]
    for _, first, both, further in found.values():
        assert float(first) <= float(both) <= float(further)
    assert "| second rule |" in pairs
    # As docs/quality.md has it, and as the service's own bands are.
    assert "| 8 | 3 | 718 | 1 409 |" in rows
    assert sum(map(len, near_bands(0))) == 718


@pytest.mark.parametrize(
    ("distance", "cosine", "is_found"),
    [(8, 0.0, True), (9, 0.84, False), (9, 0.85, True), (14, 0.85, True), (15, 1.0, False)],
)
def test_what_the_second_rule_finds(distance: int, cosine: float, is_found: bool) -> None:
    assert second_rule.Change("a crop", distance, cosine).is_found is is_found
