"""The bill of one classification: who pays, what each call cost, and which limits it stands under."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from app.clients.metering import CallMeter
from app.database.statements import Statement
from app.errors import AppError
from app.services.request_log.record import Caller
from app.services.spending.ledger import Ledger, LedgerRow
from app.services.spending.limits import Budget, Limit, money_spent
from app.services.spending.prices import Price


class Bill:
    """What the calls for one photo cost; made before the first, settled in the transaction that keeps their outcome.

    Args:
        caller: who pays.
        provider: of the model.
        model: which.
        price: of its calls; None where they cost nothing, and are not written down.
        limits: what the caller stands under; the first that is reached is told.
        ledger: writes the calls down.
    """

    def __init__(
        self, caller: Caller, *, provider: str, model: str, price: Price | None, limits: Sequence[Limit], ledger: Ledger
    ) -> None:
        self.meter = CallMeter()
        self.limits = limits
        self.api_key_id = caller.api_key_id
        self.is_settled = False
        self._caller = caller
        self._provider = provider
        self._model = model
        self._price = price
        self._ledger = ledger

    @property
    def cost_micros(self) -> int:
        """What the calls so far cost, in millionths of CURRENCY."""
        price = self._price
        return 0 if price is None else sum(price.cost_micros(call) for call in self.meter.calls)

    @property
    def reserve_micros(self) -> int:
        """What the calls so far and another one cost, where a budget limits it."""
        if self._price is None or not self.has_budget:
            return 0
        return self.cost_micros + self._price.per_call_micros

    @property
    def has_budget(self) -> bool:
        """Whether money limits it."""
        return any(isinstance(limit, Budget) for limit in self.limits)

    @property
    def is_free(self) -> bool:
        """Whether calls cost nothing, and nothing limits them."""
        return self._price is None and not self.limits

    @property
    def is_due(self) -> bool:
        """Whether there are calls that are not written down."""
        return self._price is not None and bool(self.meter.calls) and not self.is_settled

    def settlement(self) -> list[Statement]:
        """Return what writes the calls down and takes their cost from the budgets; nothing where nothing is due.

        Of a bill that is settled already, the first of these statements is a duplicate row.
        """
        price = self._price
        if price is None or not self.is_due:
            return []
        rows = [
            LedgerRow(
                request_id=self._caller.request_id,
                number=number,
                called_at=call.called_at,
                provider=self._provider,
                model=self._model,
                input_tokens=call.input_tokens,
                cached_input_tokens=call.cached_input_tokens,
                output_tokens=call.output_tokens,
                cost_micros=price.cost_micros(call),
                outcome=call.outcome,
                api_key_id=self._caller.api_key_id,
                account_id=self._caller.account_id,
                user_id=self._caller.user_id,
            )
            for number, call in enumerate(self.meter.calls)
        ]
        return [*self._ledger.statements(rows), *money_spent(self.limits, self.cost_micros)]

    def refusal(self, scopes: Collection[str]) -> AppError:
        """Return the error of the first limit that is one of `scopes`, those without room."""
        limit = next((limit for limit in self.limits if limit.scope in scopes), self.limits[0])
        seconds = (limit.window_end - datetime.now(UTC)).total_seconds()
        return limit.error(retry_after_seconds=max(1.0, seconds))
