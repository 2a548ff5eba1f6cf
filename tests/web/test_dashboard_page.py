"""The dashboard in a real Chromium: it lives, speaks both languages, and can be read on a phone and in the dark."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy import insert
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import streaming
from app.clock import utc_now
from app.config.settings import CacheSettings, Settings
from app.database.engine import create_engine
from app.database.tables.statistics import PeriodTotals
from app.main import create_app
from app.server.shutdown import announce_shutdown
from app.services.request_log.rollups import period_start
from tests.servers.browser import open_page
from tests.support.classify import photo
from tests.support.documents import DOCS
from tests.support.serving import serving

PHONE: dict[str, Any] = {
    "locale": "zh-CN",
    "viewport": {"width": 375, "height": 667},
    "is_mobile": True,
    "has_touch": True,
}
CHINESE_IN_THE_DARK = {"locale": "zh-CN", "color_scheme": "dark"}
KEY = "a-long-admin-key-0123"
REQUESTS = '[data-figure="requests"]'
# The largest part comes last.
FILLED = '[data-spark="users"] svg'
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT_OFF = """[...document.querySelectorAll("dd[data-figure], .categories td")]
  .filter((figure) => figure.scrollWidth > figure.clientWidth).map((figure) => figure.textContent)"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


async def visit(page: Page, url: str) -> None:
    await page.goto(f"{url}/dashboard")
    await page.wait_for_selector(FILLED, state="attached")


async def classify(url: str, number: int) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        answer = await client.post("/api/v1/classify", files={"image": photo(number)}, headers={"X-User-ID": "ann"})
    assert answer.status_code == 200


async def test_the_numbers_move_after_a_classification(service_url: str, page: Page) -> None:
    await visit(page, service_url)
    await expect(page.locator(REQUESTS)).to_have_text("0")
    await expect(page.locator("h1")).to_contain_text("(Asia/Shanghai)")
    await expect(page.locator("#no-photo")).to_be_visible()
    await expect(page.locator("#no-photo a")).to_have_attribute("href", "demo")
    await expect(page.locator("#users-empty")).to_be_visible()
    await expect(page.locator("#database")).to_have_text("connected")
    await expect(page.locator("#live")).to_have_class("dot on")
    await classify(service_url, 1)
    await classify(service_url, 1)
    await expect(page.locator(REQUESTS)).to_have_text("2")
    await expect(page.locator("#no-photo")).to_be_hidden()
    await expect(page.locator('[data-note="hitRate"]')).to_have_text("1 hit")
    await expect(page.locator('[data-note="users"]')).to_have_text("1 address")
    await expect(page.locator('[data-note="images"]')).to_have_text("2 requests each")
    await expect(page.locator('[data-figure="hitRate"]')).to_have_text("50%")
    await expect(page.locator('[data-figure="saved"]')).to_have_text("¥0.00")
    # The local model costs nothing.
    await expect(page.locator('[data-figure="spent"]')).to_have_text("¥0.00")
    await expect(page.locator('[data-note="spent"]')).to_have_text("0 paid calls, 1 new photo")
    await expect(page.locator("#users tr")).to_have_count(1)
    await expect(page.locator("#users tr td").first).to_have_text("ann")
    await expect(page.locator("#images tr")).to_have_count(1)
    await expect(page.locator("#categories tr")).to_have_count(8)


