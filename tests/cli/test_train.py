"""`train`: a head from labelled photos, measured on the sources that it has not seen, which the service then uses."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.clients.local.head import load_head
from app.config.settings import PROJECT_ROOT
from tests.support.command_line import run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Red pets and noisy foods, two of each, and a file that is no photo."""
    folder = tmp_path / "photos"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name, picture in (("pets", Image.new("RGB", (64, 48), "red")), ("foods", Image.fromarray(noise))):
        (folder / name).mkdir(parents=True)
        picture.save(folder / name / "1.jpg")
        picture.resize((48, 64)).save(folder / name / "2.jpg")
    (folder / "foods" / "notes.txt").write_text("no photo", encoding="utf-8")
    return folder


async def test_a_head_is_trained_compared_and_written(photos: Path, tmp_path: Path) -> None:
    head = tmp_path / "own.npz"
    done = await run("train", str(photos), "--output", str(head), cwd=tmp_path)
    assert done.status == 0, done.messages
    assert "notes.txt: not a photo that the service takes" in done.messages
    version = load_head(head).version
    assert "accuracy 1.000   macro recall 1.000" in done.output
    assert f"head in use ({load_head().version}): accuracy 0." in done.output
    assert f"new head ({version}): accuracy 1.000" in done.output
    # Without `sources.csv` each photo is a source of its own.
    assert re.search(r"^ +1  +0  +1  +\+1  (pets|foods)/[12].jpg$", done.output, re.MULTILINE), done.output
    assert f"LOCAL_HEAD={head} uses it" in done.output
    # Compared with itself it is no better, where each photo is judged by one that has not seen it.
    again = await run("train", str(photos), cwd=tmp_path, LOCAL_HEAD=str(head), DATA_DIR=str(tmp_path))
    assert f"head in use ({version}): accuracy 1.000" in again.output
    assert (again.status, "keep the one in use" in again.messages) == (1, True)
    assert (tmp_path / f"head-{version}.npz").read_bytes() == head.read_bytes()


async def test_what_cannot_be_trained_is_said(photos: Path, tmp_path: Path) -> None:
    head = tmp_path / "own.npz"
    cases: list[tuple[tuple[Path | str, ...], dict[str, Any], str]] = [
        ((photos, "--output", tmp_path / "none" / "head.npz"), {}, "there is no folder"),
        ((photos,), {"LOCAL_HEAD": str(tmp_path / "none.npz"), "DATA_DIR": str(tmp_path)}, "none.npz cannot be read"),
        ((photos / "pets",), {"DATA_DIR": str(tmp_path)}, "no photos in folders named after the categories"),
        ((photos, "--output", head), {"LOCAL_HEAD": str(head), "DATA_DIR": str(tmp_path)}, "own.npz is in use"),
    ]
    for arguments, variables, reason in cases:
        done = await run("train", *map(str, arguments), cwd=tmp_path, **variables)
        assert (done.status, reason in done.messages.replace("\n", "")) == (2, True), done.messages


def test_without_scikit_learn_it_says_in_a_line_what_to_install(photos: Path) -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.argv = ['image-classifier', 'train', sys.argv[1]];"
        "from app.cli.main import main; main()"
    )
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", code, str(photos)], capture_output=True, text=True, check=False, cwd=PROJECT_ROOT
    )
    assert done.returncode == 2
    assert done.stderr == "Training needs scikit-learn: .venv/bin/python -m pip install --editable '.[train]'\n"
