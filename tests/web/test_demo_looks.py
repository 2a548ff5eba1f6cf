"""The demo in a real browser: in both languages, light and dark, on a phone, by keyboard, and its contrasts."""

import re
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.servers.browser import open_page
from tests.support.demo_page import CAT, COFFEE, choose, entry, file, provoked

PHONE: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
CHINESE = {"locale": "zh-CN"}


@pytest.mark.parametrize("page_options", [CHINESE], ids=["zh"])
async def test_the_language_is_the_browsers_until_one_is_chosen(page: Page, service_url: str) -> None:
    await page.goto(f"{service_url}/demo")
    await expect(page.locator("h1")).to_have_text("同一张照片，只付一次费")
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
    for _ in range(11):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == [
        *("Image Classifier", "Dashboard", "Review", "Demo", "API", "中文", ""),
        *("choose", "clear", "Send again", "image-classifier.js"),
    ]
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
