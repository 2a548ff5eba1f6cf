"""nginx.conf, in a real nginx before a real gunicorn: what passes, what does not, and what it leaves behind."""

import asyncio
import json
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from app.api.routes.classify import MAX_IMAGES_PER_CALL
from app.api.uploads import OVERHEAD_MAX_BYTES
from app.config.settings import PROJECT_ROOT, Settings
from app.errors import ImageTooLarge, NotFound, PayloadTooLarge, ServerBusy
from app.main import JSON_BODY_MAX_BYTES
from tests.deploy.conftest import ADMIN_KEY, Site
from tests.fakes.images import jpeg_photo, noisy_jpeg
from tests.servers.nginx import Nginx, running_nginx
from tests.servers.processes import free_port
from tests.servers.programs import get_program
from tests.servers.waiting import wait_until
from tests.support.nginx_client import CLASSIFY, OUTSIDE, assert_is, client
from tests.support.people import USER
from tests.support.running import hidden_files

HASH = "0" * 64


def form(size: int) -> tuple[bytes, dict[str, str]]:
    """A multipart form of `size` bytes with one part that begins like a photo."""
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n\xff\xd8\xff'
    tail = b"\r\n--b--\r\n"
    return head + bytes(size - len(head) - len(tail)) + tail, {"Content-Type": "multipart/form-data; boundary=b"}


def test_the_log_has_the_clients_address_and_both_ids(site: Site) -> None:
    with client(site.plain) as api:
        headers = {"X-Request-ID": "gateway-17", "X-Forwarded-For": "203.0.113.9"}
        answer = api.post(CLASSIFY, files={"image": jpeg_photo(70, 50)}, headers=headers)
        assert answer.status_code == 200, answer.text
        request_id = answer.json()["request_id"]
        assert answer.headers.get_list("X-Request-ID") == [request_id]
        api.get("/api/v1/health/live", headers={"X-Request-ID": 'no" id'})
    with sqlite3.connect(site.database) as connection:
        found = connection.execute("SELECT ip_address FROM request_log WHERE request_id = ?", [request_id]).fetchall()
    connection.close()
    assert found == [(OUTSIDE,)]
    wait_until(lambda: "health/live" in site.plain.process.output(), "nginx has written its log")
    lines = site.plain.process.output().splitlines()
    assert any(f"id={request_id} edge=gateway-17 " in line and line.startswith(f"{OUTSIDE} ") for line in lines)
    assert any(re.search(r"health/live .* edge=req_\d{10}_[0-9a-f]{12} ", line) for line in lines)


def test_its_limits_are_the_services_own() -> None:
    settings = Settings()
    form_limit = settings.image.max_size_bytes + OVERHEAD_MAX_BYTES
    batch_limit = MAX_IMAGES_PER_CALL * settings.image.max_size_bytes + OVERHEAD_MAX_BYTES
    text = "".join((PROJECT_ROOT / name).read_text("utf-8") for name in ("nginx.conf", "deploy/nginx/service.conf"))
    found = [1024 * int(kilobytes) for kilobytes in re.findall(r"client_max_body_size (\d+)k;", text)]
    assert found == [JSON_BODY_MAX_BYTES, form_limit, form_limit, batch_limit]
    assert settings.library.max_upload_bytes == settings.image.max_size_bytes
    [buffer] = re.findall(r"client_body_buffer_size (\d+)k;", text)
    assert 1024 * int(buffer) == JSON_BODY_MAX_BYTES


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_upload_over_the_limit_gets_the_same_answer_from_both(site: Site, beyond: int) -> None:
    """At the limit the service says it, which counts a photo in it that is too large; one byte more, and nginx does."""
    content, headers = form(10304 * 1024 + beyond)
    with client(site.plain) as api:
        answer = api.post(CLASSIFY, content=content, headers=headers)
    assert_is(ImageTooLarge, answer)
    assert (answer.json()["error"]["details"] is None) is bool(beyond)


