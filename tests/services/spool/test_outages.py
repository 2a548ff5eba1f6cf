"""The database goes away under processes of the service: what was answered is there afterwards, and once."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from tests.fakes.model_server import FakeModelServer
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.databases import admin_engine, fresh_database
from tests.support.instances import Site, opened
from tests.support.ledgers import check_ledgers_agree, logged_ids
from tests.support.own_server import OwnServer
from tests.support.service_settings import migrated
from tests.support.spending import ledger_of
from tests.support.spools import spool_files

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("database_kind", ["mysql"], indirect=True)]

PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    # A socket's path has little room.
    with tempfile.TemporaryDirectory(prefix="own-", dir="/tmp") as directory:
        server = OwnServer(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
async def site(
    database_kind: str, server: OwnServer, environment: dict[str, str], tmp_path: Path
) -> AsyncIterator[Site]:
    """Instances on the server that may be killed, with one folder for their files."""
    (tmp_path / "tmp").mkdir()
    environment |= {"COST_PER_API_CALL": "0.01", "CACHE_STALE_SECONDS": "3"}
    async with (
        fresh_database(database_kind, server.url) as database,
        opened(await migrated(database.settings), environment) as site,
    ):
        yield site


def client(url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=PATIENCE_SECONDS, trust_env=False)


async def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)


async def is_stale(api: httpx2.AsyncClient, image_hash: str, answered: list[str]) -> bool:
    """Ask for a photo that memory knows, and say whether the answer is marked."""
    response = await check(api, image_hash, headers={"X-User-ID": "phone-1"})
    assert response.status_code == 200, response.text
    answered.append(response.json()["request_id"])
    return response.json().get("stale") is True


async def is_replayed(folder: Path) -> bool:
    return spool_files(folder) == []


async def test_hits_are_answered_and_counted_once_while_the_server_is_away(
    site: Site, server: OwnServer, model_server: FakeModelServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    url, process = await site.start("uvicorn")
    answered: list[str] = []
    async with client(url) as api:
        first = await upload(api, photo(1))
        answered.append(first.json()["request_id"])
        assert "stale" not in first.json()
        server.kill()
        await until(lambda: is_stale(api, sha256(photo(1)), answered), "hits are stale")
        known = await upload(api, photo(1))
        assert (known.status_code, known.json()["stale"], known.json()["from_cache"]) == (200, True, True)
        answered.append(known.json()["request_id"])
        album = await api.post("/classify/check-cache/batch", json={"image_hashes": [sha256(photo(1))] * 3})
        assert [each["stale"] for each in album.json()["results"]] == [True] * 3
        answered += [each["request_id"] for each in album.json()["results"]]
        # A new photo cannot be kept anywhere for sure: the model is not asked.
        new = await upload(api, photo(2))
        assert (new.status_code, error_code(new)) == (503, "database_unavailable")
        assert model_server.call_count == 1
        assert {oct(path.stat().st_mode & 0o777) for path in spool_files(data)} == {"0o600"}
        assert oct((data / "spool").stat().st_mode & 0o777) == "0o700"
        # The process dies, and what it has answered does not.
        os.kill(process.pid, signal.SIGKILL)
    server.start()
    url, _ = await site.start("uvicorn")
    await until(lambda: is_replayed(data), "another process has written what was in the spool")
    assert sorted(await logged_ids(site.engine)) == sorted(answered)
    await check_ledgers_agree(site.engine)
    async with client(url) as api:
        again = await check(api, sha256(photo(1)))
        assert again.json()["cached"]
        assert "stale" not in again.json()
    assert model_server.call_count == 1


async def test_a_result_of_a_call_under_way_is_answered_and_paid_once(
    site: Site, server: OwnServer, model_server: FakeModelServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    url, process = await site.start("uvicorn")
    model_server.delay_seconds = 3
    async with client(url) as api:
        asked = asyncio.create_task(upload(api, photo(1)))
        await until(lambda: asyncio.to_thread(lambda: model_server.call_count == 1), "the model is asked")
        server.kill()
        answer = await asked
        assert (answer.status_code, answer.json()["from_cache"]) == (200, False)
        hit = await upload(api, photo(1))
        assert (hit.status_code, hit.json()["from_cache"]) == (200, True)
        os.kill(process.pid, signal.SIGKILL)
    model_server.delay_seconds = 0
    server.start()
    url, _ = await site.start("uvicorn")
    async with client(url) as api:
        # At once: also before the spool is written, the photo is not paid again.
        after = await upload(api, photo(1))
        assert (after.status_code, after.json()["from_cache"]) == (200, True), after.text
    await until(lambda: is_replayed(data), "what was in the spool is written")
    assert model_server.call_count == 1
    [call] = await ledger_of(site.engine)
    assert (call.request_id, call.cost_micros) == (answer.json()["request_id"], 10_000)
    ids = [each.json()["request_id"] for each in (answer, hit, after)]
    assert sorted(await logged_ids(site.engine)) == sorted(ids)

    async def lease_is_gone() -> bool:
        async with site.engine.connect() as connection:
            return (await connection.execute(text("SELECT image_hash FROM model_call_lease"))).all() == []

    await until(lease_is_gone, "the lease of the dead process is gone")
    await check_ledgers_agree(site.engine)


async def test_a_server_that_stands_still_lets_no_hit_wait_for_it(
    site: Site, server: OwnServer, model_server: FakeModelServer, tmp_path: Path
) -> None:
    """What it finds in its sockets when it goes on changes nothing that the spool has written by then, or writes."""
    data = tmp_path / "data"
    urls = [(await site.start("uvicorn"))[0] for _ in range(2)]
    answered: list[str] = []
    stale = 0
    async with client(urls[0]) as one, client(urls[1]) as other:
        answered.append((await upload(one, photo(1))).json()["request_id"])
        answered.append((await upload(other, photo(1))).json()["request_id"])

        async def ask_until(end: float, api: httpx2.AsyncClient) -> None:
            nonlocal stale
            while time.monotonic() < end:
                if await is_stale(api, sha256(photo(1)), answered):
                    stale += 1

        asking = [
            asyncio.create_task(ask_until(time.monotonic() + 16, api)) for api in (one, one, other, other) for _ in "12"
        ]
        await asyncio.sleep(1)
        server.freeze()
        await asyncio.sleep(12)
        server.thaw()
        await asyncio.gather(*asking)
        await until(lambda: is_replayed(data), "what was in the spool is written")
    assert stale > 0
    assert len(answered) == len(set(answered))
    assert sorted(await logged_ids(site.engine)) == sorted(answered)
    await check_ledgers_agree(site.engine)
    assert model_server.call_count == 1


async def test_a_server_that_only_reads_costs_no_paid_call(
    site: Site, server: OwnServer, model_server: FakeModelServer, tmp_path: Path
) -> None:
    url, _ = await site.start("uvicorn")
    model_server.delay_seconds = 2
    async with admin_engine(server.url) as admin, admin.connect() as connection, client(url) as api:
        asked = asyncio.create_task(upload(api, photo(1)))
        await until(lambda: asyncio.to_thread(lambda: model_server.call_count == 1), "the model is asked")
        await connection.exec_driver_sql("SET GLOBAL super_read_only = 1")
        try:
            answer = await asked
            assert answer.status_code == 200, answer.text
            hit = await check(api, sha256(photo(1)))
            assert hit.json()["cached"], hit.text
            new = await upload(api, photo(2))
            assert (new.status_code, error_code(new)) == (503, "database_unavailable")
            assert model_server.call_count == 1
        finally:
            await connection.exec_driver_sql("SET GLOBAL super_read_only = 0")
            await connection.exec_driver_sql("SET GLOBAL read_only = 0")
        await until(lambda: is_replayed(tmp_path / "data"), "what was in the spool is written")
        again = await upload(api, photo(1))
        assert again.json()["from_cache"]
    assert model_server.call_count == 1
    ids = [each.json()["request_id"] for each in (answer, hit, again)]
    assert sorted(await logged_ids(site.engine)) == sorted(ids)
    await check_ledgers_agree(site.engine)
