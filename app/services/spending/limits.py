"""Limits of money and of new photos, exact across processes and machines.

Each limit has a row in `budget_use` for its window (a day, an hour). A transaction that claims the right to call a
model changes the rows of its limits first: so claims under one limit run one after the other, and each sees what those
before it have taken. What a call under way may cost is reserved in its lease: it is freed with the lease, also that of
a process that was killed, and the transaction that ends the lease adds what was really spent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.database.statements import Statement, inserted_rows, timestamp_text, upsert
from app.errors import AppError

_KEYS = ("scope", "window_start")
_BATCHES = "SELECT COALESCE(SUM(reserved_micros), 0) AS micros FROM model_batch WHERE reserved_micros > 0"


@dataclass(frozen=True, slots=True)
class Limit:
    """So much of something in one window.

    `scope` names what is limited, `most` is in millionths of CURRENCY, or in photos. `error` is raised when it is
    reached.
    """

    scope: str
    window_start: datetime
    window_end: datetime
    most: int
    error: type[AppError]


@dataclass(frozen=True, slots=True)
class PhotoLimit(Limit):
    """So many new photos."""


@dataclass(frozen=True, slots=True)
class Budget(Limit):
    """So much money: of one API key, or of all calls where `api_key_id` is None."""

    api_key_id: int | None = None


def opening(dialect: str, limit: Limit, *, is_first: bool) -> Statement:
    """Return what makes the row of a limit if there is none, and lets claims under it wait for each other.

    Args:
        dialect: SQLAlchemy's name.
        limit: which.
        is_first: of this process in this window. What was spent before there was a budget is counted then.
    """
    key: list[object] = [limit.scope, timestamp_text(limit.window_start)]
    source, parameters = "VALUES (%s, %s, 0, 1)", key
    if is_first and isinstance(limit, Budget):
        source = (
            "SELECT %s, %s, COALESCE(SUM(cost_micros), 0), 1 FROM stats_spending"
            " WHERE period_start >= %s AND period_start < %s"
        )
        parameters = [*key, timestamp_text(limit.window_start), timestamp_text(limit.window_end)]
        if limit.api_key_id is not None:
            source += " AND api_key_id = %s"
            parameters.append(limit.api_key_id)
    text = upsert(
        dialect,
        table="budget_use",
        keys=_KEYS,
        updates={"attempts": "attempts + 1"},
        columns="scope, window_start, used, attempts",
        source=source,
    )
    return Statement(text, parameters)


def has_room(limit: Limit, reserve_micros: int, *, apart_from: str | None = None) -> tuple[str, list[object]]:
    """Return a condition: `limit` has room for another photo, or for `reserve_micros`; and its parameters.

    Args:
        limit: which.
        reserve_micros: what may be spent, in millionths of CURRENCY.
        apart_from: the hash of a photo whose lease does not count.
    """
    if not isinstance(limit, Budget):
        used, parameters = _used(limit)
        return f"{used} < %s", [*parameters, limit.most]
    taken, parameters = _taken(limit, apart_from)
    return f"{taken} + %s <= %s", [*parameters, reserve_micros, limit.most]


def taken_micros(budget: Budget) -> Statement:
    """Return what selects how much of a budget is spent or reserved; its row must be there."""
    taken, parameters = _taken(budget)
    return Statement(f"SELECT {taken}", parameters)


def photo_counted(dialect: str, limits: Sequence[Limit]) -> list[Statement]:
    """Return what counts a new photo if the statement before has inserted its lease; it must follow at once."""
    rows = [limit for limit in limits if isinstance(limit, PhotoLimit)]
    if not rows:
        return []
    condition, parameters = _are([(limit.scope, limit.window_start) for limit in rows])
    return [Statement(f"UPDATE budget_use SET used = used + {inserted_rows(dialect)} WHERE {condition}", parameters)]  # noqa: S608 - placeholders


def photo_uncounted(limits: Sequence[Limit]) -> list[Statement]:
    """Return what takes back `photo_counted`, for a photo that was found to be none that a model is asked about."""
    rows = [(limit.scope, limit.window_start) for limit in limits if isinstance(limit, PhotoLimit)]
    if not rows:
        return []
    condition, parameters = _are(rows)
    return [Statement(f"UPDATE budget_use SET used = used - 1 WHERE used > 0 AND ({condition})", parameters)]  # noqa: S608 - placeholders


def reservation_raised(image_hash: str, owner: str, budgets: Sequence[Budget], micros: int) -> Statement:
    """Return what raises the reservation in the lease of a photo to `micros`, if all `budgets` have room."""
    text = "UPDATE model_call_lease SET reserved_micros = %s WHERE image_hash = %s AND owner = %s"
    parameters: list[object] = [micros, image_hash, owner]
    for budget in budgets:
        condition, values = has_room(budget, micros, apart_from=image_hash)
        text += f" AND {condition}"
        parameters += values
    return Statement(text, parameters)


def batch_reserved(batch_id: str, budgets: Sequence[Budget], micros: int) -> Statement:
    """Return what reserves `micros` for a batch that has nothing reserved, if all `budgets` have room."""
    # The time makes it a change, which the database counts, where nothing has to be reserved.
    text = "UPDATE model_batch SET reserved_micros = %s, updated_at = %s WHERE id = %s"
    parameters: list[object] = [micros, timestamp_text(datetime.now(UTC)), batch_id]
    for budget in budgets:
        condition, values = has_room(budget, micros)
        text += f" AND {condition}"
        parameters += values
    return Statement(text, parameters)


def money_spent(budgets: Sequence[tuple[str, datetime]], micros: int) -> list[Statement]:
    """Return what adds `micros` to budgets, each named by its scope and the start of its window."""
    if not budgets or not micros:
        return []
    condition, parameters = _are(budgets)
    return [Statement(f"UPDATE budget_use SET used = used + %s WHERE {condition}", [micros, *parameters])]  # noqa: S608 - placeholders


def reached(limits: Sequence[Limit], reserve_micros: int) -> Statement:
    """Return what selects the scopes of those limits that have no room."""
    parts: list[str] = []
    parameters: list[object] = []
    for limit in limits:
        condition, values = has_room(limit, reserve_micros)
        parts.append(f"SELECT %s AS scope FROM (SELECT 1 AS one) AS one WHERE NOT ({condition})")  # noqa: S608 - placeholders
        parameters += [limit.scope, *values]
    return Statement(" UNION ALL ".join(parts), parameters)


def _are(windows: Sequence[tuple[str, datetime]]) -> tuple[str, list[object]]:
    condition = " OR ".join(["(scope = %s AND window_start = %s)"] * len(windows))
    return condition, [value for scope, start in windows for value in (scope, timestamp_text(start))]


def _used(limit: Limit) -> tuple[str, list[object]]:
    key: list[object] = [limit.scope, timestamp_text(limit.window_start)]
    return "(SELECT used FROM budget_use WHERE scope = %s AND window_start = %s)", key


def _taken(budget: Budget, apart_from: str | None = None) -> tuple[str, list[object]]:
    """Return an expression: what is spent of a budget, and reserved; and its parameters."""
    used, parameters = _used(budget)
    leases, conditions = "SELECT COALESCE(SUM(reserved_micros), 0) AS micros FROM model_call_lease", []
    if budget.api_key_id is not None:
        conditions.append("api_key_id = %s")
        parameters.append(budget.api_key_id)
    if apart_from is not None:
        conditions.append("image_hash <> %s")
        parameters.append(apart_from)
    if conditions:
        leases += f" WHERE {' AND '.join(conditions)}"
    # In a table of its own: MySQL does not let a statement change a table that it reads in a subquery.
    reserved = f"(SELECT micros FROM ({leases}) AS reserved)"  # noqa: S608 - placeholders
    if budget.api_key_id is None:
        # Batches are those of accounts, which have no key.
        reserved += f" + (SELECT micros FROM ({_BATCHES}) AS batched)"  # noqa: S608 - a constant
    return f"{used} + {reserved}", parameters
