"""Forgetting a user leaves every total as it was, and no name; what others have done stays."""

import json
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.clock import utc_now
from app.database.tables.request_log import RequestLog
from app.database.tables.spending import BudgetUse, ModelCallRow, SpendingTotals
from app.database.tables.statistics import UserTotals, Visitor
from app.services.accounts.service import AccountService, Session
from app.services.privacy import forgetting
from app.services.privacy.forgetting import Forgetting, Forgotten
from app.services.privacy.service import PrivacyService
from app.services.request_log.record import RequestRecord, account_of_user_id
from app.services.request_log.service import RequestLogService
from tests.support import records
from tests.support.databases import recorder_on
from tests.support.rollups import SHANGHAI, figures

NOW = datetime(2025, 10, 10, 12, tzinfo=UTC)
NUMBERS = count()
THEIRS, SHARED = "192.0.2.1", "192.0.2.9"


def request(**values: Any) -> RequestRecord:
    """A log row with an id of its own."""
    return records.record(next(NUMBERS), **values)


def call(number: int, **values: Any) -> dict[str, Any]:
    """A row of the ledger."""
    names: dict[str, Any] = {"user_id": None, "account_id": None, "api_key_id": None}
    return {
        "request_id": f"req_{number}",
        "number": 0,
        "called_at": NOW,
        "provider": "openai",
        "model": "m",
        "input_tokens": 1,
        "cached_input_tokens": 0,
        "output_tokens": 1,
        "cost_micros": 10_000,
        "outcome": "answered",
        **names,
        **values,
    }


async def values(engine: AsyncEngine, *columns: Any) -> list[Any]:
    async with engine.connect() as connection:
        return [tuple(row) for row in (await connection.execute(select(*columns).order_by(*columns))).all()]


async def put_calls(engine: AsyncEngine, *rows: dict[str, Any]) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(ModelCallRow), list(rows))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "BATCH_ROWS", 3)
    monkeypatch.setattr(forgetting, "PAUSE_SECONDS", 0)


async def test_space_around_an_id_does_not_count(engine: AsyncEngine) -> None:
    """As in a request; MySQL would take "phone-1 " for "phone-1" in some of the tables, SQLite in none."""
    await recorder_on(engine, zone=SHANGHAI.key).record([request(user_id="phone-1", created_at=NOW)])
    await put_calls(engine, call(1, user_id="phone-1"))
    privacy = PrivacyService(engine)
    exported = json.loads(b"".join([piece async for piece in await privacy.export(" phone-1 ")]))["data"]
    assert exported["user_id"] == "phone-1"
    assert [len(exported[name]) for name in ("requests", "days", "totals", "model_calls")] == [1] * 4
    assert await privacy.forget("phone-1 ") == Forgotten(log_rows=1, days=1, model_calls=1)
    assert await values(engine, UserTotals.user_id) == []


