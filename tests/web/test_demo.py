"""The demo in a real browser: what becomes of the photos that a person gives it."""

import base64
import re
from collections.abc import Iterable
from typing import Any

from playwright.async_api import FilePayload, Page, expect

from app.config.model import DescriptionLanguage
from app.config.settings import Settings
from app.main import create_app
from tests.fakes.images import avif_photo, encode, heic_photo, png_photo, quadrants
from tests.servers.browser import INSECURE_HOST
from tests.support.demo_page import CAT, COFFEE, calls, choose, entry, file, provoked, steps
from tests.support.serving import serving
from tests.support.spending import spending_settings

# Makes a list of files, as a drop or a paste brings it.
TRANSFER = """files => {
  const transfer = new DataTransfer();
  for (const [name, type, data] of files)
    transfer.items.add(new File([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))], name, { type }));
  return transfer;
}"""


async def transfer(page: Page, event: str, files: Iterable[FilePayload]) -> None:
    """Drop or paste files."""
    contents = [[one["name"], one["mimeType"], base64.b64encode(one["buffer"]).decode()] for one in files]
    handle = await page.evaluate_handle(TRANSFER, contents)
    if event == "drop":
        for kind in ("dragenter", "dragover", "drop"):
            await page.dispatch_event("#drop", kind, {"dataTransfer": handle})
    else:
        await page.evaluate(
            "data => document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
            handle,
        )


async def test_a_photo_is_described_in_the_language_of_the_page(page: Page, settings: Settings) -> None:
    model = settings.model.model_copy(update={"description_language": DescriptionLanguage.AUTO})
    async with serving(create_app(settings.model_copy(update={"model": model}))) as url:
        await page.goto(f"{url}/demo")
        await choose(page, COFFEE)
        await expect(entry(page).locator(".description")).to_contain_text("most likely: coffee")
        await page.click("[data-language-switch]")
        await entry(page).locator(".again").click()
        await expect(page.locator(".entry")).to_have_count(2)
        await expect(entry(page).locator(".description")).to_contain_text("很可能是咖啡")


