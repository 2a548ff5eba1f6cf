"""Accounts as one process has them: what a lost answer, a crowd, a clock or a damaged key does to them."""

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.errors import EmailTaken, InvalidToken, LoginFailed, ServerBusy, TooManyLogins, UsernameTaken
from app.services.accounts import passwords as passwords_module
from app.services.accounts.login_throttle import LoginThrottle
from app.services.accounts.service import AccountService
from app.services.accounts.tokens import SECRET_KEY_FILE, kept_secret_key
from app.services.throttle import FREE_FAILURES, Subject
from tests.support.databases import lost_answers
from tests.support.people import TOKEN_KEY


async def test_a_sign_up_whose_commit_had_no_answer_is_done(
    accounts: AccountService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lost_answers(engine, monkeypatch) as lost:
        account = await accounts.register("alice", "alice@example.com", "testpassword123")
    assert lost
    token = await accounts.log_in("alice", "testpassword123", None)
    assert (await accounts.session_of(token.text)).account == account
    # A user with the same password is not taken for the same person.
    with pytest.raises(UsernameTaken):
        await accounts.register("alice", "other@example.com", "testpassword123")
    with pytest.raises(EmailTaken):
        await accounts.register("other", "alice@example.com", "testpassword123")


async def test_sign_ups_do_not_keep_people_from_logging_in(
    accounts: AccountService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords_module, "MAX_WAITING", 3)
    await accounts.register("alice", "alice@example.com", "testpassword123")
    is_free = threading.Event()
    hashing: Any = accounts._passwords._hash
    hash_password = hashing.hash

    def hash_late(password: str) -> str:
        is_free.wait(120)
        return str(hash_password(password))

    with monkeypatch.context() as patch:
        patch.setattr(hashing, "hash", hash_late)
        # The hash that unknown names are compared with.
        accounts._passwords._unknown = hash_password("unknown")
        sign_ups = [
            asyncio.create_task(accounts.register(f"user{number}", f"{number}@example.com", "testpassword123"))
            for number in range(5)
        ]
        try:
            assert await asyncio.wait_for(accounts.log_in("alice", "testpassword123", None), 5)
        finally:
            is_free.set()
        outcomes = await asyncio.gather(*sign_ups, return_exceptions=True)
    assert sum(isinstance(outcome, ServerBusy) for outcome in outcomes) == 2
    assert await accounts.register("late", "late@example.com", "testpassword123")


async def test_all_addresses_of_a_household_are_one(engine: AsyncEngine) -> None:
    throttle = LoginThrottle(engine)
    for number in range(FREE_FAILURES[Subject.ADDRESS]):
        await throttle.begin(f"account{number}", f"2001:db8:1:2:{number:x}::1")
    with pytest.raises(TooManyLogins):
        await throttle.begin("another", "2001:db8:1:2:ffff::1")
    await throttle.begin("another", "2001:db8:1:3::1")
    await throttle.begin("another", "192.0.2.1")


async def test_a_token_of_a_clock_that_is_ahead_counts(accounts: AccountService) -> None:
    account = await accounts.register("alice", "alice@example.com", "testpassword123")
    issued_at = utc_now() + timedelta(seconds=20)
    claims = {"sub": str(account.id), "gen": 0, "iat": issued_at, "exp": issued_at + timedelta(days=1), "jti": "a"}
    assert (await accounts.session_of(jwt.encode(claims, TOKEN_KEY, algorithm="HS256"))).account == account
    with pytest.raises(InvalidToken):
        await accounts.session_of(jwt.encode(claims, TOKEN_KEY[::-1] + "x", algorithm="HS256"))


async def test_an_unknown_name_takes_as_long_as_a_wrong_password(
    accounts: AccountService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.register("alice", "alice@example.com", "testpassword123")
    compared: list[str] = []
    hashing: Any = accounts._passwords._hash
    verify = hashing.verify

    def watched(password: str, password_hash: str) -> bool:
        compared.append(password_hash.rpartition("$")[0].rpartition("$")[0])
        return bool(verify(password, password_hash))

    monkeypatch.setattr(hashing, "verify", watched)
    for name in ("alice", "nobody"):
        with pytest.raises(LoginFailed):
            await accounts.log_in(name, "wrong", None)
    # The same work: algorithm, memory, rounds.
    assert len(compared) == 2
    assert len(set(compared)) == 1


def test_a_key_is_kept_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key = kept_secret_key(folder)
    assert kept_secret_key(folder) == key
    assert folder.stat().st_mode & 0o077 == 0
    for damaged in ("", "short\n"):
        (folder / SECRET_KEY_FILE).write_text(damaged)
        with pytest.raises(ValueError, match=SECRET_KEY_FILE):
            kept_secret_key(folder)