async def test_a_chart_is_read_without_a_mouse_and_without_eyes(service_url: str, page: Page) -> None:
    await classify(service_url, 1)
    await visit(page, service_url)
    chart = page.get_by_role("img", name="Requests", exact=True)
    await expect(chart.locator("desc")).to_contain_text("Bars: requests answered from the cache")
    readout = page.locator('[data-chart="requests"] output')
    await expect(readout).to_have_text("New photosHits")
    await chart.focus()
    await page.keyboard.press("ArrowLeft")
    await expect(readout).to_contain_text("New photos 1")
    await page.keyboard.press("Home")
    await expect(readout).to_contain_text("New photos 0")
    await page.keyboard.press("Escape")
    await expect(readout).to_have_text("New photosHits")

    figure = page.locator('[data-chart="requests"]')
    await figure.locator("summary").click()
    await expect(figure.locator("tbody tr")).to_have_count(24)
    # The newest is at the top.
    await expect(figure.locator("tbody tr").first.locator("td").nth(1)).to_have_text("1")
    for span, rows in (("30 days", 30), ("6 hours", 24)):
        button = page.get_by_role("button", name=span)
        await button.focus()
        await page.keyboard.press("Enter")
        await expect(button).to_have_attribute("aria-pressed", "true")
        await expect(figure.locator("tbody tr")).to_have_count(rows)


async def test_the_language_is_the_browsers_until_one_is_chosen(service_url: str, page: Page) -> None:
    await visit(page, service_url)
    texts = await page.evaluate("import('/assets/dashboard-texts.js').then(module => module.texts)")
    assert texts["en"].keys() == texts["zh"].keys()
    await expect(page).to_have_title("Image Classifier · dashboard")
    await expect(page.locator("h1")).to_contain_text("Today")
    await page.get_by_role("button", name="中文").click()
    await expect(page.locator("h1")).to_contain_text("今日")
    await expect(page.locator("#categories tr td").first).to_have_text("社交活动")
    await expect(page.locator("#database")).to_have_text("已连接")
    await visit(page, service_url)
    await expect(page.locator("h1")).to_contain_text("今日")
    assert await page.evaluate("document.documentElement.lang") == "zh-CN"
    await page.get_by_role("button", name="English").click()
    await expect(page.locator("h1")).to_contain_text("Today")


@pytest.mark.parametrize("page_options", [CHINESE_IN_THE_DARK])
async def test_it_is_as_dark_as_the_system_until_one_chooses(service_url: str, page: Page) -> None:
    await visit(page, service_url)
    await expect(page.locator("h1")).to_contain_text("今日")
    dark = await page.evaluate(BACKGROUND)
    await page.get_by_role("button", name="浅色或深色").click()
    light = await page.evaluate(BACKGROUND)
    assert light != dark
    await visit(page, service_url)
    assert await page.evaluate(BACKGROUND) == light


@pytest.mark.parametrize("page_options", [PHONE, PHONE | {"locale": "en-GB"}], ids=["zh", "en"])
async def test_a_phone_shows_all_of_it_without_scrolling_sideways(service_url: str, page: Page) -> None:
    await classify(service_url, 1)
    await visit(page, service_url)
    assert await page.evaluate(OVERFLOW) == 0
    for _ in range(2):
        await page.locator("[data-language-switch]").tap()
        assert await page.evaluate(OVERFLOW) == 0
    await page.locator('[data-chart="money"] summary').tap()
    await expect(page.locator('[data-chart="money"] tbody tr')).to_have_count(24)
    assert await page.evaluate(OVERFLOW) == 0


async def test_an_id_cannot_become_markup(service_url: str, page: Page) -> None:
    name = "<img src=x onerror=alert(1)>"
    async with httpx2.AsyncClient(base_url=service_url, timeout=120) as client:
        await client.post("/api/v1/classify", files={"image": photo(1)}, headers={"X-User-ID": name})
    await visit(page, service_url)
    await expect(page.locator("#users tr td").first).to_have_text(name)


async def test_the_largest_service_fits_every_screen(page: Page, settings: Settings) -> None:
    app = create_app(settings)
    sums = dict.fromkeys(("requests", "hits", "processing_time_ms"), 10**12)
    row = {
        "period_start": period_start(utc_now()),
        "category": "single_person",
        "shard": 0,
        "confidence_sum": 0,
        "saved_micros": 10**16,
    }
    async with serving(app) as url:
        engine = create_engine(settings)
        async with engine.begin() as connection:
            await connection.execute(insert(PeriodTotals), row | sums)
        await engine.dispose()
        await visit(page, url)
        await expect(page.locator(REQUESTS)).to_have_text("1tn")
        await expect(page.locator('[data-figure="saved"]')).to_have_text("¥10bn")
        # In one column, in two, and in the narrowest of three.
        for width in (320, 360, 768, 901, 1100, 1184):
            await page.set_viewport_size({"width": width, "height": 640})
            assert await page.evaluate(OVERFLOW) == 0, width
            assert await page.evaluate(CUT_OFF) == [], width
        await page.goto("about:blank")


