"""/docs and /redoc in a real browser, without the internet: one logs in by its Authorize button and calls the API."""

import httpx2
from playwright.async_api import Page, expect

from tests.support.people import USER, sign_up


async def test_a_person_logs_in_and_calls(page: Page, service: httpx2.AsyncClient, service_url: str) -> None:
    await sign_up(service)
    await page.goto(f"{service_url}/docs")
    await page.get_by_role("button", name="Authorize").click()
    dialog = page.locator(".auth-container")
    await dialog.get_by_label("username").fill(USER["username"])
    await dialog.get_by_label("password:").fill(USER["password"])
    await dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()
    await expect(dialog.get_by_role("button", name="Remove authorization")).to_be_visible()
    await dialog.get_by_role("button", name="Close").first.click()

    operation = page.locator("#operations-users-get_me_users_me_get")
    await operation.locator(".opblock-summary-control").click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.get_by_role("button", name="Execute").click()
    response = operation.locator(".live-responses-table")
    await expect(response.locator(".response-col_status").last).to_contain_text("200")
    await expect(response).to_contain_text('"username": "testuser"')


async def test_redoc_reads_the_document_and_asks_no_other_host(page: Page, service_url: str) -> None:
    # The fixture `page` fails the test for an error in the console and for a request to another host.
    await page.goto(f"{service_url}/redoc")
    await expect(page.locator("h2", has_text="Check Cache").first).to_be_visible()
    await page.get_by_placeholder("Search").fill("distribution")
    await expect(page.get_by_role("menuitem", name="Category Distribution").first).to_be_visible()
    await expect(page.get_by_alt_text("redocly logo")).to_have_count(0)
