"""`/metrics` of real gunicorn workers: the counts of all, exact, also of those that have ended."""

import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from app.config.settings import PROJECT_ROOT
from app.observability import metrics_multiprocess
from tests.fakes.images import jpeg_photo
from tests.servers.processes import RunningProcess, answers_http, free_port, start_process

GUNICORN = [str(Path(sys.executable).parent / "gunicorn"), "-c", "gunicorn_config.py", "app.main:app"]
CHECK = "/api/v1/classify/check-cache"
CHECKED = f'image_classifier_http_requests_total{{method="POST",route="{CHECK}",status="200"}}'
HITS = f'image_classifier_http_request_seconds_count{{outcome="hit",route="{CHECK}"}}'
IN_MEMORY = 'image_classifier_cache_lookups_total{layer="memory"}'
IN_DATABASE = 'image_classifier_cache_lookups_total{layer="database"}'


@contextmanager
def gunicorn(environment: dict[str, str]) -> Iterator[tuple[RunningProcess, str]]:
    port = free_port()
    (Path(environment["TMPDIR"])).mkdir(exist_ok=True)
    with start_process(
        GUNICORN,
        ready=lambda: answers_http(port, "/api/v1/health/live"),
        env={**environment, "APP_PORT": str(port), "WEB_CONCURRENCY": "2"},
        cwd=PROJECT_ROOT,
        grace_seconds=15,
    ) as process:
        yield process, f"http://127.0.0.1:{port}"


