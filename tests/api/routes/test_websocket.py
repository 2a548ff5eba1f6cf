"""Task events over a WebSocket: whose they are, that none is missed or doubled, and every way it ends."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx2
import jwt
import pytest
from loguru import logger
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.api.routes import websocket as endpoint
from app.clock import utc_now
from app.observability import metrics
from app.services.accounts.administration import AccountAdministration
from app.services.accounts.passwords import PasswordHasher
from app.services.events import feed, listener
from tests.support.events import add_event, add_events, body_of
from tests.support.people import bearer, code, log_in, sign_up

DEADLINE_SECONDS = 120.0
# Of 400 KB each: more than the buffers between server and client hold.
BIG_EVENTS = 60


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service announces here what the tests write."""
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.02)


@asynccontextmanager
async def socket(service: httpx2.AsyncClient, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
    url = f"{str(service.base_url).replace('http', 'ws', 1).rstrip('/')}/ws/inference{query}"
    async with connect(url, proxy=None, compression=None, **options) as connection:
        yield connection


async def read(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        message: dict[str, Any] = json.loads(await connection.recv())
    return message


async def read_ids(connection: ClientConnection, count: int) -> list[int]:
    return [(await read(connection))["id"] for _ in range(count)]


async def close_code(connection: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the end."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        try:
            while True:
                await connection.recv()
        except ConnectionClosed:
            return connection.close_code, connection.close_reason


async def person(service: httpx2.AsyncClient, name: str = "testuser") -> tuple[int, str]:
    """Sign a user up; return the id and a token."""
    user = await sign_up(service, username=name, email=f"{name}@example.com")
    return user["id"], await log_in(service, name)


async def test_changes_of_ones_own_tasks_arrive(service: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    user_id, token = await person(service)
    other_id, other_token = await person(service, "other")
    async with socket(service, f"?token={token}") as mine, socket(service, f"?token={other_token}") as others:
        assert (await read(mine))["event"] == "hello"
        assert (await read(others))["event"] == "hello"
        foreign = await add_event(engine, other_id, status="completed")
        first = await add_event(engine, user_id, status="processing")
        second = await add_event(engine, user_id, status="completed")
        assert await read(mine) == {"id": first} | body_of("processing")
        assert await read(mine) == {"id": second} | body_of("completed")
        assert await read_ids(others, 1) == [foreign]


async def test_all_sockets_of_one_person_hear_everything_in_order(
    service: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    user_id, token = await person(service)
    async with socket(service, f"?token={token}") as one, socket(service, f"?token={token}") as two:
        await asyncio.gather(read(one), read(two))
        ids = await add_events(engine, user_id, 60)
        assert await read_ids(one, 60) == ids
        assert await read_ids(two, 60) == ids


async def test_what_was_missed_comes_first_and_then_what_happens(
    service: httpx2.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PAGE_EVENTS", 4)
    monkeypatch.setattr(feed, "PAGE_EVENTS", 4)
    user_id, token = await person(service)
    all_ids = await add_events(engine, user_id, 12)
    for start in (0, 3, 11):
        async with socket(service, f"?token={token}&since={all_ids[start]}") as connection:
            assert await read(connection) == {"event": "hello", "last_id": all_ids[start]}
            all_ids += await add_events(engine, user_id, 2)
            missed = all_ids[start + 1 :]
            assert await read_ids(connection, len(missed)) == missed
    async with socket(service, f"?token={token}") as connection:
        assert await read(connection) == {"event": "hello", "last_id": all_ids[-1]}


async def test_nothing_is_lost_or_doubled_while_people_come_and_go(
    service: httpx2.AsyncClient, engine: AsyncEngine
) -> None:
    user_id, token = await person(service)
    expected: list[int] = []

    async def write() -> None:
        for number in range(40):
            expected.append(await add_event(engine, user_id, number=number))  # noqa: PERF401 - one after the other

    seen: list[int] = []
    since = 0
    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        while len(seen) < 40:
            # Without a limit, since a client whose queue is full does not hear the answer to its own close for 10 s.
            async with socket(service, f"?token={token}&since={since}", max_queue=None) as connection:
                await read(connection)
                for _ in range(min(7, 40 - len(seen))):
                    seen += await read_ids(connection, 1)
            since = seen[-1]
    assert seen == expected


async def test_a_since_of_another_database_is_now(service: httpx2.AsyncClient, engine: AsyncEngine) -> None:
    user_id, token = await person(service)
    last = await add_event(engine, user_id)
    async with socket(service, f"?token={token}&since={2**63 - 1}") as connection:
        assert await read(connection) == {"event": "hello", "last_id": last}
        new = await add_event(engine, user_id)
        assert await read_ids(connection, 1) == [new]


@pytest.mark.parametrize("way", ["first message", "first message, JSON", "subprotocol"])
async def test_other_ways_to_hand_over_a_token(service: httpx2.AsyncClient, way: str) -> None:
    _, token = await person(service)
    protocols = [Subprotocol("bearer"), Subprotocol(token)] if way == "subprotocol" else None
    async with socket(service, subprotocols=protocols) as connection:
        if way == "first message":
            await connection.send(token)
        elif way == "first message, JSON":
            await connection.send(json.dumps({"token": token}))
        else:
            assert connection.subprotocol == "bearer"
        assert (await read(connection))["event"] == "hello"
        # Whatever else a client says is of no interest.
        await connection.send("hello?")
        await connection.send(b"\xff")


async def test_tokens_that_do_not_count(service: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = await person(service)
    claims = jwt.decode(token, options={"verify_signature": False})
    _, gone = await person(service, "gone")
    assert (await service.delete("/users/me", headers=bearer(gone))).status_code == 204
    for bad in ("", "nothing", gone, jwt.encode(claims, "", algorithm="none"), jwt.encode(claims, "k" * 32)):
        async with socket(service, f"?token={bad}") as connection:
            assert await close_code(connection) == (4401, "invalid_token")
    for message in ("", "nothing", b"\x00", "{", "{}", '{"token": 1}', "[]", '{"token": null}', "{" * 4000, "a" * 5000):
        async with socket(service) as connection:
            await connection.send(message)
            assert (await close_code(connection))[0] == 4401
    async with socket(service, subprotocols=[Subprotocol("bearer"), Subprotocol("nothing")]) as connection:
        assert (await close_code(connection))[0] == 4401
    monkeypatch.setattr(endpoint, "FIRST_MESSAGE_SECONDS", 0.05)
    async with socket(service) as connection:
        assert await close_code(connection) == (4401, "authentication_required")


@pytest.mark.parametrize("since", ["-1", "x", "", "1.5", "9" * 20, "%D9%A1"])
async def test_a_since_that_is_no_id_is_refused(service: httpx2.AsyncClient, since: str) -> None:
    _, token = await person(service)
    async with socket(service, f"?token={token}&since={since}") as connection:
        assert (await close_code(connection))[0] == 4400


async def test_a_socket_ends_with_its_token(service: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = await person(service)
    async with socket(service, f"?token={token}") as connection:
        await read(connection)
        # A day later.
        monkeypatch.setattr(listener, "utc_now", lambda: utc_now() + timedelta(days=1) - timedelta(seconds=1))
        async with socket(service, f"?token={token}") as late:
            assert await close_code(late) == (4401, "token_expired")
        assert connection.close_code is None
    monkeypatch.setattr("app.services.accounts.tokens.utc_now", lambda: utc_now() - timedelta(days=2))
    expired = await log_in(service)
    async with socket(service, f"?token={expired}") as connection:
        assert await close_code(connection) == (4401, "token_expired")


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the service starts."""
    monkeypatch.setattr(feed, "SESSION_CHECK_SECONDS", 0.05)


@pytest.mark.parametrize("change", ["deleted", "new password", "logged out everywhere", "disabled"])
async def test_a_socket_ends_with_its_account_or_password(
    quick_checks: None, service: httpx2.AsyncClient, engine: AsyncEngine, change: str
) -> None:
    _, token = await person(service)
    _, other = await person(service, "other")
    async with socket(service, f"?token={token}") as mine, socket(service, f"?token={other}") as others:
        await read(mine)
        await read(others)
        if change == "deleted":
            await service.delete("/users/me", headers=bearer(token))
        elif change == "new password":
            await service.put("/users/me", headers=bearer(token), json={"password": "another password"})
        elif change == "logged out everywhere":
            await service.delete("/users/me/tokens", headers=bearer(token))
        else:
            passwords = PasswordHasher()
            await AccountAdministration(engine, passwords, actor="tests").disable("testuser")
            passwords.close()
        assert await close_code(mine) == (4401, "invalid_token")
        assert others.close_code is None


async def test_who_does_not_read_is_closed_and_nobody_waits_for_it(
    service: httpx2.AsyncClient, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "QUEUE_EVENTS", 10)
    monkeypatch.setattr("app.api.streaming.FAREWELL_SECONDS", 0.05)
    user_id, token = await person(service)
    # Buffers on the way take some megabytes.
    padding = "x" * 400_000
    async with (
        socket(service, f"?token={token}", max_queue=1, max_size=None, ping_interval=None) as slow,
        socket(service, f"?token={token}", max_size=None) as quick,
    ):
        await asyncio.gather(read(slow), read(quick))
        ids: list[int] = []
        for _ in range(BIG_EVENTS):
            ids.append(await add_event(engine, user_id, padding=padding))
            assert await read_ids(quick, 1) == ids[-1:]
        received: list[int] = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                received += await read_ids(slow, 1)
        assert received == ids[: len(received)]
        assert len(received) < BIG_EVENTS
    async with socket(service, f"?token={token}&since={received[-1]}", max_size=None) as back:
        await read(back)
        assert await read_ids(back, BIG_EVENTS - len(received)) == ids[len(received) :]


def refusals() -> float:
    """How many of either kind `/metrics` says were refused."""
    metrics.flush()
    return float(metrics.REFUSED_REQUESTS.labels("too_many_streams")._value.get())


async def test_nobody_has_more_than_so_many_sockets(
    service: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_STREAMS", 2)
    _, token = await person(service)
    _, other_token = await person(service, "other")
    events = "/images/inference/events"
    async with socket(service, f"?token={token}") as first, socket(service, f"?token={other_token}") as others:
        async with service.stream("GET", events, headers=bearer(token)) as stream:
            await read(first)
            await read(others)
            lines = stream.aiter_lines()
            await anext(lines)
            refused = refusals()
            async with socket(service, f"?token={token}") as third:
                assert await close_code(third) == (4429, "too_many_streams")
            assert refusals() == refused + 1
            answer = await service.get(events, headers=bearer(token))
            assert code(answer) == (429, "too_many_streams")
            assert int(answer.headers["Retry-After"]) > 0
        async with asyncio.timeout(DEADLINE_SECONDS):
            # As soon as the service has noticed that one has left.
            while not await _is_let_in(service, token):
                continue


async def _is_let_in(service: httpx2.AsyncClient, token: str) -> bool:
    async with socket(service, f"?token={token}") as connection:
        try:
            return bool(await connection.recv())
        except ConnectionClosed:
            return False


async def test_tokens_stay_out_of_the_log(service: httpx2.AsyncClient) -> None:
    _, token = await person(service)
    lines: list[str] = []
    number = logger.add(lines.append, level=0, format="{message}")
    try:
        async with socket(service, f"?token={token}") as connection:
            await read(connection)
        async with socket(service, f"?%74oken={token}&since=x") as connection:
            await close_code(connection)
        async with socket(service, subprotocols=[Subprotocol("bearer"), Subprotocol(token)]) as connection:
            await read(connection)
    finally:
        logger.remove(number)
    text = "".join(lines)
    assert 'WebSocket /ws/inference" [accepted]' in text
    assert token not in text
    assert token.split(".")[2] not in text
