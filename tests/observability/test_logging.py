"""What is written to the log: a line per request in both formats, in files that several workers share, no secrets."""

import asyncio
import hashlib
import json
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from loguru import logger
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.config.logs import LogFormat, LogSettings
from app.config.settings import PROJECT_ROOT, Environment, Settings
from app.main import create_app
from app.observability.access_log import AccessLog
from app.observability.logging import configure_logging, log_format
from tests.fakes.images import jpeg_photo
from tests.servers.processes import answers_http, free_port, start_process
from tests.support.people import bearer, log_in, sign_up
from tests.support.serving import serving

GUNICORN = [str(Path(sys.executable).parent / "gunicorn"), "-c", "gunicorn_config.py", "app.main:app"]
CHECK = "/api/v1/classify/check-cache"


@contextmanager
def captured() -> Iterator[list[str]]:
    """What is logged during the block, as it would be written with the current format for access lines."""
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    try:
        yield lines
    finally:
        logger.remove(sink)


@pytest.mark.parametrize(
    ("level", "debug", "written"),
    [
        (None, "false", {"info", "warning", "error"}),
        (None, "true", {"debug", "info", "warning", "error"}),
        ("debug", "false", {"debug", "info", "warning", "error"}),
        ("WARNING", "false", {"warning", "error"}),
        # LOG_LEVEL says more than APP_DEBUG.
        ("error", "true", {"error"}),
    ],
)
def test_log_level(
    level: str | None,
    debug: str,
    written: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("APP_DEBUG", debug)
    if level is not None:
        monkeypatch.setenv("LOG_LEVEL", level)
    configure_logging(Settings())
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)(f"a line at {name}")
        getattr(logging.getLogger("library"), name)(f"a line at {name}")
    lines = re.findall(r"(\S+) a line at (\w+)$", capsys.readouterr().err, re.MULTILINE)
    assert {at for name, at in lines if name != "library"} == written
    # The debug lines of libraries may hold what they send.
    assert {at for name, at in lines if name == "library"} == written - {"debug"}


