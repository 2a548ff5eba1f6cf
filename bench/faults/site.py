"""What one fault happens to: MySQL, a model and perhaps Redis, which can all fail, and gunicorn with two workers."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.config.settings import PROJECT_ROOT
from bench.faults.database import DatabaseServer
from bench.faults.load import Load
from bench.faults.model import PaidModel
from bench.faults.proxy import DatabaseProxy, running_proxy
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.servers.redis import running_redis

WORKERS = 2
START_WITHIN_SECONDS = 90.0
STOP_WITHIN_SECONDS = 120.0
GUNICORN = Path(sys.executable).parent / "gunicorn"
# One attempt in seconds, and further ones: no request waits for a slow model for the minutes that it may by default.
MODEL_SETTINGS = {"LLM_TIMEOUT": "3", "LLM_MAX_RETRIES": "1"}
CALL_PRICE = "0.01"


@dataclass(slots=True)
class Site:
    """All parts, free to be broken; `service` is gunicorn's master process, `notes` what a fault has to say."""

    folder: Path
    database: DatabaseServer
    model: PaidModel
    port: int
    load: Load
    environment: dict[str, str] = field(repr=False)
    options: Sequence[str | Path] = ()
    proxy: DatabaseProxy | None = None
    redis: RunningProcess | None = None
    redis_port: int = 0
    service: RunningProcess | None = None
    notes: list[str] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def proxy_in_use(self) -> DatabaseProxy:
        """The proxy of a site that has one."""
        if self.proxy is None:
            raise RuntimeError("this site has no proxy")
        return self.proxy

    @property
    def data(self) -> Path:
        """DATA_DIR of the service."""
        return self.folder / "data"

    def start_service(self) -> None:
        """Start gunicorn and return when a worker answers."""
        self.service = self.stack.enter_context(
            start_process(
                [GUNICORN, "-c", PROJECT_ROOT / "gunicorn_config.py", *self.options, "app.main:app"],
                ready=lambda: answers_http(self.port, "/api/v1/health/live"),
                # Not in the project's folder, where a developer's .env may lie.
                cwd=self.folder,
                env=self.environment,
                ready_within_seconds=START_WITHIN_SECONDS,
                # At the end of a site all has been compared.
                grace_seconds=0,
            )
        )

    def signal_service(self, number: signal.Signals) -> None:
        """Send a signal to gunicorn's master."""
        self._running().send_signal(number)

    def await_end_of_service(self) -> None:
        """Wait until gunicorn has ended."""
        if self._running().wait(STOP_WITHIN_SECONDS) is None:
            raise TimeoutError("gunicorn did not end")

    def workers(self) -> list[int]:
        """Return the process ids of gunicorn's workers."""
        pid = self._running().pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def start_redis(self) -> None:
        """Start Redis, empty, on the same port as before."""
        folder = self.folder / "redis"
        folder.mkdir(exist_ok=True)
        _, self.redis = self.stack.enter_context(running_redis(folder, port=self.redis_port))

    def output(self) -> str:
        """Return what the service has said, but for a line for each request."""
        lines = [] if self.service is None else self.service.output().splitlines()
        return "\n".join(line for line in lines if " access " not in line)

    def _running(self) -> RunningProcess:
        if self.service is None:
            raise RuntimeError("the service has not been started")
        return self.service


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by its name.

    `happens` gives the block: entering it breaks something, leaving it mends that; both may take their time. What
    brings a part back has done so when the block is left: recovery is counted from there. `seconds` is how long the
    block lasts.

    `settings` are variables of the service, `gunicorn_options` further ones of its command line; `prepare_folder`
    mounts a disk below the site's folder, where that is possible.
    """

    name: str
    happens: Callable[[Site], AbstractContextManager[None]]
    seconds: float = 6.0
    settings: Mapping[str, str] = field(default_factory=dict)
    gunicorn_options: Sequence[str] = ()
    with_proxy: bool = False
    with_redis: bool = False
    prepare_folder: Callable[[Path], AbstractContextManager[None]] | None = None


@contextmanager
def running_site(fault: Fault) -> Iterator[Site]:
    """Start everything that a fault needs, for the length of the block.

    Raises:
        NoDiskError, NoServerError: it cannot be had here.
        ServerStartError, ProcessFailedError: a part did not start.
    """
    with ExitStack() as stack:
        # Below /tmp, because the path of MySQL's socket must be short.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp")))
        (folder / "mysql").mkdir()
        (folder / "data").mkdir()
        (folder / "tmp").mkdir()
        if fault.prepare_folder is not None:
            stack.enter_context(fault.prepare_folder(folder))
        database = DatabaseServer(folder / "mysql")
        stack.callback(database.close)
        database.start()
        database.create_user()
        model = PaidModel()
        stack.callback(model.stop)
        model.start()
        proxy = stack.enter_context(running_proxy(database.port)) if fault.with_proxy else None
        port = free_port()
        redis_port = free_port() if fault.with_redis else 0
        environment = {
            **_environment(folder, port, database.service_url(proxy.port if proxy else database.port), model),
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0" if fault.with_redis else "",
            **fault.settings,
        }
        load = Load(f"http://127.0.0.1:{port}")
        site = Site(folder, database, model, port, load, environment, fault.gunicorn_options, proxy, None, redis_port)
        stack.callback(site.stack.close)
        if fault.with_redis:
            site.start_redis()
        site.start_service()
        yield site


def _environment(folder: Path, port: int, database_url: str, model: PaidModel) -> dict[str, str]:
    """Return all variables of a service that listens at `port`."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT_ROOT),
        "APP_HOST": "127.0.0.1",
        "APP_PORT": str(port),
        "DATA_DIR": str(folder / "data"),
        "TMPDIR": str(folder / "tmp"),
        "DATABASE_URL": database_url,
        "LLM_PROVIDER": "custom",
        "LLM_BASE_URL": model.url,
        "LLM_API_KEY": model.api_key,
        "LLM_MODEL": "test-vision",
        "COST_PER_API_CALL": CALL_PRICE,
        "WEB_CONCURRENCY": str(WORKERS),
        "SECRET_KEY": "k" * 32,
        **MODEL_SETTINGS,
    }
