"""Names of files, ids of users and words of a service are shown, never obeyed."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.support.command_line import run

ESCAPE = "\x1b]0;title\x07\x1b[31m"
USERS = [f"{ESCAPE}red", "[red]markup[/nothing]", ":cat:"]
ANSWERS = {
    "/stats/today": {"cache_hits": 1, "cache_misses": 0, "estimated_cost": 0.0, "cost_saved": 0.01, "currency": ESCAPE},
    "/stats/cache-efficiency": {"total_cached_images": "[/]"},
    "/stats/category-distribution": [{"category": f"[b]{ESCAPE}", "count": 1, "percentage": 100.0}],
    "/stats/spending": {
        "currency": f"[b]{ESCAPE}",
        "groups": [{"name": f"[x]{ESCAPE}", "calls": 1, "input_tokens": 2, "output_tokens": 3, "cost": 0.01}],
    },
    "/stats/new-photos": [{"value": f"[y]{ESCAPE}", "count": 1, "percentage": 100.0}],
    "/stats/users/top": [
        {"user_id": user, "request_count": 1, "cache_hits": 0, "cache_hit_rate": 0.0} for user in USERS
    ],
    "/classify/check-cache": {"category": f"[x]{ESCAPE}", "confidence": 1, "description": f'=HYPERLINK("{ESCAPE}")'},
}


@pytest.fixture
def hostile_url() -> Iterator[str]:
    """A service whose every word is meant to do harm."""

    async def answer(request: HTTPRequest) -> HTTPResponse:
        data = ANSWERS[request.path.removeprefix("/api/v1")]
        return HTTPResponse(200, json.dumps({"success": True, "cached": True, "data": data}).encode())

    with running_http_server(answer) as url:
        yield url


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Files with the names that a stranger's archive may have; those with "no" in it are no pictures."""
    folder = tmp_path / "album"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "=cmd()|a.jpg")
    content = (folder / "=cmd()|a.jpg").read_bytes()
    names = ["=cmd()|a.jpg", "社交.jpg", os.fsdecode(b"half \xe7\xa4.jpg")]
    for name in names[1:]:
        (folder / name).write_bytes(content)
    broken = [f"no {ESCAPE}.jpg", "no [red]markup[", "no\nline :cat:.jpg", "no \x9b31m.jpg", "no \u202egpj.jpg"]
    for name in broken:
        (folder / name).with_suffix(".jpg").write_bytes(b"")
    return sorted([*names, *(str(Path(name).with_suffix(".jpg")) for name in broken)])


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


async def test_a_terminal_sees_letters(hostile_url: str, names: list[str], tmp_path: Path) -> None:
    done = await run("classify", "album", "--server", hostile_url, cwd=tmp_path, COLUMNS="60")
    assert done.status == 1
    assert is_harmless(done.output)
    assert is_harmless(done.messages)
    assert r"[x]\x1b]0;title\x07" in done.output
    lines = [r"album/no \x1b]0;title\x07\x1b[31m.jpg", "album/no [red]markup[.jpg", r"album/no\nline :cat:.jpg"]
    for line in lines:
        assert f"{line}: unreadable_photo: not a picture, or damaged\n" in done.messages
    shown = await run("stats", "--server", hostile_url, cwd=tmp_path)
    assert shown.status == 0, shown.messages
    assert is_harmless(shown.output)
    assert all(user in shown.output for user in USERS[1:])


async def test_json_has_the_exact_names(hostile_url: str, names: list[str], tmp_path: Path) -> None:
    done = await run("classify", "album", "--server", hostile_url, "--json", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.status == 1, done.messages
    assert is_harmless(done.output)
    assert [Path(photo["path"]).name for photo in json.loads(done.output)["photos"]] == names


async def test_csv_has_a_line_for_each_photo_and_no_formula(hostile_url: str, names: list[str], tmp_path: Path) -> None:
    done = await run("classify", ".", "--server", hostile_url, "--csv", cwd=tmp_path / "album")
    assert done.status == 1, done.messages
    assert is_harmless(done.output)
    assert len(done.output.splitlines()) == len(names) + 1
    rows = list(csv.DictReader(io.StringIO(done.output)))
    assert {row["path"] for row in rows} >= {"'=cmd()|a.jpg", "社交.jpg", r"half \udce7\udca4.jpg"}
    assert all(row["description"].startswith("'=HYPERLINK") for row in rows if row["status"] != "failed")
