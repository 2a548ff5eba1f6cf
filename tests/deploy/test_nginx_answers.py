"""What nginx.conf answers by itself, and that what stands in it as a comment works when it is uncommented."""

import re
import signal
import socket
import ssl
from pathlib import Path

import httpx2
import pytest

from app.errors import ImageTooLarge, InvalidRequest, MisdirectedRequest, NotFound, ServerBusy
from tests.deploy.conftest import Site
from tests.servers.nginx import add_certificates, modern_nginx, running_nginx
from tests.servers.processes import answers_http, free_port
from tests.servers.waiting import wait_until
from tests.support.nginx_client import CLASSIFY, OUTSIDE, assert_is, client

HOST = b"Host: x\r\nConnection: close\r\n"


def sent_as_it_is(port: int, request: bytes) -> httpx2.Response:
    """Send bytes that no client would send, and return the answer to them."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(request)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx2.Response(int(status.split()[1]), headers=headers, content=body)  # type: ignore[arg-type]  # pairs


@pytest.mark.parametrize(
    "request_line_and_headers",
    [
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 40_000 + b"\r\n" + HOST,
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST,
        b"GET / HTTP/3.0\r\n" + HOST,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + HOST,
        b"GET / HTTP/1.1\r\nHost: two\r\n" + HOST,
    ],
    ids=["headers too large", "address too long", "unknown HTTP", "unknown encoding", "two hosts"],
)
def test_what_cannot_be_read_is_refused_in_the_one_format(site: Site, request_line_and_headers: bytes) -> None:
    assert_is(InvalidRequest, sent_as_it_is(site.plain.port, request_line_and_headers + b"\r\n"))


def test_no_tls_on_the_port_for_it_is_refused_in_the_one_format(site: Site) -> None:
    assert_is(InvalidRequest, sent_as_it_is(site.encrypted.tls_port, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"))


SECURITY_HEADERS = ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Content-Security-Policy")


def security_of(answer: httpx2.Response) -> dict[str, list[str]]:
    """What an answer says to browsers; each header once, if at all."""
    return {name: answer.headers.get_list(name) for name in (*SECURITY_HEADERS, "Strict-Transport-Security")}


def test_its_answers_say_to_browsers_what_the_services_say(site: Site, tmp_path: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(site.encrypted.authority))
    outside = httpx2.HTTPTransport(local_address=OUTSIDE, verify=trusted)
    with client(site.plain) as plain, client(site.encrypted) as redirecting:
        expected = security_of(plain.get("/api/v1/health/live"))
        assert all(len(expected[name]) == 1 for name in SECURITY_HEADERS)
        too_large = plain.post(CLASSIFY, content=bytes(11 * 1024 * 1024))
        closed = plain.get("/metrics")
        redirected = redirecting.get("/", headers={"Host": "photos.example.com"})
        unknown = redirecting.get("/", headers={"Host": "evil.example"})
    assert [answer.status_code for answer in (too_large, closed, redirected, unknown)] == [413, 404, 308, 421]
    unreadable = sent_as_it_is(site.plain.port, b"GET / HTTP/3.0\r\n" + HOST + b"\r\n")
    for answer in (too_large, closed, redirected, unknown, unreadable):
        assert security_of(answer) == expected, answer.status_code
    with httpx2.Client(base_url=f"https://localhost:{site.encrypted.tls_port}", transport=outside) as encrypted:
        assert security_of(encrypted.get("/metrics")) == security_of(encrypted.get("/api/v1/health/live"))
        assert encrypted.get("/metrics").headers["Strict-Transport-Security"] == "max-age=31536000"
    with running_nginx(tmp_path / "alone", free_port()) as nginx, client(nginx) as api:
        away = api.get("/api/v1/health")
    assert away.status_code == 503
    assert security_of(away) == expected


@pytest.mark.parametrize(
    "request_line_and_host",
    [
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: photos.example.com\r\n",
        b"GET / HTTP/1.1\r\nHost: photos.example.com.evil.example\r\n",
        b"GET / HTTP/1.1\r\nHost: xphotos.example.com\r\n",
        b"GET / HTTP/1.0\r\n",
    ],
    ids=["another", "absolute", "longer", "like ours", "none"],
)
def test_nobody_is_redirected_to_a_name_that_a_client_invented(site: Site, request_line_and_host: bytes) -> None:
    request = request_line_and_host + b"Connection: close\r\n\r\n"
    answer = sent_as_it_is(site.encrypted.port, request)
    assert "Location" not in answer.headers
    assert_is(MisdirectedRequest, answer)


def test_without_names_nobody_is_redirected_anywhere(site: Site, tmp_path: Path) -> None:
    with running_nginx(tmp_path / "site", site.port) as nginx, client(nginx) as api:
        add_certificates(tmp_path / "site")
        (tmp_path / "site/ssl/site/names.conf").unlink()
        nginx.process.send_signal(signal.SIGHUP)
        named = {"Host": "photos.example.com", "Connection": "close"}
        answers: list[httpx2.Response] = []

        def is_of_a_new_worker() -> bool:
            answers.append(api.get("/", headers=named))
            return answers[-1].status_code != 200

        # For a moment old and new workers accept connections beside each other.
        wait_until(is_of_a_new_worker, "the new workers answer")
        assert_is(MisdirectedRequest, answers[-1])


def test_pages_of_other_origins_may_read_its_errors(site: Site, tmp_path: Path) -> None:
    """As they may read the service's; a browser would tell its page of a broken network instead."""
    origin = {"Origin": "https://app.example.com"}
    with client(site.plain) as api:
        answer = api.post(CLASSIFY, content=bytes(11 * 1024 * 1024), headers=origin)
        assert_is(ImageTooLarge, answer)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        # The service's own header, and no second one of nginx's.
        answer = api.get("/api/v1/health/live", headers=origin)
        assert answer.headers.get_list("Access-Control-Allow-Origin") == ["*"]
        assert len(answer.headers.get_list("X-Request-ID")) == 1
    with running_nginx(tmp_path / "alone", free_port()) as nginx, client(nginx) as api:
        answer = api.get("/api/v1/health", headers=origin)
        assert_is(ServerBusy, answer)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Expose-Headers"] == "X-Request-ID, Retry-After"


