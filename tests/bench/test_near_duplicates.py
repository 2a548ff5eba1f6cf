"""The commands behind docs/quality.md's tables of similar photos, on few of them."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from app.config.settings import PROJECT_ROOT
from bench import near_duplicates, similar_photos

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
