"""The service as real processes: the commands of the specification, what they write, and how they end."""

import hashlib
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from app.config.settings import PROJECT_ROOT
from tests.fakes.images import heic_photo, jpeg_photo, noisy_jpeg, png_photo
from tests.servers.processes import free_port, start_process
from tests.support.running import COMMANDS, hidden_files, running


@pytest.mark.parametrize("name", COMMANDS)
def test_it_serves_and_ends_on_sigterm(name: str, environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "tmp").mkdir()
    with running(name, port, {**environment, "APP_PORT": str(port)}) as process:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as api:
            answer = api.post("/classify", files={"image": jpeg_photo()}).json()
            assert answer["success"], answer
            assert api.get("/stats/today").json()["data"]["total_requests"] == 1
        if name == "python":
            assert f"http://127.0.0.1:{port}" in process.output()
            assert "curl -F image=@docs/samples/" in process.output()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in {0, 128 + signal.SIGTERM}
        assert "Traceback" not in process.output()
    assert (tmp_path / "data" / "image-classifier.db").exists()


@contextmanager
def upload_without_its_end(port: int, data: bytes) -> Iterator[None]:
    """An upload of which all but the closing boundary has been sent."""
    head = (
        f"POST /api/v1/classify HTTP/1.1\r\nHost: test\r\nContent-Length: {len(data) + 1000}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + data)
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="open files are looked up in /proc")
def test_no_byte_of_a_photo_is_stored_anywhere(environment: dict[str, str], tmp_path: Path) -> None:
    """Photos are sent in every way, also refused ones; then every file that the service wrote is searched for them."""
    port = free_port()
    (tmp_path / "tmp").mkdir()
    # The last is where the workers count, numbers only (app/observability/metrics_multiprocess.py).
    ours = (tmp_path / "data", tmp_path / "logs", Path("/dev/shm/image-classifier-metrics-"))  # noqa: S108
    photos = [
        noisy_jpeg(700, 500),
        noisy_jpeg(2000, 1500),
        png_photo(300, 200) + b"trailing bytes to look for",
        heic_photo(320, 240),
        b"\xff\xd8\xff" + os.urandom(3_000_000),
        os.urandom(11 * 1024 * 1024),
    ]
    with running("gunicorn", port, {**environment, "APP_PORT": str(port), "APP_DEBUG": "true"}) as process:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=120) as api:
            for data in photos:
                api.post("/classify", files={"image": data})
            api.post("/classify/batch", files=[("image", data) for data in photos])
            with upload_without_its_end(port, photos[4]):
                # For a while: when the service reads what was sent cannot be seen from outside.
                for _ in range(25):
                    assert hidden_files(process.pid, ours) == []
                    time.sleep(0.02)
            assert hidden_files(process.pid, ours) == []
            assert [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == []
        written = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.name.endswith(".db") for path in written)
        assert any(path.suffix == ".log" for path in written)
        contents = b"".join(path.read_bytes() for path in written)
    for data in photos:
        for start in range(0, len(data) - 24, max(1, len(data) // 50)):
            piece = data[start : start + 24]
            if len(set(piece)) > 8:
                assert piece not in contents


def test_several_workers_share_sqlite_and_count_exactly(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "tmp").mkdir()
    data = jpeg_photo(64, 64)
    image_hash = hashlib.sha256(data).hexdigest()
    with running("gunicorn", port, {**environment, "APP_PORT": str(port), "WEB_CONCURRENCY": "2"}) as process:
        base = f"http://127.0.0.1:{port}/api/v1"
        httpx2.post(f"{base}/classify", files={"image": data})

        def ask(number: int) -> bool:
            # A connection of its own, so that both workers are asked.
            body = {"image_hash": image_hash, "user_id": f"user-{number % 5}"}
            response = httpx2.post(f"{base}/classify/check-cache", json=body, timeout=120)
            return bool(response.json()["cached"])

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(ask, range(200)))
        process.send_signal(signal.SIGKILL)
        process.wait(120)
    # What was answered survives a kill -9 of the whole service.
    with sqlite3.connect(tmp_path / "data" / "image-classifier.db") as connection:
        [(rows,)] = connection.execute("SELECT COUNT(*) FROM request_log")
        [(hits,)] = connection.execute("SELECT hit_count FROM image_classification_cache")
    connection.close()
    assert (rows, hits) == (201, 201)


def test_a_service_that_cannot_start_says_why_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    for wrong, reason in (
        ({"LLM_PROVIDER": "nobody"}, "LLM_PROVIDER=nobody is unknown"),
        ({"LLM_PROVIDER": "openai", "LLM_API_KEY": ""}, "needs LLM_API_KEY"),
        ({"DATABASE_URL": "sqlite:////proc/nowhere/all.db"}, "The folder of the SQLite database cannot be made"),
    ):
        with start_process(
            [sys.executable, "-m", "app"],
            ready=lambda: True,
            env={**environment, "APP_PORT": str(free_port()), **wrong},
            cwd=PROJECT_ROOT,
        ) as process:
            assert process.wait(120) not in {0, None}
            assert reason in process.output()
            assert "Traceback" not in process.output()


def memory_megabytes(pid: int, name: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of a process, see proc_pid_status(5)."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_bounded_under_many_large_uploads(environment: dict[str, str], tmp_path: Path) -> None:
    """64 photos of 10 MB at once are 640 MB; a process holds a fixed part, the rest stays on the wire."""
    port = free_port()
    (tmp_path / "tmp").mkdir()
    # A photo that is looked at in full and sent on small: what is large in it is a comment between its markers.
    small = jpeg_photo(640, 480)
    comments = b"".join(b"\xff\xfe\xff\xff" + bytes(65_533) for _ in range(158))
    with running("uvicorn", port, {**environment, "APP_PORT": str(port)}) as process:
        url = f"http://127.0.0.1:{port}/api/v1/classify"
        with httpx2.Client(timeout=120) as api, ThreadPoolExecutor(64) as pool:

            def send(number: int) -> int:
                photo = small[:2] + comments + b"\xff\xfe\x00\x06%04d" % number + small[2:]
                assert len(photo) > 10_000_000
                return api.post(url, files={"image": photo}).status_code

            assert send(1000) == 200
            before = memory_megabytes(process.pid, "VmRSS")
            assert before > 50
            assert set(pool.map(send, range(64))) == {200}
            peak = memory_megabytes(process.pid, "VmHWM")
        assert peak - before < 300, (before, peak)