async def test_only_what_is_new_is_read_out(service_url: str, page: Page) -> None:
    await visit(page, service_url)
    await page.evaluate(
        """() => {
          globalThis.changes = 0;
          const observer = new MutationObserver((records) => (changes += records.length));
          for (const live of document.querySelectorAll("[role=status], [role=alert], output"))
            observer.observe(live, { childList: true, characterData: true, subtree: true });
        }"""
    )
    await classify(service_url, 1)
    await expect(page.locator(REQUESTS)).to_have_text("1")
    await expect(page.locator('[data-chart="requests"] desc')).to_contain_text("0 hits and 1 new photo in")
    assert await page.evaluate("changes") == 0


async def test_keys_before_there_is_anything_to_read_do_nothing(service_url: str, page: Page) -> None:
    await page.route("**/dashboard/events", lambda route: route.fulfill(content_type="text/event-stream", body=":\n\n"))
    await page.goto(f"{service_url}/dashboard")
    await page.locator('[data-chart="requests"] svg').focus()
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#live-text")).to_have_text("Connecting …")


async def test_a_silent_connection_is_made_anew(service_url: str, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a network that is gone: nothing comes, and no end either."""
    monkeypatch.setattr(streaming, "PING_SECONDS", 3600.0)
    connections: list[str] = []
    page.on("request", lambda request: connections.append(request.url) if request.url.endswith("/events") else None)
    await page.clock.install()
    await visit(page, service_url)
    assert len(connections) == 1
    async with page.expect_request("**/dashboard/events"):
        await page.clock.fast_forward(60_000)
    await expect(page.locator("#live")).to_have_class("dot on")


async def test_it_comes_back_after_the_service_does(page: Page, page_problems: list[str], settings: Settings) -> None:
    async with serving(create_app(settings)) as url:
        await visit(page, url)
        announce_shutdown()
    await expect(page.locator("#live")).to_have_class("dot off")
    await expect(page.locator("#live-text")).to_contain_text("reconnecting")
    async with serving(create_app(settings), port=int(url.rpartition(":")[2])):
        await expect(page.locator("#live")).to_have_class("dot on")
        await page.goto("about:blank")
    assert all("ERR_CONNECTION_REFUSED" in problem or "ERR_INCOMPLETE" in problem for problem in page_problems)
    page_problems.clear()


async def test_a_hidden_page_costs_nothing(page: Page, settings: Settings) -> None:
    app = create_app(settings)
    async with serving(app) as url:
        await visit(page, url)
        feed = app.state.resources.dashboard
        assert len(feed._viewers) == 1
        hide = "value => { Object.defineProperty(document, 'hidden', { value, configurable: true });"
        hide += " document.dispatchEvent(new Event('visibilitychange')); }"
        await page.evaluate(hide, True)
        await expect(page.locator("#live")).not_to_have_class("dot on")
        while feed._viewers:
            await page.wait_for_timeout(5)
        await page.evaluate(hide, False)
        await expect(page.locator("#live")).to_have_class("dot on")
        assert len(feed._viewers) == 1
        await page.goto("about:blank")


async def test_the_key_is_the_password(browser: Browser, settings: Settings) -> None:
    cache = CacheSettings.model_validate({"admin_api_key": KEY})
    problems: list[str] = []
    async with serving(create_app(settings.model_copy(update={"cache": cache}))) as url:
        right = {"username": "anyone", "password": KEY}
        async with open_page(browser, problems, http_credentials=right, locale="en-GB") as page:
            await visit(page, url)
            await expect(page.locator("#live")).to_have_class("dot on")
        assert problems == []
        async with open_page(browser, problems, http_credentials={**right, "password": "wrong"}) as page:
            answer = await page.goto(f"{url}/dashboard")
            assert answer is not None
            assert answer.status == 401
            await expect(page.locator("h1")).to_have_text("This page needs an API key")
            await page.locator("[data-language-switch]").click()
            await expect(page.locator("h1")).to_have_text("查看本页需要 API 密钥")


async def test_the_whole_hash_is_copied(service_url: str, page: Page) -> None:
    await classify(service_url, 1)
    await visit(page, service_url)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name=hashlib.sha256(photo(1)).hexdigest()[:10])
    await button.click()
    await expect(page.locator("#copy-status")).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == hashlib.sha256(photo(1)).hexdigest()


async def test_a_hash_that_the_api_does_not_give_is_not_copied(service_url: str, page: Page) -> None:
    await classify(service_url, 1)
    await visit(page, service_url)
    # As where other photos are asked for more by now.
    await page.route("**/stats/top-images?*", lambda route: route.fulfill(json={"data": []}))
    await page.locator("#images .copy").click()
    await expect(page.locator("#copy-status")).to_have_text("Not copied")


@pytest.fixture
async def prefixed_url(settings: Settings) -> AsyncIterator[str]:
    """The address of a service below a path, as behind a proxy that cuts the path off."""
    app = create_app(settings)

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith("/photos/"):
                scope["path"] = "/outside"
            scope["path"] = scope["path"].removeprefix("/photos")
        await app(scope, receive, send)

    served: ASGIApp = proxy
    async with serving(served) as url:
        yield f"{url}/photos"


async def test_it_works_below_a_path(prefixed_url: str, page: Page) -> None:
    await visit(page, prefixed_url)
    await classify(prefixed_url, 1)
    await expect(page.locator(REQUESTS)).to_have_text("1")


async def test_small_sums_have_labels_that_tell_them_apart(paid_settings: Settings, page: Page) -> None:
    """A call may cost a part of a cent: an axis of zeros says nothing."""
    async with serving(create_app(paid_settings)) as url:
        await classify(url, 1)
        await visit(page, url)
        await check_money(page)
        await page.goto("about:blank")


async def check_money(page: Page) -> None:
    await page.wait_for_selector('[data-chart="money"] svg text.mark')
    marks = await page.locator('[data-chart="money"] svg text.mark').all_text_contents()
    assert marks == ["0.0000", "0.0025", "0.0050", "0.0075", "0.0100"]
    await expect(page.locator('[data-chart="money"] h3')).to_have_text("Money (CNY)")
    await expect(page.locator("#spending tr td").first).to_have_text("test-vision")
    await expect(page.locator("#spending tr td").last).to_have_text("¥0.01")
    await expect(page.locator('[data-note="spent"]')).to_have_text("1 paid call, 1 new photo")
    scale = await page.evaluate(
        """async () => {
          const { decimalsOf, ticks } = await import("/assets/chart.js");
          return [0.000004, 0.00009, 0.3, 7, 1234].map((max) => [ticks(max).length, decimalsOf(ticks(max)[1])]);
        }"""
    )
    assert scale == [[5, 6], [5, 6], [4, 1], [5, 0], [4, 0]]


async def test_what_a_cascade_answered_locally_is_told(paid_settings: Settings, page: Page) -> None:
    cascade = paid_settings.model.model_copy(update={"provider": "cascade", "cascade_model": "custom"})
    coffee = (DOCS / "samples" / "coffee.jpg").read_bytes()
    async with serving(create_app(paid_settings.model_copy(update={"model": cascade}))) as url:
        async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
            answer = await client.post("/api/v1/classify", files={"image": coffee}, headers={"X-User-ID": "ann"})
        assert answer.json()["data"]["category"] == "foods"
        await visit(page, url)
        note = page.locator('[data-note="spent"]')
        await expect(note).to_have_text("0 paid calls, 1 new photo, 1 answered locally")
        await page.goto("about:blank")
