"""Takes the pictures of `docs/images/`: the pages of a service of its own, in a headless Chromium."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image
from playwright.async_api import Browser, Page

from app.config.model import ModelSettings
from app.config.settings import PROJECT_ROOT, Settings
from app.main import create_app
from scripts.busy_month import fill
from tests.servers.browser import open_page, running_browser
from tests.support.serving import serving

IMAGES = PROJECT_ROOT / "docs" / "images"
SAMPLES = PROJECT_ROOT / "docs" / "samples"
WIDE: dict[str, Any] = {"viewport": {"width": 1080, "height": 600}}
PHONE: dict[str, Any] = {"device_scale_factor": 2, "has_touch": True, "is_mobile": True}
WIDE_DASHBOARD: dict[str, Any] = {"viewport": {"width": 1184, "height": 600}}
NARROW = PHONE | {"viewport": {"width": 375, "height": 667}}
LANGUAGES = {"en": "en-GB", "zh": "zh-CN"}
MAX_BYTES = 200_000
COLOURS = 256
ENTRIES_DONE = "count => document.querySelectorAll('.again:not([hidden])').length === count"


@asynccontextmanager
async def visit(browser: Browser, address: str, **options: Any) -> AsyncIterator[Page]:
    """A page at `address`; `options` are those of Playwright's `new_context`. A problem on it ends the program."""
    problems: list[str] = []
    async with open_page(browser, problems, **options) as page:
        await page.goto(address)
        yield page
    if problems:
        raise SystemExit("\n".join(problems))


async def save(page: Page, name: str, *, whole: bool = True) -> None:
    """Write `docs/images/NAME.png`, with 256 colours: the page at its whole height, or what is seen of it."""
    if whole and page.viewport_size:
        # A full-page screenshot would end the emulation of a finger.
        height = await page.evaluate("document.documentElement.scrollHeight")
        await page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    path = IMAGES / f"{name}.png"
    with Image.open(BytesIO(await page.screenshot(animations="disabled"))) as image:
        image.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}")


async def demo(browser: Browser) -> None:
    """Two new photos and a known one, in both languages, on a desk and on a phone (there in the dark)."""
    for language, locale in LANGUAGES.items():
        for width, options in {"wide": WIDE, "narrow": NARROW | {"color_scheme": "dark"}}.items():
            async with service(language) as url, visit(browser, f"{url}/demo", locale=locale, **options) as page:
                for number, name in enumerate(["cat.jpg", "coffee.jpg", "cat.jpg"], start=1):
                    await page.set_input_files("#choose", SAMPLES / name)
                    await page.wait_for_function(ENTRIES_DONE, arg=number)
                await save(page, f"demo-{language}-{width}")


async def docs(browser: Browser) -> None:
    """The API documentation with a user logged in."""
    person = {"username": "alice", "email": "alice@example.com", "password": "correct horse battery"}
    async with service("en") as url, visit(browser, f"{url}/docs", **WIDE) as page:
        async with httpx2.AsyncClient(base_url=url) as client:
            (await client.post("/users/", json=person)).raise_for_status()
        await page.get_by_role("button", name="Authorize").click()
        dialog = page.locator(".auth-container")
        await dialog.get_by_label("username").fill(person["username"])
        await dialog.get_by_label("password:").fill(person["password"])
        await dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()
        await dialog.get_by_role("button", name="Remove authorization").wait_for()
        await save(page, "docs-authorize", whole=False)


@asynccontextmanager
async def service(language: str) -> AsyncIterator[str]:
    """A service with the local model, which has seen one photo already; yields its address."""
    black = BytesIO()
    Image.new("RGB", (640, 480)).save(black, "JPEG")
    with tempfile.TemporaryDirectory() as folder:
        model = ModelSettings.model_validate({"provider": "local", "description_language": language})
        async with serving(create_app(Settings(data_dir=Path(folder), model=model))) as url:
            async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
                # The first photo waits for the model to be loaded, which is not what the pictures are about.
                (await client.post("/api/v1/classify", files={"image": black.getvalue()})).raise_for_status()
            yield url


async def dashboard(browser: Browser) -> None:
    """A busy month, in both languages, on a desk and on a phone; half of it in the dark."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(await fill(Path(folder)))
        async with serving(app) as url:
            async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
                photo = (SAMPLES / "cat.jpg").read_bytes()
                (await client.post("/api/v1/classify", files={"image": photo})).raise_for_status()
            for language, locale in LANGUAGES.items():
                for width, size in {"wide": WIDE_DASHBOARD, "narrow": NARROW | {"device_scale_factor": 1.5}}.items():
                    is_dark = (language, width) in {("zh", "wide"), ("en", "narrow")}
                    options = size | {"color_scheme": "dark" if is_dark else "light", "locale": locale}
                    async with visit(browser, f"{url}/dashboard", **options) as page:
                        await page.wait_for_selector("[data-spark=users] svg", state="attached")
                        await save(page, f"dashboard-{language}-{width}")


async def main(names: list[str]) -> None:
    """Take the pictures of the pages named, or of all."""
    IMAGES.mkdir(exist_ok=True)
    pages = {"demo": demo, "docs": docs, "dashboard": dashboard}
    async with running_browser() as browser:
        for name in names or pages:
            await pages[name](browser)


def check_fonts() -> None:
    """End the program where Chinese text would be boxes."""
    program = shutil.which("fc-list")
    if program and not subprocess.run([program, ":lang=zh"], capture_output=True, check=True).stdout:  # noqa: S603 - a fixed question
        raise SystemExit("Chinese text needs a font: apt-get install fonts-wqy-microhei fonts-noto-color-emoji")


if __name__ == "__main__":
    check_fonts()
    asyncio.run(main(sys.argv[1:]))
