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
from tests.support.running import running

KEY = "an-admin-key-for-tests"
ADMIN = {"Authorization": f"Bearer {KEY}"}


def classified(api: httpx2.Client, data: bytes) -> str:
    """Upload a photo that is new, and return its hash."""
    body = api.post("/classify", files={"image": data}).json()
    assert body["success"], body
    assert body["from_cache"] is False
    return hashlib.sha256(data).hexdigest()


def answer(api: httpx2.Client, image_hash: str) -> str | None:
    """The category that a process answers, or None for a miss."""
    body = api.post("/classify/check-cache", json={"image_hash": image_hash}).json()
    assert body["success"], body
    return str(body["data"]["category"]) if body["cached"] else None


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
            clients.append(stack.enter_context(httpx2.Client(base_url=base, timeout=120)))
        yield clients


@pytest.mark.parametrize("with_redis", [False, True], ids=["memory", "redis"])
def test_a_change_on_one_process_reaches_the_other(
    *, with_redis: bool, environment: dict[str, str], tmp_path: Path, redis_url: str
) -> None:
    with two_services(environment, tmp_path, redis_url if with_redis else "") as (one, other):
        known = classified(one, jpeg_photo(64, 64))
        first = answer(one, known)
        assert first is not None
        assert answer(other, known) == first
        corrected = "idcard" if first != "idcard" else "pets"
        assert one.put(f"/cache/{known}", json={"category": corrected}, headers=ADMIN).status_code == 200
        assert answer(one, known) == corrected
        wait_until(lambda: answer(other, known) == corrected, "the correction on the other process")
        assert other.delete(f"/cache/{known}", headers=ADMIN).status_code == 200
        assert answer(other, known) is None
        wait_until(lambda: answer(one, known) is None, "the removal on the first process")


def keys(address: str) -> int:
    with redis.Redis.from_url(address) as client:
        return len(client.keys("ic1:*"))


def test_a_redis_that_restarts_loses_and_resurrects_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    folder = tmp_path / "redis"
    folder.mkdir()
    persistent = ("--appendonly", "yes", "--appendfsync", "always")
    address = f"redis://127.0.0.1:{port}/0"
    with ExitStack() as stack:
        with running_redis(folder, *persistent, port=port):
            one, other = stack.enter_context(two_services(environment, tmp_path, address))
            # On a busy machine the service may need a while to find Redis.
            for width in range(64, 464):
                photo = jpeg_photo(width, 64)
                known = classified(one, photo)
                if keys(address):
                    break
                time.sleep(0.1)
            first = answer(other, known)
            assert keys(address) == 1
            assert first is not None
        assert (answer(one, known), answer(other, known)) == (first, first)
        assert one.delete(f"/cache/{known}", headers=ADMIN).status_code == 200
        wait_until(lambda: (answer(one, known), answer(other, known)) == (None, None), "the removal on both")
        with running_redis(folder, *persistent, port=port):
            # The removed entry is back in Redis until it expires, also when the processes have found Redis.
            assert keys(address) == 1
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                assert (answer(one, known), answer(other, known)) == (None, None)
                time.sleep(0.05)
            assert (answer(one, known), answer(other, known)) == (None, None)
            assert classified(one, photo) == known
            assert answer(other, known) is not None
