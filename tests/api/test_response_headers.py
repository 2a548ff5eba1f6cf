"""What every answer says to browsers, which hosts are answered, and where redirections lead."""

from urllib.parse import urljoin

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.response_headers import secured
from app.config.access import AccessSettings
from app.config.settings import Settings
from app.main import create_app
from tests.support.classify import check, error_code, photo, upload
from tests.support.serving import serving

PAGES = ("/", "/docs", "/docs/oauth2-redirect", "/redoc", "/redoc.js", "/demo", "/dashboard", "/assets/demo.js")
OTHERS = ("/health", "/openapi.json", "/nothing", "/api/v1/categories", "/metrics", "/users/me")


def assert_secured(answer: httpx2.Response) -> None:
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
    ):
        assert answer.headers.get_list(name) == [value], answer.url
    [policy] = answer.headers.get_list("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self' 'unsafe" not in policy


async def test_every_answer_is_secured(service: httpx2.AsyncClient, api: httpx2.AsyncClient) -> None:
    for path in (*PAGES, *OTHERS):
        answer = await service.get(path)
        assert_secured(answer)
        assert "Strict-Transport-Security" not in answer.headers
    for answer in (await upload(api, photo(1)), await check(api, "0" * 64), await check(api, "none")):
        assert_secured(answer)
    # From a proxy that is trusted.
    secure = {"X-Forwarded-Proto": "https"}
    for answer in (await service.get("/", headers=secure), await check(api, "0" * 64, headers=secure)):
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.parametrize("path", ["/api/v1/categories/?x=1", "/users", "/assets", "/health/", "//evil.example/docs/"])
async def test_no_client_decides_where_a_redirection_leads(service: httpx2.AsyncClient, path: str) -> None:
    url = service.base_url.copy_with(raw_path=path.encode())
    answer = await service.request("POST" if path == "/users" else "GET", url, headers={"Host": "evil.example"})
    assert "evil.example" not in answer.headers.get("Location", "")
    if answer.is_redirect:
        target = urljoin(f"https://photos.example.com{path}", answer.headers["Location"])
        wanted = path.partition("?")[0]
        wanted = wanted.rstrip("/") if wanted.endswith("/") else f"{wanted}/"
        assert target == f"https://photos.example.com{wanted}" + ("?x=1" if "?" in path else "")
    else:
        assert answer.status_code == 404


def test_a_part_that_looks_like_a_scheme_is_none() -> None:
    scope = {"scheme": "http", "path": "//evil.example/javascript:x"}
    for location in (b"http://h//evil.example/javascript:x/", b"//h//evil.example/javascript:x/"):
        [(_, said), *_] = secured([(b"location", location)], scope, 307)
        assert said == b"./javascript:x/"


async def test_other_hosts_are_not_served(settings: Settings, engine: AsyncEngine) -> None:
    access = AccessSettings.model_validate({"allowed_hosts": "photos.example.com,*.example.org,[::1]"})
    async with (
        serving(create_app(settings.model_copy(update={"access": access}))) as url,
        httpx2.AsyncClient(base_url=url) as client,
    ):

        async def status(path: str, host: str) -> int:
            return (await client.get(path, headers={"Host": host})).status_code

        for host in ("photos.example.com", "PHOTOS.example.com:8443", "a.example.org", "a.b.example.org", "[::1]:80"):
            assert await status("/api/v1/categories", host) == 200, host
        for host in (
            "evil.example",
            "example.org",
            "example.com",
            "photos.example.com.evil.example",
            "xexample.org",
            "",
        ):
            for path in ("/api/v1/categories", "/docs", "/", "/models"):
                assert await status(path, host) == 421, host
            assert await status("/health", host) == 200
            assert await status("/metrics", host) == 200
        refused = await client.post("/api/v1/classify/check-cache", json={"image_hash": "0" * 64})
        assert (refused.status_code, error_code(refused)) == (421, "misdirected_request")


@pytest.mark.parametrize("hosts", ["https://a.example", "a.example:80", "*", "a b"])
def test_what_is_no_host_stops_the_start(hosts: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        AccessSettings.model_validate({"allowed_hosts": hosts})
