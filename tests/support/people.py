"""People with accounts, for the tests of the signed-in side."""

from typing import Any

import httpx2

USER = {"username": "testuser", "email": "test@example.com", "password": "testpassword123"}
# Signs the tokens of services that are made without settings.
TOKEN_KEY = "k" * 32


async def sign_up(service: httpx2.AsyncClient, **changes: Any) -> dict[str, Any]:
    """Make an account and return it."""
    answer = await service.post("/users/", json=USER | changes)
    assert answer.status_code == 201, answer.text
    user: dict[str, Any] = answer.json()
    return user


async def log_in(service: httpx2.AsyncClient, username: str = "testuser", password: str = USER["password"]) -> str:
    """Return a token."""
    answer = await service.post("/users/token", data={"username": username, "password": password})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def bearer(token: str) -> dict[str, str]:
    """The header with a token."""
    return {"Authorization": f"Bearer {token}"}


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of an error, which has the one format."""
    body = answer.json()
    assert body["success"] is False
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return answer.status_code, body["error"]["code"]
