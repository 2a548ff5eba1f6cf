"""The dashboard over HTTP: who gets in, what comes, and that nothing is computed without viewers."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api import streaming
from app.clock import utc_now
from app.config.model import ModelSettings
from app.config.settings import CacheSettings, Settings, StatisticsSettings
from app.database.engine import create_engine
from app.database.tables.api_keys import ApiKey
from app.errors import ServerBusy
from app.main import create_app
from app.resources import Resources
from app.services.api_keys.administration import NewKey, end_key
from app.services.api_keys.key import Scope
from app.services.events import feed
from app.services.statistics import dashboard
from app.web import dashboard as dashboard_page
from app.web.pages import CONTENT_SECURITY_POLICY
from tests.support.classify import error_code, photo, sha256
from tests.support.keys import key_of
from tests.support.serving import serving
from tests.support.tasks import until

KEY = "a-long-admin-key-0123"
DEADLINE_SECONDS = 120.0
PARTS = {
    *("health", "today", "categories", "cache", "accuracy", "spending", "cascade", "users", "images"),
    *("15min", "hour", "day"),
}


def basic(password: str, user: str = "ops") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[httpx2.AsyncClient, Resources]]:
    app = create_app(settings)
    async with serving(app) as url, httpx2.AsyncClient(base_url=url, timeout=DEADLINE_SECONDS) as client:
        yield client, app.state.resources


async def events(answer: httpx2.Response) -> AsyncIterator[tuple[str, Any]]:
    """Name and content of each event."""
    name = ""
    async for line in answer.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


async def first_parts(answer: httpx2.Response) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for name, content in events(answer):
            parts[name] = content
            if parts.keys() >= PARTS:
                break
    return parts


async def test_everything_comes_and_then_what_changes(settings: Settings) -> None:
    data = photo(1)
    async with running(settings) as (client, resources), client.stream("GET", "/dashboard/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        stream = events(answer)
        parts: dict[str, Any] = {}
        async with asyncio.timeout(DEADLINE_SECONDS):
            while parts.keys() != PARTS:
                name, parts[name] = await anext(stream)
        assert parts["today"]["figures"]["total_requests"] == 0
        assert parts["today"]["errors"] == {}
        assert parts["health"]["database"] == "connected"
        assert parts["health"]["model"]["provider"] == "local"
        assert [len(parts[bucket]) for bucket in ("15min", "hour", "day")] == [24, 24, 30]
        assert len(parts["categories"]) == 8

        uploaded = await client.post("/api/v1/classify", files={"image": data}, headers={"X-User-ID": "ann"})
        assert uploaded.status_code == 200
        changed: dict[str, Any] = {}
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not changed.keys() >= {"today", "users", "images", "cache", "categories"}:
                name, changed[name] = await anext(stream)
        assert changed["today"]["figures"]["total_requests"] == 1
        assert changed["cache"]["total_cached_images"] == 1
        assert [user["user_id"] for user in changed["users"]] == ["ann"]
        [image] = changed["images"]
        assert image["hash"] == sha256(data)[:10]
        assert sum(category["count"] for category in changed["categories"]) == 1
        assert resources.dashboard._producer is not None


async def test_it_is_computed_once_for_all_viewers_and_not_without_any(settings: Settings) -> None:
    async with running(settings) as (client, resources):
        feed = resources.dashboard
        assert feed._producer is None
        async with client.stream("GET", "/dashboard/events") as one, client.stream("GET", "/dashboard/events") as two:
            assert await first_parts(one) == await first_parts(two)
            tasks = [task for task in asyncio.all_tasks() if task.get_name() == "dashboard"]
            assert len(feed._viewers) == 2
            assert len(tasks) == 1

        async def is_over() -> bool:
            return not feed._viewers and feed._producer is None and tasks[0].done()

        await until(is_over, "without viewers nothing is computed")


async def test_a_part_that_fails_takes_no_other_with_it(settings: Settings) -> None:
    asked = 0

    async def fail() -> None:
        nonlocal asked
        asked += 1
        raise ValueError("a category that there is not")

    async with running(settings) as (client, resources):
        resources.dashboard._sources["categories"] = (fail, 3600.0)
        async with client.stream("GET", "/dashboard/events") as answer, asyncio.timeout(DEADLINE_SECONDS):
            names: list[str] = []
            stream = events(answer)
            while not PARTS - {"categories"} <= set(names) or names.count("today") < 2:
                names.append((await anext(stream))[0])
                if names[-1] == "day":
                    await client.post("/api/v1/classify", files={"image": photo(1)})
    assert asked == 1


async def test_silence_is_broken(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.05)
    async with running(settings) as (client, _), client.stream("GET", "/dashboard/events") as answer:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for name, content in events(answer):
                if name == "ping":
                    assert content == {}
                    break


async def test_streams_end_with_the_service(settings: Settings) -> None:
    async with running(settings) as (client, resources), client.stream("GET", "/dashboard/events") as answer:
        assert answer.status_code == 200
        resources.dashboard.end_streams()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await answer.aread() is not None
        refused = await client.get("/dashboard/events")
        assert (refused.status_code, error_code(refused)) == (503, "server_busy")


async def test_viewers_are_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "MAX_VIEWERS", 1)
    async with running(settings) as (_, resources):
        with resources.dashboard.watch(), pytest.raises(ServerBusy), resources.dashboard.watch():
            pass


async def test_a_slow_viewer_misses_only_what_is_outdated(settings: Settings) -> None:
    async with running(settings) as (_, resources):
        with resources.dashboard.watch() as viewer:
            viewer.offer({"today": "1", "cache": "1"})
            viewer.offer({"today": "2"})
            parts = await viewer.next()
            assert (parts["today"], parts["cache"]) == ("2", "1")


async def test_errors_of_ours_are_counted(settings: Settings) -> None:
    model = ModelSettings.model_validate(
        {"provider": "custom", "base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0}
    )
    async with running(settings.model_copy(update={"model": model})) as (client, resources):
        answer = await client.post("/api/v1/classify", files={"image": photo(2)})
        assert error_code(answer) == "model_unreachable"
        assert (await client.post("/api/v1/classify", files={"image": b"nothing"})).status_code == 400

        async def are_counted() -> bool:
            return await resources.stats.errors(resources.stats.today()) == {"model_unreachable": 1}

        await until(are_counted, "the error is in the statistics")
        answer = await client.get("/api/v1/stats/timeseries?metric=errors&bucket=day")
        assert sum(point["value"] for point in answer.json()["data"]["points"]) == 1


async def test_without_a_key_it_is_open(settings: Settings) -> None:
    async with running(settings) as (client, _):
        page = await client.get("/dashboard")
        assert page.status_code == 200
        assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert page.headers["content-type"].startswith("text/html")
        assert 'data-timezone="Asia/Shanghai"' in page.text
        assert (await client.head("/dashboard")).status_code == 200


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/events"])
async def test_with_a_key_it_wants_the_password(path: str, settings: Settings) -> None:
    cache = CacheSettings.model_validate({"admin_api_key": KEY})
    async with running(settings.model_copy(update={"cache": cache})) as (client, _):
        for headers in (
            {},
            basic("another"),
            basic(""),
            basic(KEY + "x"),
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": "Basic"},
            {"Authorization": "Basic not base64!"},
            {"Authorization": f"Basic {base64.b64encode(KEY.encode()).decode()}"},
        ):
            refused = await client.get(path, headers=headers)
            assert (refused.status_code, error_code(refused)) == (401, "dashboard_login_required")
            assert refused.headers["www-authenticate"] == 'Basic realm="Image Classifier", charset="UTF-8"'
            assert KEY not in refused.text
        for user in ("ops", "", "管理员"):
            async with client.stream("GET", path, headers=basic(KEY, user)) as answer:
                assert answer.status_code == 200
        # The assets hold nothing of the service's.
        assert (await client.get("/assets/dashboard.js")).status_code == 200


async def test_a_browser_without_the_key_is_shown_a_page(settings: Settings) -> None:
    cache = CacheSettings.model_validate({"admin_api_key": KEY})
    of_browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with running(settings.model_copy(update={"cache": cache})) as (client, _):
        for path in ("/dashboard", "/review"):
            for headers in ({}, basic("another")):
                refused = await client.get(path, headers=of_browser | headers)
                assert (refused.status_code, refused.headers["content-type"]) == (401, "text/html; charset=utf-8")
                assert refused.headers["www-authenticate"] == 'Basic realm="Image Classifier", charset="UTF-8"'
                assert refused.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
                assert 'src="assets/login.js"' in refused.text
        for path in ("/dashboard/events", "/api/v1/stats/today"):
            assert (await client.get(path, headers=of_browser)).headers["content-type"] == "application/json"


async def ends(answer: httpx2.Response) -> None:
    """Read a stream to its end."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for _ in answer.aiter_lines():
            pass


