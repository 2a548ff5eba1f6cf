"""The demo in a real browser where the service wants an API key: it asks for one, and keeps it in its memory alone."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.async_api import Page, Request, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.access import AccessSettings
from app.config.settings import Settings
from app.database.engine import create_engine
from app.main import create_app
from app.services.api_keys.administration import NewKey
from app.services.api_keys.key import Scope
from tests.support.demo_page import CAT, choose, entry, provoked
from tests.support.keys import key_of, until
from tests.support.service_settings import migrated
from tests.support.serving import serving


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine on the service's database."""
    engine = create_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
async def keys(settings: Settings, engine: AsyncEngine) -> dict[Scope, NewKey]:
    """Keys that the service knows from its start on: to ask with one that it does not know yet is a wrong attempt."""
    await migrated(settings.database)
    return {scope: await key_of(engine, scope) for scope in (Scope.CLASSIFY, Scope.STATS)}


@pytest.fixture
async def closed_url(settings: Settings, keys: dict[Scope, NewKey]) -> AsyncIterator[str]:
    """A service that takes no photo without a key."""
    access = AccessSettings.model_validate({"require_api_key": True})
    async with serving(create_app(settings.model_copy(update={"access": access}))) as url:
        yield url


async def test_with_a_key_photos_are_classified(page: Page, closed_url: str, keys: dict[Scope, NewKey]) -> None:
    key = keys[Scope.CLASSIFY]
    sent: dict[str, str | None] = {}

    def note(request: Request) -> None:
        if "/api/v1/" in request.url:
            sent[urlsplit(request.url).path.partition("/api/v1")[2]] = request.headers.get("x-api-key")

    page.on("request", note)
    await page.goto(f"{closed_url}/demo")
    field = page.get_by_label("API key")
    await expect(field).to_be_visible()
    await expect(field).to_have_attribute("type", "password")
    await field.fill(f" {key.text} ")
    await choose(page, CAT)
    # With the names of the categories, which need the key, too.
    await expect(entry(page).locator(".category")).to_have_text("🐱 Pet Photos")
    assert sent == dict.fromkeys(["/classify/check-cache", "/classify", "/categories"], key.text)

    kept = await page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    assert key.text not in kept
    await page.reload()
    await expect(field).to_have_value("")


@pytest.mark.parametrize("page_options", [{"locale": "zh-CN"}], ids=["zh"])
async def test_it_is_asked_for_in_chinese(page: Page, closed_url: str) -> None:
    await page.goto(f"{closed_url}/demo")
    await expect(page.get_by_label("API 密钥")).to_be_visible()
    await expect(page.locator("#key-hint")).to_contain_text("该服务需要密钥")


async def test_a_wrong_key_is_said_and_another_may_be_tried(
    page: Page, page_problems: list[str], closed_url: str, keys: dict[Scope, NewKey]
) -> None:
    await page.goto(f"{closed_url}/demo")
    for typed, said in (
        ("", "The service takes photos with an API key only."),
        ("密钥", "The API key is not valid."),
        (keys[Scope.STATS].text, "The API key may not do this."),
    ):
        await page.fill("#key", typed)
        await choose(page, CAT)
        await expect(entry(page).locator(".failure")).to_have_text(said)
    await page.fill("#key", keys[Scope.CLASSIFY].text)
    await entry(page).locator(".again").click()
    await expect(entry(page).locator(".outcome")).to_have_text("New")
    await provoked(page_problems, "401 (Unauthorized)", "401 (Unauthorized)", "403 (Forbidden)")


async def test_an_open_service_asks_for_none_until_there_is_one(
    page: Page, page_problems: list[str], service_url: str, engine: AsyncEngine
) -> None:
    await page.goto(f"{service_url}/demo")
    await choose(page, CAT)
    await expect(entry(page).locator(".outcome")).to_have_text("New")
    await expect(page.locator("#key")).to_be_hidden()
    key = await key_of(engine, Scope.CLASSIFY)

    async def is_closed() -> bool:
        async with httpx2.AsyncClient(base_url=service_url, timeout=120) as client:
            return (await client.get("/api/v1/categories")).status_code == 401

    await until(is_closed)
    await entry(page).locator(".again").click()
    await expect(entry(page).locator(".failure")).to_have_text("The service takes photos with an API key only.")
    await page.fill("#key", key.text)
    await entry(page).locator(".again").click()
    await expect(entry(page).locator(".outcome")).to_have_text("Cache hit")
    await provoked(page_problems, "401 (Unauthorized)")
