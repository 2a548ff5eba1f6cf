"""A real Chromium for tests: a page fails its test by what a user would not see, such as an error in the console.

It can reach nothing but this machine: every name is unknown to it, except `INSECURE_HOST`, which stands for a server
on another machine that is reached without HTTPS.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Request, async_playwright, expect

from scripts.mysql_programs import NoServerError, search_path
from tests.servers.programs import get_program, run_installer

INSECURE_HOST = "insecure.test"
# Chromium without what draws windows takes a quarter of the CPU of one that hides them.
HEADLESS_SHELL = "chromium-headless-shell"
NAMES = (HEADLESS_SHELL, "chromium", "chromium-browser", "google-chrome")
TIMEOUT_MILLISECONDS = 120_000
_LOCAL_SCHEMES = {"data", "blob", "about"}


def find_chromium() -> str | None:
    """The path of a Chromium: the PATH's, else that of Debian's package; None says that Playwright has its own.

    Raises:
        NoServerError: there is none, and none can be installed; the text says how to install one.
    """
    for name in NAMES:
        if (found := shutil.which(name, path=search_path())) is not None:
            return found
    try:
        by_playwright = "python -m playwright install --only-shell chromium"
        return get_program(HEADLESS_SHELL, HEADLESS_SHELL, elsewhere=by_playwright)
    except NoServerError as error:
        advice = error
    said = run_installer([sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"])
    if said is not None:
        raise NoServerError(f"{advice}. Playwright said: {said}")
    return None


@contextlib.asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """A headless Chromium for the length of the block.

    Raises:
        NoServerError: there is none, and none can be installed.
    """
    arguments = [f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    async with async_playwright() as playwright:
        # Chromium's sandbox refuses to work for root.
        browser = await playwright.chromium.launch(
            executable_path=find_chromium(), args=arguments, chromium_sandbox=os.geteuid() != 0
        )
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def open_page(browser: Browser, problems: list[str], **options: Any) -> AsyncIterator[Page]:
    """An empty page without cookies or memory; `options` are those of Playwright's `new_context`.

    `problems` gets a line for each console error (a violation of the Content-Security-Policy is one), each exception
    that is not caught, and each request to another host.
    """
    context = await browser.new_context(**options)
    context.set_default_timeout(TIMEOUT_MILLISECONDS)

    def note_request(request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in _LOCAL_SCHEMES and address.hostname not in {"127.0.0.1", INSECURE_HOST}:
            problems.append(f"request to {request.url}")

    context.on("request", note_request)
    context.on(
        "console",
        lambda message: problems.append(f"console: {message.text}") if message.type in {"error", "warning"} else None,
    )
    context.on("weberror", lambda error: problems.append(f"exception: {error.error}"))
    try:
        yield await context.new_page()
    finally:
        await context.close()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A Chromium that lives as long as this process of the test run."""
    expect.set_options(timeout=TIMEOUT_MILLISECONDS)
    async with running_browser() as browser:
        yield browser


@pytest.fixture
def page_problems() -> list[str]:
    """What went wrong on the test's pages; a test that provokes something looks for it here, and clears the list."""
    return []


@pytest.fixture
def page_options() -> dict[str, Any]:
    """Options of the fixture `page`, for Playwright's `new_context`; tests replace it by `parametrize`."""
    return {"locale": "en-GB"}


@pytest.fixture
async def page(browser: Browser, page_problems: list[str], page_options: dict[str, Any]) -> AsyncIterator[Page]:
    """A page in a fresh context; the test fails if anything went wrong on it that it did not expect."""
    async with open_page(browser, page_problems, **page_options) as page:
        yield page
    assert page_problems == []
