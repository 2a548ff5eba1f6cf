"""Real worker processes: what they are killed over is run again, once, and what they leave is given back."""

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.config import PROJECT_ROOT
from tests.databases import TestDatabase
from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.people import USER, bearer
from tests.servers.processes import RunningProcess, free_port, start_process
from tests.servers.redis import running_redis
from tests.servers.waiting import wait_until
from tests.test_processes import running

TASKS = 500
KILLS = 3


@contextmanager
def worker(environment: Mapping[str, str]) -> Iterator[RunningProcess]:
    """A process that runs tasks."""
    log: list[RunningProcess] = []
    with start_process(
        [sys.executable, "-m", "app.tasks"],
        ready=lambda: bool(log) and "task worker: ready" in log[0].output(),
        env=environment,
        cwd=PROJECT_ROOT,
    ) as process:
        log.append(process)
        yield process


def ready(process: RunningProcess) -> None:
    wait_until(lambda: "task worker: ready" in process.output(), "the worker")