async def test_a_device_is_forgotten_and_the_totals_stay(engine: AsyncEngine) -> None:
    theirs = [request(user_id="phone-1", ip_address=THEIRS, created_at=NOW - timedelta(days=n % 3)) for n in range(10)]
    others = [
        request(user_id="phone-1", ip_address=SHARED, created_at=NOW),
        request(user_id="phone-2", ip_address=SHARED, created_at=NOW),
        request(user_id=None, ip_address="192.0.2.2", created_at=NOW),
    ]
    await recorder_on(engine, zone=SHANGHAI.key).record([*theirs, *others])
    await put_calls(engine, *(call(n, user_id="phone-1", api_key_id=7) for n in range(5)), call(9, user_id="phone-2"))
    async with engine.begin() as connection:
        used = {"window_start": NOW, "used": 1, "attempts": 1}
        await connection.execute(insert(BudgetUse), [{"scope": "user:phone-1", **used}, {"scope": "all", **used}])
    before = await figures(engine)

    forgotten = await Forgetting(engine).forget("phone-1")

    assert (forgotten.log_rows, forgotten.days, forgotten.model_calls) == (11, 3, 5)
    after = await figures(engine)
    assert (after["days"], after["categories"]) == (before["days"], before["categories"])
    assert [user["user_id"] for user in after["users"]] == ["phone-2"]
    logged = await values(engine, RequestLog.user_id, RequestLog.ip_address)
    assert sorted(logged, key=str) == sorted([(None, None)] * 11 + [("phone-2", SHARED), (None, "192.0.2.2")], key=str)
    assert {row[0] for row in await values(engine, Visitor.visitor)} == {"phone-2", SHARED, "192.0.2.2"}
    assert await values(engine, UserTotals.user_id) == [("phone-2",)]
    assert await values(engine, BudgetUse.scope) == [("all",)]
    calls = await values(engine, ModelCallRow.request_id, ModelCallRow.user_id, ModelCallRow.api_key_id)
    assert calls == [*((f"req_{n}", None, None) for n in range(5)), ("req_9", "phone-2", None)]
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.sum(ModelCallRow.cost_micros))) == 60_000
        assert await connection.scalar(select(func.count()).select_from(SpendingTotals)) == 0
    # Again, and of a user that there is not.
    for user_id in ("phone-1", "nobody", "account:99", "account:x", "%", "' OR 1=1 --"):
        nothing = await Forgetting(engine).forget(user_id)
        assert (nothing.log_rows, nothing.days, nothing.model_calls) == (0, 0, 0)
    assert await values(engine, UserTotals.user_id) == [("phone-2",)]


async def test_a_deleted_account_leaves_no_name(
    accounts: AccountService, session: Session, engine: AsyncEngine
) -> None:
    account = session.account
    user_id = f"account:{account.id}"
    await recorder_on(engine, zone=SHANGHAI.key).record([request(user_id=user_id, ip_address=THEIRS) for _ in range(5)])
    # A background task has no user id.
    await put_calls(engine, call(1, user_id=user_id, account_id=account.id), call(2, account_id=account.id))
    await accounts.delete(account, None)
    assert await values(engine, RequestLog.user_id, RequestLog.ip_address) == [(None, None)] * 5
    assert await values(engine, ModelCallRow.user_id, ModelCallRow.account_id) == [(None, None)] * 2
    assert await values(engine, Visitor.visitor) == []
    assert await values(engine, UserTotals.user_id) == []


async def test_what_a_deleted_accounts_request_writes_later_is_forgotten_too(
    accounts: AccountService, session: Session, engine: AsyncEngine
) -> None:
    gone = f"account:{session.account.id}"
    await accounts.delete(session.account, None)
    other = await accounts.register("other", "other@example.com", "testpassword123")
    late = [request(user_id=user_id, ip_address=THEIRS) for user_id in (gone, f"account:{other.id}", "phone-1")]
    await recorder_on(engine, zone=SHANGHAI.key).record(late)
    assert await Forgetting(engine).forget_deleted_accounts() == 1
    assert await Forgetting(engine).forget_deleted_accounts() == 0
    assert await values(engine, UserTotals.user_id) == sorted([(f"account:{other.id}",), ("phone-1",)])


async def test_users_who_were_not_seen_for_long_are_deleted(engine: AsyncEngine) -> None:
    now = utc_now()
    seen = [request(user_id=f"phone-{n}", created_at=now - timedelta(days=n)) for n in range(10)]
    await recorder_on(engine, zone=SHANGHAI.key).record(seen)
    service = RequestLogService(engine, SHANGHAI)
    assert await service.forget_users(now - timedelta(days=5, seconds=1)) == 4
    assert await values(engine, UserTotals.user_id) == [(f"phone-{n}",) for n in range(6)]


@pytest.mark.parametrize(
    ("user_id", "account_id"),
    [
        ("account:5", 5),
        ("account:", None),
        ("account:5x", None),
        ("5", None),
        ("account:٣", None),
        ("account:-1", None),
    ],
)
def test_which_user_ids_are_accounts(user_id: str, account_id: int | None) -> None:
    assert account_of_user_id(user_id) == account_id
    assert account_of_user_id(f"account:{'9' * 40}") is None
