"""API keys: kept as hashes, known in memory, and every process learns of a new or a revoked one."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.config.settings import CacheSettings
from app.database.tables import api_keys
from app.database.tables.audit import AuditEntry
from app.errors import ApiKeyRequired, InvalidApiKey, TooManyWrongKeys
from app.services import throttle
from app.services.api_keys.administration import create_key, end_key
from app.services.api_keys.key import PREFIX, Scope, hash_of
from app.services.api_keys.lifespan import open_api_keys
from app.services.api_keys.service import ApiKeyService
from app.services.audit.service import AuditLog
from app.services.throttle import FREE_FAILURES, Subject
from tests.support.keys import ADMIN_API_KEY, expired_key, key_of, revoked_key, until

ADDRESS = "192.0.2.1"


@pytest.fixture
async def service(engine: AsyncEngine) -> AsyncIterator[ApiKeyService]:
    """The keys as a process knows them."""
    settings = CacheSettings.model_validate({"admin_api_key": ADMIN_API_KEY})
    async with open_api_keys(settings, engine, audit=AuditLog(engine)) as service:
        yield service


async def test_a_key_is_nowhere_but_in_its_holders_hands(engine: AsyncEngine) -> None:
    new = await key_of(engine, Scope.STATS, budget_micros=5_000_000, rate_per_minute=60)
    assert new.text.startswith(PREFIX)
    assert len(new.text) >= len(PREFIX) + 43
    assert new.text not in repr(new)
    async with engine.connect() as connection:
        [row] = (await connection.execute(select(api_keys.ApiKey.__table__))).all()
        audit = (await connection.execute(select(AuditEntry.__table__))).all()
    assert row.key_hash == hash_of(new.text)
    assert (row.scopes, row.budget_micros, row.rate_per_minute) == ("stats", 5_000_000, 60)
    assert [(entry.action, entry.subject) for entry in audit] == [("key.created", f"key:{new.id}")]
    for secret in (new.text, row.key_hash):
        assert secret not in str(audit)
    assert new.text not in str(row)


async def test_a_process_learns_of_keys_by_itself(engine: AsyncEngine, service: ApiKeyService) -> None:
    assert not service.exist
    new = await key_of(engine, Scope.CLASSIFY, Scope.STATS)

    async def is_known() -> bool:
        return service.exist

    await until(is_known)
    key = await service.identify(new.text, ADDRESS)
    assert (key.id, key.may(Scope.STATS), key.may(Scope.ADMIN), key.actor) == (new.id, True, False, f"key:{new.id}")
    assert hash_of(new.text) not in repr(key)
    assert await service.find_by_id(new.id) == key
    await end_key(engine, new.id, actor="tests")

    async def is_revoked() -> bool:
        key = await service.find_by_id(new.id)
        return key is not None and key.revoked_at is not None

    await until(is_revoked)
    with pytest.raises(InvalidApiKey, match="revoked"):
        await service.identify(new.text, ADDRESS)
    # The API does not open again because its last key was revoked.
    assert service.exist


def test_it_looks_often_enough() -> None:
    from app.services.api_keys import service

    assert service.LOOK_INTERVAL_SECONDS <= 1.0


async def test_keys_end(engine: AsyncEngine) -> None:
    expired, revoked = await expired_key(engine), await revoked_key(engine)
    lasting = await key_of(engine, expires_at=utc_now() + timedelta(days=1))
    service = ApiKeyService(engine, admin_key="", audit=AuditLog(engine))
    await service.look()
    for sent in (
        expired.text,
        revoked.text,
        lasting.text[:-1],
        lasting.text.upper(),
        f" {lasting.text}",
        "\udcff",
        "k" * 10_000,
    ):
        with pytest.raises(InvalidApiKey):
            await service.identify(sent, ADDRESS)
    assert (await service.identify(lasting.text, ADDRESS)).id == lasting.id
    with pytest.raises(ApiKeyRequired) as caught:
        await service.identify("", ADDRESS)
    assert caught.value.code == "api_key_required"


async def test_guessing_is_slow_and_right_keys_are_not(engine: AsyncEngine, service: ApiKeyService) -> None:
    new = await key_of(engine)
    await service.look()
    free = FREE_FAILURES[Subject.KEY_ADDRESS]
    for number in range(free):
        with pytest.raises(InvalidApiKey):
            await service.identify(f"guess {number}", f"2001:db8:1:2:{number:x}::1")
    # The right one is not even looked at, and a random one that is known passes.
    for sent in ("guess", ADMIN_API_KEY):
        with pytest.raises(TooManyWrongKeys) as caught:
            await service.identify(sent, "2001:db8:1:2:ffff::1")
        assert caught.value.retry_after_seconds is not None
    assert (await service.identify(new.text, "2001:db8:1:2:ffff::1")).id == new.id
    # Another network is another caller.
    assert (await service.identify(ADMIN_API_KEY, "2001:db8:1:3::1")).actor == "ADMIN_API_KEY"


async def test_many_guesses_at_once_do_not_outrun_the_count(
    service: ApiKeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next one may not come while the test runs, however slow the machine is.
    monkeypatch.setattr(throttle, "FIRST_PAUSE_SECONDS", throttle.MAX_PAUSE_SECONDS)
    guesses = (service.identify(f"guess {number}", ADDRESS) for number in range(60))
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    looked_at = sum(isinstance(outcome, InvalidApiKey) for outcome in outcomes)
    assert looked_at <= FREE_FAILURES[Subject.KEY_ADDRESS] + 1
    assert sum(isinstance(outcome, TooManyWrongKeys) for outcome in outcomes) == 60 - looked_at


async def test_an_administrator_at_work_is_not_slowed(service: ApiKeyService) -> None:
    for _ in range(3 * FREE_FAILURES[Subject.KEY_ADDRESS]):
        assert (await service.identify(ADMIN_API_KEY, ADDRESS)).may(Scope.STATS)


async def test_wrong_names_and_scopes_are_refused(engine: AsyncEngine) -> None:
    for name in ("", "x" * 65, "a\nb", " a"):
        with pytest.raises(ValueError, match="a name has"):
            await create_key(engine, name=name, scopes=[Scope.STATS], actor="tests")
    with pytest.raises(ValueError, match="needs a scope"):
        await create_key(engine, name="a", scopes=[], actor="tests")
    assert not await end_key(engine, 77, actor="tests")
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT COUNT(*) FROM audit_log")) == 0