@asynccontextmanager
async def running_with_tables(settings: Settings) -> AsyncIterator[tuple[httpx2.AsyncClient, AsyncEngine]]:
    """A service, and an engine on its database."""
    engine = create_engine(settings)
    try:
        async with running(settings) as (client, _):
            yield client, engine
    finally:
        await engine.dispose()


async def known_key(client: httpx2.AsyncClient, engine: AsyncEngine) -> NewKey:
    """A key that may see statistics, and that the service has learnt of."""
    key = await key_of(engine, Scope.STATS)

    async def is_known() -> bool:
        return (await client.head("/dashboard", headers=basic(key.text))).status_code == 200

    await until(is_known, "the service knows the key")
    return key


async def test_a_stream_ends_with_its_key(settings: Settings) -> None:
    async with running_with_tables(settings) as (client, engine):
        revoked, lasting = await known_key(client, engine), await known_key(client, engine)
        async with (
            client.stream("GET", "/dashboard/events", headers=basic(revoked.text)) as answer,
            client.stream("GET", "/dashboard/events", headers={"X-API-Key": lasting.text}) as others,
        ):
            assert answer.status_code == others.status_code == 200
            await end_key(engine, revoked.id, actor="tests")
            await ends(answer)
            assert await first_parts(others)
        assert (await client.get("/dashboard/events", headers=basic(revoked.text))).status_code == 401


