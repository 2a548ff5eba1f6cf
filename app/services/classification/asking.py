"""Shows a photo to the models in their turn, within one time and under the caller's budgets."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from app.clients.base import ModelClient, ModelResult, PreparedPhoto
from app.clients.errors import ModelError, ModelTimeout
from app.errors import BudgetExhausted
from app.observability.tracing import span
from app.photo import PhotoInfo
from app.services.classification.fallbacks import Candidate, ask_in_turn
from app.services.classification.store import ClassificationStore
from app.services.photos import PhotoPreparer, Prepaid, UploadedPhoto
from app.services.request_log.record import Caller
from app.services.spending.bill import Bill
from app.services.spending.service import Spending

R = TypeVar("R")


class Turn(NamedTuple):
    """The models that may be asked about a photo, and `time.monotonic()` at which all of it ends."""

    chain: Sequence[Candidate]
    deadline: float


class ModelAsking:
    """Asks the models of `chain`: the service's, and those that follow where it cannot answer."""

    def __init__(
        self,
        chain: Sequence[Candidate],
        *,
        falls_back_on_refusal: bool,
        preparer: PhotoPreparer,
        store: ClassificationStore,
        spending: Spending,
    ) -> None:
        self.chain = chain
        self._falls_back_on_refusal = falls_back_on_refusal
        self._preparer = preparer
        self._store = store
        self._spending = spending

    def turn(self) -> Turn:
        """Return what may be asked about a photo whose time begins now."""
        return Turn(self.chain, time.monotonic() + self.chain[0].client.settings.total_timeout_seconds)

    def bill(self, candidate: Candidate, caller: Caller, prepaid: Prepaid | None = None) -> Bill:
        """Return the bill of a caller for calls of a model."""
        prepaid_micros = None if prepaid is None else prepaid.cost_micros
        return self._spending.bill(candidate.client, caller, candidate.name, prepaid_micros=prepaid_micros)

    async def with_budget(self, ask: Callable[[Turn], Awaitable[R]]) -> R:
        """Have `ask` take the models in their turn; where the budget is used up, only those that cost nothing.

        Raises:
            BudgetExhausted: there are none of those.
            Exception: `ask` raised it.
        """
        turn = self.turn()
        try:
            return await ask(turn)
        except BudgetExhausted:
            free = [each for each in self.chain if self._spending.is_free(each.client, each.name)]
            if not free:
                raise
            return await ask(turn._replace(chain=free))

    async def prepare(self, turn: Turn, upload: UploadedPhoto, info: PhotoInfo, caller: Caller) -> PreparedPhoto:
        """Return the photo as the models are shown it.

        Raises:
            ModelTimeout: less time is left than a call may need; no request waits for twice the time.
            InvalidRequest, ServerBusy: as `PhotoPreparer.prepare`.
        """
        settings = turn.chain[0].client.settings
        if turn.deadline - time.monotonic() < settings.timeout_seconds:
            raise ModelTimeout
        with span("photo.prepare", format=info.format.value, bytes=len(upload.data)):
            return await self._preparer.prepare(
                upload.data, info, max_edge=settings.image_max_edge_pixels, client=caller.client
            )

    async def ask(
        self,
        turn: Turn,
        prepared: PreparedPhoto,
        caller: Caller,
        bill: Bill,
        lease: str,
        prepaid: Prepaid | None = None,
    ) -> tuple[ModelResult, ModelClient]:
        """Return what a model says, and which; `lease` is the hash that holds the reservation.

        What the service's model has said in a batch is that.

        Raises:
            ModelError: none gave a valid answer.
        """
        if prepaid is not None:
            if isinstance(prepaid.outcome, ModelError):
                raise prepaid.outcome
            return prepaid.outcome, turn.chain[0].client
        return await ask_in_turn(
            turn.chain,
            prepared,
            bill.meter,
            deadline=turn.deadline,
            falls_back_on_refusal=self._falls_back_on_refusal,
            can_pay=lambda candidate: self._store.turn_to(lease, bill, self.bill(candidate, caller)),
        )
