"""What a batch may cost, and what it has cost: it is submitted within the limits, and the ledger has each call."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from app.clients.base import ModelClient
from app.clients.batches.base import BatchOutcome
from app.database.statements import Statement, execute, timestamp_text
from app.services.batches.rows import Item
from app.services.request_log.record import Caller, user_id_of_account
from app.services.spending.bill import Bill
from app.services.spending.limits import Budget, PhotoLimit, batch_reserved, taken_micros
from app.services.spending.service import Spending
from app.services.spending.settlement import Settlement


class NoRoomError(Exception):
    """The budget has no room for the batch."""


@dataclass(slots=True)
class Cost:
    """What the photos of a batch have cost, by their ids, and all of it together."""

    bills: dict[str, Bill] = field(default_factory=dict)

    @property
    def settlement(self) -> Settlement:
        """What writes it down."""
        amounts = [bill.amount() for bill in self.bills.values()]
        rows = tuple(row for amount in amounts for row in amount.rows)
        return Settlement(rows, tuple({budget for amount in amounts for budget in amount.budgets}))


class BatchSpending:
    """The money of the batches of `client`."""

    def __init__(self, spending: Spending, client: ModelClient) -> None:
        self._spending = spending
        self._client = client

    async def room(self, connection: AsyncConnection, photos: int) -> int:
        """Return for how many photos in a batch, at most `photos`, the budget has room now."""
        bill, budgets = await self._open(connection)
        for budget in budgets if bill.batch_reserve_micros else []:
            taken = int((await execute(connection, taken_micros(budget))).scalar_one())
            photos = min(photos, max(0, budget.most - taken) // bill.batch_reserve_micros)
        return photos

    async def reserve(
        self, connection: AsyncConnection, batch_id: str, items: Collection[Item], *, is_repeated: bool
    ) -> set[str]:
        """Reserve what a batch may cost, count its photos as new ones of their accounts, and return those that count.

        Those beyond an account's limit are left out.

        Args:
            connection: in a transaction.
            batch_id: which batch.
            items: its photos.
            is_repeated: they were counted at an earlier submission.

        Raises:
            NoRoomError: the budget has no room.
        """
        bill, budgets = await self._open(connection)
        allowed = {item.id for item in items} if is_repeated else set()
        for user_id in [] if is_repeated else sorted({item.user_id for item in items}):
            theirs = sorted(item.id for item in items if item.user_id == user_id)
            limits = [each for each in self._bill(user_id).limits if isinstance(each, PhotoLimit)]
            allowed.update(theirs[: await self._count(connection, limits, len(theirs))])
        micros = bill.batch_reserve_micros * len(allowed)
        if not (await execute(connection, batch_reserved(batch_id, budgets, micros))).rowcount:
            raise NoRoomError
        return allowed

    def cost(self, outcomes: Iterable[BatchOutcome], items: dict[str, Item], model: str) -> Cost:
        """Return what the calls of a batch have cost; that of a photo which was deleted meanwhile has no payer.

        Args:
            outcomes: what came of its photos.
            items: those that are still there.
            model: whose batch it is: that of the service at its submission.
        """
        cost = Cost()
        for outcome in outcomes:
            item = items.get(outcome.custom_id)
            bill = self._bill(
                None if item is None else item.user_id, request_id=f"batch_{outcome.custom_id}", model=model
            )
            if outcome.call is not None:
                bill.meter.calls.append(outcome.call)
            cost.bills[outcome.custom_id] = bill
        return cost

    def statements(self, cost: Cost) -> list[Statement]:
        """Return what writes a cost down; `settled` follows the commit."""
        limits = {limit.scope: limit for bill in cost.bills.values() for limit in bill.limits}
        budgets = [limit for limit in limits.values() if isinstance(limit, Budget)]
        return [*self._spending.openings(budgets), *self._spending.statements_of(cost.settlement)]

    def settled(self, cost: Cost) -> None:
        """Take note that the `statements` are committed."""
        for bill in cost.bills.values():
            self._spending.settled(bill)

    async def _open(self, connection: AsyncConnection) -> tuple[Bill, list[Budget]]:
        """Return a bill of a batch, and its budgets, whose rows are locked before those of users, as by every claim."""
        bill = self._bill(None)
        budgets = [each for each in bill.limits if isinstance(each, Budget)]
        for opening in self._spending.openings(budgets):
            await execute(connection, opening)
        return bill, budgets

    def _bill(self, user_id: int | None, request_id: str = "", model: str | None = None) -> Bill:
        name = None if user_id is None else user_id_of_account(user_id)
        caller = Caller(request_id=request_id, user_id=name, account_id=user_id)
        return self._spending.bill(self._client, caller, model=model)

    async def _count(self, connection: AsyncConnection, limits: Sequence[PhotoLimit], photos: int) -> int:
        """Count up to so many photos under all limits, and return how many."""
        for limit in limits:
            # It locks the row: what is read next stays true until the commit.
            for opening in self._spending.openings([limit]):
                await execute(connection, opening)
            key = limit.scope, timestamp_text(limit.window_start)
            where = "scope = %s AND window_start = %s"
            used = await execute(connection, Statement(f"SELECT used FROM budget_use WHERE {where}", key))  # noqa: S608 - placeholders
            photos = min(photos, max(0, limit.most - int(used.scalar_one())))
        counts = Counter({(limit.scope, timestamp_text(limit.window_start)): photos for limit in limits})
        for key, number in counts.items():
            text = "UPDATE budget_use SET used = used + %s WHERE scope = %s AND window_start = %s"
            await execute(connection, Statement(text, (number, *key)))
        return photos
