"""Uploads that promise much and send next to nothing stop no other upload, through nginx as little as directly."""

import socket
from contextlib import ExitStack

import pytest

from tests.deploy.conftest import Site
from tests.fakes.images import jpeg_photo
from tests.support.nginx_client import CLASSIFY, client

SLOW = "127.0.0.3"
PROMISE = (
    f"POST {CLASSIFY}/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {128 * 1024 * 1024 // 5}\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    '--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
).encode()


@pytest.mark.parametrize("is_direct", [False, True])
def test_five_connections_that_send_next_to_nothing_refuse_no_upload(site: Site, *, is_direct: bool) -> None:
    port = site.port if is_direct else site.plain.port
    with ExitStack() as stack, client(site.plain) as api:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), source_address=(SLOW, 0)))
            for _ in range(5)
        ]
        for connection in slow:
            connection.sendall(PROMISE)
        for seed in range(12):
            photo = jpeg_photo(300 + seed, 200 + is_direct) + bytes(3_000_000)
            answer = api.post(CLASSIFY, files={"image": photo})
            assert answer.status_code == 200, answer.text
        for connection in slow:
            connection.settimeout(120)
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
