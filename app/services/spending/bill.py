"""The bill of one classification: who pays, what each call cost, and which limits it stands under."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.clients.metering import CallMeter, ModelCall
from app.database.statements import Statement
from app.errors import AppError
from app.services.request_log.record import Caller
from app.services.spending.ledger import Ledger, LedgerRow
from app.services.spending.limits import Budget, Limit
from app.services.spending.prices import BATCHED_CALL, Price
from app.services.spending.settlement import Settlement


@dataclass(frozen=True, slots=True)
class _Model:
    """Whose calls they are from number `first_call` on, and their price; None where they cost nothing."""

    provider: str
    model: str
    price: Price | None
    first_call: int


class Bill:
    """What the calls for one photo cost; made before the first, settled in the transaction that keeps their outcome.

    Args:
        caller: who pays.
        provider: of the model.
        model: which; `turn_to` goes on with another.
        price: of its calls; None where they cost nothing, and are not written down.
        limits: what the caller stands under; the first that is reached is told.
        ledger: writes the calls down.
        prepaid_micros: what was paid for the photo in a batch; the ledger has it already.
    """

    def __init__(
        self,
        caller: Caller,
        *,
        provider: str,
        model: str,
        price: Price | None,
        limits: Sequence[Limit],
        ledger: Ledger,
        prepaid_micros: int = 0,
    ) -> None:
        self.meter = CallMeter()
        self.limits = limits
        self.api_key_id = caller.api_key_id
        self.is_settled = False
        self._caller = caller
        # The last one is asked now.
        self._models = [_Model(provider, model, price, first_call=0)]
        self._ledger = ledger
        self._prepaid_micros = prepaid_micros

    @property
    def cost_micros(self) -> int:
        """What the calls so far cost, in millionths of CURRENCY, and what was paid for the photo in a batch."""
        return self._prepaid_micros + sum(
            model.price.cost_micros(call) for _, call, model in self._calls() if model.price is not None
        )

    @property
    def reserve_micros(self) -> int:
        """What the calls so far and another one cost, where a budget limits it."""
        if not self.has_budget:
            return 0
        price = self._models[-1].price
        return self.cost_micros + (0 if price is None else price.per_call_micros)

    @property
    def batch_reserve_micros(self) -> int:
        """What a call in a batch may cost, where a budget limits it."""
        price = self._models[-1].price
        return 0 if price is None or not self.has_budget else price.cost_micros(BATCHED_CALL)

    @property
    def has_budget(self) -> bool:
        """Whether money limits it."""
        return bool(self.budget_scopes)

    @property
    def budget_scopes(self) -> set[str]:
        """The scopes of the limits that are about money."""
        return {limit.scope for limit in self.limits if isinstance(limit, Budget)}

    @property
    def is_free(self) -> bool:
        """Whether calls cost nothing, and nothing limits them."""
        return not self.limits and all(model.price is None for model in self._models)

    @property
    def costs_nothing_now(self) -> bool:
        """Whether calls of the model that is asked now cost nothing."""
        return self._models[-1].price is None

    @property
    def is_due(self) -> bool:
        """Whether there are calls that are not written down."""
        return not self.is_settled and any(model.price is not None for _, _, model in self._calls())

    def turn_to(self, other: "Bill") -> None:
        """Have the calls from now on be those of the model of `other`, under its budgets too."""
        model = other._models[-1]  # noqa: SLF001 - of the same class
        self._models.append(replace(model, first_call=len(self.meter.calls)))
        scopes = {limit.scope for limit in self.limits}
        budgets = [limit for limit in other.limits if isinstance(limit, Budget) and limit.scope not in scopes]
        self.limits = [*self.limits, *budgets]

    def settlement(self) -> list[Statement]:
        """Return what writes the calls down and takes their cost from the budgets; nothing where nothing is due.

        Of a bill that is settled already, the first of these statements is a duplicate row.
        """
        return self.amount().statements(self._ledger)

    def amount(self) -> Settlement:
        """Return what is due, and who pays it from which budgets."""
        if not self.is_due:
            return Settlement()
        rows = [
            LedgerRow(
                request_id=self._caller.request_id,
                number=number,
                called_at=call.called_at,
                provider=model.provider,
                model=model.model,
                input_tokens=call.input_tokens,
                cached_input_tokens=call.cached_input_tokens,
                output_tokens=call.output_tokens,
                cost_micros=model.price.cost_micros(call),
                outcome=call.outcome,
                api_key_id=self._caller.api_key_id,
                account_id=self._caller.account_id,
                user_id=self._caller.user_id,
            )
            for number, call, model in self._calls()
            if model.price is not None
        ]
        budgets = [(limit.scope, limit.window_start) for limit in self.limits if isinstance(limit, Budget)]
        return Settlement(tuple(rows), tuple(budgets))

    def _calls(self) -> Iterator[tuple[int, ModelCall, "_Model"]]:
        """Each call with its number and its model."""
        for number, call in enumerate(self.meter.calls):
            yield number, call, next(each for each in reversed(self._models) if each.first_call <= number)

    def refusal(self, scopes: Collection[str]) -> AppError:
        """Return the error of the first limit that is one of `scopes`, those without room."""
        limit = next((limit for limit in self.limits if limit.scope in scopes), self.limits[0])
        seconds = (limit.window_end - datetime.now(UTC)).total_seconds()
        return limit.error(retry_after_seconds=max(1.0, seconds))
