"""The demo in a real browser: what a person sees who gives it photos, in both languages, on a desk and on a phone."""

import asyncio
import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, FilePayload, Locator, Page, expect

from app.config import ImageSettings, ModelSettings, Settings, StatisticsSettings
from app.main import create_app
from tests.documents import DOCS
from tests.fakes.images import avif_photo, encode, heic_photo, png_photo, quadrants
from tests.fakes.model_server import FakeModelServer
from tests.servers.browser import INSECURE_HOST, open_page
from tests.serving import serving

CAT, COFFEE = DOCS / "samples" / "cat.jpg", DOCS / "samples" / "coffee.jpg"
PHONE: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
CHINESE = {"locale": "zh-CN"}
# Makes a list of files, as a drop or a paste brings it.
TRANSFER = """files => {
  const transfer = new DataTransfer();
  for (const [name, type, data] of files)
    transfer.items.add(new File([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))], name, { type }));
  return transfer;
}"""


def file(name: str, kind: str, data: bytes) -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


async def choose(page: Page, *files: FilePayload | Path) -> None:
    """Choose files; those that are none yet stand in the order given."""
    payloads = [file(path.name, "image/jpeg", path.read_bytes()) if isinstance(path, Path) else path for path in files]
    await page.set_input_files("#choose", payloads)


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


def entry(page: Page, number: int = 0) -> Locator:
    """The newest entry, or an older one."""
    return page.locator(".entry").nth(number)


def calls(page: Page) -> list[str]:
    """What the page asks the API from now on; the list grows."""
    paths: list[str] = []
    page.on("request", lambda request: paths.append(request.url.partition("/api/v1")[2]))
    return paths


async def steps(item: Locator) -> dict[str, str]:
    """Name -> time of an entry's steps, as shown."""
    return dict(
        await item.locator(".steps li").evaluate_all(
            "items => items.map(i => [i.dataset.step, i.lastChild.textContent])"
        )
    )


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
    await expect(page.locator("#total-money")).to_have_text("0.00")

    await entry(page).locator(".again").click()
    await expect(page.locator(".entry")).to_have_count(2)
    await expect(entry(page).locator(".outcome")).to_have_text("Known already")
    await expect(entry(page).locator(".facts")).to_contain_text(re.compile(r"\d+ kB not uploaded, 0\.01 saved"))
    assert list(await steps(entry(page))) == ["compress", "hash", "check"]
    assert [path for path in asked if path] == ["/classify/check-cache", "/classify", "/classify/check-cache"]
    for name, shown in {"photos": "2", "hits": "1", "money": "0.01"}.items():
        await expect(page.locator(f"#total-{name}")).to_have_text(shown)
    await expect(page.locator("#total-bytes")).to_have_text(re.compile(r"[1-9]\d* kB"))
    await expect(page.locator("#status")).to_contain_text("coffee.jpg: Food Records")

    await page.click("#clear")
    await expect(page.locator(".entry")).to_have_count(0)
    await expect(page.locator("#totals")).to_be_hidden()


async def provoked(problems: list[str], *expected: str) -> None:
    """These problems were meant to be; there are no others."""
    # What the console says comes by another way than what the page shows, and may come later.
    async with asyncio.timeout(10):
        while len(problems) < len(expected):  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(0.01)
    assert len(problems) == len(expected), problems
    assert all(part in problem for part, problem in zip(expected, problems, strict=True)), problems
    problems.clear()


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
    await expect(entry(page).locator(".failure")).to_have_text(
        "This is not a picture in a format that the service takes."
    )
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
    await expect(entry(page).locator(".outcome")).to_have_text("Known already")


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
    async with serving(create_app(settings)) as url:
        await page.goto(f"{url}/demo")
        await expect(page.locator("#empty")).to_be_visible()
    await choose(page, CAT)
    await expect(entry(page).locator(".outcome")).to_have_text("Failed")
    await expect(entry(page).locator(".failure")).to_contain_text("The service cannot be reached.")
    await provoked(page_problems, "ERR_CONNECTION_REFUSED")
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
            "The model provider does not accept the service's key. The operator has to look."
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


async def test_the_price_is_that_of_the_service(page: Page, settings: Settings) -> None:
    priced = settings.model_copy(update={"statistics": StatisticsSettings.model_validate({"cost_per_call": "1.5"})})
    async with serving(create_app(priced)) as url:
        await page.goto(f"{url}/demo")
        await choose(page, CAT)
        await expect(entry(page).locator(".outcome")).to_have_text("New")
        await entry(page).locator(".again").click()
        await expect(page.locator("#total-money")).to_have_text("1.50")


