"""What settles a bill: rows of the ledger, and the budgets that they are taken from; it can wait on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from app.database.statements import Statement
from app.services.request_log.forgotten import is_forgotten
from app.services.request_log.record import user_id_of_account
from app.services.spending.ledger import Ledger, LedgerRow
from app.services.spending.limits import money_spent


@dataclass(frozen=True, slots=True)
class Settlement:
    """Calls of one request, and the budgets that pay for them, each by its scope and the start of its window."""

    rows: tuple[LedgerRow, ...] = ()
    budgets: tuple[tuple[str, datetime], ...] = ()

    @property
    def cost_micros(self) -> int:
        """What the calls cost together, in millionths of CURRENCY."""
        return sum(row.cost_micros for row in self.rows)

    @property
    def user_ids(self) -> set[str]:
        """The users who pay, by the ids that they are forgotten by."""
        return {user_id for row in self.rows for user_id in _user_ids(row)}

    def without(self, forgotten: Mapping[str, datetime]) -> "Settlement":
        """Return the same without those who were forgotten after the call; what was paid stays."""
        rows = [
            replace(row, user_id=None, account_id=None, api_key_id=None)
            if any(is_forgotten(forgotten, user_id, row.called_at) for user_id in _user_ids(row))
            else row
            for row in self.rows
        ]
        return replace(self, rows=tuple(rows))

    def statements(self, ledger: Ledger) -> list[Statement]:
        """Return what writes it down, in one transaction; nothing where there are no calls."""
        return [*ledger.statements(self.rows), *money_spent(self.budgets, self.cost_micros)]


def _user_ids(row: LedgerRow) -> list[str]:
    ids = [] if row.user_id is None else [row.user_id]
    return ids if row.account_id is None else [*ids, user_id_of_account(row.account_id)]
