"""How assets are served: with their types, a policy, and an ETag that saves the second download."""

import re
from pathlib import Path

import httpx2
import pytest

from app.config.settings import CacheSettings, Settings
from app.web.pages import CONTENT_SECURITY_POLICY, FOLDER, PAGES, page
from tests.support.keys import ADMIN_API_KEY

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
ASSETS = {path.name: path.read_bytes() for path in sorted((FOLDER / "assets").iterdir())}


@pytest.mark.parametrize("name", ASSETS)
async def test_an_asset_is_served_once_for_each_version(name: str, service: httpx2.AsyncClient) -> None:
    first = await service.get(f"/assets/{name}")
    assert (first.status_code, first.content) == (200, ASSETS[name])
    assert first.headers["content-type"].partition(";")[0] == TYPES[Path(name).suffix]
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert first.headers["x-content-type-options"] == "nosniff"
    again = await service.get(f"/assets/{name}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_page_may_load_nothing_but_our_files(method: str, service: httpx2.AsyncClient) -> None:
    answer = await service.request(method, "/demo")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY


@pytest.mark.parametrize("path", ["nothing.js", "../pages.py", "%2e%2e/pages.py", ""])
async def test_nothing_else_is_served(path: str, service: httpx2.AsyncClient) -> None:
    answer = await service.get(f"/assets/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_value_cannot_become_markup(tmp_path: Path) -> None:
    # The path of a page is joined to the folder; an absolute one stands for itself.
    (tmp_path / "page.html").write_text('<main title="$key">', encoding="utf-8")
    body = bytes(page(str(tmp_path / "page"), {"key": '"><script>$name'}).body)
    assert b'<main title="&quot;&gt;&lt;script&gt;$name">' in body
    with pytest.raises(KeyError):
        page(str(tmp_path / "page"), {})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    cache = CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY})
    return settings.model_copy(update={"cache": cache})


@pytest.mark.parametrize("name", PAGES)
async def test_each_page_says_which_it_is(name: str, service: httpx2.AsyncClient) -> None:
    text = (await service.get(f"/{name}", auth=("any", ADMIN_API_KEY))).text
    assert re.findall(r'href="(\w+)" aria-current="page"', text) == [name]
    for asset in re.findall(r'(?:href|src)="(assets/[^"]+)"', text):
        assert asset.removeprefix("assets/") in ASSETS
