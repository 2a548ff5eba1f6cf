"""A server that speaks S3, for tests: one per process of the test run; each test has a bucket of its own."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.servers.processes import answers_http, free_port, start_process

ACCESS_KEY = "test"
REGION = "us-east-1"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a server that lives as long as this process of the test run."""
    port = free_port()
    # With Python's own warnings as they come: its development server is not ours to mend.
    command: list[str | Path] = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with start_process(command, ready=partial(answers_http, port), grace_seconds=0):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket; the credentials for it are in the environment."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ACCESS_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)
    name = f"test-{uuid4().hex[:16]}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name=REGION).create_bucket(Bucket=name)
    return name
