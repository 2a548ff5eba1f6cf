"""The review page in a real Chromium: an operator finds an entry, corrects it, undoes that, and removes many."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from app.config.feedback import FeedbackSettings
from app.config.settings import CacheSettings, Settings
from app.main import create_app
from tests.servers.browser import open_page
from tests.support.classify import check, photo, sha256
from tests.support.keys import ADMIN_API_KEY
from tests.support.serving import serving

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
PASSWORD = {"username": "anyone", "password": ADMIN_API_KEY}
PHONE: dict[str, Any] = {
    "locale": "zh-CN",
    "viewport": {"width": 375, "height": 667},
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}
COMMENT = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def service_url(settings: Settings) -> AsyncIterator[str]:
    """A service with an admin key, and three photos, of which users dispute the first."""
    changes: dict[str, Any] = {
        "cache": CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY}),
        "feedback": FeedbackSettings.model_validate({"quorum": 0}),
    }
    async with serving(create_app(settings.model_copy(update=changes))) as url:
        async with httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api:
            for number in range(3):
                await api.post("/classify", files={"image": photo(number)})
            body = {"image_hash": sha256(photo(0)), "category": "pets", "comment": COMMENT}
            assert (await api.post("/feedback", json=body)).status_code == 200
        yield url


async def answer_of(url: str, number: int) -> dict[str, Any]:
    async with httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as api:
        answer: dict[str, Any] = (await check(api, sha256(photo(number)))).json()
        return answer


@pytest.mark.parametrize("page_options", [{"locale": "en-GB", "http_credentials": PASSWORD}])
async def test_a_disputed_entry_is_corrected_and_the_correction_undone(service_url: str, page: Page) -> None:
    await page.goto(f"{service_url}/review")
    await expect(page).to_have_title("Image Classifier · review")
    await expect(page.locator("#entries > li")).to_have_count(3)
    await expect(page.get_by_text("No picture can be shown")).to_be_visible()
    before = await answer_of(service_url, 0)
    await page.get_by_label("Disputed by users").check()
    await page.get_by_role("button", name="Show").click()
    entry = page.locator("#entries > li")
    await expect(entry).to_have_count(1)
    await expect(entry.locator(".hash")).to_have_text(sha256(photo(0)))
    await expect(entry.locator(".opinions")).to_have_text("Pet Photos: 1")

    # Nothing is chosen yet.
    await page.get_by_role("button", name="Correct", exact=True).click()
    await expect(page.locator("#status")).to_have_text("Choose entries first.")
    # With the keyboard alone.
    await entry.get_by_role("checkbox").focus()
    await page.keyboard.press("Space")
    await expect(page.locator("#chosen")).to_have_text("1")
    await page.get_by_label("Right category").select_option("pets")
    await page.get_by_label("Description of a correction").fill("a cat")
    await page.get_by_role("button", name="Correct", exact=True).focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#status")).to_have_text("1 corrected.")
    await expect(entry.locator(".category")).to_have_text("Pet Photos")
    await expect(entry.locator(".mark")).to_have_text("corrected")
    corrected = await answer_of(service_url, 0)
    assert (corrected["model"], corrected["data"]["description"]) == ("manual", "a cat")

    button = entry.get_by_role("button", name="History")
    await button.click()
    await expect(entry.locator(".more li").first).to_contain_text("corrected by ADMIN_API_KEY")
    # What a user has written is text, whatever it looks like.
    await expect(entry.locator(".more ul li")).to_contain_text(COMMENT)
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator("#status")).to_have_text("1 undone.")
    await expect(entry.locator(".more ol li")).to_have_count(2)
    assert (await answer_of(service_url, 0))["data"] == before["data"]
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator("#status")).to_have_text("1 not changed: nothing_to_undo.")


@pytest.mark.parametrize("page_options", [PHONE | {"http_credentials": PASSWORD}])
async def test_many_are_removed_on_a_phone_in_chinese_and_in_the_dark(service_url: str, page: Page) -> None:
    await page.goto(f"{service_url}/review")
    texts = await page.evaluate("import('/assets/review-texts.js').then(module => module.texts)")
    assert texts["en"].keys() == texts["zh"].keys()
    await expect(page.locator("#entries > li")).to_have_count(3)
    await expect(page.locator("h1")).to_have_text("审核")
    for _ in range(2):
        assert await page.evaluate(OVERFLOW) == 0
        await page.locator("[data-language-switch]").tap()
    dark = await page.evaluate(BACKGROUND)
    await page.get_by_label("选择本页全部").check()
    await expect(page.locator("#chosen")).to_have_text("3")
    await page.get_by_role("button", name="移除").tap()
    await expect(page.locator("#status")).to_have_text("已移除 3 个，一周内可以撤销。")
    assert [(await answer_of(service_url, number))["cached"] for number in range(3)] == [False] * 3
    await page.get_by_role("button", name="撤销").tap()
    await expect(page.locator("#status")).to_have_text("已撤销 3 个。")
    assert [(await answer_of(service_url, number))["cached"] for number in range(3)] == [True] * 3
    await page.get_by_role("button", name="浅色或深色").tap()
    assert await page.evaluate(BACKGROUND) != dark
    assert await page.evaluate(OVERFLOW) == 0


async def test_every_field_and_button_has_a_name(service_url: str, browser: Browser) -> None:
    problems: list[str] = []
    async with open_page(browser, problems, http_credentials=PASSWORD, locale="en-GB") as page:
        await page.goto(f"{service_url}/review")
        await expect(page.locator("#entries > li")).to_have_count(3)
        unnamed = await page.evaluate(
            """[...document.querySelectorAll("main input, main select, main button")].filter((each) =>
              !each.getAttribute("aria-label") && !each.textContent.trim() && !each.labels?.length).length"""
        )
        assert unnamed == 0
        await page.get_by_label("Confidence below").fill("0.000001")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#entries > li")).to_have_count(3)
        await page.get_by_label("Search").fill("nothing of the kind")
        await page.get_by_label("Confidence below").fill("")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#empty")).to_be_visible()
    assert problems == []
    async with open_page(browser, problems, http_credentials={**PASSWORD, "password": "wrong"}) as page:
        answer = await page.goto(f"{service_url}/review")
        assert answer is not None
        assert answer.status == 401


async def test_what_could_not_be_asked_is_not_gone_and_what_is_gone_is_found_by_its_hash(
    service_url: str, browser: Browser
) -> None:
    problems: list[str] = []
    async with open_page(browser, problems, http_credentials=PASSWORD, locale="en-GB") as page:
        await page.goto(f"{service_url}/review")
        entry = page.locator("#entries > li").first
        await expect(entry.locator(".hash")).to_have_text(sha256(photo(2)))
        await entry.get_by_role("checkbox").check()
        answer = {"success": False, "error": {"code": "rate_limited", "message": "Too many."}}
        await page.route("**/review/entries/*", lambda route: route.fulfill(status=429, json=answer))
        category = await entry.locator(".category").text_content()
        await page.get_by_role("button", name="Is right").click()
        await expect(page.locator("#failure")).to_contain_text("may be out of date. Too many. (rate_limited)")
        await expect(page.locator("#status")).to_contain_text("1 confirmed")
        await expect(entry.locator(".category")).to_have_text(category or "")
        assert len(problems) == 1
        assert "429" in problems.pop()

        await page.unroute("**/review/entries/*")
        await page.get_by_role("button", name="Remove").click()
        await expect(entry.locator(".category")).to_have_text("no entry")
        await page.get_by_label("Search").fill(sha256(photo(2)).upper())
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#entries > li")).to_have_count(1)
        await expect(entry.locator(".more")).to_contain_text("An undo brings it back")
        await entry.get_by_role("checkbox").check()
        await page.get_by_role("button", name="Undo").click()
        await expect(entry.locator(".category")).to_have_text(category or "")
        assert problems == []
        await page.get_by_label("Search").fill("0" * 64)
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#empty")).to_be_visible()
        await expect(page.locator("#failure")).to_be_hidden()
        # The browser says so by itself.
        assert len(problems) == 1
        assert "404" in problems.pop()


@pytest.mark.parametrize("page_options", [{"locale": "en-GB", "http_credentials": PASSWORD}])
async def test_the_dashboard_shows_accuracy_and_what_it_is_not(service_url: str, page: Page) -> None:
    await page.goto(f"{service_url}/dashboard")
    rows = page.locator("#accuracy tr")
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_have_text(re.compile(r"local/efficientnet-lite2/[0-9a-f]+All10% \(0–79\)"))
    await expect(page.get_by_text("no random sample")).to_be_visible()
