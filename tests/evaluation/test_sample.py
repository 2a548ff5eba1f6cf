"""The sample that ships with the project: every category, small, and evaluated at once."""

import json
from pathlib import Path

from app.categories import Category
from app.clients.local.training.labelled import find_labelled_photos
from app.config.settings import PROJECT_ROOT
from scripts.sample_photos import FOLDER, pictures
from tests.support.command_line import run

MAX_BYTES = 300_000


def test_it_has_every_category_and_is_small() -> None:
    photos = find_labelled_photos(FOLDER)
    assert {photo.category for photo in photos} == set(Category)
    drawn = [photo for photo in photos if not photo.path.is_symlink()]
    assert {photo.path.relative_to(FOLDER).as_posix() for photo in drawn} == set(pictures())
    assert sum(photo.path.stat().st_size for photo in drawn) < MAX_BYTES
    linked = {photo.path.resolve() for photo in photos} - {photo.path for photo in drawn}
    assert linked == {PROJECT_ROOT / "docs" / "samples" / name for name in ("cat.jpg", "coffee.jpg")}


async def test_the_local_model_is_measured_on_it(tmp_path: Path) -> None:
    done = await run("evaluate", str(FOLDER), "--json", cwd=tmp_path)
    assert done.status == 0, done.messages
    [report] = json.loads(done.output)["models"]
    assert report["photos"] == 12
    assert report["confusion"]["pets"]["pets"] == report["confusion"]["foods"]["foods"] == 1
    assert report["calibration"]["sources"] == {"probabilities": 12}
    assert report["spent"]["cost"] == 0
