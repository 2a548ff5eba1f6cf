"""What calls of models have cost, by provider, model or API key, from the ledger's sums."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database.tables.api_keys import ApiKey
from app.database.tables.spending import SpendingTotals
from app.services.spending.ledger import NO_KEY
from app.services.statistics.rounding import money


class SpendingGroup(StrEnum):
    """What calls are put together by."""

    MODEL = "model"
    PROVIDER = "provider"
    KEY = "key"


_COLUMNS = {
    SpendingGroup.MODEL: SpendingTotals.model,
    SpendingGroup.PROVIDER: SpendingTotals.provider,
    SpendingGroup.KEY: SpendingTotals.api_key_id,
}


@dataclass(frozen=True, slots=True)
class SpendingShare:
    """The calls of one group.

    `name` is None for those without an API key, else its id; `key_name` is what people call that key.
    """

    name: str | None
    key_name: str | None
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: float


async def read_spending(
    connection: AsyncConnection, *, by: SpendingGroup, start: datetime, end: datetime
) -> list[SpendingShare]:
    """Return the groups of the calls from `start` until before `end`, the dearest first."""
    totals = SpendingTotals
    group = _COLUMNS[by]
    query = (
        select(
            group.label("name"),
            func.sum(totals.calls).label("calls"),
            func.sum(totals.input_tokens).label("input_tokens"),
            func.sum(totals.cached_input_tokens).label("cached_input_tokens"),
            func.sum(totals.output_tokens).label("output_tokens"),
            func.sum(totals.cost_micros).label("cost_micros"),
        )
        .where(totals.period_start >= start, totals.period_start < end)
        .group_by(group)
    )
    rows = (await connection.execute(query)).all()
    # Rows of keys stay, also those of keys that were revoked.
    keys = {}
    if by is SpendingGroup.KEY:
        named = select(ApiKey.id, ApiKey.name).where(ApiKey.id.in_([row.name for row in rows]))
        keys = {row.id: row.name for row in (await connection.execute(named)).all()}
    return [
        SpendingShare(
            name=None if row.name == NO_KEY else str(row.name),
            key_name=keys.get(row.name),
            calls=int(row.calls),
            input_tokens=int(row.input_tokens),
            cached_input_tokens=int(row.cached_input_tokens),
            output_tokens=int(row.output_tokens),
            cost=money(int(row.cost_micros)),
        )
        for row in sorted(rows, key=lambda row: (-row.cost_micros, str(row.name)))
    ]