async def test_without_https_photos_are_uploaded_unasked(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo".replace("127.0.0.1", INSECURE_HOST))
    await expect(page.locator("#insecure")).to_contain_text("not opened over HTTPS")
    for outcome in ("New", "Uploaded, but known"):
        await choose(page, COFFEE)
        await expect(entry(page).locator(".outcome")).to_have_text(outcome)
        assert list(await steps(entry(page))) == ["compress", "upload"]
    await expect(page.locator("#total-bytes")).to_have_text("0 kB")
    await expect(page.locator("#total-money")).to_have_text("0.01")


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


@pytest.mark.parametrize("page_options", [CHINESE], ids=["zh"])
async def test_the_language_is_the_browsers_until_one_is_chosen(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    await expect(page.locator("h1")).to_have_text("同一张照片，绝不付第二次费")
    assert await page.get_attribute("html", "lang") == "zh-CN"
    await choose(page, CAT)
    await expect(entry(page).locator(".outcome")).to_have_text("新照片")
    await expect(entry(page).locator(".category")).to_have_text("🐱 宠物萌照")
    await expect(entry(page).locator(".other-name")).to_have_text("Pet Photos")

    await page.click("[data-language-switch]")
    await expect(page.locator("h1")).to_have_text("The same photo is never paid for twice")
    await expect(entry(page).locator(".outcome")).to_have_text("New")
    await page.reload()
    await expect(page.locator("h1")).to_have_text("The same photo is never paid for twice")
    assert await page.title() == "Image Classifier · demo"


@pytest.mark.parametrize("page_options", [{"locale": "en-GB", "color_scheme": "dark"}], ids=["dark"])
async def test_the_theme_is_the_systems_until_one_is_chosen(page: Page, service_url: str) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    await page.goto(f"{service_url}/demo")
    dark = await page.evaluate(ground)
    await page.click("[data-theme-switch]")
    light = await page.evaluate(ground)
    assert light != dark
    await page.reload()
    assert await page.evaluate(ground) == light
    await page.click("[data-theme-switch]")
    assert await page.evaluate(ground) == dark


@pytest.mark.parametrize("page_options", [PHONE | CHINESE, PHONE | {"locale": "en-GB"}], ids=["zh-phone", "en-phone"])
async def test_a_phone_scrolls_in_one_direction(page: Page, page_problems: list[str], service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    await expect(page.locator(".camera")).to_be_visible()
    await choose(page, CAT, file("a" * 100 + ".txt", "text/plain", b"no picture"), COFFEE)
    await expect(page.locator(".again:visible")).to_have_count(3)
    overhang = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(overhang) == 0
    assert await page.evaluate("innerWidth") == PHONE["viewport"]["width"]
    await provoked(page_problems, "400 (Bad Request)")


async def test_all_of_it_can_be_reached_by_keyboard_and_has_a_name(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    await choose(page, CAT)
    await expect(entry(page).locator(".again")).to_be_visible()
    await page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(9):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["Dashboard", "Demo", "API", "中文", "", "choose", "clear", "Send again", "image-classifier.js"]
    unnamed = re.findall(
        r"^ *- (?:button|link|textbox)(?::| *$)", await page.locator("body").aria_snapshot(), re.MULTILINE
    )
    assert unnamed == []


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const luminance = (variable) => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${variable})`;
    canvas.fillStyle = getComputedStyle(probe).color;
    probe.remove();
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const pairs = { accent: ["background", "surface", "accent-soft"], "on-accent": ["accent"] };
  for (const text of ["text", "muted"]) pairs[text] = ["background", "surface", "sunken"];
  for (const text of ["good", "warning", "bad"]) pairs[text] = ["surface", `${text}-soft`];
  return Object.entries(pairs).flatMap(([text, grounds]) => grounds.map((ground) => {
    const [dark, light] = [luminance(text), luminance(ground)].sort((a, b) => a - b);
    return [`${text} on ${ground}`, (light + 0.05) / (dark + 0.05)];
  }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_ground(browser: Browser, service_url: str, scheme: str) -> None:
    """Contrast by WCAG 2.2, 1.4.3 (AA): 4.5."""
    async with open_page(browser, [], color_scheme=scheme) as page:
        await page.goto(f"{service_url}/demo")
        contrasts = dict(await page.evaluate(CONTRASTS))
    assert len(contrasts) == 16
    assert {pair: contrast for pair, contrast in contrasts.items() if contrast < 4.5} == {}
