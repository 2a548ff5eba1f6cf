"""Task events as server-sent events: the same stream as over the WebSocket, in the form that browsers read."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.services.events import feed, listener
from tests.support.events import add_event, add_events, body_of
from tests.support.people import bearer, code, log_in, sign_up

PATH = "/images/inference/events"
DEADLINE_SECONDS = 120.0


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service announces here what the tests write."""
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.02)


class Stream:
    """An open stream."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def block(self) -> dict[str, str]:
        """Return the fields of the next block; a comment's name is empty. There are none at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for line in self._lines:
                if not line:
                    break
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
        return fields

    async def message(self) -> dict[str, Any]:
        block = await self.block()
        message: dict[str, Any] = json.loads(block["data"])
        assert block.keys() == {"id", "data"}
        assert int(block["id"]) == message.get("id", message.get("last_id"))
        return message

    async def ids(self, count: int) -> list[int]:
        return [(await self.message())["id"] for _ in range(count)]


@asynccontextmanager
async def stream(service: httpx2.AsyncClient, token: str, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    async with service.stream("GET", PATH + query, headers=bearer(token) | headers) as answer:
        assert answer.status_code == 200
        yield Stream(answer)


async def person(service: httpx2.AsyncClient, name: str = "testuser") -> tuple[int, str]:
    user = await sign_up(service, username=name, email=f"{name}@example.com")
    return user["id"], await log_in(service, name)


async def test_changes_of_ones_own_tasks_arrive(service: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    user_id, token = await person(service)
    other_id, _ = await person(service, "other")
    async with stream(service, token, Origin="https://example.com") as mine:
        headers = mine.answer.headers
        assert headers["Content-Type"].startswith("text/event-stream")
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["X-Request-ID"]
        assert "Content-Length" not in headers
        assert (await mine.message())["event"] == "hello"
        await add_event(engine, other_id)
        event_id = await add_event(engine, user_id, note="两行\r\n\n一句")
        assert await mine.message() == {"id": event_id} | body_of("completed", note="两行\r\n\n一句")


async def test_who_comes_back_hears_what_it_missed(service: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    user_id, token = await person(service)
    ids = await add_events(engine, user_id, 5)
    async with stream(service, token, f"?since={ids[1]}") as first:
        assert (await first.message())["last_id"] == ids[1]
        assert await first.ids(3) == ids[2:]
    # A browser asks for the same address again.
    headers = {"Last-Event-ID": str(ids[3])}
    async with stream(service, token, f"?since={ids[1]}", **headers) as second:
        assert (await second.message())["last_id"] == ids[3]
        assert await second.ids(1) == ids[4:]


async def test_silence_is_broken_now_and_then(service: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.streaming.PING_SECONDS", 0.02)
    _, token = await person(service)
    async with stream(service, token) as mine:
        await mine.message()
        assert [await mine.block() for _ in range(3)] == [{"": "ping"}] * 3


async def test_no_stream_without_a_token_that_counts(service: httpx2.AsyncClient) -> None:
    _, token = await person(service)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert code(await service.get(PATH)) == (401, "authentication_required")
    for bad in ("nothing", jwt.encode(claims, "", algorithm="none"), jwt.encode(claims, "k" * 32)):
        assert code(await service.get(PATH, headers=bearer(bad))) == (401, "invalid_token")
    await service.delete("/users/me", headers=bearer(token))
    assert code(await service.get(PATH, headers=bearer(token))) == (401, "invalid_token")


@pytest.mark.parametrize("since", ["-1", "x", "", "1.5", str(2**63)])
async def test_a_since_that_is_no_id_is_refused(service: httpx2.AsyncClient, since: str) -> None:
    _, token = await person(service)
    headers = bearer(token)
    assert code(await service.get(PATH, params={"since": since}, headers=headers)) == (400, "invalid_request")
    answer = await service.get(PATH, headers=headers | {"Last-Event-ID": since})
    assert code(answer) == (400, "invalid_request")


async def test_a_stream_ends_with_its_token(service: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = await person(service)
    # A day later.
    monkeypatch.setattr(listener, "utc_now", lambda: utc_now() + timedelta(days=1) - timedelta(seconds=1))
    async with stream(service, token) as mine:
        await mine.message()
        assert await mine.block() == {}
    monkeypatch.setattr("app.services.accounts.tokens.utc_now", lambda: utc_now() - timedelta(days=2))
    assert code(await service.get(PATH, headers=bearer(await log_in(service)))) == (401, "token_expired")
