"""The address without a path, as a browser and as a program ask for it."""

import httpx2
import pytest
from playwright.async_api import Page, expect

from app import VERSION
from app.web.index import LINKS


async def test_a_browser_arrives_at_the_demo(page: Page, service_url: str) -> None:
    await page.goto(service_url)
    await expect(page).to_have_url(f"{service_url}/demo")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_browser_is_led_on_by_a_relative_address(method: str, service: httpx2.AsyncClient) -> None:
    answer = await service.request(method, "/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["location"]) == (307, "demo")
    assert "Accept" in answer.headers["vary"].split(", ")


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
async def test_a_program_is_told_what_is_where(accept: str, service: httpx2.AsyncClient) -> None:
    answer = await service.get("/", headers={"Accept": accept})
    assert answer.status_code == 200
    assert "Accept" in answer.headers["vary"].split(", ")
    assert answer.json() == {"success": True, "name": "Image Classifier", "version": VERSION, "links": LINKS}
    for path in LINKS.values():
        assert (await service.get(path)).status_code == 200, path
