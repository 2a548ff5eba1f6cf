"""The ledger: a row for each call of a model that costs money, written in the transaction that keeps its outcome.

A row is never changed: what a call cost is fixed when it is written. The sums that statistics read (`stats_spending`)
are written with the rows.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.clients.metering import CallOutcome
from app.database.statements import Statement, rows_of_placeholders, timestamp_text
from app.services.request_log.rollups import SHARDS, period_start, upsert_sums

_COLUMNS = (
    "request_id, number, called_at, provider, model, input_tokens, cached_input_tokens, output_tokens, cost_micros,"
    " outcome, api_key_id, account_id, user_id"
)
_COLUMN_COUNT = 13
_SUMS = ("calls", "input_tokens", "cached_input_tokens", "output_tokens", "cost_micros")
# What stands in a sum's key for calls without an API key.
NO_KEY = 0


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One call; `number` counts the calls of its request from 0, `cost_micros` is in millionths of CURRENCY."""

    request_id: str
    number: int
    called_at: datetime
    provider: str
    model: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_micros: int
    outcome: CallOutcome
    api_key_id: int | None
    account_id: int | None
    user_id: str | None


class Ledger:
    """Makes the statements for one process; `dialect` is SQLAlchemy's name."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._shard = random.randrange(SHARDS)

    def statements(self, rows: Sequence[LedgerRow]) -> list[Statement]:
        """Return what writes `rows` and adds them to the sums; a row that is there already is a duplicate row."""
        if not rows:
            return []
        values: list[object] = []
        sums: dict[tuple[str, str, str, int], list[int]] = {}
        for row in rows:
            values += (
                row.request_id,
                row.number,
                timestamp_text(row.called_at),
                row.provider,
                row.model,
                row.input_tokens,
                row.cached_input_tokens,
                row.output_tokens,
                row.cost_micros,
                row.outcome.value,
                row.api_key_id,
                row.account_id,
                row.user_id,
            )
            key = timestamp_text(period_start(row.called_at)), row.provider, row.model, row.api_key_id or NO_KEY
            of_key = sums.setdefault(key, [0] * len(_SUMS))
            amounts = 1, row.input_tokens, row.cached_input_tokens, row.output_tokens, row.cost_micros
            for place, amount in enumerate(amounts):
                of_key[place] += amount
        insert = Statement(
            f"INSERT INTO model_call ({_COLUMNS}) VALUES {rows_of_placeholders(len(rows), _COLUMN_COUNT)}",  # noqa: S608 - placeholders
            values,
        )
        add = upsert_sums(
            self._dialect,
            table="stats_spending",
            keys=("period_start", "provider", "model", "api_key_id", "shard"),
            sums=_SUMS,
            source=f"VALUES {rows_of_placeholders(len(sums), 5 + len(_SUMS))}",
        )
        return [
            insert,
            Statement(add, [v for key, of_key in sorted(sums.items()) for v in (*key, self._shard, *of_key)]),
        ]
