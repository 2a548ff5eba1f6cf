"""The processes that are measured: one uvicorn worker each, the same command line for ours and for the others.

They run away from the project's folder, so that a developer's `.env` does not decide what is measured.
"""

import http.client
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from app.config.settings import PROJECT_ROOT
from bench.instant_model import MODEL
from bench.load import ANSWER_TIMEOUT_SECONDS, LoadError, Request
from tests.servers.processes import free_port, start_process

START_TIMEOUT_SECONDS = 180
STOP_TIMEOUT_SECONDS = 120
FIRST_QUESTION = Request("/api/v1/classify/check-cache", "application/json", b'{"image_hash": "%s"}' % (b"0" * 64))


@dataclass(frozen=True, slots=True)
class ServiceCommand:
    """How to start a service: `app` is module:name of `checkout`, `folder` where it runs.

    `environment` is all but PATH and PYTHONPATH.
    """

    name: str
    app: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    checkout: Path = PROJECT_ROOT


def our_service(
    name: str, database_url: str, folder: Path, *, model_url: str | None = None, **settings: str
) -> ServiceCommand:
    """Return ours, with the instant model at `model_url` (None: the local model) and files of its own in `folder`.

    `settings` are further variables, such as LOG_DURABILITY="async": answer before the rows are committed.
    """
    model = {"LLM_PROVIDER": "local"}
    if model_url is not None:
        model = {"LLM_PROVIDER": "custom", "LLM_BASE_URL": f"{model_url}/v1", "LLM_MODEL": MODEL}
    data = folder / name.replace(" ", "-")
    # The loads' new photos are one picture with other bytes: each but the first would be known by its looks.
    environment = {"DATA_DIR": str(data), "DATABASE_URL": database_url, "NEAR_DUPLICATES": "off", **model, **settings}
    return ServiceCommand(name, "app.main:app", folder, environment)


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. `start_seconds` is from exec to its first answer."""

    url: str
    pid: int
    start_seconds: float


@contextmanager
def start_service(command: ServiceCommand) -> Iterator[Service]:
    """Serve for the length of the block.

    Raises:
        ProcessFailedError: it did not start.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    asked_at: list[float] = []

    def answers() -> bool:
        # Asked the first time right after exec.
        asked_at.append(time.perf_counter())
        try:
            return post(url, FIRST_QUESTION)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    with start_process(
        # A connection that waits for the last answers of the others is not closed meanwhile.
        [
            *(sys.executable, "-m", "uvicorn", command.app, "--host", "127.0.0.1", "--port", str(port)),
            *("--no-access-log", "--timeout-keep-alive", str(ANSWER_TIMEOUT_SECONDS)),
        ],
        ready=answers,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(command.checkout), **command.environment},
        cwd=command.folder,
        ready_within_seconds=START_TIMEOUT_SECONDS,
        grace_seconds=STOP_TIMEOUT_SECONDS,
    ) as process:
        yield Service(url, process.pid, time.perf_counter() - asked_at[0])


def post(url: str, request: Request) -> tuple[int, bytes]:
    """Send one request; return status and body. Raises OSError and HTTPException."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_TIMEOUT_SECONDS)
    try:
        connection.request("POST", request.path, request.body, {"Content-Type": request.content_type})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def make_known(service: Service, upload: Request) -> None:
    """Have a photo classified, so that it is a hit from now on.

    Raises:
        LoadError: it was not.
    """
    status, body = post(service.url, upload)
    if status != http.HTTPStatus.OK:
        raise LoadError(f"the first upload was answered with {status}: {body[:300].decode('utf-8', 'replace')}")


def median_start_seconds(command: ServiceCommand, times: int) -> float:
    """Start and stop a service several times; return the median of its `start_seconds`."""
    seconds = []
    for _ in range(times):
        with start_service(command) as service:
            seconds.append(service.start_seconds)
    return statistics.median(seconds)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far: CPU time, and resident memory now and at its peak."""

    cpu_seconds: float
    resident_megabytes: float
    peak_megabytes: float


def read_usage(pid: int) -> Usage:
    """Read /proc (proc_pid_stat(5), proc_pid_status(5)); a megabyte is a million bytes."""
    # The command's name may hold anything and ends at the last ")"; utime and stime are the 12th and 13th after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, peak = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return Usage((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), resident, peak)