def figures(url: str) -> dict[str, float]:
    lines = httpx2.get(f"{url}/metrics", timeout=120).text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def settled(url: str, is_reached: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The figures as soon as they are as they should be, or after a while as they are."""
    deadline = time.monotonic() + 20
    now = figures(url)
    while not is_reached(now) and time.monotonic() < deadline:
        time.sleep(0.05)
        now = figures(url)
    return now


def workers(process: RunningProcess) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def folder_of(worker: int) -> Path:
    """The folder of the files that a worker counts in."""
    maps = Path(f"/proc/{worker}/maps").read_text()
    [folder] = set(re.findall(r"(\S+/image-classifier-metrics-[^/]+)/", maps))
    return Path(folder)


def ask(url: str, image_hash: str, times: int) -> None:
    def ask_once(_: int) -> bool:
        # A connection of its own, so that both workers are asked.
        response = httpx2.post(f"{url}{CHECK}", json={"image_hash": image_hash}, timeout=120)
        return bool(response.json()["cached"])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask_once, range(times)))


@pytest.mark.skipif(sys.platform != "linux", reason="workers are looked up in /proc")
def test_totals_are_those_of_all_workers_and_stay_when_one_is_killed(environment: dict[str, str]) -> None:
    photo = jpeg_photo(320, 240)
    image_hash = hashlib.sha256(photo).hexdigest()
    with gunicorn(environment) as (process, url):
        assert settled(url, lambda now: now["image_classifier_processes"] == 2)["image_classifier_processes"] == 2
        httpx2.post(f"{url}/api/v1/classify", files={"image": photo}, timeout=120).raise_for_status()
        ask(url, image_hash, 150)
        now = settled(url, lambda now: now.get(HITS) == 150 == now.get(CHECKED))
        assert now[CHECKED] == now[HITS] == now[IN_MEMORY] + now[IN_DATABASE] == 150
        assert now['image_classifier_money_saved_total{currency="CNY"}'] == pytest.approx(1.5)
        # What was answered has been written down by now, wherever it was.
        killed = workers(process)[0]
        os.kill(killed, signal.SIGKILL)
        while not set(workers(process)) - {killed} or killed in workers(process) or len(workers(process)) < 2:
            time.sleep(0.02)
        ask(url, image_hash, 100)
        now = settled(
            url, lambda now: now.get(HITS) == 250 == now.get(CHECKED) and now["image_classifier_processes"] == 2
        )
        assert now[CHECKED] == now[HITS] == now[IN_MEMORY] + now[IN_DATABASE] == 250
        assert now["image_classifier_processes"] == 2
        folder = folder_of(workers(process)[0])
        assert not list(folder.glob(f"*_{killed}.db"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are looked up in /proc")
def test_workers_that_are_recycled_leave_their_counts(environment: dict[str, str]) -> None:
    photo = jpeg_photo(320, 240)
    image_hash = hashlib.sha256(photo).hexdigest()
    with gunicorn(environment) as (process, url):
        httpx2.post(f"{url}/api/v1/classify", files={"image": photo}, timeout=120).raise_for_status()
        ask(url, image_hash, 60)
        before = workers(process)
        # All workers are replaced; each hands over what it has counted in its last moment.
        process.send_signal(signal.SIGHUP)
        ask(url, image_hash, 60)
        deadline = time.monotonic() + 120
        while set(before) & set(workers(process)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not set(before) & set(workers(process))
        now = settled(url, lambda now: now.get(HITS) == 120 and now["image_classifier_processes"] == 2)
        assert (now[CHECKED], now[HITS], now["image_classifier_processes"]) == (120, 120, 2)
        folder = folder_of(workers(process)[0])
        left = {int(match[1]) for file in folder.iterdir() if (match := re.search(r"_(\d+)\.db", file.name))}
        assert not left & set(before)


def test_while_a_scrape_reads_nothing_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client.mmap_dict import MmapedDict, mmap_key

    monkeypatch.setattr(metrics_multiprocess, "_folder", str(tmp_path))
    key = mmap_key("a", "a_total", [], [], "help")
    for process_id, amount in ((11, 3), (12, 4), (13, 5)):
        file = MmapedDict(str(tmp_path / f"counter_{process_id}.db"))
        file.write_value(key, amount, 0.0)
        file.close()
    with metrics_multiprocess.locked_folder(str(tmp_path)):
        metrics_multiprocess.add_up_ended({13})
        assert {file.name for file in tmp_path.glob("*.db")} == {f"counter_{number}.db" for number in (11, 12, 13)}
    metrics_multiprocess.add_up_ended({13})
    assert {file.name for file in tmp_path.glob("*.db")} == {"counter_13.db", "counter_ended.db"}
    [(_, value, _, _)] = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_ended.db"))
    assert value == 7
    metrics_multiprocess.add_up_ended(set())
    [(_, value, _, _)] = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_ended.db"))
    assert value == 12


def test_a_master_that_starts_at_the_same_time_finds_no_folder_that_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"{metrics_multiprocess.FOLDER_PREFIX}1"
    folder.mkdir()
    lock = fcntl.flock

    def lock_late(file: int, operation: int) -> None:
        # The other one looks just before we lock.
        monkeypatch.undo()
        metrics_multiprocess._remove_abandoned(tmp_path)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    metrics_multiprocess._own(str(folder))
    assert [file.name for file in folder.iterdir()] == [metrics_multiprocess.OWNER_NAME]


def test_nobody_makes_a_master_wait_at_its_start(tmp_path: Path) -> None:
    folder = tmp_path / f"{metrics_multiprocess.FOLDER_PREFIX}1"
    folder.mkdir()
    # Every user may write to the folder of temporary files; to open this one waits for a reader.
    os.mkfifo(folder / metrics_multiprocess.OWNER_NAME)
    metrics_multiprocess._remove_abandoned(tmp_path)
    assert (folder / metrics_multiprocess.OWNER_NAME).exists()


def test_what_a_killed_master_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    script = (
        "import sys; from app.observability.metrics_multiprocess import provide_folder; provide_folder(sys.argv[1]);"
        "print(flush=True); sys.stdin.read()"
    )

    @contextmanager
    def master() -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            yield process

    with master() as first:
        [left] = tmp_path.iterdir()
        first.kill()
    assert left.exists()
    with master():
        [second] = tmp_path.iterdir()
        assert second != left
        with master():
            # That of a master that lives stays.
            assert len(list(tmp_path.iterdir())) == 2
            assert second.exists()
    assert list(tmp_path.iterdir()) == []
