"""A backup is taken while the service works, and restored into an empty server, from which the service then works.

The one that is taken under load is one moment of all tables; one of a service at rest is the same in every row.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Connection, MetaData, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.config.database import DatabaseSettings
from app.config.settings import CacheSettings, Settings
from app.database.tables.classification import CachedImage
from app.database.tables.request_log import RequestLog
from app.database.tables.schema import metadata
from app.database.tables.statistics import CacheTotals, PeriodTotals
from app.main import create_app
from tests.fakes.images import jpeg_photo
from tests.fakes.model_server import FakeModelServer
from tests.servers.databases import Servers, start_servers
from tests.support.backups import back_up, client_path, restore, variables
from tests.support.databases import TestDatabase, fresh_database
from tests.support.people import bearer, log_in, sign_up
from tests.support.service_settings import DATABASE_KINDS, migrated, server_url, settings_on
from tests.support.serving import serving
from tests.support.tasks import until

ADMIN_KEY = "0123456789abcdef0123456789abcdef"
PHOTOS = 6
WRITERS = 4


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Servers]:
    """Servers with nothing in them: the machine on which a backup is restored."""
    servers = start_servers()
    yield servers
    servers.stop()


async def rows_of(engine: AsyncEngine) -> dict[str, list[Any]]:
    """All rows of all tables, ours and the migrations'."""

    def read_all(connection: Connection) -> dict[str, list[Any]]:
        found = MetaData()
        found.reflect(connection)
        assert set(metadata.tables) | {"alembic_version"} == set(found.tables)
        return {
            name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for name, table in found.tables.items()
        }

    async with engine.connect() as connection:
        return await connection.run_sync(read_all)