async def test_a_new_photo_is_uploaded_and_a_known_one_is_not(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    await expect(page.locator("#empty")).to_be_visible()
    asked = calls(page)

    await choose(page, COFFEE)
    await expect(entry(page).locator(".outcome")).to_have_text("New")
    await expect(entry(page).locator(".category")).to_have_text("🍜 Food Records")
    await expect(entry(page).locator(".other-name")).to_have_text("美食记录")
    await expect(entry(page).locator(".confidence")).to_contain_text(re.compile(r"\d%$"))
    await expect(entry(page).locator(".description")).to_contain_text("美食记录")
    await expect(entry(page).locator(".facts")).to_contain_text(
        re.compile(r"coffee\.jpg\d+ kB uploaded, of 64 kBRequest req_")
    )
    assert list(await steps(entry(page))) == ["compress", "hash", "check", "upload"]
    assert all(re.fullmatch(r"[\d,.]+ ms", time) for time in (await steps(entry(page))).values())
    assert [path for path in asked if path] == ["/classify/check-cache", "/classify"]
    await expect(page.locator("#total-money")).to_have_text("¥0.00")

    await entry(page).locator(".again").click()
    await expect(page.locator(".entry")).to_have_count(2)
    await expect(entry(page).locator(".outcome")).to_have_text("Cache hit")
    await expect(entry(page).locator(".facts")).to_contain_text(re.compile(r"\d+ kB not uploaded, ¥0\.00 saved"))
    assert list(await steps(entry(page))) == ["compress", "hash", "check"]
    assert [path for path in asked if path] == ["/classify/check-cache", "/classify", "/classify/check-cache"]
    for name, shown in {"photos": "2", "hits": "1", "money": "¥0.00"}.items():
        await expect(page.locator(f"#total-{name}")).to_have_text(shown)
    await expect(page.locator("#total-bytes")).to_have_text(re.compile(r"[1-9]\d* kB"))
    await expect(page.locator("#status")).to_contain_text("coffee.jpg: Food Records")

    await page.click("#clear")
    await expect(page.locator(".entry")).to_have_count(0)
    await expect(page.locator("#totals")).to_be_hidden()


async def test_several_photos_are_dropped_at_once(page: Page, page_problems: list[str], service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    files = [
        file("a.png", "image/png", encode(quadrants(800, 600), "PNG")),
        file("b.webp", "image/webp", encode(quadrants(300, 900), "WEBP")),
        file("c.jpg", "image/jpeg", CAT.read_bytes()),
        file("d.avif", "image/avif", avif_photo()),
        file("e.txt", "text/plain", b"no picture"),
    ]
    await transfer(page, "drop", files)
    await expect(page.locator(".outcome")).to_have_text(["Failed", "New", "New", "New", "New"])
    await expect(entry(page).locator(".failure")).to_have_text("This image format is not supported.")
    await expect(entry(page, 1).locator(".facts")).not_to_contain_text("cannot read")
    assert "over" not in str(await page.get_attribute("#drop", "class"))
    await provoked(page_problems, "400 (Bad Request)")


async def test_a_pasted_picture_is_taken(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    await transfer(page, "paste", [file("image.png", "image/png", png_photo())])
    await expect(entry(page).locator(".outcome")).to_have_text("New")


async def test_a_format_that_only_the_service_reads_is_uploaded_as_it_is(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    photo = heic_photo()
    await choose(page, file("photo.heic", "image/heic", photo))
    await expect(entry(page).locator(".outcome")).to_have_text("New")
    await expect(entry(page).locator(".facts")).to_contain_text("The browser cannot read this format")
    await expect(entry(page).locator(".thumbnail")).to_have_count(0)
    await choose(page, file("photo.heic", "image/heic", photo))
    await expect(entry(page).locator(".outcome")).to_have_text("Cache hit")


async def test_the_price_is_that_of_the_service(page: Page, paid_settings: Settings) -> None:
    priced = paid_settings.model_copy(update={"spending": spending_settings(cost_per_call="1.5")})
    async with serving(create_app(priced)) as url:
        await page.goto(f"{url}/demo")
        await choose(page, CAT)
        await expect(entry(page).locator(".outcome")).to_have_text("New")
        await entry(page).locator(".again").click()
        await expect(page.locator("#total-money")).to_have_text("¥1.50")


async def test_without_https_a_known_photo_is_not_uploaded_either(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo".replace("127.0.0.1", INSECURE_HOST))
    assert not await page.evaluate("isSecureContext || 'subtle' in crypto")
    for outcome in ("New", "Cache hit"):
        await choose(page, COFFEE)
        await expect(entry(page).locator(".outcome")).to_have_text(outcome)
    assert list(await steps(entry(page))) == ["compress", "hash", "check"]


async def test_what_has_no_picture_is_cleared_too(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    await choose(page, file("photo.heic", "image/heic", heic_photo()))
    await expect(entry(page).locator(".outcome")).to_have_text("New")
    await page.click("#clear")
    await expect(page.locator(".entry")).to_have_count(0)
    await expect(page.locator("#totals")).to_be_hidden()
    await choose(page, CAT)
    await expect(page.locator("#total-photos")).to_have_text("1")


async def test_it_works_behind_a_path_prefix(page: Page, settings: Settings) -> None:
    app = create_app(settings)

    async def prefixed(scope: Any, receive: Any, send: Any) -> None:
        """A proxy that takes the prefix away."""
        if scope["type"] == "http":
            assert scope["path"].startswith("/photos/"), scope["path"]
            scope = {**scope, "path": scope["path"].removeprefix("/photos"), "root_path": "/photos"}
            scope["path"] = f"/photos{scope['path']}"
        await app(scope, receive, send)

    async with serving(prefixed) as url:
        await page.goto(f"{url}/photos/demo")
        await choose(page, CAT)
        await expect(entry(page).locator(".category")).to_contain_text("Pet Photos")
