"""A real Caddy before the service: uploads, streams and sockets get through, and what is for inside does not."""

import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import connect

from app.database.tables.request_log import RequestLog
from tests.fakes.images import jpeg_photo, noisy_jpeg
from tests.servers.processes import answers_http, free_port, start_process
from tests.servers.programs import get_program
from tests.support.deploy_tools import DEPLOY, run_program
from tests.support.people import bearer, log_in, sign_up

CADDYFILE = DEPLOY / "Caddyfile"
ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@contextmanager
def caddy(service: str, folder: Path) -> Iterator[str]:
    """Run Caddy before the service at host:port, and yield its address; it keeps its files in `folder`."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "SITE_ADDRESS": f"http://127.0.0.1:{port}",
        "SERVICE": service,
    }
    # The one thing that a test has of its own: Caddy's door for administrators would be the same for all tests.
    config = folder / "Caddyfile"
    config.write_text(CADDYFILE.read_text().replace("grace_period 30s", "grace_period 1s\n\tadmin off"))
    command = [get_program("caddy", "caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    # It answers this itself: the service may be in the event loop that waits here.
    ready = partial(answers_http, port, "/metrics")
    with start_process(command, ready=ready, env=environment, cwd=folder):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def behind(service_url: str, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the service behind Caddy."""
    with caddy(service_url.removeprefix("http://"), tmp_path) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
            yield client


def test_caddy_takes_the_file() -> None:
    done = run_program("caddy", "caddy", "validate", "--adapter", "caddyfile", "--config", CADDYFILE)
    assert done.returncode == 0, done.stderr
    assert "not formatted" not in done.stderr


@ON_SQLITE
async def test_a_photo_is_classified_and_the_log_knows_whose_it_was(
    behind: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    answer = (await behind.post("/api/v1/classify", files={"image": jpeg_photo()}, headers=headers)).raise_for_status()
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]
    async with engine.connect() as connection:
        # Ours, and not what we claimed to be.
        assert await connection.scalar(select(RequestLog.ip_address)) == "127.0.0.1"


@ON_SQLITE
@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6detrics", "/api/v1/cache/00"]
)
async def test_what_is_for_inside_is_closed(behind: httpx2.AsyncClient, service: httpx2.AsyncClient, path: str) -> None:
    assert (await service.get("/metrics")).status_code == 200
    # As it is: a client would resolve the dots itself.
    url = behind.base_url.copy_with(raw_path=path.encode())
    answer = await behind.send(httpx2.Request("GET", url))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@ON_SQLITE
@pytest.mark.parametrize(("path", "key"), [("/", "links"), ("/health", "database"), ("/health/live", "status")])
async def test_the_short_paths_pass(behind: httpx2.AsyncClient, path: str, key: str) -> None:
    answer = await behind.get(path)
    assert answer.status_code == 200
    assert key in answer.json()


@ON_SQLITE
async def test_photos_up_to_the_limit_get_through_and_no_more(behind: httpx2.AsyncClient) -> None:
    photo = noisy_jpeg(700, 500)
    largest = photo + bytes(10 * 1024 * 1024 - len(photo))
    answer = await behind.post("/api/v1/classify", files={"image": largest})
    assert answer.status_code == 200, answer.text
    assert (await behind.post("/api/v1/classify", files={"image": largest + b"0"})).status_code == 413
    answer = await behind.post("/api/v1/classify/batch", files=[("image", largest) for _ in range(3)])
    assert answer.status_code == 200, answer.text
    answer = await behind.post("/api/v1/classify/check-cache", json={"image_hash": "0" * 200_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


@ON_SQLITE
async def test_streams_and_sockets_are_not_held_back(behind: httpx2.AsyncClient) -> None:
    await sign_up(behind)
    token = await log_in(behind)
    async with behind.stream("GET", "/images/inference/events", headers=bearer(token)) as stream:
        assert stream.status_code == 200
        first = await anext(stream.aiter_lines())
        assert first
    address = str(behind.base_url).replace("http://", "ws://").rstrip("/")
    async with connect(f"{address}/ws/inference?token={token}") as socket:
        assert json.loads(await socket.recv())["event"] == "hello"


@contextmanager
def caddy_with_tls(folder: Path) -> Iterator[int]:
    """Run Caddy for the name "localhost", with what is there as a comment; yield the port without TLS."""
    port = free_port()
    options = f"grace_period 1s\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\thttp_port {port}\n"
    text = CADDYFILE.read_text().replace("grace_period 30s", f"{options}\thttps_port {free_port()}")
    text = re.sub(r"^# (http:// \{|\t.*|\})$", r"\1", text, flags=re.MULTILINE)
    config = folder / "Caddyfile"
    config.write_text(text)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "SITE_ADDRESS": "localhost",
        "SERVICE": f"127.0.0.1:{free_port()}",
    }
    command = [get_program("caddy", "caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
    # Where it listens is all that is asked: its certificate is one that no client knows.
    with start_process(command, ready=partial(answers_http, port, "/"), env=environment, cwd=folder):
        yield port


def test_nobody_is_redirected_to_a_name_that_a_client_invented(tmp_path: Path) -> None:
    with caddy_with_tls(tmp_path) as port, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        ours = client.get("/x?y=1", headers={"Host": "localhost"})
        assert (ours.status_code, ours.headers["Location"]) == (308, "https://localhost/x?y=1")
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1"):
            other = client.get("/", headers={"Host": name})
            assert (other.status_code, other.json()["error"]["code"]) == (421, "misdirected_request"), name
            assert "Location" not in other.headers
            assert other.headers["X-Content-Type-Options"] == "nosniff"


@ON_SQLITE
async def test_its_answers_say_to_browsers_what_the_services_say(behind: httpx2.AsyncClient) -> None:
    ours, own = await behind.get("/api/v1/health/live"), await behind.get("/metrics")
    assert (ours.status_code, own.status_code) == (200, 404)
    for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Content-Security-Policy"):
        assert own.headers.get_list(name) == ours.headers.get_list(name) != []
    assert "Strict-Transport-Security" not in own.headers


def test_a_service_that_is_away_is_a_503_in_our_format(tmp_path: Path) -> None:
    with caddy(f"127.0.0.1:{free_port()}", tmp_path) as url:
        answer = httpx2.get(f"{url}/api/v1/health", timeout=120)
    # A page of another origin may read it, as it may the service's.
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_busy")
    assert answer.headers["Retry-After"] == "5"
