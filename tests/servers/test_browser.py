"""The browser fixture sees what it is for: errors, violations, requests elsewhere. And it says how to get a browser."""

import pytest
from playwright.async_api import Browser, Page

from scripts.mysql_programs import NoServerError
from tests.fakes.http_server import HTTPRequest, HTTPResponse, running_http_server
from tests.servers import browser as browser_module
from tests.servers.browser import INSECURE_HOST, find_chromium, open_page

HTML = {"content-type": "text/html", "content-security-policy": "script-src 'self'"}


async def serve(request: HTTPRequest) -> HTTPResponse:
    match request.path:
        case "/throws":
            return HTTPResponse(200, b"<script src=throws.js></script>", HTML)
        case "/throws.js":
            return HTTPResponse(200, b"throw new Error('broken')", {"content-type": "text/javascript"})
        case "/inline":
            return HTTPResponse(200, b"<script>alert(1)</script>", HTML)
        case "/elsewhere":
            return HTTPResponse(200, b"<img src=http://example.com/a.png>", HTML)
        case "/missing":
            return HTTPResponse(404, b"nothing", HTML)
    return HTTPResponse(200, b"<link rel=icon href=data:,><p>fine", HTML)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/throws", "exception: broken"),
        ("/inline", "Content Security Policy"),
        ("/elsewhere", "request to http://example.com/a.png"),
        ("/missing", "404"),
    ],
)
async def test_what_goes_wrong_is_noticed(browser: Browser, path: str, problem: str) -> None:
    problems: list[str] = []
    with running_http_server(serve) as url:
        async with open_page(browser, problems) as page:
            await page.goto(url + path)
            while not any(problem in line for line in problems):
                await page.wait_for_timeout(5)


async def test_a_sound_page_has_no_problem(page: Page) -> None:
    with running_http_server(serve) as url:
        await page.goto(url)
        assert await page.evaluate("isSecureContext")
        await page.goto(url.replace("127.0.0.1", INSECURE_HOST))
        assert await page.inner_text("p") == "fine"
        assert not await page.evaluate("isSecureContext")


def test_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser_module, "search_path", lambda: "")
    monkeypatch.setattr("tests.servers.programs.search_path", lambda: "")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", "/nonexistent/browsers")
    monkeypatch.setenv("PLAYWRIGHT_DOWNLOAD_HOST", "http://127.0.0.1:9")
    with pytest.raises(NoServerError, match="apt-get install chromium-headless-shell") as caught:
        find_chromium()
    assert "Playwright said" in str(caught.value)
