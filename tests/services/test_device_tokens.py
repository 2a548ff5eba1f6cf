"""Device tokens while an operator replaces the secret key by another."""

from datetime import timedelta

import jwt
import pytest

from app.errors import InvalidToken, TokenExpired
from app.services.accounts.tokens import key_id
from app.services.device_tokens import Device, DeviceTokenService, is_device_token

OLD, NEW = "the key of the year before, long enough", "the key of this year, and long enough too"


class NoKeys:
    """A service without API keys."""

    async def find_by_id(self, _: int) -> None:
        return None

    async def count_wrong(self, *_: str | None) -> None:
        return None


def service(*keys: str) -> DeviceTokenService:
    return DeviceTokenService({key_id(key): key for key in keys}, NoKeys())


def issue(tokens: DeviceTokenService, lifetime: timedelta = timedelta(hours=1)) -> str:
    return tokens.issue("device-1", new_photos_per_day=5, lifetime=lifetime, api_key_id=None).text


async def test_two_secret_keys_while_one_replaces_the_other() -> None:
    before = issue(service(OLD))
    assert await service(NEW, OLD).device_of(before, None) == Device("device-1", 5, None)
    after = issue(service(NEW, OLD))
    assert jwt.get_unverified_header(after)["kid"] == key_id(NEW)
    assert await service(NEW).device_of(after, None) == Device("device-1", 5, None)
    with pytest.raises(InvalidToken):
        await service(NEW).device_of(before, None)


async def test_an_expired_token_of_ours_is_told_from_others() -> None:
    with pytest.raises(TokenExpired):
        await service(NEW).device_of(issue(service(NEW), timedelta(seconds=-1)), None)
    with pytest.raises(InvalidToken):
        await service(NEW).device_of(issue(service(OLD), timedelta(seconds=-1)), None)


def test_which_texts_call_themselves_device_tokens() -> None:
    token = issue(service(NEW))
    assert is_device_token(token)
    for text in ("", "ic_key", "a.b", "a.b.c", f"{token}.x", f"{'x' * 5000}.b.c", jwt.encode({}, NEW, "HS256")):
        assert not is_device_token(text)