@pytest.fixture
async def json_service(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(settings.model_copy(update={"log": LogSettings(format=LogFormat.JSON)}))
    try:
        async with serving(app) as url, httpx2.AsyncClient(base_url=url) as client:
            yield client
    finally:
        configure_logging(settings)


async def access_lines(lines: list[str], count: int) -> list[dict[str, Any]]:
    """The first `count` access lines, as soon as they are there."""
    for _ in range(500):
        written = [line for line in "".join(lines).splitlines() if '"name": "access"' in line]
        if len(written) >= count:
            return [json.loads(line) for line in written]
        await asyncio.sleep(0.01)
    raise AssertionError(lines)


async def test_an_access_line_says_who_asked_and_what_came_of_it(json_service: httpx2.AsyncClient) -> None:
    photo = jpeg_photo(330, 200)
    image_hash = hashlib.sha256(photo).hexdigest()
    with captured() as lines:
        answers = [
            await json_service.post(
                "/api/v1/classify", files={"image": photo}, headers={b"X-User-ID": 'a "b" ü'.encode()}
            ),
            await json_service.post(CHECK, json={"image_hash": image_hash, "user_id": "of-the-body"}),
            await json_service.post(CHECK, json={"image_hash": image_hash}, headers={"Origin": "https://app.example"}),
            await json_service.post(f"{CHECK}/batch", json={"image_hashes": [image_hash], "user_id": "of-a-batch"}),
            await json_service.get("/api/v1/requests/req_1", params={"token": "secret-token"}),
        ]
        written = await access_lines(lines, len(answers))
    assert "secret-token" not in "".join(lines)
    expected = [
        ("POST", "/api/v1/classify", 200, "miss", False, 'a "b" ü'),
        ("POST", CHECK, 200, "hit", True, "of-the-body"),
        ("POST", CHECK, 200, "hit", True, None),
        ("POST", f"{CHECK}/batch", 200, "ok", None, "of-a-batch"),
        ("GET", "/api/v1/requests/req_1", 400, "client_error", None, None),
    ]
    keys = ("method", "path", "status", "outcome", "cached", "user")
    assert [tuple(line[key] for key in keys) for line in written] == expected
    for line, answer in zip(written, answers, strict=True):
        assert line["request_id"] == answer.headers["X-Request-ID"]
        assert line["client"] == "127.0.0.1"
        assert line["level"] == "INFO"
        assert 0 < line["milliseconds"] < 60_000
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


@pytest.mark.usefixtures("engine")
async def test_who_is_logged_in_is_named_as_in_the_request_log(json_service: httpx2.AsyncClient) -> None:
    with captured() as lines:
        me = await sign_up(json_service)
        token = await log_in(json_service)
        headers = {**bearer(token), "X-User-ID": "somebody-else"}
        await json_service.get("/users/me", headers=headers)
        await json_service.get("/images/", headers=headers)
        written = await access_lines(lines, 4)
    assert {line["user"] for line in written[-2:]} == {f"account:{me['id']}"}
    assert token not in "".join(lines)


@pytest.mark.usefixtures("engine")
async def test_a_socket_has_one_line_at_its_end(json_service: httpx2.AsyncClient) -> None:
    address = str(json_service.base_url).replace("http", "ws", 1).rstrip("/")
    with captured() as lines:
        me = await sign_up(json_service)
        token = await log_in(json_service)
        async with connect(f"{address}/ws/inference?token={token}", proxy=None) as socket:
            assert json.loads(await socket.recv())["event"] == "hello"
            assert socket.response is not None
            request_id = socket.response.headers["X-Request-ID"]
        async with connect(f"{address}/ws/inference?token=secret-token", proxy=None) as socket:
            await socket.wait_closed()
        with pytest.raises(InvalidStatus):
            await connect(f"{address}/ws/nowhere?token=secret-token", proxy=None)
        written = [line for line in await access_lines(lines, 5) if line["path"].startswith("/ws")]
    keys = ("method", "path", "status", "outcome", "cached", "user")
    assert sorted(tuple(str(line[key]) for key in keys) for line in written) == [
        ("GET", "/ws/inference", "101", "client_error", "None", "None"),
        ("GET", "/ws/inference", "101", "ok", "None", f"account:{me['id']}"),
        ("GET", "/ws/nowhere", "403", "client_error", "None", "None"),
    ]
    assert request_id in {line["request_id"] for line in written}
    assert len({line["request_id"] for line in written}) == len(written)
    assert token not in "".join(lines)
    assert "secret-token" not in "".join(lines)


async def test_other_lines_are_objects_too_with_the_traceback_inside(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "kept-in-a-local-variable"
    configure_logging(settings.model_copy(update={"log": LogSettings(format=LogFormat.JSON)}))
    try:
        logger.info('braces {{}} <red>and</red> quotes " and\nlines')
        try:
            raise ValueError(len(secret))
        except ValueError:
            logger.exception("it failed")
        # The standard library's.
        logging.getLogger("uvicorn.error").warning("from %s", "elsewhere")
    finally:
        written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        configure_logging(settings)
    assert [(line["name"], line["message"]) for line in written] == [
        (__name__, 'braces {{}} <red>and</red> quotes " and\nlines'),
        (__name__, "it failed"),
        ("uvicorn.error", "from elsewhere"),
    ]
    assert "ValueError: 24" in written[1]["exception"]
    assert "Traceback" in written[1]["exception"]
    assert secret not in json.dumps(written)
    assert {line["request_id"] for line in written} == {"-"}


def test_a_library_that_logs_nonsense_is_not_disturbed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings)
    logging.getLogger("uvicorn.error").warning("%d", "no number")
    assert "no number" in capsys.readouterr().err


async def test_nobody_forges_what_stands_before_the_user(
    capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    configure_logging(settings)
    log = AccessLog(LogFormat.HUMAN)
    log.write(
        "req_1",
        method="GET",
        path="/a",
        status=200,
        outcome="hit",
        seconds=0.0019,
        client=None,
        user="u client=1.2.3.4",
    )
    log.flush()
    line = capsys.readouterr().err
    assert line.endswith(" INFO    req_1 access GET /a 200 hit 1.9 ms client=- user=u client=1.2.3.4\n")


def test_production_logs_json_unless_told_otherwise() -> None:
    production = {"environment": Environment.PRODUCTION, "account": Settings().account}
    settings = Settings()
    assert log_format(settings) is LogFormat.HUMAN
    assert log_format(settings.model_copy(update=production)) is LogFormat.JSON
    human = LogSettings(format=LogFormat.HUMAN)
    assert log_format(settings.model_copy(update={**production, "log": human})) is LogFormat.HUMAN


def test_workers_share_the_day_s_file_and_every_line_is_an_object(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "tmp").mkdir()
    photo = jpeg_photo(331, 200)
    image_hash = hashlib.sha256(photo).hexdigest()
    variables = {
        **environment,
        "APP_PORT": str(port),
        "ENV": "production",
        "SECRET_KEY": "0123456789abcdef0123456789abcdef",
        "DAILY_BUDGET": "unlimited",
        "CORS_ALLOWED_ORIGINS": "https://app.example",
        "WEB_CONCURRENCY": "2",
    }
    url = f"http://127.0.0.1:{port}"
    with start_process(
        GUNICORN,
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env=variables,
        cwd=PROJECT_ROOT,
        grace_seconds=15,
    ) as process:
        httpx2.post(f"{url}/api/v1/classify", files={"image": photo}, timeout=120).raise_for_status()

        def ask(number: int) -> str:
            body = {"image_hash": image_hash, "user_id": f"user-{number}"}
            return str(httpx2.post(f"{url}{CHECK}", json=body, timeout=120).json()["request_id"])

        with ThreadPoolExecutor(8) as pool:
            asked = list(pool.map(ask, range(100)))
        output = process.log
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        to_stderr = [json.loads(line) for line in output.read_text().splitlines()]
    files = sorted((tmp_path / "logs").iterdir())
    assert all(re.fullmatch(r"image-classifier-\d{4}-\d\d-\d\d\.log", file.name) for file in files)
    in_files = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    for lines in (to_stderr, in_files):
        assert all(list(line)[:5] == ["time", "level", "request_id", "name", "message"] for line in lines)
        users = {line["request_id"]: line["user"] for line in lines if line["name"] == "access"}
        assert [users[request_id] for request_id in asked] == [f"user-{number}" for number in range(100)]
        # The master's own messages as well.
        assert any(line["name"] == "gunicorn.error" and "Starting gunicorn" in line["message"] for line in lines)
