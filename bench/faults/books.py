"""What the database holds when all is in order again: the log, the cache, and the sums that are kept beside them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import InstrumentedAttribute

from app.clients.metering import CallOutcome
from app.database.tables.classification import CachedImage, ModelCallLease
from app.database.tables.request_log import RequestLog
from app.database.tables.spending import ModelCallRow, SpendingTotals
from app.database.tables.statistics import CacheTotals, NewPhotoPeriod, PeriodTotals, UserTotals, Visitor, VisitorCount

# The counts have settled when they have stood still for so long: a spool is replayed, a lease is released in less.
STILL_SECONDS = 2.5
POLL_SECONDS = 0.25
SETTLE_WITHIN_SECONDS = 60.0


class Row(NamedTuple):
    """A row of the log."""

    request_id: str
    user_id: str | None
    image_hash: str
    from_cache: bool


@dataclass(frozen=True, slots=True)
class Books:
    """All rows of the log, the hit count of each cached photo, and sums.

    `sums` has for each kind of sum what it says, and what the rows say that it is made from. `ledger` counts the model
    calls that are written down as answered, `leases` the rights to call the model that are still held.
    """

    rows: list[Row]
    hit_counts: dict[str, int]
    sums: dict[str, tuple[int, int]]
    ledger: int
    leases: int


def read_books(engine: Engine) -> Books:
    """Read the database behind `engine`."""
    with engine.connect() as connection:

        def number(query: Select[Any]) -> int:
            return int(connection.execute(query).scalar_one() or 0)

        def total(column: InstrumentedAttribute[int]) -> int:
            return number(select(func.sum(column)))

        log = select(RequestLog.request_id, RequestLog.user_id, RequestLog.image_hash, RequestLog.from_cache)
        rows = [Row(*row[:3], bool(row[3])) for row in connection.execute(log)]
        counts = connection.execute(select(CachedImage.image_hash, CachedImage.hit_count))
        hit_counts = {image_hash: int(count) for image_hash, count in counts}
        calls = select(func.count()).select_from(ModelCallRow)
        return Books(
            rows=rows,
            hit_counts=hit_counts,
            sums={
                "requests": (total(PeriodTotals.requests), len(rows)),
                "hits": (total(PeriodTotals.hits), sum(row.from_cache for row in rows)),
                "requests by user": (total(UserTotals.requests), sum(row.user_id is not None for row in rows)),
                "visitors": (total(VisitorCount.visitors), number(select(func.count()).select_from(Visitor))),
                "cached images": (total(CacheTotals.images), len(hit_counts)),
                "hits of cached images": (total(CacheTotals.hits), sum(hit_counts.values())),
                "new photos": (
                    number(select(func.sum(NewPhotoPeriod.photos)).where(NewPhotoPeriod.kind == "model")),
                    len(hit_counts),
                ),
                "paid calls": (total(SpendingTotals.calls), number(calls)),
            },
            ledger=number(calls.where(ModelCallRow.outcome == CallOutcome.ANSWERED.value)),
            leases=number(select(func.count()).select_from(ModelCallLease)),
        )


def await_stillness(engine: Engine, spool: Path) -> float | None:
    """Return when nothing has changed for STILL_SECONDS, no lease is held and `spool` holds no bytes.

    Returns:
        How long it took from now until the last change, in seconds; None if it has not settled in time.
    """
    began = changed_at = time.monotonic()
    before: object = None
    while (now := time.monotonic()) < began + SETTLE_WITHIN_SECONDS:
        state = _state(engine), _bytes_in(spool)
        if state != before:
            before, changed_at = state, now
        is_clear = state[0] is not None and state[0][-1] == 0 and state[1] == 0
        if is_clear and now - changed_at >= STILL_SECONDS:
            return changed_at - began
        time.sleep(POLL_SECONDS)
    return None


def _state(engine: Engine) -> tuple[int, ...] | None:
    """Return counts that change with every write of the service, the leases last; None where the server is away."""
    try:
        with engine.connect() as connection:
            return tuple(
                int(connection.execute(query).scalar_one() or 0)
                for query in (
                    select(func.count()).select_from(RequestLog),
                    select(func.sum(CachedImage.hit_count)),
                    select(func.sum(PeriodTotals.requests)),
                    select(func.count()).select_from(ModelCallRow),
                    select(func.count()).select_from(ModelCallLease),
                )
            )
    except OperationalError:
        return None


def _bytes_in(folder: Path) -> int:
    """Return how much lies in the files of a folder, which may not be there."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
