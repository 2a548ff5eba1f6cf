"""Look-ups beyond those at work take turns; who has none in time is refused, and health does not stand in the line."""

import hashlib
import json

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.settings import Settings
from app.main import create_app
from app.server import waiting_line
from tests.server.test_shutdown import Client, serving
from tests.support.classify import photo


async def exchange(client: Client, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[str, str]:
    """Send a request; return head and body of its answer."""
    lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    client.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].split()[0])
    return head, (await client.reader.readexactly(length)).decode()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
async def test_a_look_up_whose_turn_does_not_come_is_refused(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_line, "AT_WORK", 1)
    monkeypatch.setattr(waiting_line, "WAIT_SECONDS", 0.05)
    question = json.dumps({"image_hash": hashlib.sha256(photo(1)).hexdigest()}).encode()
    headers = {"Content-Type": "application/json"}
    async with serving(create_app(settings), lifespan="on") as (server, clients, _):
        client = await clients.connect()
        line = server.server_state.line
        line.enter(lambda _: None)
        # By the fast path, and by the route, which a browser's Origin takes.
        for origin in ({}, {"Origin": "https://example.com"}):
            head, body = await exchange(client, "POST", "/classify/check-cache", question, **headers, **origin)
            assert head.startswith("http/1.1 503")
            assert json.loads(body)["error"]["code"] == "server_busy"
            assert "retry-after: 1" in head
            assert "connection: close" not in head
        for path in ("/health", "/health/live"):
            head, _ = await exchange(client, "GET", path)
            assert head.startswith("http/1.1 200")
        line.leave()
        head, body = await exchange(client, "POST", "/classify/check-cache", question, **headers)
        assert head.startswith("http/1.1 200")
        assert json.loads(body)["cached"] is False
