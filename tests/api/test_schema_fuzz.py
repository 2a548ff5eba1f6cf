"""Schemathesis plays with every documented operation: no answer is undocumented, malformed or an error of ours.

Whoever asks, and with real pictures where a file is expected: otherwise hardly a case would get behind the first look.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests.auth import AuthBase
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.formats import unregister_string_format

from tests.fakes.images import jpeg_photo
from tests.servers.processes import free_port
from tests.support.people import USER
from tests.support.running import running
from tests.support.signing import COMPONENTS, Key, sign, stored_key, wait_until_known

# It is right to refuse what the schema allows: a date before 1970, a hash of other bytes, a name with odd letters.
# A key may be sent, and has to be only from the first one on: tests/api/test_access_matrix.py tries who may what.
UNCHECKED = {"positive_data_acceptance", "ignored_auth"}
ADMIN_KEY = "an-admin-key-for-tests"
UPLOADS = ("/api/v1/classify", "/images/upload")
# Beginnings of the paths that each caller may ask, and how many operations there are. What the others say to it, they
# say to the one without a key.
PLAYS: dict[str, tuple[tuple[str, ...], int]] = {
    "anonymous": (("/",), 53),
    "admin": (("/api/v1/",), 32),
    "account": (("/users/", "/images/", "/models", "/api/v1/jobs"), 26),
    "device": (("/api/v1/classify", "/api/v1/feedback"), 5),
    "signed": (("/api/v1/",), 32),
}


class Sends(AuthBase):
    """Sends a key or a token as it is."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Signs(AuthBase):
    """Signs with an API key, whatever the request is."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        assert isinstance(body, bytes | str)
        content = body if isinstance(body, bytes) else body.encode()
        fields = {b"Host": str(request.url).split("/")[2].encode()}
        components = [name for name in COMPONENTS if content or name != "content-digest"]
        if (user := request.headers.get("X-User-ID")) is not None:
            fields[b"X-User-ID"] = user if isinstance(user, bytes) else user.encode("latin-1")
            components.append("x-user-id;bs")
        signed = sign(
            httpx2.Request(str(request.method), str(request.url), headers=fields, content=content),
            self._key,
            components=components,
        )
        for name in ("Content-Digest", "Signature-Input", "Signature"):
            if name in signed.headers:
                request.headers[name] = signed.headers[name]
        return request


def token_of(address: str, path: str, **body: Any) -> str:
    answer = httpx2.post(f"{address}{path}", **body)
    assert answer.is_success, answer.text
    data = answer.json()
    return str(data["access_token"] if "access_token" in data else data["data"]["token"])


def account_of(address: str, _: Path) -> AuthBase:
    httpx2.post(f"{address}/users/", json=USER).raise_for_status()
    form = {"username": USER["username"], "password": USER["password"]}
    return Sends(token_of(address, "/users/token", data=form))


def device_of(address: str, _: Path) -> AuthBase:
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    return Sends(token_of(address, "/api/v1/tokens", json={"device_id": "device-1"}, headers=admin))


def signer_of(address: str, database: Path) -> AuthBase:
    key = stored_key(database, scopes="classify,stats,admin")
    return Signs(wait_until_known(key, int(address.rpartition(":")[2])))


CALLERS: dict[str, Callable[[str, Path], AuthBase | None]] = {
    "anonymous": lambda *_: None,
    "admin": lambda *_: Sends(ADMIN_KEY),
    "account": account_of,
    "device": device_of,
    "signed": signer_of,
}


def tell_hash(case: Any) -> None:
    """Where a case has both a picture and a hash, make them fit every other time: chance never would."""
    if isinstance(case.body, dict) and {"image", "image_hash"} <= case.body.keys():
        data = getattr(case.body["image"], "data", b"")
        if isinstance(data, bytes) and len(data) % 2:
            case.body["image_hash"] = hashlib.sha256(data).hexdigest()


@pytest.fixture
def pictures() -> Iterator[None]:
    """Files are pictures, mostly: new ones and known ones, and now and then no picture at all."""
    known = [jpeg_photo(60 + number, 40) for number in range(3)]
    new = st.integers(1, 2**32).map(lambda number: jpeg_photo(32, 32) + str(number).encode())
    schemathesis.openapi.format("binary", st.one_of(st.sampled_from(known), new, st.binary(max_size=100)))
    yield
    unregister_string_format("binary")


@pytest.mark.parametrize("caller", CALLERS)
def test_no_operation_surprises(caller: str, pictures: None, environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    (tmp_path / "tmp").mkdir()
    load_all_checks()
    checks = CHECKS.get_by_names([name for name in CHECKS.get_all_names() if name not in UNCHECKED])
    uploads = Counter[bool]()
    with running("uvicorn", port, {**environment, "ADMIN_API_KEY": ADMIN_KEY}), requests.Session() as session:
        session.auth = CALLERS[caller](address, tmp_path / "data" / "image-classifier.db")
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        beginnings, operations = PLAYS[caller]
        tried = 0
        found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        # What ends an account's tokens comes last.
        for operation in sorted(found, key=lambda each: each.path.startswith("/users/me")):
            if not operation.path.startswith(beginnings):
                continue

            @settings(
                # A stream is listened to for eight seconds.
                max_examples=1 if operation.path.endswith("/events") else 15,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def play(case: Any) -> None:
                tell_hash(case)
                response = case.call_and_validate(checks=checks, session=session)
                if case.operation.path in UPLOADS:
                    uploads[response.status_code < 300] += 1

            play()
            tried += 1
    assert tried == operations
    # Some got as far as an answer.
    assert uploads[True] >= 3, uploads
