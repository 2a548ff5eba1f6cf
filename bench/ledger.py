"""The books: every answer that wrk got is one row in the log, every hit one more in a counter; no more, no less.

A benchmark that did not check this would praise the service that loses rows.
"""

import time
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from app.database.tables.classification import CachedImage
from app.database.tables.request_log import RequestLog
from bench.load import Load

POLL_SECONDS = 0.05


class AccountingError(Exception):
    """The database and wrk disagree; the text holds both numbers."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Totals of one database; `cached_rows` and `fresh_rows` are log rows with `from_cache` 1 and 0."""

    cached_rows: int
    fresh_rows: int
    entries: int
    hit_count: int

    def __sub__(self, earlier: "Ledger") -> "Ledger":
        return Ledger(
            self.cached_rows - earlier.cached_rows,
            self.fresh_rows - earlier.fresh_rows,
            self.entries - earlier.entries,
            self.hit_count - earlier.hit_count,
        )


def read_ledger(engine: Engine) -> Ledger:
    """Return the totals of the database behind `engine`."""
    rows = select(func.count(), func.coalesce(func.sum(RequestLog.from_cache), 0))
    entries = select(func.count(), func.coalesce(func.sum(CachedImage.hit_count), 0))
    with engine.connect() as connection:
        log_rows, cached_rows = connection.execute(rows.select_from(RequestLog)).one()
        entry_count, hit_count = connection.execute(entries.select_from(CachedImage)).one()
    return Ledger(int(cached_rows), log_rows - int(cached_rows), entry_count, int(hit_count))


def check_ledger(change: Ledger, load: Load) -> None:
    """Compare what a load has changed in the database with the answers that were given.

    A new photo is one entry, whose count begins at 1. A hash that is not known leaves nothing behind.

    Raises:
        AccountingError: anything was lost or written twice.
    """
    expected = Ledger(
        cached_rows=load.cached, fresh_rows=load.fresh, entries=load.fresh, hit_count=load.cached + load.fresh
    )
    if change != expected:
        raise AccountingError(f"the answers amount to {expected}, the database holds {change}")


def await_ledger(engine: Engine, before: Ledger, load: Load, *, within_seconds: float) -> None:
    """Check the books, again and again for `within_seconds` (0: once), because a service may write after its answer.

    Raises:
        AccountingError: they do not balance in the end.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            return check_ledger(read_ledger(engine) - before, load)
        except AccountingError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)