def test_certificates_switch_tls_on(site: Site, tmp_path: Path) -> None:
    """A reload is enough, and no request is interrupted by it."""
    with running_nginx(tmp_path / "site", site.port) as nginx, client(nginx) as api:
        assert api.get("/api/v1/health/live").status_code == 200
        add_certificates(tmp_path / "site")
        nginx.process.send_signal(signal.SIGHUP)
        trusted = ssl.create_default_context(cafile=str(nginx.authority))
        wait_until(lambda: answers_http(nginx.tls_port), "nginx listens on the port for TLS")
        outside = httpx2.HTTPTransport(local_address=OUTSIDE, verify=trusted)
        with httpx2.Client(base_url=f"https://localhost:{nginx.tls_port}", transport=outside) as encrypted:
            assert encrypted.get("/api/v1/health/live").status_code == 200
            assert_is(NotFound, encrypted.get("/metrics"))


def uncommented(text: str) -> str:
    """Every comment that is a directive or a location becomes one."""
    text = re.sub(r"^( *)# ((?:location /.* \{.*\}|(?!docker )[a-z_]+ [^ ].*;))$", r"\1\2", text, flags=re.MULTILINE)
    # The proxy that stands before this one is the test.
    return text.replace("set_real_ip_from 10.0.0.0/8;", "set_real_ip_from 127.0.0.1;")


@pytest.mark.parametrize("age", ["old", "new"])
def test_what_is_there_as_a_comment_works(site: Site, tmp_path: Path, age: str) -> None:
    program = modern_nginx() if age == "new" else None
    changed = running_nginx(tmp_path / "all", site.port, with_certificates=True, program=program, change=uncommented)
    with changed as nginx:
        said = "".join(
            path.read_text() for path in [tmp_path / "all/nginx.conf", *(tmp_path / "all/service").iterdir()]
        )
        wanted = ["limit_req_zone", "limit_conn_zone", "limit_req", "limit_conn", "set_real_ip_from", "real_ip_header"]
        for directive in [*wanted, "real_ip_recursive", "location /demo"]:
            assert re.search(rf"^ *{directive} ", said, re.MULTILINE), directive
        trusted = ssl.create_default_context(cafile=str(nginx.authority))
        with httpx2.Client(base_url=f"https://localhost:{nginx.tls_port}", verify=trusted) as api:
            for path in ("/demo", "/docs", "/openapi.json"):
                assert api.get(path).status_code == 404, path
            # As comments have it, another proxy says who the client is: one of the internet here.
            outside = {"X-Forwarded-For": "203.0.113.9"}
            for path in (
                "/dashboard",
                "/dashboard/events",
                "/review",
                "/api/v1/review/entries",
                "/api/v1/stats/today",
                "/api/v1/%73tats/",
                "/api/v1/requests/x",
            ):
                assert api.get(path, headers=outside).status_code == 404, path
                # From inside it is the service that wants a key.
                assert api.get(path).status_code == 401, path
            assert api.get("/api/v1/categories").headers["Strict-Transport-Security"] == "max-age=31536000"
            # 50 at once, then five each second.
            answers = [api.post(CLASSIFY, content=b"") for _ in range(60)]
        refused = [answer for answer in answers if answer.status_code == ServerBusy.status]
        assert 0 < len(refused) < 12
        assert_is(ServerBusy, refused[0])
        assert refused[0].headers["Retry-After"] == "5"
