"""Two real processes on one database: an entry that is changed on one of them is changed on the other."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
import redis

from tests.fakes.images import jpeg_photo
from tests.servers.processes import free_port
from tests.servers.redis import running_redis
from tests.servers.waiting import wait_until
from tests.test_processes import running

KEY = "an-admin-key-for-tests"
ADMIN = {"Authorization": f"Bearer {KEY}"}
PHOTO = jpeg_photo(64, 64)
HASH = hashlib.sha256(PHOTO).hexdigest()


@contextmanager
def two_services(environment: dict[str, str], tmp_path: Path, redis_address: str) -> Iterator[list[httpx2.Client]]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    more = {"ADMIN_API_KEY": KEY, "REDIS_URL": redis_address, "WEB_CONCURRENCY": "1"}
    with ExitStack() as stack:
        clients = []
        for _ in range(2):
            port = free_port()
            stack.enter_context(running("uvicorn", port, {**environment, **more}))
            base = f"http://127.0.0.1:{port}/api/v1"
            clients.append(stack.enter_context(httpx2.Client(base_url=base, timeout=30)))
        yield clients


def answer(api: httpx2.Client) -> str | None:
    """The category that a process answers, or None for a miss."""
    body = api.post("/classify/check-cache", json={"image_hash": HASH}).json()
    assert body["success"], body
    return str(body["data"]["category"]) if body["cached"] else None


@pytest.mark.parametrize("with_redis", [False, True], ids=["memory", "redis"])
def test_a_change_on_one_process_reaches_the_other(
    *, with_redis: bool, environment: dict[str, str], tmp_path: Path, redis_url: str
) -> None:
    with two_services(environment, tmp_path, redis_url if with_redis else "") as (one, other):
        assert one.post("/classify", files={"image": PHOTO}).json()["from_cache"] is False
        first = answer(one)
        assert first is not None
        assert answer(other) == first
        corrected = "idcard" if first != "idcard" else "pets"
        assert one.put(f"/cache/{HASH}", json={"category": corrected}, headers=ADMIN).status_code == 200
        assert answer(one) == corrected
        wait_until(lambda: answer(other) == corrected, "the correction on the other process")
        assert other.delete(f"/cache/{HASH}", headers=ADMIN).status_code == 200
        assert answer(other) is None
        wait_until(lambda: answer(one) is None, "the removal on the first process")
        with redis.Redis.from_url(redis_url) as client:
            assert client.keys("*") == []


def test_a_redis_that_restarts_loses_and_resurrects_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "redis"
    folder.mkdir()
    persistent = ("--appendonly", "yes", "--appendfsync", "always")
    address = f"redis://127.0.0.1:{port}/0"

    def keys() -> int:
        with redis.Redis.from_url(address) as client:
            return len(client.keys("ic1:*"))

    with ExitStack() as stack:
        with running_redis(folder, *persistent, port=port):
            one, other = stack.enter_context(two_services(environment, tmp_path, address))
            one.post("/classify", files={"image": PHOTO})
            first = answer(other)
            assert first is not None

            def is_copied() -> bool:
                # Where the services were slow to find Redis, a further answer from the database brings the entry there.
                other.post("/classify/check-cache", json={"image_hash": HASH})
                return keys() == 1 or one.delete(f"/cache/{'0' * 64}", headers=ADMIN).status_code != 404

            wait_until(is_copied, "the entry in Redis")
        assert (answer(one), answer(other)) == (first, first)
        assert one.delete(f"/cache/{HASH}", headers=ADMIN).status_code == 200
        wait_until(lambda: (answer(one), answer(other)) == (None, None), "the removal on both")
        with running_redis(folder, *persistent, port=port):
            # The removed entry is back in Redis until one of the processes has found it.
            deadline = time.monotonic() + 60
            while keys():
                assert (answer(one), answer(other)) == (None, None)
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert (answer(one), answer(other)) == (None, None)
            assert one.post("/classify", files={"image": PHOTO}).json()["from_cache"] is False
            assert answer(other) is not None
