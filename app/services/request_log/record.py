"""One answered request as it is written down, and the statements that write many of them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from app.categories import Category
from app.clock import utc_now
from app.database.statements import Statement, can_update_joined, rows_of_placeholders, timestamp_text
from app.language.accept import Language
from app.observability.request_id import new_request_id
from app.runtime.client_key import client_key

# No client may send an id that begins so (app/schemas/common.py).
ACCOUNT_PREFIX = "account:"
# Of a BIGINT that every database takes.
ACCOUNT_ID_MAX_DIGITS = 18

_LOG_COLUMNS = (
    "request_id, user_id, ip_address, image_hash, image_size, category, confidence, from_cache, processing_time_ms,"
    " created_at, model"
)
_LOG_COLUMN_COUNT = 11


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller, and since when it waits: `started_at` is `time.perf_counter()` at the arrival of the request.

    `api_key_id` and `account_id` say who pays, where that is known; `key_budget_micros` is what the key may spend a
    day, in millionths of CURRENCY. `new_photos_per_day` is how many photos that are not known yet a device may send by
    its token, None where the token says nothing of it. `language` is that of the descriptions that it gets; None where
    it takes each as it is.
    """

    request_id: str = field(default_factory=new_request_id)
    user_id: str | None = None
    ip_address: str | None = None
    started_at: float = field(default_factory=time.perf_counter)
    api_key_id: int | None = None
    key_budget_micros: int | None = None
    account_id: int | None = None
    new_photos_per_day: int | None = None
    language: Language | None = None

    @property
    def client(self) -> str:
        """Whose turn it is, and whose share, where something is scarce: the address, else the user."""
        return client_key(self.ip_address) or self.user_id or ""

    def or_user(self, user_id: str | None) -> "Caller":
        """The same caller, with `user_id` where none is known yet."""
        if self.user_id is not None or user_id is None:
            return self
        return replace(self, user_id=user_id)

    def next_item(self) -> "Caller":
        """The same caller asking for one more item of a batch: an id and a start of its own."""
        return replace(self, request_id=new_request_id(), started_at=time.perf_counter())


class Similar(NamedTuple):
    """The photo whose answer another one got: its SHA-256, and in how many bits their perceptual hashes differ."""

    image_hash: str
    distance: int


class Answer(NamedTuple):
    """What a caller is told; it is logged by the time it exists.

    `model` has given it: for a hit, the one whose answer the entry holds, or who corrected it (PEOPLE).
    `cost_micros` is what the calls that made it cost, in millionths of CURRENCY, also where another caller paid.
    `is_stale`: the database could not be asked whether the entry has changed. `similar`: it is the answer of another
    photo, which is nearly the same. `description_language` is None without a description.
    """

    request_id: str
    category: Category
    confidence: float
    description: str | None
    from_cache: bool
    processing_time_ms: int
    answered_at: datetime
    model: str
    cost_micros: int
    is_stale: bool = False
    similar: Similar | None = None
    description_language: Language | None = None

    @property
    def saved_micros(self) -> int:
        """What this caller's request did not cost, since the model was not asked for it."""
        return self.cost_micros if self.from_cache else 0

    @classmethod
    def now(
        cls,
        caller: Caller,
        *,
        category: Category,
        confidence: float,
        description: str | None,
        from_cache: bool,
        model: str,
        cost_micros: int,
        is_stale: bool = False,
        similar: Similar | None = None,
        description_language: Language | None = None,
    ) -> "Answer":
        """The answer to `caller`, whose time ends now."""
        return cls(
            request_id=caller.request_id,
            category=category,
            confidence=confidence,
            description=description,
            from_cache=from_cache,
            processing_time_ms=round((time.perf_counter() - caller.started_at) * 1000),
            answered_at=utc_now(),
            model=model,
            cost_micros=cost_micros,
            is_stale=is_stale,
            similar=similar,
            description_language=description_language,
        )


