"""nginx with the project's own nginx.conf, of which only addresses and folders are replaced."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import PROJECT_ROOT
from tests.servers.certificates import write_certificates
from tests.servers.processes import RunningProcess, free_port, start_process
from tests.servers.programs import get_program


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx. `temporary` is where it would put bodies, `authority` the PEM file of who vouches for it."""

    process: RunningProcess
    port: int
    tls_port: int
    temporary: Path
    authority: Path


@contextmanager
def running_nginx(
    directory: Path,
    service_port: int,
    *,
    with_certificates: bool = False,
    change: Callable[[str], str] = lambda configuration: configuration,
) -> Iterator[Nginx]:
    """Run nginx before the service on `service_port` for the length of the block; its files are in `directory`.

    Args:
        change: what the test changes in the configuration, to see what it does.
    """
    program = get_program("nginx", "nginx-light", elsewhere="brew install nginx")
    port, tls_port = free_port(), free_port()
    certificates, temporary = directory / "ssl", directory / "tmp"
    certificates.mkdir(parents=True)
    temporary.mkdir()
    places = {
        "server api:8000;": f"server 127.0.0.1:{service_port};",
        # Every address of 127.0.0.0/8, so that a test can come from "outside".
        "listen 80 ": f"listen {port} ",
        "listen 443 ": f"listen {tls_port} ",
        "/etc/nginx/ssl/": f"{certificates}/",
        "/tmp/nginx": f"{temporary}/nginx",  # noqa: S108 - it is being replaced
    }
    if with_certificates:
        write_certificates(certificates)
        (certificates / "server.pem").rename(certificates / "cert.pem")
        (certificates / "server-key.pem").rename(certificates / "key.pem")
        snippet = (PROJECT_ROOT / "deploy/nginx/tls.conf").read_text(encoding="utf-8")
        (certificates / "tls.conf").write_text(_put(snippet, places), encoding="utf-8")
    configuration = directory / "nginx.conf"
    own = (PROJECT_ROOT / "nginx.conf").read_text(encoding="utf-8")
    configuration.write_text(change(_put(own, places)), encoding="utf-8")
    # As root, the workers would run as somebody who may not enter the test's folder.
    options = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")

    def is_ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with start_process([program, "-c", configuration, "-p", directory, "-g", options], ready=is_ready) as process:
        yield Nginx(process, port, tls_port, temporary, certificates / "ca.pem")


def _put(text: str, places: dict[str, str]) -> str:
    for old, new in places.items():
        text = text.replace(old, new)
    return text
