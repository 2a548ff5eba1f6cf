"""Rollups: what the statistics read, written in the transaction of the rows that it sums.

So a figure is exact at any time, costs the same with ten million log rows as with ten, and outlives the log. Nothing
here reads or waits: it makes statements, for the busiest transaction of all.
"""

import random
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from app.database.statements import (
    Statement,
    insert_ignore,
    inserted_rows,
    larger_of,
    rows_of_placeholders,
    smaller_of,
    timestamp_text,
    upsert,
)
from app.services.request_log.record import RequestRecord

# Each process adds to the rows of one shard, so that few wait for each other. A reader sums over all of them.
SHARDS = 8
PERIOD_MINUTES = 15
USER, ADDRESS = "user", "ip"
# Ten bands of confidence, the last with 1.
CONFIDENCE_BANDS = tuple(f"{band / 10:.1f}-{(band + 1) / 10:.1f}" for band in range(10))
# Both of about 200 bytes: some megabytes at the most.
MAX_KNOWN_VISITORS = 50_000
MAX_KNOWN_MOMENTS = 1000


class PhotoKind(StrEnum):
    """By what new photos are counted."""

    MODEL = "model"
    FORMAT = "format"
    CONFIDENCE = "confidence"


class _Moment(NamedTuple):
    """A time as the tables hold it, the beginning of its period, and its day in STATS_TIMEZONE."""

    time: str
    period: str
    day: str


