"""The address without a path, as a browser and as a program ask for it."""

import httpx2
import pytest
from playwright.async_api import Page, expect

from app import VERSION
from app.web.index import LINKS
from app.web.pages import CONTENT_SECURITY_POLICY


async def test_a_browser_is_shown_the_ways_on_in_both_languages(page: Page, service_url: str) -> None:
    await page.goto(service_url)
    ways = page.locator(".ways a")
    await expect(ways).to_have_text(["Try a photo", "Dashboard", "Try the API", "Documentation of the API"])
    for address in await ways.evaluate_all("links => links.map((link) => link.href)"):
        assert (await page.request.get(address)).status == 200, address
    await page.locator("[data-language-switch]").click()
    await expect(ways).to_have_text(["试一张照片", "仪表盘", "调试接口", "接口文档"])
    await expect(page).to_have_title("图片分类服务")

    await ways.first.click()
    await expect(page).to_have_url(f"{service_url}/demo")
    await page.get_by_role("link", name="Image Classifier").click()
    await expect(page).to_have_url(f"{service_url}/")
    await expect(ways.first).to_have_text("试一张照片")
    # What is still being loaded would fail with the service that ends first.
    await page.goto("about:blank")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_welcome_page_is_for_browsers(method: str, service: httpx2.AsyncClient) -> None:
    answer = await service.request(method, "/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "Accept" in answer.headers["vary"].split(", ")


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
async def test_a_program_is_told_what_is_where(accept: str, service: httpx2.AsyncClient) -> None:
    answer = await service.get("/", headers={"Accept": accept})
    assert answer.status_code == 200
    assert "Accept" in answer.headers["vary"].split(", ")
    assert answer.json() == {"success": True, "name": "Image Classifier", "version": VERSION, "links": LINKS}
    for path in LINKS.values():
        assert (await service.get(path)).status_code == 200, path
