"""Bills and what is spent, as the tests need them."""

from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config.spending import SpendingSettings
from app.database.tables.spending import ModelCallRow
from app.services.request_log.record import Caller
from app.services.spending.bill import Bill
from app.services.spending.ledger import Ledger
from app.services.spending.notices import BudgetNotices
from app.services.spending.prices import Price
from app.services.spending.service import Spending
from app.services.spool.service import Spool
from tests.support.spools import no_spool

ZONE = ZoneInfo("Asia/Shanghai")


def spending_settings(**values: Any) -> SpendingSettings:
    """Settings with a price of a cent a call, whatever the environment says."""
    return SpendingSettings(**({"cost_per_call": Decimal("0.01")} | values))


def spending_for(engine: AsyncEngine, spool: Spool | None = None, **values: Any) -> Spending:
    """What a process has of it; `values` are settings."""
    settings = spending_settings(**values)
    return Spending(
        engine,
        settings,
        ZONE,
        photos_per_address=settings.photos_per_address,
        notices=BudgetNotices(engine, settings),
        spool=spool or no_spool(),
    )


def bill_for(engine: AsyncEngine, *, price: Price | None = None, caller: Caller | None = None) -> Bill:
    """A bill without limits; without a price, of calls that cost nothing."""
    return Bill(
        caller or Caller(),
        provider="openai",
        model="m",
        price=price,
        limits=[],
        ledger=Ledger(engine.dialect.name),
    )


async def ledger_of(engine: AsyncEngine) -> list[Any]:
    """The rows of the ledger, in the order of their writing."""
    row = ModelCallRow.__table__
    async with engine.connect() as connection:
        return list((await connection.execute(select(row).order_by(row.c.id))).all())