def period_start(moment: datetime) -> datetime:
    """The beginning of the quarter of an hour that `moment` is in."""
    return moment.replace(minute=moment.minute // PERIOD_MINUTES * PERIOD_MINUTES, second=0, microsecond=0)


class Rollups:
    """Makes the statements for one process; `dialect` is SQLAlchemy's name, `zone` decides which day it is."""

    def __init__(self, dialect: str, zone: ZoneInfo) -> None:
        self._dialect = dialect
        self._zone = zone
        self._shard = random.randrange(SHARDS)
        self._moments: dict[datetime, _Moment] = {}
        # (day, kind) -> visitors whose row is committed.
        self._known: dict[tuple[str, str], set[str]] = {}

    def statements(self, records: Sequence[RequestRecord], *, logged: bool) -> list[Statement]:
        """Return what belongs to the log rows and hits of `records`, to be run in this order right after them.

        Of two statements about visitors the second counts the rows of the first: no other may come between them.
        Rows are sorted, so that processes lock them in one order. With `logged` off only the cache's hits are summed.
        """
        statements = self._logged(records) if logged else []
        hits = [record for record in records if record.hits_shared_cache]
        if hits:
            saved_micros = sum(record.saved_micros for record in hits)
            statements.append(self._cache_totals(images=0, hits=len(hits), saved_micros=saved_micros))
        if similar := [record for record in hits if record.similar_to is not None]:
            statements.append(self._similar(similar))
        return statements

    def committed(self, records: Sequence[RequestRecord]) -> None:
        """Remember that the visitors of `records` are counted; to be called after the commit only."""
        for record in records:
            day = self._moment(record.created_at).day
            if record.user_id is not None:
                self._known.setdefault((day, USER), set()).add(record.user_id)
            if record.ip_address is not None:
                self._known.setdefault((day, ADDRESS), set()).add(record.ip_address)
        days = sorted({day for day, _ in self._known})
        for outdated in days[:-2]:
            self._known.pop((outdated, USER), None)
            self._known.pop((outdated, ADDRESS), None)
        if sum(map(len, self._known.values())) > MAX_KNOWN_VISITORS:
            # Those who come often are back soon.
            self._known.clear()

    def entry_added(self) -> Statement:
        """Return what belongs to a new entry of the cache, whose `hit_count` begins at 1."""
        return self._cache_totals(images=1, hits=1)

    def photo_added(self, *, model: str, photo_format: str, confidence: float, answered_at: datetime) -> Statement:
        """Return what counts a photo that has become known, in the transaction of its entry."""
        values = {
            PhotoKind.CONFIDENCE: CONFIDENCE_BANDS[min(round(confidence * 10_000) // 1000, 9)],
            PhotoKind.FORMAT: photo_format,
            PhotoKind.MODEL: model,
        }
        period = self._moment(answered_at).period
        rows = [part for kind, value in values.items() for part in (period, kind.value, value, self._shard, 1)]
        return Statement(_upsert_photos(self._dialect), rows)

    def entries_removed(self, entries: int, hits: int) -> Statement:
        """Return what belongs to the removal of so many entries, whose `hit_count` is so much together.

        A hit of an entry that is removed before it is counted stays in the sum, as does what its hits have saved.
        """
        return self._cache_totals(images=-entries, hits=-hits)

    def entry_restored(self, hits: int) -> Statement:
        """Return what belongs to an entry that is there again, with its `hit_count`."""
        return self._cache_totals(images=1, hits=hits)

    def _logged(self, records: Sequence[RequestRecord]) -> list[Statement]:
        users: dict[str, tuple[int, int, str, str]] = {}
        visitors: dict[tuple[str, str], set[str]] = {}
        periods: dict[tuple[str, str], list[int]] = {}
        for record in records:
            moment = self._moment(record.created_at)
            hit = int(record.from_cache)
            sums = periods.setdefault((moment.period, record.category), [0, 0, 0, 0, 0])
            sums[0] += 1
            sums[1] += hit
            sums[2] += record.processing_time_ms
            sums[3] += round(record.confidence * 10_000)
            sums[4] += record.saved_micros
            if record.user_id is not None:
                requests, hits, first, last = users.get(record.user_id, (0, 0, moment.time, moment.time))
                # Times of one form compare as texts do.
                first, last = min(first, moment.time), max(last, moment.time)
                users[record.user_id] = (requests + 1, hits + hit, first, last)
                self._note(visitors, (moment.day, USER), record.user_id)
            if record.ip_address is not None:
                self._note(visitors, (moment.day, ADDRESS), record.ip_address)

        statements = []
        rows: list[object] = []
        if users:
            # By code points, as the binary collation of these columns does.
            rows = [value for user in sorted(users) for value in (user, *users[user])]
            statements.append(Statement(_upsert_users(self._dialect, len(users)), rows))
        for (day, kind), seen in sorted(visitors.items()):
            rows = [value for visitor in sorted(seen) for value in (day, kind, visitor)]
            statements.append(Statement(_insert_visitors(self._dialect, len(seen)), rows))
            statements.append(Statement(_count_visitors(self._dialect), (day, kind, self._shard)))
        rows = []
        for (period, category), sums in sorted(periods.items()):
            rows += (period, category, self._shard, *sums)
        statements.append(Statement(_upsert_periods(self._dialect, len(periods)), rows))
        return statements

    def _similar(self, records: Sequence[RequestRecord]) -> Statement:
        periods: dict[str, list[int]] = {}
        for record in records:
            sums = periods.setdefault(self._moment(record.created_at).period, [0, 0])
            sums[0] += 1
            sums[1] += record.saved_micros
        rows: list[object] = []
        for period, sums in sorted(periods.items()):
            rows += (period, self._shard, *sums)
        return Statement(_upsert_similar(self._dialect, len(periods)), rows)

    def _note(self, visitors: dict[tuple[str, str], set[str]], key: tuple[str, str], visitor: str) -> None:
        if visitor not in self._known.get(key, ()):
            visitors.setdefault(key, set()).add(visitor)

    def _cache_totals(self, *, images: int, hits: int, saved_micros: int = 0) -> Statement:
        return Statement(_upsert_cache(self._dialect), (self._shard, images, hits, saved_micros))

    def _moment(self, created_at: datetime) -> _Moment:
        moment = self._moments.get(created_at)
        if moment is None:
            if len(self._moments) >= MAX_KNOWN_MOMENTS:
                self._moments.clear()
            period = period_start(created_at)
            day = created_at.astimezone(self._zone).date()
            moment = self._moments[created_at] = _Moment(
                timestamp_text(created_at), timestamp_text(period), day.isoformat()
            )
        return moment


@lru_cache(maxsize=256)
def _insert_visitors(dialect: str, rows: int) -> str:
    return insert_visitors(dialect, f"VALUES {rows_of_placeholders(rows, 3)}")


@lru_cache(maxsize=4)
def _count_visitors(dialect: str) -> str:
    return upsert_sums(
        dialect,
        table="stats_visitor_count",
        keys=("day", "kind", "shard"),
        sums=("visitors",),
        source=f"VALUES (%s,%s,%s,{inserted_rows(dialect)})",
    )


@lru_cache(maxsize=4)
def _upsert_cache(dialect: str) -> str:
    return upsert_sums(
        dialect,
        table="stats_cache",
        keys=("shard",),
        sums=("images", "hits", "saved_micros"),
        source="VALUES (%s,%s,%s,%s)",
    )


@lru_cache(maxsize=4)
def _upsert_photos(dialect: str) -> str:
    return upsert_sums(
        dialect,
        table="stats_new_photo",
        keys=("period_start", "kind", "value", "shard"),
        sums=("photos",),
        source=f"VALUES {rows_of_placeholders(len(PhotoKind), 5)}",
    )


@lru_cache(maxsize=256)
def _upsert_users(dialect: str, rows: int) -> str:
    return upsert(
        dialect,
        table="stats_user",
        keys=("user_id",),
        updates={
            "requests": "requests + {new}",
            "hits": "hits + {new}",
            "first_request_at": smaller_of(dialect, "first_request_at", "{new}"),
            "last_request_at": larger_of(dialect, "last_request_at", "{new}"),
        },
        columns="user_id, requests, hits, first_request_at, last_request_at",
        source=f"VALUES {rows_of_placeholders(rows, 5)}",
    )


@lru_cache(maxsize=256)
def _upsert_periods(dialect: str, rows: int) -> str:
    return upsert_sums(
        dialect,
        table="stats_period",
        keys=("period_start", "category", "shard"),
        sums=("requests", "hits", "processing_time_ms", "confidence_sum", "saved_micros"),
        source=f"VALUES {rows_of_placeholders(rows, 8)}",
    )


@lru_cache(maxsize=256)
def _upsert_similar(dialect: str, rows: int) -> str:
    return upsert_sums(
        dialect,
        table="stats_similar",
        keys=("period_start", "shard"),
        sums=("hits", "saved_micros"),
        source=f"VALUES {rows_of_placeholders(rows, 4)}",
    )


def insert_visitors(dialect: str, source: str) -> str:
    """Return the text that puts those rows (day, kind, visitor) of `source` into `stats_visitor` that are new."""
    return f"{insert_ignore(dialect)} stats_visitor (day, kind, visitor) {source}"


def upsert_sums(dialect: str, *, table: str, keys: Sequence[str], sums: Sequence[str], source: str) -> str:
    """Return the text that adds rows of `source`, `keys` first and then `sums`, to a table of sums."""
    return upsert(
        dialect,
        table=table,
        keys=keys,
        updates={column: f"{column} + {{new}}" for column in sums},
        columns=", ".join([*keys, *sums]),
        source=source,
    )
