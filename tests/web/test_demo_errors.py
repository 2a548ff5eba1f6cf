"""The demo in a real browser: what a person is told when something goes wrong."""

from pathlib import Path

from playwright.async_api import Page, expect

from app.config.model import ModelSettings
from app.config.settings import ImageSettings, Settings
from app.main import create_app
from tests.fakes.model_server import FakeModelServer
from tests.support.demo_page import CAT, calls, choose, entry, file, provoked
from tests.support.serving import serving


async def test_a_file_that_is_too_large_is_not_sent(page: Page, settings: Settings) -> None:
    small = settings.model_copy(update={"image": ImageSettings.model_validate({"max_size_megabytes": 1})})
    async with serving(create_app(small)) as url:
        await page.goto(f"{url}/demo")
        asked = calls(page)
        await choose(page, file("large.raw", "image/x-raw", bytes(1024 * 1024 + 1)))
        await expect(entry(page).locator(".failure")).to_have_text("The file is too large.")
        assert "".join(asked) == ""


async def test_a_file_that_is_gone_is_named(
    page: Page, page_problems: list[str], service_url: str, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(CAT.read_bytes())
    await page.goto(f"{service_url}/demo")
    await page.set_input_files("#choose", photo)
    await expect(entry(page).locator(".outcome")).to_have_text("New")
    photo.unlink()
    await entry(page).locator(".again").click()
    await expect(entry(page).locator(".failure")).to_have_text("The browser cannot read this file.")
    await expect(entry(page).locator(".thumbnail")).to_have_count(0)
    await provoked(page_problems, "ERR_FILE_NOT_FOUND")


async def test_a_service_that_is_gone_is_named(page: Page, page_problems: list[str], settings: Settings) -> None:
    async with (
        serving(create_app(settings)) as url,
        # The page is there before its names of the categories are.
        page.expect_request_finished(lambda request: request.url.endswith("/categories")),
    ):
        await page.goto(f"{url}/demo")
    await choose(page, CAT)
    await expect(entry(page).locator(".outcome")).to_have_text("Failed")
    await expect(entry(page).locator(".failure")).to_contain_text("The service cannot be reached.")
    await provoked(page_problems, *["ERR_CONNECTION_REFUSED"] * 3)
    await page.click("[data-language-switch]")
    await expect(entry(page).locator(".failure")).to_contain_text("无法连接服务")


async def test_an_error_of_the_service_is_said_in_words(
    page: Page, page_problems: list[str], settings: Settings, model_server: FakeModelServer
) -> None:
    wrong_key = {"provider": "custom", "base_url": model_server.openai_url, "api_key": "wrong", "model": "test-vision"}
    settings = settings.model_copy(update={"model": ModelSettings.model_validate(wrong_key)})
    async with serving(create_app(settings)) as url:
        await page.goto(f"{url}/demo")
        await choose(page, CAT)
        await expect(entry(page).locator(".failure")).to_have_text(
            "The model provider does not accept the service's key. Tell the operator."
        )
        await expect(entry(page).locator(".facts")).to_contain_text("Request req_")
    await provoked(page_problems, "503 (Service Unavailable)")


async def test_every_error_of_a_classification_has_words(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    texts = await page.evaluate("import('/assets/demo-texts.js').then(module => module.texts)")
    assert texts["en"].keys() == texts["zh"].keys()
    paths = (await (await page.request.get(f"{service_url}/openapi.json")).json())["paths"]
    codes = {
        example["value"]["error"]["code"]
        for path in ("/api/v1/classify", "/api/v1/classify/check-cache")
        for status, answer in paths[path]["post"]["responses"].items()
        if status != "200"
        for example in answer["content"]["application/json"]["examples"].values()
    }
    assert len(codes) > 20
    assert {f"error.{code}" for code in codes} <= texts["en"].keys()
