"""Passwords that are guessed first."""

import pytest

from app.errors import WeakPassword
from app.services.accounts.weak_passwords import check_password


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("password", "common"),
        ("PassWord", "common"),
        ("ｐａｓｓｗｏｒｄ", "common"),
        ("12345678", "common"),
        ("87654321", "common"),
        ("23456789", "common"),
        ("88888888", "common"),
        ("aaaaaaaaaaaaaaaa", "common"),
        ("121212121212", "common"),
        ("abcdefghijkl", "common"),
        ("qwertyuiop", "common"),
        ("1qaz2wsx", "common"),
        ("iloveyou", "common"),
        ("password123", "common"),
        ("woaini1314", "common"),
        ("margaret-2026", "contains_username"),
        ("my-MARGARET-is-it", "contains_username"),
        ("xxＭａｒｇａｒｅｔxx", "contains_username"),
        ("maggie@example.com", "contains_email"),
        ("1Maggie@Example.com1", "contains_email"),
        ("maggie2026", "contains_email"),
        ("maggiemaggie", "contains_email"),
    ],
)
async def test_what_is_guessed_first_is_refused(password: str, reason: str) -> None:
    with pytest.raises(WeakPassword) as refused:
        await check_password(password, username="Margaret", email="Maggie@example.com")
    assert refused.value.details == {"reason": reason}


@pytest.mark.parametrize(
    "password",
    ["testpassword123", "correct horse battery", "我的密码是一句很长的话", "maggie has five cats", "x9$kQ2!p"],
)  # fmt: skip
async def test_no_composition_is_asked_for(password: str) -> None:
    await check_password(password, username="Margaret", email="maggie@example.com")


async def test_a_short_name_may_stand_in_a_password() -> None:
    await check_password("the road to Li", username="li", email="li@example.com")
    with pytest.raises(WeakPassword):
        await check_password("lilililili", username="lilililili", email="x@example.com")
