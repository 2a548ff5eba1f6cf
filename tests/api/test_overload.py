"""Look-ups beyond those at work wait in a line that is bounded in length and time; health does not stand in it."""

import hashlib

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app import resources
from app.config.settings import Settings
from app.main import create_app
from tests.support.classify import error_code, photo, upload
from tests.support.serving import serving


@pytest.mark.parametrize(("waiting", "wait_seconds"), [(0, 60.0), (1, 0.05)])
async def test_a_look_up_is_refused_where_too_many_wait_or_its_turn_does_not_come(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, waiting: int, wait_seconds: float
) -> None:
    monkeypatch.setattr(resources, "LOOK_UPS_AT_WORK", 1)
    monkeypatch.setattr(resources, "MAX_LOOK_UPS_WAITING", waiting)
    monkeypatch.setattr(resources, "LOOK_UP_WAIT_SECONDS", wait_seconds)
    app = create_app(settings)
    async with serving(app) as url, httpx2.AsyncClient(base_url=f"{url}/api/v1", timeout=30) as api:
        assert (await upload(api, photo(1))).status_code == 200
        question = {"image_hash": hashlib.sha256(photo(1)).hexdigest()}
        assert (await api.post("/classify/check-cache", json=question)).status_code == 200
        at_work = app.state.resources.look_ups.places
        await at_work.acquire()
        # By the fast path, and by the route, which a browser's Origin takes.
        for headers in ({}, {"Origin": "https://example.com"}):
            refused = await api.post("/classify/check-cache", json=question, headers=headers)
            assert (refused.status_code, error_code(refused)) == (503, "server_busy")
            assert int(refused.headers["Retry-After"]) >= 1
        assert (await api.get("/health")).status_code == 200
        assert (await api.get("/health/live")).status_code == 200
        at_work.release()
        answer = await api.post("/classify/check-cache", json=question)
        assert (answer.status_code, answer.json()["cached"]) == (200, True)