class RequestRecord(NamedTuple):
    """One answered request, as `request_log` keeps it.

    `from_cache` also counts a hit of the image's entry in the shared cache, unless another model than the service's
    was asked (`of_shared_cache` is False): what that one has said before stands elsewhere. Where the entry is that of a
    similar photo, `similar_to` is its hash. `saved_micros` and `similar_to` are not part of the log, only of its sums.
    """

    request_id: str
    user_id: str | None
    ip_address: str | None
    image_hash: str
    image_size: int | None
    category: str
    confidence: float
    from_cache: bool
    processing_time_ms: int
    created_at: datetime
    model: str
    saved_micros: int = 0
    of_shared_cache: bool = True
    similar_to: str | None = None

    @classmethod
    def of(
        cls,
        answer: Answer,
        caller: Caller,
        *,
        image_hash: str,
        image_size: int | None,
        of_shared_cache: bool = True,
    ) -> "RequestRecord":
        """The record of an answer; `image_size` is in bytes, None where only a hash was sent."""
        return cls(
            request_id=answer.request_id,
            user_id=caller.user_id,
            ip_address=caller.ip_address,
            image_hash=image_hash,
            image_size=image_size,
            category=answer.category.value,
            confidence=answer.confidence,
            from_cache=answer.from_cache,
            processing_time_ms=answer.processing_time_ms,
            created_at=answer.answered_at,
            model=answer.model,
            saved_micros=answer.saved_micros,
            of_shared_cache=of_shared_cache,
            similar_to=answer.similar and answer.similar.image_hash,
        )

    @property
    def hits_shared_cache(self) -> bool:
        """Whether an entry of the shared cache gave the answer."""
        return self.from_cache and self.of_shared_cache


def user_id_of_account(account_id: int) -> str:
    """What stands in the log for a person with an account."""
    return f"{ACCOUNT_PREFIX}{account_id}"


def account_of_user_id(user_id: str) -> int | None:
    """The account that a user id of the log stands for; None where it is no account's."""
    number = user_id.removeprefix(ACCOUNT_PREFIX)
    if number == user_id or not (number.isascii() and number.isdigit()) or len(number) > ACCOUNT_ID_MAX_DIGITS:
        return None
    return int(number)


def insert_log(records: Sequence[RequestRecord]) -> Statement:
    """The log rows of `records`, in one statement."""
    values: list[object] = []
    for record in records:
        values += (
            record.request_id,
            record.user_id,
            record.ip_address,
            record.image_hash,
            record.image_size,
            record.category,
            record.confidence,
            int(record.from_cache),
            record.processing_time_ms,
            timestamp_text(record.created_at),
            record.model,
        )
    rows = rows_of_placeholders(len(records), _LOG_COLUMN_COUNT)
    return Statement(f"INSERT INTO request_log ({_LOG_COLUMNS}) VALUES {rows}", values)  # noqa: S608 - placeholders


def count_hits(dialect: str, hits: Counter[str]) -> list[Statement]:
    """What adds `hits` (image hash -> number) to the images' counters; nothing where there are none.

    Sorted, so that two processes lock the rows in the same order.
    """
    now = timestamp_text(utc_now())
    if len(hits) == 1 or not can_update_joined(dialect):
        change = "UPDATE image_classification_cache SET hit_count = hit_count + %s, last_hit_at = %s"
        return [Statement(f"{change} WHERE image_hash = %s", (n, now, image)) for image, n in sorted(hits.items())]
    if not hits:
        return []
    # One joined statement: a CASE with a branch for each image takes a time that grows with the square of their number.
    # The literals have the connection's collation; with the column's the unique index can be used.
    first, *others = sorted(hits.items())
    rows = "SELECT %s AS image_hash, %s AS hits" + " UNION ALL SELECT %s, %s" * len(others)
    text = (
        f"UPDATE ({rows}) AS counted STRAIGHT_JOIN image_classification_cache AS cached"  # noqa: S608 - placeholders
        " ON cached.image_hash = counted.image_hash COLLATE utf8mb4_unicode_ci"
        " SET cached.hit_count = cached.hit_count + counted.hits, cached.last_hit_at = %s"
    )
    return [Statement(text, [*first, *(value for pair in others for value in pair), now])]
