"""nginx goes on while the containers behind it come and go: it asks Docker's DNS again and again where they are."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from app.errors import ServerBusy
from tests.servers.nginx import Nginx, modern_nginx, running_nginx
from tests.servers.processes import free_port
from tests.servers.waiting import wait_until
from tests.support.nginx_client import assert_is, client

FIRST, SECOND = "127.0.0.3", "127.0.0.4"


class NameServer:
    """A DNS server that knows one name, and where it is from one moment to the next: `addresses`."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.questions = 0
        self.is_silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def serve(self) -> None:
        """Answer until `stop` is called."""
        while True:
            question, sender = self._socket.recvfrom(512)
            if not question:
                return
            self.questions += 1
            # https://www.rfc-editor.org/rfc/rfc1035#section-4: an answer, its counts, the question as it was, addresses
            # for ten minutes as Docker says. An unknown name has none, as with "ndots" in docker-compose.yml.
            answer = question[:2] + b"\x81\x80\x00\x01" + len(self.addresses).to_bytes(2) + bytes(4) + question[12:]
            for address in self.addresses:
                answer += b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x02\x58\x00\x04" + socket.inet_aton(address)
            if not self.is_silent:
                self._socket.sendto(answer, sender)

    def stop(self) -> None:
        """End `serve`."""
        self._socket.sendto(b"", ("127.0.0.1", self.port))

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


@contextmanager
def name_server() -> Iterator[NameServer]:
    server = NameServer()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        server.close()


class Named(BaseHTTPRequestHandler):
    """Says at which address it was reached."""

    def do_GET(self) -> None:
        body = str(self.connection.getsockname()[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""


@contextmanager
def container(address: str, port: int) -> Iterator[None]:
    """What would be a container of the service at this address."""
    with ThreadingHTTPServer((address, port), Named) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def answering(nginx: Nginx) -> set[str]:
    with client(nginx) as api:
        return {answer.text if answer.is_success else "nobody" for answer in (api.get("/") for _ in range(8))}


def test_containers_come_and_go(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        names = stack.enter_context(name_server())
        for address in (FIRST, SECOND):
            stack.enter_context(container(address, port))
        nginx = stack.enter_context(
            running_nginx(
                tmp_path / "nginx",
                port,
                program=modern_nginx(),
                name_server_port=names.port,
                change=lambda text: text.replace("valid=2s", "valid=1s"),
            )
        )
        # It starts though there is no container yet.
        wait_until(lambda: names.questions > 0, "nginx asks where the service is")
        with client(nginx) as api:
            assert_is(ServerBusy, api.get("/"))
        for addresses in ({FIRST}, {SECOND}, {FIRST, SECOND}):
            names.addresses = sorted(addresses)
            wait_until(lambda expected=addresses: answering(nginx) == expected, f"{addresses} answer")  # type: ignore[misc]
        # A reload, for new certificates, forgets no container: what the old workers know counts until the DNS answers.
        names.is_silent = True
        old = workers_of(nginx)
        nginx.process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(workers_of(nginx)) and workers_of(nginx).isdisjoint(old), "there are new workers only")
        assert answering(nginx) == {FIRST, SECOND}


def workers_of(nginx: Nginx) -> set[str]:
    pid = nginx.process.pid
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())
