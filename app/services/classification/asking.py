"""Shows a photo to the models in their turn, within one time and under the caller's budgets."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from app.clients.base import LOCAL_MODEL_PREFIX, ModelClient, PreparedPhoto
from app.clients.errors import ModelError, ModelRefused, ModelTimeout
from app.errors import BudgetExhausted
from app.observability.tracing import span
from app.photo import PhotoInfo
from app.services.classification.fallbacks import Candidate, Given, Role, ask_in_turn
from app.services.classification.local_first import LocalFirst
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

    def first(self, prepaid: Prepaid | None = None) -> Candidate:
        """The model that is asked first; of what was paid in a batch the service's own, behind one that looks first."""
        return self.chain[0] if prepaid is None else next(each for each in self.chain if each.judge is None)


class ModelAsking:
    """Asks the models of `chain`: the service's, and those that follow where it cannot answer.

    `local_first`, where there is one, comes before all of them, and before a model that a user names.
    """

    def __init__(
        self,
        chain: Sequence[Candidate],
        *,
        local_first: LocalFirst | None,
        falls_back_on_refusal: bool,
        preparer: PhotoPreparer,
        store: ClassificationStore,
        spending: Spending,
    ) -> None:
        self.chain = chain if local_first is None else local_first.before(chain)
        first, *others = (candidate.client.model for candidate in chain)
        final = [] if local_first is None else local_first.models
        self.lasting_models = [first, *final, *(each for each in others if not each.startswith(LOCAL_MODEL_PREFIX))]
        self._has_others = bool(others)
        self._local_first = local_first
        self._falls_back_on_refusal = falls_back_on_refusal
        self._preparer = preparer
        self._store = store
        self._spending = spending

    def turn(self) -> Turn:
        """Return what may be asked about a photo whose time begins now."""
        return Turn(self.chain, time.monotonic() + self.chain[0].client.settings.total_timeout_seconds)

    def turn_of(self, client: ModelClient, name: str) -> Turn:
        """Return the same for a model that a user has named."""
        chosen: Sequence[Candidate] = [Candidate(client, name, Role.CHOSEN)]
        chain = chosen if self._local_first is None else self._local_first.before(chosen, is_chosen=True)
        return Turn(chain, time.monotonic() + client.settings.total_timeout_seconds)

    def counts(self, prepaid: Prepaid) -> bool:
        """Whether what a batch has brought is the end: not a refusal that another model is asked after.

        Its task then takes the models in their turn, as one that was in no batch.
        """
        goes_on = self._falls_back_on_refusal and self._has_others
        return not (goes_on and isinstance(prepaid.outcome, ModelRefused))

    def costs_nothing(self, turn: Turn) -> bool:
        """Whether no call of this turn can cost anything."""
        return all(self._spending.is_free(each.client, each.name) for each in turn.chain)

    def bill(self, candidate: Candidate, caller: Caller, prepaid: Prepaid | None = None) -> Bill:
        """Return the bill of a caller for calls of a model, or for what it has said in a batch."""
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
            free = [
                each for each in self.chain if each.judge is None and self._spending.is_free(each.client, each.name)
            ]
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
                upload.data,
                info,
                max_edge=settings.image_max_edge_pixels,
                client=caller.client,
                language=caller.language or settings.default_language,
            )

    async def ask(
        self,
        turn: Turn,
        prepared: PreparedPhoto,
        caller: Caller,
        bill: Bill,
        lease: str,
        prepaid: Prepaid | None = None,
    ) -> Given:
        """Return what a model says, and which; `lease` is the hash that holds the reservation.

        What the service's model has said in a batch is that.

        Raises:
            BudgetExhausted: the budget has no room for those that would have to be paid.
            ModelError: none gave a valid answer.
        """
        if prepaid is not None:
            if isinstance(prepaid.outcome, ModelError):
                raise prepaid.outcome
            own = turn.first(prepaid)
            return Given(prepaid.outcome, own.client.model, own.role)
        return await ask_in_turn(
            turn.chain,
            prepared,
            bill.meter,
            deadline=turn.deadline,
            falls_back_on_refusal=self._falls_back_on_refusal,
            can_pay=lambda candidate: self._store.turn_to(lease, bill, self.bill(candidate, caller)),
            unpaid=lambda: self._spending.refusal(bill, bill.budget_scopes),
        )
