"""The service as it is deployed: gunicorn, and nginx before it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.config.settings import PROJECT_ROOT
from tests.fakes.model_server import running_model_server
from tests.servers.nginx import Nginx, running_nginx
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process
from tests.support.running import COMMANDS

ADMIN_KEY = "a-key-that-only-the-tests-know"


@dataclass(frozen=True, slots=True)
class Site:
    """nginx without and with certificates, both before one service."""

    plain: Nginx
    encrypted: Nginx
    port: int
    service: RunningProcess
    database: Path


@contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    """Run all of it, with files in `directory`."""
    port = free_port()
    with ExitStack() as stack:
        model = stack.enter_context(running_model_server())
        environment = {
            "APP_HOST": "127.0.0.1",
            "APP_PORT": str(port),
            "DATA_DIR": str(directory / "data"),
            # As docker-compose.yml has it.
            "FORWARDED_ALLOW_IPS": "*",
            "WEB_CONCURRENCY": "1",
            "ADMIN_API_KEY": ADMIN_KEY,
            "LLM_PROVIDER": "custom",
            "LLM_BASE_URL": model.openai_url,
            "LLM_API_KEY": str(model.api_key),
            "LLM_MODEL": "test-vision",
        }
        service = stack.enter_context(
            start_process(
                COMMANDS["gunicorn"],
                ready=lambda: answers_http(port, "/api/v1/health/live"),
                env=environment,
                cwd=PROJECT_ROOT,
            )
        )
        plain = stack.enter_context(running_nginx(directory / "plain", port))
        encrypted = stack.enter_context(running_nginx(directory / "encrypted", port, with_certificates=True))
        yield Site(plain, encrypted, port, service, directory / "data" / "image-classifier.db")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests of a module."""
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running
