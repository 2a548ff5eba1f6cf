"""A service without the local model's weights, as after a clone: it starts, says so, has them made once, goes on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from app.clients.local.network import CHECKSUMS, WEIGHTS
from app.config.settings import PROJECT_ROOT
from tests.fakes.images import jpeg_photo
from tests.servers.processes import answers_http, free_port, start_process
from tests.servers.waiting import is_running, wait_until
from tests.support.running import COMMANDS

PASSWORD = "hunter2-hunter2"
# Stands in for scripts.make_model, which downloads 90 MB: notes its process id, waits for a sign, links the weights.
STAND_IN = f"""
import os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
weights = folder.parents[1] / "app" / "clients" / "local" / "weights"
with (folder / "runs").open("a") as runs:
    print(os.getpid(), *(name for name in os.environ if "KEY" in name), file=runs)
while not (folder / "go").exists():
    time.sleep(0.05)
for file in pathlib.Path({str(WEIGHTS)!r}).glob("*.onnx"):
    (weights / (file.name + ".new")).symlink_to(file)
    (weights / (file.name + ".new")).rename(weights / file.name)
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a service needs of the project, without weights."""
    folder = tmp_path / "clone"
    shutil.copytree(PROJECT_ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    shutil.copytree(PROJECT_ROOT / "scripts" / "make_model", folder / "scripts" / "make_model")
    shutil.copytree(PROJECT_ROOT / "sql", folder / "sql")
    shutil.copy(PROJECT_ROOT / "gunicorn_config.py", folder)
    return folder


@pytest.fixture
def stand_in(clone: Path) -> Path:
    """The folder of the stand-in."""
    folder = clone / "scripts" / "make_model"
    (folder / "__main__.py").write_text(STAND_IN)
    return folder


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of a service whose pip reaches nothing."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "APP_HOST": "127.0.0.1",
        "DATA_DIR": str(tmp_path / "data"),
        "SECRET_KEY": "k" * 32,
        "PIP_INDEX_URL": f"http://user:{PASSWORD}@127.0.0.1:{free_port()}/simple",
        "PIP_RETRIES": "0",
    }


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def api(port: int) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        yield client


def classify(api: httpx2.Client, photo: bytes) -> httpx2.Response:
    return api.post("/api/v1/classify", files={"image": photo})


def is_refused(answer: httpx2.Response, code: str, retry_after: int) -> bool:
    shown = (answer.status_code, answer.json()["error"]["code"], answer.headers["Retry-After"])
    return shown == (503, code, str(retry_after))


def model_error(api: httpx2.Client) -> str | None:
    """What /health says is missing."""
    answer = api.get("/health")
    body = answer.json()
    assert (answer.status_code, body["success"], body["status"]) == (200, True, "degraded")
    assert body["model"]["breaker"] == "closed"
    code: str | None = body["model"]["last_error_code"]
    return code


def is_healthy(api: httpx2.Client) -> bool:
    return bool(api.get("/health").json()["status"] == "healthy")


def test_without_a_network_the_service_starts_and_says_what_is_missing(
    clone: Path, variables: dict[str, str], port: int, api: httpx2.Client
) -> None:
    command = [part.format(port=port) for part in COMMANDS["uvicorn"]]
    with start_process(command, ready=lambda: answers_http(port, "/health/live"), env=variables, cwd=clone) as process:
        wait_until(lambda: model_error(api) == "model_weights_missing", "making the weights has failed", 60)
        # More than the failures that open the breaker: it stays closed.
        for seed in range(7):
            answer = classify(api, jpeg_photo(70 + seed, 50))
            assert is_refused(answer, "model_weights_missing", 60)
        assert "make model" not in answer.text
        assert model_error(api) == "model_weights_missing"
        assert api.post("/api/v1/classify/check-cache", json={"image_hash": "0" * 64}).status_code == 200
        output = process.output()
        assert output.count("fetched and built now") == 1
        assert "weights cannot be made (exit status 1)" in output
        assert "Run `make model`" in output
        assert PASSWORD not in output
        # The operator has copied them from elsewhere.
        for name in ("efficientnet_lite2.onnx", "centerface.onnx"):
            shutil.copy(WEIGHTS / name, clone / "app" / "clients" / "local" / "weights")
        wait_until(lambda: is_healthy(api), "the service has noticed them", 60)
        assert classify(api, jpeg_photo(70, 50)).status_code == 200


def test_one_of_several_workers_makes_them(
    clone: Path, stand_in: Path, variables: dict[str, str], port: int, api: httpx2.Client
) -> None:
    variables |= {"APP_PORT": str(port), "WEB_CONCURRENCY": "3", "ADMIN_API_KEY": "k" * 16}
    with start_process(
        COMMANDS["gunicorn"],
        ready=lambda: answers_http(port, "/health/live"),
        env=variables,
        cwd=clone,
        ready_within_seconds=180,
    ) as process:
        wait_until(lambda: process.output().count("another process makes them") == 2, "two workers wait", 60)
        wait_until((stand_in / "runs").exists, "the third has them made", 60)
        assert api.get("/health/live").status_code == 200
        assert model_error(api) == "model_preparing"
        assert is_refused(classify(api, jpeg_photo(70, 50)), "model_preparing", 20)
        (stand_in / "go").touch()
        wait_until(lambda: process.output().count("the local model is ready") == 3, "all workers have them", 60)
        for seed in range(9):
            assert classify(api, jpeg_photo(70 + seed, 50)).status_code == 200
        assert is_healthy(api)
        # One run, and it knew none of the service's secrets.
        [run] = (stand_in / "runs").read_text().splitlines()
        assert run.isdigit()


def test_a_service_that_ends_takes_the_making_with_it(
    clone: Path, stand_in: Path, variables: dict[str, str], port: int
) -> None:
    command = [part.format(port=port) for part in COMMANDS["uvicorn"]]
    with start_process(
        command, ready=lambda: answers_http(port, "/health/live"), env=variables, cwd=clone, grace_seconds=30
    ):
        wait_until(lambda: (stand_in / "runs").exists() and (stand_in / "runs").read_text() != "", "it has begun", 60)
        maker = int((stand_in / "runs").read_text())
        assert is_running(maker)
    assert not is_running(maker)
    assert not list((clone / "app" / "clients" / "local" / "weights").glob("*.onnx"))


def test_weights_of_another_version_are_replaced(
    clone: Path, stand_in: Path, variables: dict[str, str], port: int, api: httpx2.Client
) -> None:
    folder = clone / "app" / "clients" / "local" / "weights"
    folder.mkdir()
    for line in CHECKSUMS.read_text().splitlines():
        (folder / line.split()[1]).write_bytes(b"of last year")
    (stand_in / "go").touch()
    command = [part.format(port=port) for part in COMMANDS["uvicorn"]]
    with start_process(command, ready=lambda: answers_http(port, "/health/live"), env=variables, cwd=clone):
        wait_until(lambda: is_healthy(api), "they have been made again", 60)
