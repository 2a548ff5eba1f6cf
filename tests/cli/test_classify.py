"""`classify` and `stats` against a running service."""

import asyncio
import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli.main import cli
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.fakes.model_server import FakeModelServer
from tests.support.command_line import run


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three different photos, one of them twice, a hidden one, a text, and something that is no picture."""
    folder = tmp_path / "album"
    (folder / "2024").mkdir(parents=True)
    for name, colour in (("a.jpg", "red"), ("b.png", "green"), ("2024/c.webp", "blue"), ("2024/again.jpg", "red")):
        Image.new("RGB", (1600, 1200), colour).save(folder / name)
    (folder / ".hidden.jpg").write_bytes((folder / "a.jpg").read_bytes())
    (folder / "notes.txt").write_text("no photo")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


async def test_a_folder_is_uploaded_once_and_never_again(
    service_url: str, model_server: FakeModelServer, album: Path, tmp_path: Path
) -> None:
    first = await run("classify", album, "--server", service_url, "--json", "--user-id", "cli", cwd=tmp_path)
    assert first.status == 1, first.messages
    answer: dict[str, Any] = json.loads(first.output)
    summary = answer["summary"]
    assert (summary["photos"], summary["uploads"], summary["duplicates"], summary["failed"]) == (5, 3, 1, 1)
    assert summary["cost"] == pytest.approx(0.03)
    assert summary["bytes_uploaded"] == sum(photo["uploaded_bytes"] for photo in answer["photos"])
    assert sum(summary["categories"].values()) == 4
    by_name = {Path(photo["path"]).name: photo for photo in answer["photos"]}
    assert by_name["broken.jpg"]["error"] == "unreadable_photo"
    assert by_name["again.jpg"]["image_hash"] == by_name["a.jpg"]["image_hash"]
    assert model_server.call_count == 3

    (album / "broken.jpg").unlink()
    second = await run("classify", album, "-s", service_url, "--csv", cwd=tmp_path)
    assert second.status == 0, second.messages
    rows = list(csv.DictReader(io.StringIO(second.output)))
    assert sorted(row["status"] for row in rows) == ["duplicate", "hit", "hit", "hit"]
    assert {row["uploaded_bytes"] for row in rows} == {"0"}
    assert model_server.call_count == 3

    table = await run("classify", album, cwd=tmp_path, IMAGE_CLASSIFIER_SERVER=service_url)
    assert table.status == 0
    assert "hits" in table.output
    assert "75 %" in table.output
    shown = await run("stats", "--server", service_url, cwd=tmp_path)
    assert "cli" in shown.output
    figures = json.loads((await run("stats", "--server", service_url, "--json", cwd=tmp_path)).output)
    assert figures["today"]["total_requests"] == 9
    assert figures["cache"]["total_cached_images"] == 3
    assert figures["new_photos"] == [{"value": "test-vision", "count": 3, "percentage": 100.0}]
    assert [(group["name"], group["calls"]) for group in figures["spending"]["groups"]] == [("test-vision", 3)]
    assert "new photos today" in shown.output
    assert "spending today" in shown.output


async def test_a_service_that_cannot_be_reached_is_told_at_once_and_once(album: Path, tmp_path: Path) -> None:
    server = "http://user:hunter2@127.0.0.1:9"
    done = await run("classify", album, "--server", server, "--concurrency", "1", cwd=tmp_path)
    assert done.status == 1
    assert "again.jpg: unreachable: http://127.0.0.1:9 cannot be reached" in done.messages
    assert "4 of 5 photos were not classified" in done.messages
    figures = await run("stats", "--server", server, cwd=tmp_path)
    assert figures.status == 1
    assert "unreachable" in figures.messages
    assert "hunter2" not in done.messages + figures.messages


async def test_a_busy_service_is_asked_again_after_the_pause_it_names(album: Path, tmp_path: Path) -> None:
    data = {"category": "pets", "confidence": 0.9, "description": None}
    replies = iter(
        [
            HTTPResponse(503, b'{"success": false, "error": {"code": "server_busy"}}', {"Retry-After": "1"}),
            HTTPResponse(200, json.dumps({"success": True, "cached": True, "data": data}).encode()),
            HTTPResponse(404, b"<html>"),
        ]
    )

    async def answer(request: HTTPRequest) -> HTTPResponse:
        return next(replies)

    with running_http_server(answer) as url:
        done = await run("classify", album / "a.jpg", "--server", url, "--json", cwd=tmp_path)
    assert done.status == 0, done.messages
    shown = json.loads(done.output)
    assert shown["photos"][0]["status"] == "hit"
    assert shown["summary"]["cost"] is None


async def test_ctrl_c_shows_what_was_done(album: Path, tmp_path: Path) -> None:
    data = {"category": "pets", "confidence": 0.9, "description": None}
    arrived, go_on = threading.Event(), threading.Event()
    asked: list[str] = []

    async def answer(request: HTTPRequest) -> HTTPResponse:
        if request.path.endswith("check-cache"):
            asked.append(request.path)
            if len(asked) == 2:
                arrived.set()
                await asyncio.to_thread(go_on.wait, 20)
        return HTTPResponse(200, json.dumps({"success": True, "cached": True, "data": data}).encode())

    async def second_photo_is_asked_about() -> None:
        await asyncio.to_thread(arrived.wait, 20)
        asyncio.get_running_loop().call_later(0.5, go_on.set)

    with running_http_server(answer) as url:
        done = await run(
            *("classify", album, "--server", url, "--json", "--concurrency", "1"),
            cwd=tmp_path,
            interrupt_when=second_photo_is_asked_about,
        )
    assert done.status == 130, done.messages
    assert "Waiting for the uploads under way" in done.messages
    assert "Stopped; 3 of 5 photos were not classified" in done.messages
    assert 1 <= json.loads(done.output)["summary"]["photos"] < 5


async def test_ctrl_c_while_costs_are_asked_for_loses_nothing(album: Path, tmp_path: Path) -> None:
    data = {"category": "pets", "confidence": 0.9, "description": None}
    asked, go_on = threading.Event(), threading.Event()

    async def answer(request: HTTPRequest) -> HTTPResponse:
        if request.path.endswith("/stats/today"):
            asked.set()
            await asyncio.to_thread(go_on.wait, 20)
        return HTTPResponse(200, json.dumps({"success": True, "cached": True, "data": data}).encode())

    with running_http_server(answer) as url:
        done = await run(
            *("classify", album / "a.jpg", "--server", url, "--json"),
            cwd=tmp_path,
            interrupt_when=lambda: asyncio.to_thread(asked.wait, 20),
        )
        go_on.set()
    assert done.status == 0, done.messages
    summary = json.loads(done.output)["summary"]
    assert (summary["hits"], summary["cost"]) == (1, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "nowhere"],
        ["classify", ".", "--json", "--csv"],
        ["classify", ".", "--user-id", "a\nb"],
        ["classify", ".", "--concurrency", "65"],
        ["stats", "--server", "photos.example.com"],
        ["stats", "--server", "http://[::1"],
        ["stats", "--server", "ftp://photos.example.com"],
        ["stats", "--server", ""],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert "Invalid value" in done.stderr


async def test_without_photos_nothing_is_asked(tmp_path: Path) -> None:
    nothing = await run("classify", tmp_path, cwd=tmp_path)
    assert (nothing.status, nothing.messages) == (0, "There are no photos.\n")
    assert (await run("--version", cwd=tmp_path)).output.startswith("image-classifier ")
