"""The review over HTTP: what is refused, and what a browser that knows the password can be made to do."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import CacheSettings, Settings
from app.main import create_app
from app.services.api_keys.key import Scope
from tests.support.classify import check, error_code, photo, sha256, upload
from tests.support.keys import ADMIN_API_KEY, key_of
from tests.support.serving import serving

ADMIN = {"Authorization": f"Bearer {ADMIN_API_KEY}"}
OF_PAGE = {"X-Requested-With": "review"}
PASSWORD = ("anyone", ADMIN_API_KEY)
HASH = sha256(photo(1))
UNKNOWN = "0" * 64


@pytest.fixture
async def api(settings: Settings, engine: AsyncEngine) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a running service that has an admin key."""
    cache = CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY})
    async with (
        serving(create_app(settings.model_copy(update={"cache": cache}))) as url,
        httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=120) as client,
    ):
        yield client


async def test_many_are_changed_at_once_and_changed_back(api: httpx2.AsyncClient) -> None:
    hashes = [sha256(photo(number)) for number in range(3)]
    for number in range(3):
        await upload(api, photo(number))
    before = [(await check(api, each)).json()["data"] for each in hashes]
    body = {"action": "correct", "image_hashes": [*hashes, UNKNOWN], "category": "foods", "description": "a\u202e soup"}
    answer = await api.post("/review/actions", json=body, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == [
        *({"image_hash": each, "error": None} for each in hashes),
        {"image_hash": UNKNOWN, "error": "cache_entry_not_found"},
    ]
    found = [(await check(api, each)).json() for each in hashes]
    assert [each["data"] for each in found] == [
        {"category": "foods", "confidence": 1.0, "description": "a soup", "description_language": "en"}
    ] * 3
    assert {each["model"] for each in found} == {"manual"}
    await api.post("/review/actions", json={"action": "undo", "image_hashes": hashes}, headers=ADMIN)
    assert [(await check(api, each)).json()["data"] for each in hashes] == before
    details = (await api.get(f"/review/entries/{hashes[0]}", headers=ADMIN)).json()["data"]
    assert [each["action"] for each in details["history"]] == ["restored", "corrected"]
    assert {each["actor"] for each in details["history"]} == {"ADMIN_API_KEY"}


async def test_pages_of_entries(api: httpx2.AsyncClient) -> None:
    for number in range(3):
        await upload(api, photo(number))
    seen: list[str] = []
    before: dict[str, int] = {}
    while True:
        page = (await api.get("/review/entries", params={"limit": 2, **before}, headers=ADMIN)).json()["data"]
        seen += [each["image_hash"] for each in page["entries"]]
        if page["next_before"] is None:
            break
        before = {"before": page["next_before"]}
    assert seen == [sha256(photo(number)) for number in (2, 1, 0)]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "entries?category=cats", "invalid_request"),
        ("GET", "entries?below=2", "invalid_request"),
        ("GET", "entries?limit=0", "invalid_request"),
        ("GET", "entries?before=99999999999999999999", "invalid_request"),
        ("GET", "entries?quality=1", "invalid_request"),
        ("GET", "entries/abc", "invalid_request"),
        ("GET", f"entries/{UNKNOWN}", "cache_entry_not_found"),
    ],
)
async def test_wrong_questions(api: httpx2.AsyncClient, method: str, path: str, code: str) -> None:
    answer = await api.request(method, f"/review/{path}", headers=ADMIN)
    assert (answer.status_code, error_code(answer)) == (404 if "not_found" in code else 400, code)


async def test_wrong_actions(api: httpx2.AsyncClient) -> None:
    for body in (
        {},
        {"action": "correct", "image_hashes": [HASH]},
        {"action": "correct", "image_hashes": [HASH], "category": "cats"},
        {"action": "burn", "image_hashes": [HASH]},
        {"action": "undo", "image_hashes": []},
        {"action": "undo", "image_hashes": ["abc"]},
        {"action": "undo", "image_hashes": [HASH] * 101},
        {"action": "undo", "image_hashes": [HASH], "force": True},
    ):
        answer = await api.post("/review/actions", json=body, headers=ADMIN)
        assert (answer.status_code, error_code(answer)) == (400, "invalid_request"), body


async def test_the_password_counts_only_for_what_the_page_itself_asks(
    api: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    """A browser adds it to what any other site makes it send, but not the field of our page."""
    await upload(api, photo(1))
    body = {"action": "remove", "image_hashes": [HASH]}
    answer = await api.post("/review/actions", json=body, auth=PASSWORD)
    assert (answer.status_code, error_code(answer)) == (401, "api_key_required")
    assert (await check(api, HASH)).json()["cached"] is True
    # A site that asks whether it may send the field is not told that it may with a password.
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = await api.options(
        "/review/actions", headers={**asked, "Access-Control-Request-Headers": "x-requested-with,content-type"}
    )
    assert "access-control-allow-credentials" not in preflight.headers
    # Nor is a form an action, whatever it says.
    form = await api.post(
        "/review/actions", content=b"{}", headers={**OF_PAGE, "Content-Type": "text/plain"}, auth=PASSWORD
    )
    assert form.status_code == 400
    answer = await api.post("/review/actions", json=body, headers=OF_PAGE, auth=PASSWORD)
    assert answer.json()["data"] == [{"image_hash": HASH, "error": None}]
    # What was typed for the dashboard is asked for anew: a browser has no other way to forget it.
    for text in ((await key_of(engine, Scope.STATS)).text, "wrong-key-0123456"):
        for path in ("../../review", "/review/entries"):
            refused = await api.get(path, headers=OF_PAGE, auth=("anyone", text))
            assert (refused.status_code, error_code(refused)) == (401, "dashboard_login_required"), path
            assert refused.headers["WWW-Authenticate"].startswith("Basic")
