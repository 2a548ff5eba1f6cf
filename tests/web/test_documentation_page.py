"""/docs and /redoc in a real browser, without the internet: one logs in by its Authorize button and calls the API."""

import httpx2
from playwright.async_api import Page, expect

from tests.support.demo_page import COFFEE
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


async def test_the_first_photo_is_classified_without_a_word_typed(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/docs")
    operation = page.locator("#operations-classification-classify_api_v1_classify_post")
    await operation.locator(".opblock-summary-control").click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.locator("input[type=file]").set_input_files(COFFEE)
    await operation.get_by_role("button", name="Execute").click()
    response = operation.locator(".live-responses-table")
    await expect(response.locator(".response-col_status").last).to_contain_text("200")
    await expect(response).to_contain_text('"category": "foods"')


async def test_it_is_dark_where_the_system_is_and_leads_back(page: Page, service_url: str) -> None:
    html = page.locator("html")
    for path in ("/docs", "/redoc"):
        await page.goto(f"{service_url}{path}")
        for address in ("/", "/demo", "/dashboard"):
            link = page.locator(f".ways-back a[href='{address.removeprefix('/') or './'}']")
            assert await link.evaluate("link => link.href") == f"{service_url}{address}"
    await page.goto(f"{service_url}/docs")
    await page.emulate_media(color_scheme="light")
    await expect(html).not_to_have_class("dark-mode")
    await page.emulate_media(color_scheme="dark")
    await expect(html).to_have_class("dark-mode")
    await expect(html).to_have_css("background-color", "rgb(28, 32, 34)")
    # A choice made on another page holds here, too.
    await page.evaluate("localStorage.setItem('theme', 'light')")
    await page.reload()
    await expect(html).not_to_have_class("dark-mode")
    await page.goto("about:blank")


async def test_redoc_reads_the_document_and_asks_no_other_host(page: Page, service_url: str) -> None:
    # The fixture `page` fails the test for an error in the console and for a request to another host.
    await page.goto(f"{service_url}/redoc")
    await expect(page.locator("h2", has_text="Check Cache").first).to_be_visible()
    await page.get_by_placeholder("Search").fill("distribution")
    await expect(page.get_by_role("menuitem", name="Category Distribution").first).to_be_visible()
    await expect(page.get_by_alt_text("redocly logo")).to_have_count(0)
