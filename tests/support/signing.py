"""Signs requests by hand, as RFC 9421 says it, without the library that the service checks them with."""

import asyncio
import base64
import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.database.tables.api_keys import ApiKey
from tests.servers.waiting import wait_until

KNOWN_WITHIN_SECONDS = 180
OK = 200
PROBES = 20
COMPONENTS = ("@method", "@target-uri", "content-digest")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as its owner has it."""

    id: int
    text: str = field(repr=False)

    @property
    def secret(self) -> bytes:
        """What it signs with."""
        return hashlib.sha256(self.text.encode()).digest()


def _row(text: str, **columns: Any) -> dict[str, Any]:
    key_hash = hashlib.sha256(text.encode()).hexdigest()
    return {"name": secrets.token_hex(4), "key_hash": key_hash, "created_at": utc_now(), **columns}


async def create_key(engine: AsyncEngine, *, scopes: str = "classify", **columns: Any) -> Key:
    """Put a new key into the table."""
    text = f"ic_{secrets.token_urlsafe(32)}"
    async with engine.begin() as connection:
        values = _row(text, scopes=scopes, **columns)
        inserted = (await connection.execute(insert(ApiKey).values(**values))).inserted_primary_key
    assert inserted is not None
    return Key(inserted[0], text)


def stored_key(database: Path, *, scopes: str = "classify") -> Key:
    """Put a new key into the SQLite database of a running service."""
    text = f"ic_{secrets.token_urlsafe(32)}"
    row = _row(text, scopes=scopes)
    row["created_at"] = row["created_at"].replace(tzinfo=None).isoformat(sep=" ")
    statement = f"INSERT INTO api_key ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        number = connection.execute(statement, list(row.values())).lastrowid
    assert number is not None
    return Key(number, text)


def content_digest(body: bytes, algorithm: str = "sha256") -> str:
    """The field Content-Digest of a body."""
    name = algorithm.replace("sha", "sha-")
    return f"{name}=:{base64.b64encode(hashlib.new(algorithm, body).digest()).decode()}:"


def component_value(request: httpx2.Request, name: str) -> str:
    """What a signature covers under a component's name."""
    url = urlsplit(str(request.url))
    authority = request.headers["Host"]
    derived = {
        "@method": request.method,
        "@authority": authority,
        "@scheme": url.scheme,
        "@path": url.path,
        "@query": f"?{url.query}",
        "@target-uri": f"{url.scheme}://{authority}{url.path}" + (f"?{url.query}" if url.query else ""),
    }
    if name.endswith(";bs"):
        values = [value for field, value in request.headers.raw if field.lower() == name.removesuffix(";bs").encode()]
        return ", ".join(f":{base64.b64encode(value).decode()}:" for value in values)
    return derived[name] if name.startswith("@") else request.headers[name]


def sign(
    request: httpx2.Request,
    key: Key,
    *,
    components: Sequence[str] | None = None,
    parameters: Mapping[str, str | int | None] | None = None,
    digest: str | None = None,
) -> httpx2.Request:
    """Sign a request and return it.

    Args:
        request: its Host is the authority that is signed.
        key: signs.
        components: what is covered; what has to be, when left out.
        parameters: replace or add to the signature's own (None leaves one out).
        digest: the field Content-Digest, where it is not to be that of the body.
    """
    body = request.read()
    if body and "content-digest" not in request.headers:
        request.headers["Content-Digest"] = digest or content_digest(body)
    covered = components or [name for name in COMPONENTS if body or name != "content-digest"]
    values = {"created": int(time.time()), "keyid": str(key.id), "nonce": secrets.token_hex(16), **(parameters or {})}
    shown = "".join(
        f';{name}="{value}"' if isinstance(value, str) else f";{name}={value}"
        for name, value in values.items()
        if value is not None
    )
    ids = {name: f'"{name.removesuffix(";bs")}"' + (";bs" if name.endswith(";bs") else "") for name in covered}
    signature_input = f"({' '.join(ids.values())}){shown}"
    lines = [f"{shown_id}: {component_value(request, name)}" for name, shown_id in ids.items()]
    base = "\n".join([*lines, f'"@signature-params": {signature_input}'])
    mac = base64.b64encode(hmac.digest(key.secret, base.encode(), "sha256")).decode()
    request.headers["Signature-Input"] = f"sig1={signature_input}"
    request.headers["Signature"] = f"sig1=:{mac}:"
    return request


async def known_key(api: httpx2.AsyncClient, engine: AsyncEngine, *, scopes: str = "classify") -> Key:
    """Put a new key into the table, and wait until the service has learnt of it."""
    key = await create_key(engine, scopes=scopes)
    async with asyncio.timeout(KNOWN_WITHIN_SECONDS):
        while (await api.send(sign(api.build_request("GET", "/categories"), key))).status_code != OK:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return key


def wait_until_known(key: Key, *ports: int) -> Key:
    """Wait until the services on some ports of 127.0.0.1 have learnt of a key, and return it."""

    def is_known(port: int) -> bool:
        # Each on a connection of its own, since there may be several workers on the port.
        for _ in range(PROBES):
            request = httpx2.Request("GET", f"http://127.0.0.1:{port}/api/v1/categories")
            with httpx2.Client(timeout=120) as client:
                # Before it knows any key, a service needs none; and a key that it does not know counts as a wrong one.
                if client.send(request).status_code == OK or client.send(sign(request, key)).status_code != OK:
                    return False
        return True

    for port in ports:
        wait_until(partial(is_known, port), "the service knows the key", KNOWN_WITHIN_SECONDS)
    return key
