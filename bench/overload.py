"""`python -m bench.overload`: what becomes of gunicorn under ten times the load that it can carry.

wrk keeps so many connections busy that the workers have no time left, then ten times as many. Beside it, one client
asks for a known photo and one for `/health` and `/health/live`, both ten times a second: the time of an accepted
request and of the health checks is theirs. The CPU time is that of the workers for each answer with status 200: on a
machine that the load generator and others share it says more than the rate. MySQL and a model that answers at once.
"""

import argparse
import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

from app.config.settings import PROJECT_ROOT
from bench.command import add_setting_option, run_command
from bench.databases import MysqlServer, mysql_server
from bench.load import LoadError, Request
from bench.report import render_table
from bench.requests import check_known, make_photo, upload_known, upload_new
from bench.services import ServiceCommand, our_service, post, read_usage, start_service
from bench.wrk import Wrk
from tests.servers.processes import answers_http, free_port, start_process
from tests.support.running import children

SCRIPT = Path(__file__).with_name("overload.lua")
TIMES = 10
PAUSE_SECONDS = 0.1
PATIENCE_SECONDS = 60
COLUMNS = (
    *("workers", "requests", "connections", "answers/s", "503", "errors", "p99 ms", "slowest accepted s"),
    *("/health s", "/health/live s", "CPU µs", "MB"),
)


@dataclass(slots=True)
class Probe:
    """Asks one address over and over on new connections; seconds that each answer took, by status."""

    port: int
    request: tuple[str, str, bytes, str]
    took: dict[int, list[float]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask until `stop`; status 0 is no answer."""
        method, path, body, content_type = self.request
        while not self.stop.wait(PAUSE_SECONDS):
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
            try:
                connection.request(method, path, body, {"Content-Type": content_type})
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                status = 0
            finally:
                connection.close()
            self.took.setdefault(status, []).append(time.monotonic() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=PROJECT_ROOT, help="whose service is measured (this one)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=int, default=10, help="of each load (10)")
    parser.add_argument("--bursts", type=int, default=1, help="how often the tenfold load comes (1)")
    parser.add_argument("--only", nargs="+", default=["hits", "hits-new", "known", "new"])
    add_setting_option(parser)
    return run_command(partial(_run, parser.parse_args(arguments)))


def _run(given: argparse.Namespace, wrk: Wrk) -> None:
    photo = make_photo()
    # What saturates one worker by far; ten times as many follow.
    loads = {
        "hits": (check_known(photo), 320, "keep"),
        "hits-new": (check_known(photo), 100, "close"),
        "known": (upload_known(photo), 16, "keep"),
        "new": (upload_new(photo), 16, "keep"),
    }
    cells: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(mysql_server())
        model = stack.enter_context(start_service(ServiceCommand("model", "bench.instant_model:app", folder)))
        for workers in given.workers:
            for kind in given.only:
                request, connections, how = loads[kind]
                rows = _measure(wrk, server, model.url, folder, given, workers, photo, request, connections, how)
                for row in rows:
                    cells.append([str(workers), kind, *row])
                    print(" ".join(cells[-1]), file=sys.stderr)
    print(render_table(COLUMNS, 1, cells))


def _measure(
    wrk: Wrk,
    server: MysqlServer,
    model_url: str,
    folder: Path,
    given: argparse.Namespace,
    workers: int,
    photo: bytes,
    request: Request,
    connections: int,
    how: str,
) -> list[list[str]]:
    port = free_port()
    checkout = given.checkout.resolve()
    command = [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn_config.py", "app.main:app"]
    # At such a rate a worker would be replaced in the midst of it, which `bench.restarts` measures.
    command += ["--max-requests", "0"]
    with server.database() as database:
        variables = our_service(uuid4().hex, database.url, folder, model_url=model_url, **dict(given.settings))
        environment = {
            "PATH": os.environ["PATH"],
            "APP_PORT": str(port),
            "APP_HOST": "127.0.0.1",
            "PYTHONPATH": str(checkout),
            "WEB_CONCURRENCY": str(workers),
            **variables.environment,
        }
        with start_process(
            command,
            ready=lambda: answers_http(port, "/api/v1/health/live"),
            env=environment,
            cwd=checkout,
            grace_seconds=30,
        ) as process:
            url = f"http://127.0.0.1:{port}"
            status, _ = post(url, upload_known(photo))
            if status != http.HTTPStatus.OK:
                raise LoadError(f"the first upload was answered with {status}")
            time.sleep(2)
            _load(wrk, port, request, connections, 3, how)
            rows = []
            for number in (connections, *[TIMES * connections] * given.bursts):
                hit = check_known(photo)
                probes = [
                    Probe(port, ("POST", hit.path, hit.body, hit.content_type)),
                    Probe(port, ("GET", "/api/v1/health", b"", "text/plain")),
                    Probe(port, ("GET", "/api/v1/health/live", b"", "text/plain")),
                ]
                threads = [threading.Thread(target=probe.run) for probe in probes]
                for thread in threads:
                    thread.start()
                before = _usage(process.pid)
                result = _load(wrk, port, request, number, given.seconds, how)
                usage = _usage(process.pid)
                for probe, thread in zip(probes, threads, strict=True):
                    probe.stop.set()
                    thread.join()
                rows.append(_row(result, number, probes, usage[0] - before[0], usage[1]))
            return rows


def _usage(master: int) -> tuple[float, float]:
    """CPU time of all workers so far, in seconds, and their memory, in megabytes."""
    workers = [read_usage(pid) for pid in children(master)]
    return sum(each.cpu_seconds for each in workers), sum(each.resident_megabytes for each in workers)


def _row(result: dict[str, float], connections: int, probes: list[Probe], cpu: float, memory: float) -> list[str]:
    accepted, *health = (probe.took for probe in probes)
    bad = sum(len(took) for each in health for status, took in each.items() if status != http.HTTPStatus.OK)
    return [
        str(connections),
        f"{result['ok'] / result['seconds']:.0f}",
        f"{result['full'] / max(1, result['ok'] + result['full']):.0%}",
        f"{result['other'] + result['socket_errors']:.0f}+{bad}",
        f"{result['p99_ms']:.0f}",
        f"{max(accepted.get(200, [0.0])):.2f}",
        *(f"{max(max(took) for took in each.values()):.2f}" for each in health),
        f"{cpu * 1e6 / max(1, result['ok']):.0f}",
        f"{memory:.0f}",
    ]


def _load(wrk: Wrk, port: int, request: Request, connections: int, seconds: int, how: str) -> dict[str, float]:
    with tempfile.NamedTemporaryFile(prefix="bench-") as body:
        body.write(request.body)
        body.flush()
        done = subprocess.run(  # noqa: S603 - the load generator, with arguments of our own
            [
                *(wrk.program, "--threads", "1", "--connections", str(connections), "--latency"),
                *("--timeout", f"{PATIENCE_SECONDS}s", "--duration", f"{seconds}s", "--script", SCRIPT),
                *(f"http://127.0.0.1:{port}{request.path}", "--", request.content_type, body.name),
                *(secrets.token_hex(8), how),
            ],
            env=wrk.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    for line in done.stdout.splitlines():
        if line.startswith("result "):
            result: dict[str, float] = json.loads(line.removeprefix("result "))
            return result
    raise LoadError(f"wrk said: {done.stdout[-500:]} {done.stderr[-500:]}")


if __name__ == "__main__":
    sys.exit(main())
