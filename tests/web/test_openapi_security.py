"""The OpenAPI document says which operations need a key: that of a service whose keys are made while it runs, too."""

from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.access import AccessSettings
from app.config.settings import CacheSettings, Settings
from app.database.engine import create_engine
from app.main import create_app
from tests.support.keys import ADMIN_API_KEY, key_of, until
from tests.support.serving import serving

NEEDED: list[Any] = [{"ApiKey": []}]
OPTIONAL: list[Any] = [{}, *NEEDED]
CLASSIFY, STATISTICS = ("post", "/api/v1/classify"), ("get", "/api/v1/stats/today")
ADMINISTRATION, ACCOUNT = ("post", "/api/v1/tokens"), ("get", "/users/me")


def security_of(document: dict[str, Any]) -> list[Any]:
    """What the document says of four operations."""
    four = (CLASSIFY, STATISTICS, ADMINISTRATION, ACCOUNT)
    return [document["paths"][path][method]["security"] for method, path in four]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, [OPTIONAL, OPTIONAL]),
        ({"access": AccessSettings.model_validate({"require_api_key": True})}, [NEEDED, NEEDED]),
        ({"cache": CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY})}, [OPTIONAL, NEEDED]),
    ],
    ids=["open", "REQUIRE_API_KEY", "ADMIN_API_KEY"],
)
def test_it_says_what_the_settings_say(settings: Settings, changes: dict[str, Any], said: list[Any]) -> None:
    document = create_app(settings.model_copy(update=changes)).openapi()
    assert security_of(document) == [*said, NEEDED, [{"Account": []}]]


async def test_it_changes_with_the_first_key(settings: Settings) -> None:
    engine: AsyncEngine = create_engine(settings)
    async with serving(create_app(settings)) as url, httpx2.AsyncClient(base_url=url, timeout=120) as client:

        async def said() -> list[Any]:
            return security_of((await client.get("/openapi.json")).json())[:2]

        assert await said() == [OPTIONAL, OPTIONAL]
        await key_of(engine)

        async def is_known() -> bool:
            return await said() == [NEEDED, NEEDED]

        await until(is_known)
        assert (await client.get("/api/v1/categories")).status_code == 401
    await engine.dispose()