@asynccontextmanager
async def engine_on(server: str, database: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(make_url(server).set(database=database), poolclass=NullPool)
    yield engine
    await engine.dispose()


class Load:
    """Clients that ask and upload until they are stopped; `answered` are the requests of which they have the answer."""

    def __init__(self, service: httpx2.AsyncClient, known: str) -> None:
        self._service = service
        self._known = known
        self._is_over = False
        self.answered: list[str] = []

    async def run(self, number: int) -> None:
        turn = 0
        while not self._is_over:
            turn += 1
            if turn % 5:
                body = {"image_hash": self._known, "user_id": f"user-{number}"}
                answer = await self._service.post("/api/v1/classify/check-cache", json=body)
            else:
                photo = jpeg_photo(200 + turn, 100 + number)
                answer = await self._service.post("/api/v1/classify", files={"image": photo})
            self.answered.append(answer.raise_for_status().json()["request_id"])

    def end(self) -> None:
        self._is_over = True

    async def more(self, answers: int) -> None:
        goal = len(self.answered) + answers

        async def is_reached() -> bool:
            return len(self.answered) >= goal

        await until(is_reached, f"{answers} answers")


def settings_for(database: DatabaseSettings, model_server: FakeModelServer, folder: Path) -> Settings:
    cache = CacheSettings.model_validate({"admin_api_key": ADMIN_KEY})
    return settings_on(database, model_server, folder).model_copy(update={"cache": cache})


async def fill(service: httpx2.AsyncClient) -> bytes:
    """Put something into every corner of the database; return a photo that is known."""
    photos = [jpeg_photo(64 + number, 64) for number in range(PHOTOS)]
    for photo in photos:
        (
            await service.post("/api/v1/classify", files={"image": photo}, headers={b"X-User-ID": "用户".encode()})
        ).raise_for_status()
    corrected = hashlib.sha256(photos[-1]).hexdigest()
    body = {"category": "pets", "description": '一只猫 🐈 it\'s "mine" \\ %s'}
    headers = bearer(ADMIN_KEY)
    (await service.put(f"/api/v1/cache/{corrected}", json=body, headers=headers)).raise_for_status()
    await sign_up(service)
    await sign_up(service, username="other", email="other@example.com")
    service.headers.update(bearer(await log_in(service)))
    files = {"file": ("image.jpg", photos[0], "image/jpeg")}
    image = (await service.post("/images/upload", files=files)).raise_for_status().json()["image_id"]
    question = {"image_id": image, "model_name": "default"}
    (await service.post("/images/inference", json=question)).raise_for_status()
    task = (await service.post("/images/inference/async", json=question)).raise_for_status().json()

    async def is_done() -> bool:
        return bool((await service.get(task["status_url"])).json()["status"] == "completed")

    await until(is_done, "the task")
    return photos[0]


async def figures(service: httpx2.AsyncClient) -> list[Any]:
    """What the service says about itself."""
    paths = ["stats/today", "stats/cache-efficiency", "stats/category-distribution", "stats/users/top"]
    key = {"X-API-Key": ADMIN_KEY}
    answers = [await service.get(f"/api/v1/{path}", headers=key) for path in paths]
    answers += [await service.get(path) for path in ("/users/me", "/images/", "/images/inference/")]
    bodies = [answer.raise_for_status().json() for answer in answers]
    return [body.get("data", body) for body in bodies]


@pytest.mark.parametrize("database_kind", DATABASE_KINDS[1:])
async def test_a_backup_under_load_and_one_at_rest_are_restored(
    servers: Servers, elsewhere: Servers, database_kind: str, model_server: FakeModelServer, tmp_path: Path
) -> None:
    here, there = server_url(servers, database_kind), server_url(elsewhere, database_kind)
    async with fresh_database(database_kind, here) as database:
        path = client_path(servers, database_kind)
        environment = variables(tmp_path / "options", here, database.name, path)
        async with (
            serving(create_app(settings_for(await migrated(database.settings), model_server, tmp_path))) as url,
            httpx2.AsyncClient(base_url=url, timeout=120) as service,
        ):
            photo = await fill(service)
            load = Load(service, hashlib.sha256(photo).hexdigest())
            clients = [asyncio.create_task(load.run(number)) for number in range(WRITERS)]
            await load.more(100)
            before = set(load.answered)
            under_load = await asyncio.to_thread(back_up, environment, tmp_path)
            await load.more(20)
            load.end()
            await asyncio.gather(*clients)
            expected = await figures(service)
        # Two in one second would have the same name.
        (at_rest_folder := tmp_path / "at-rest").mkdir()
        at_rest = await asyncio.to_thread(back_up, environment, at_rest_folder)
        async with engine_on(here, database.name) as engine:
            rows = await rows_of(engine)

        target = variables(tmp_path / "options", there, "under_load", path)
        await asyncio.to_thread(restore, target, under_load)
        async with engine_on(there, "under_load") as engine:
            await check_that_it_is_one_moment(engine, rows, before)

        target = variables(tmp_path / "options", there, "at_rest", path)
        said = await asyncio.to_thread(restore, target, at_rest)
        assert f"{len(rows['request_log'])} log rows" in said
        assert all(rows[name] for name in ("users", "image_classification_cache", "cache_change", "alembic_version"))
        async with engine_on(there, "at_rest") as engine:
            assert await rows_of(engine) == rows

    settings = settings_for(TestDatabase(database_kind, there, "at_rest").settings, model_server, tmp_path / "new")
    # Pictures are files beside the database, and copied by other means.
    shutil.copytree(tmp_path / "uploads", settings.upload_dir)
    calls = model_server.call_count
    async with (
        serving(create_app(settings)) as url,
        httpx2.AsyncClient(base_url=url, timeout=120) as service,
    ):
        service.headers.update(bearer(await log_in(service)))
        assert await figures(service) == expected
        answer = (await service.post("/api/v1/classify", files={"image": photo})).raise_for_status().json()
        assert answer["from_cache"] is True
        assert (await service.get("/images/1/file")).raise_for_status().content == photo
    assert model_server.call_count == calls


async def check_that_it_is_one_moment(engine: AsyncEngine, later: dict[str, list[Any]], before: set[str]) -> None:
    """Sums and the rows that they sum up are written in one transaction, so in a snapshot they agree."""
    rows = await rows_of(engine)
    names = [column.name for column in RequestLog.__table__.columns]
    requests = {row[names.index("request_id")] for row in rows["request_log"]}
    assert before <= requests
    assert len(rows["request_log"]) < len(later["request_log"])
    assert set(rows["request_log"]) <= set(later["request_log"])
    assert rows["alembic_version"] == later["alembic_version"]
    assert rows["users"] == later["users"]
    async with engine.connect() as connection:
        logged, hits = (await connection.execute(select(func.count(), func.sum(RequestLog.from_cache)))).one()
        summed = (await connection.execute(select(func.sum(PeriodTotals.requests), func.sum(PeriodTotals.hits)))).one()
        assert tuple(summed) == (logged, hits)
        images = await connection.scalar(select(func.count()).select_from(CachedImage))
        assert images == await connection.scalar(select(func.sum(CacheTotals.images)))