async def test_a_stream_ends_when_its_key_expires(settings: Settings) -> None:
    async with running_with_tables(settings) as (client, engine):
        key = await known_key(client, engine)
        async with client.stream("GET", "/dashboard/events", headers=basic(key.text)) as answer:
            assert answer.status_code == 200
            async with engine.begin() as connection:
                await connection.execute(update(ApiKey).values(expires_at=utc_now() - timedelta(seconds=1)))
            await ends(answer)


async def test_an_open_stream_ends_when_the_first_key_is_made(settings: Settings) -> None:
    async with running_with_tables(settings) as (client, engine), client.stream("GET", "/dashboard/events") as answer:
        assert answer.status_code == 200
        await key_of(engine)
        await ends(answer)


def test_a_stream_is_checked_often_enough() -> None:
    assert dashboard_page.ACCESS_CHECK_SECONDS <= 1
    assert feed.SESSION_CHECK_SECONDS <= 5


async def test_while_the_database_is_away_its_health_still_comes(settings: Settings) -> None:
    statistics = StatisticsSettings.model_validate({"log_retention_days": 0})
    async with running(settings.model_copy(update={"statistics": statistics})) as (client, _):
        database = settings.data_dir.parent / "test.db"
        database.rename(database.with_suffix(".away"))
        database.mkdir()
        async with client.stream("GET", "/dashboard/events") as answer, asyncio.timeout(DEADLINE_SECONDS):
            name, content = await anext(events(answer))
        assert (name, content["database"]) == ("health", "disconnected")
        database.rmdir()
        database.with_suffix(".away").rename(database)
