"""Health says how the database and the model are, without a paid call; liveness asks neither."""

import asyncio
import secrets
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.database import DatabaseSettings
from app.database.heartbeat import RENEW_SECONDS
from app.main import create_app
from tests.fakes.model_replies import failure
from tests.fakes.model_server import FakeModelServer
from tests.support.classify import error_code, photo, upload
from tests.support.databases import TestDatabase, admin_engine, end_connections
from tests.support.service_settings import migrated, settings_on
from tests.support.serving import serving


async def test_healthy(api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    await upload(api, photo(1))
    response = await api.get("/health")
    body = response.json()
    assert response.status_code == 200
    assert (body["success"], body["status"]) == (True, "healthy")
    assert (body["database"], body["model_api"]) == ("connected", "available")
    assert body["timestamp"].endswith("Z")
    assert body["model"]["provider"] == "custom"
    assert body["model"]["last_success_at"].endswith("Z")
    assert model_server.call_count == 1
    for _ in range(5):
        await api.get("/health")
    assert (model_server.call_count, len(model_server.probes)) == (1, 1)


async def test_a_wrong_key_shows_before_the_first_photo(api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    key, model_server.api_key = model_server.api_key, "another"
    body = (await api.get("/health")).json()
    assert (body["status"], body["model_api"]) == ("degraded", "unavailable")
    assert body["model"]["last_error_code"] == "model_authentication_failed"
    assert str(key) not in (await api.get("/health")).text
    assert model_server.call_count == 0


async def test_the_breaker_opens_and_shows(api: httpx2.AsyncClient, model_server: FakeModelServer) -> None:
    model_server.default = failure(401)
    codes = [error_code(await upload(api, photo(seed))) for seed in range(40, 46)]
    assert codes == ["model_authentication_failed"] * 5 + ["model_circuit_open"]
    assert model_server.call_count == 5
    refused = await upload(api, photo(46))
    assert refused.status_code == 503
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    body = (await api.get("/health")).json()
    assert (body["status"], body["model"]["breaker"]) == ("degraded", "open")


@pytest.mark.parametrize("path", ["/health", "/health/live"])
async def test_load_balancers_find_it_without_the_prefix(
    api: httpx2.AsyncClient, service: httpx2.AsyncClient, path: str
) -> None:
    assert (await service.head(path)).status_code == 200
    short, long = (await service.get(path)).json(), (await api.get(path)).json()
    assert short | {"timestamp": None} == long | {"timestamp": None}


async def test_liveness(api: httpx2.AsyncClient) -> None:
    response = await api.get("/health/live")
    assert response.status_code == 200
    assert response.json()["status"] == "alive"


async def test_a_database_without_tables_is_not_healthy(api: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE request_log RENAME TO request_log_away"))
    try:
        response = await api.get("/health")
        assert (response.status_code, response.json()["database"]) == (503, "disconnected")
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE request_log_away RENAME TO request_log"))


async def test_a_database_that_takes_nothing(
    mysql_database: TestDatabase, model_server: FakeModelServer, tmp_path: Path
) -> None:
    reader = f"reader_{secrets.token_hex(4)}"
    async with admin_engine(mysql_database.server_url) as admin, admin.connect() as connection:
        await connection.exec_driver_sql(f"CREATE USER '{reader}'@'%%' IDENTIFIED BY '{reader}'")

        async def grant(what: str) -> None:
            await connection.exec_driver_sql(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{reader}'@'%%'")
            await connection.exec_driver_sql(f"GRANT {what} ON {mysql_database.name}.* TO '{reader}'@'%%'")
            # A connection that is open keeps what it may do.
            await end_connections(connection, User=reader)

        await grant("ALL")
        try:
            url = make_url(mysql_database.url).set(username=reader, password=reader)
            database = DatabaseSettings.model_validate({"url": url.render_as_string(hide_password=False)})
            app = create_app(settings_on(database, model_server, tmp_path))
            async with serving(app) as base, httpx2.AsyncClient(base_url=f"{base}/api/v1", timeout=120) as api:
                assert (await api.get("/health")).status_code == 200
                await grant("SELECT")
                # What was written less than a second ago proves that it can be.
                await asyncio.sleep(RENEW_SECONDS)
                down = await api.get("/health")
                assert (down.status_code, down.json()["status"]) == (503, "unhealthy")
                assert down.json()["database"] == "read_only"
                assert (await api.get("/health/live")).status_code == 200
                await grant("ALL")
                assert (await api.get("/health")).json()["status"] == "healthy"
        finally:
            await connection.exec_driver_sql(f"DROP USER '{reader}'@'%%'")


async def test_a_database_that_is_away(
    mysql_database: TestDatabase, model_server: FakeModelServer, tmp_path: Path
) -> None:
    app = create_app(settings_on(mysql_database.settings, model_server, tmp_path))
    async with (
        admin_engine(mysql_database.server_url) as admin,
        admin.connect() as connection,
        serving(app) as base,
        httpx2.AsyncClient(base_url=f"{base}/api/v1", timeout=120) as api,
    ):
        assert (await api.get("/health")).status_code == 200
        # Every connection is cut and no new one finds the database.
        await connection.exec_driver_sql(f"DROP DATABASE {mysql_database.name}")
        await end_connections(connection, db=mysql_database.name)
        down = await api.get("/health")
        assert (down.status_code, down.json()["status"]) == (503, "unhealthy")
        responses = await asyncio.gather(
            api.post("/classify/check-cache", json={"image_hash": "a" * 64}),
            upload(api, photo(1)),
            api.get("/stats/today"),
            api.get("/requests/req_1_aaaaaaaaaaaa"),
        )
        for response in responses:
            assert (response.status_code, error_code(response)) == (503, "database_unavailable")
            assert int(response.headers["Retry-After"]) >= 1
        assert (await api.get("/health/live")).status_code == 200
        assert model_server.call_count == 0
        # The database comes back, and so does the service, by itself.
        await connection.exec_driver_sql(f"CREATE DATABASE {mysql_database.name}")
        await migrated(mysql_database.settings)
        assert (await upload(api, photo(1))).status_code == 200
        assert (await api.get("/health")).json()["status"] == "healthy"