def test_a_photo_of_just_the_limit_passes(site: Site) -> None:
    photo = jpeg_photo(640, 480)
    comment = b"\xff\xfe\xff\xff" + bytes(65_533)
    room = 10 * 1024 * 1024 - len(photo)
    filling = comment * (room // len(comment))
    rest = room - len(filling)
    photo = photo[:2] + filling + b"\xff\xfe" + (rest - 2).to_bytes(2) + bytes(rest - 4) + photo[2:]
    assert len(photo) == 10 * 1024 * 1024
    with client(site.plain) as api:
        assert api.post(CLASSIFY, files={"image": photo}).status_code == 200


@pytest.mark.parametrize(("beyond", "status"), [(0, 400), (1, 413)])
def test_other_bodies_are_small(site: Site, beyond: int, status: int) -> None:
    with client(site.plain) as api:
        answer = api.post(f"{CLASSIFY}/check-cache", content=b"x" * (JSON_BODY_MAX_BYTES + beyond))
    assert answer.status_code == status
    if beyond:
        assert_is(PayloadTooLarge, answer)


def test_a_batch_is_refused_before_it_is_sent(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.plain.port), timeout=120) as connection:
        length = 204864 * 1024 + 1
        connection.sendall(f"POST {CLASSIFY}/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        head = connection.recv(65536).decode()
    assert head.startswith("HTTP/1.1 413 ")
    assert PayloadTooLarge.code in head


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "/%6detrics", "/metrics?x=1", f"/api/v1/cache/{HASH}", "/api/v1/cache"],
)
def test_what_is_not_for_everybody_is_closed(site: Site, path: str) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    before, passed_on = logged(site.plain, "DELETE"), logged(site.plain, "upstream=127")
    with client(site.plain) as api:
        for method in ("GET", "PUT", "DELETE"):
            assert_is(NotFound, api.request(method, path, headers=headers))
    wait_until(lambda: logged(site.plain, "DELETE") > before, "nginx has logged it")
    assert logged(site.plain, "upstream=127") == passed_on


@pytest.mark.parametrize(("path", "key"), [("/", "links"), ("/health", "database"), ("/health/live", "status")])
def test_the_short_paths_pass(site: Site, path: str, key: str) -> None:
    with client(site.plain) as api:
        answer = api.get(path)
    assert answer.status_code == 200
    assert key in answer.json()


def logged(nginx: Nginx, words: str) -> int:
    return sum(words in line for line in nginx.process.output().splitlines())


@pytest.mark.parametrize(
    "path", ["//metrics", "/metrics/../x", "/x/%2e%2e/metrics", "/api/v1/cache/..%2fx", "/./metrics", "/..", "/%00"]
)
def test_odd_paths_lead_nowhere(site: Site, path: str) -> None:
    """As they are: a client would tidy them up."""
    before = logged(site.plain, "upstream=-")
    with socket.socket() as connection:
        connection.settimeout(10)
        connection.bind((OUTSIDE, 0))
        connection.connect(("127.0.0.1", site.plain.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 40")
    assert b'{"success":false,"error":{"code":"' in answer
    wait_until(lambda: logged(site.plain, "upstream=-") > before, "nginx has logged that it asked no server")


def test_administrators_come_from_the_container_itself(site: Site) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with client(site.plain, source="127.0.0.1") as api:
        answer = api.delete(f"/api/v1/cache/{HASH}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "cache_entry_not_found")


def test_connections_to_the_service_are_kept(site: Site) -> None:
    for _ in range(6):
        with client(site.plain) as api:
            api.get("/api/v1/health/live")
    assert open_connections(site.port) > 0


def open_connections(port: int) -> int:
    """Connections to a port of this machine: https://docs.kernel.org/networking/proc_net_tcp.html, 01 is "open"."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def bodies_in_files(nginx: Nginx) -> list[str]:
    """Files of nginx with something in them, also those without a name, which is how it keeps bodies."""
    named = [str(path) for path in nginx.temporary.rglob("*") if path.is_file() and path.name != "nginx.pid"]
    return named + hidden_files(nginx.process.pid, (nginx.process.log,))


def test_no_photo_touches_nginxs_disk(site: Site) -> None:
    """Of an upload on its way, the service has what nginx has been sent, and nginx no file."""
    with upload_on_its_way(site.plain):
        # For a while: when nginx reads what was sent cannot be seen from outside.
        for _ in range(25):
            assert bodies_in_files(site.plain) == []
            time.sleep(0.02)


def test_with_buffering_it_would(site: Site, tmp_path: Path) -> None:
    """The test above looks in the right place."""
    changed = running_nginx(
        tmp_path / "buffering", site.port, change=lambda text: text.replace("proxy_request_buffering off;", "")
    )
    with changed as nginx, upload_on_its_way(nginx):
        wait_until(lambda: bodies_in_files(nginx) != [], "nginx writes a body into a file")


@contextmanager
def upload_on_its_way(nginx: Nginx) -> Iterator[None]:
    """An upload of which 2 MB have been read by nginx: more than all buffers on the way to it hold."""
    content, _ = form(8 * 1024 * 1024)
    head = (
        f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=120) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        connection.sendall(head.encode() + content[: 7 * 1024 * 1024])
        yield


# ----- TLS and HTTP/2


def curl(nginx: Nginx, *options: str) -> str:
    command = [get_program("curl", "curl"), "--silent", "--show-error", "--cacert", str(nginx.authority), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603 - curl


def test_certificates_bring_tls_and_http_2(site: Site, tmp_path: Path) -> None:
    base = f"https://localhost:{site.encrypted.tls_port}"
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(noisy_jpeg(800, 600))
    said = curl(site.encrypted, "--form", f"image=@{photo}", "--write-out", "\n%{http_version}", base + CLASSIFY)
    body, version = said.rsplit("\n", 1)
    assert (json.loads(body)["success"], version) == (True, "2")
    too_large = tmp_path / "large.jpg"
    too_large.write_bytes(bytes(11 * 1024 * 1024))
    refused = curl(site.encrypted, "--form", f"image=@{too_large}", base + CLASSIFY)
    assert json.loads(refused)["error"]["code"] == ImageTooLarge.code
    assert bodies_in_files(site.encrypted) == []


def test_without_tls_one_is_sent_to_it(site: Site) -> None:
    with client(site.encrypted) as api:
        for name in ("photos.example.com", "PHOTOS.example.com:8080", "a.photos.example.org"):
            answer = api.post(f"{CLASSIFY}?x=1", headers={"Host": name})
            address = f"https://{name.partition(':')[0].lower()}{CLASSIFY}?x=1"
            # With 301, many clients would ask there with GET.
            assert (answer.status_code, answer.headers["Location"]) == (308, address)


def test_old_protocols_are_refused(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.encrypted.authority))
    with (
        socket.create_connection(("127.0.0.1", site.encrypted.tls_port)) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as encrypted,
    ):
        assert encrypted.version() == "TLSv1.3"


# ----- what stays open


def token_of(nginx: Nginx) -> str:
    with client(nginx) as api:
        api.post("/users/", json=USER)
        answer = api.post("/users/token", data={"username": USER["username"], "password": USER["password"]})
    return str(answer.json()["access_token"])


async def hello_over_websocket(url: str, **options: object) -> str:
    async with asyncio.timeout(120), connect(url, proxy=None, **options) as connection:  # type: ignore[arg-type]
        return str(await connection.recv())


async def test_websockets_pass_and_their_tokens_are_in_no_log(site: Site) -> None:
    token = token_of(site.plain)
    path = f"/ws/inference?token={token}"
    assert "hello" in await hello_over_websocket(f"ws://127.0.0.1:{site.plain.port}{path}")
    context = ssl.create_default_context(cafile=str(site.encrypted.authority))
    url = f"wss://localhost:{site.encrypted.tls_port}{path}"
    assert "hello" in await hello_over_websocket(url, ssl=context)
    for nginx in (site.plain, site.encrypted):
        wait_until(lambda nginx=nginx: "/ws/inference HTTP" in nginx.process.output(), "nginx has logged it")  # type: ignore[misc]
        assert token not in nginx.process.output()


def test_events_arrive_at_once(site: Site) -> None:
    headers = {"Authorization": f"Bearer {token_of(site.plain)}"}
    with client(site.plain) as api, api.stream("GET", "/images/inference/events", headers=headers) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        # The stream goes on for as long as one listens; what is read here is there without its end.
        lines = answer.iter_lines()
        assert next(lines).startswith("id: ")
        assert '"event":"hello"' in next(lines)


def test_a_service_that_is_away_is_said_in_the_one_format(tmp_path: Path) -> None:
    token = "a-token-that-belongs-into-no-log"
    with running_nginx(tmp_path / "alone", free_port()) as nginx, client(nginx) as api:
        answer = api.get("/api/v1/health")
        assert_is(ServerBusy, answer)
        assert answer.headers["Retry-After"] == "5"
        assert api.get(f"/ws/inference?token={token}").status_code == ServerBusy.status
        wait_until(lambda: "/ws/inference HTTP" in nginx.process.output(), "nginx has logged it")
        output = nginx.process.output()
        assert "/api/v1/health" in output
        assert token not in output


def test_it_finishes_an_upload_before_it_leaves(site: Site, tmp_path: Path) -> None:
    """SIGQUIT is what nginx's image is stopped with."""
    content, headers = form(4096)
    head = f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
    head += f"Content-Type: {headers['Content-Type']}\r\n\r\n"
    with (
        running_nginx(tmp_path / "leaving", site.port) as nginx,
        socket.create_connection(("127.0.0.1", nginx.port), timeout=120) as connection,
    ):
        connection.sendall(head.encode() + content[:100])
        wait_until(lambda: open_connections(site.port) > 0, "the upload has reached the service")
        nginx.process.send_signal(signal.SIGQUIT)
        assert nginx.process.wait(0.5) is None
        connection.sendall(content[100:])
        answer = connection.recv(65536)
        assert b"unsupported_image_format" in answer or b"corrupt_image" in answer
        connection.close()
        assert nginx.process.wait(120) == 0
