"""Clients behind an HTTP API: the form of a request is negotiated, a response becomes an answer or an error.

A provider's file holds what is its own: the call of its SDK, and where the answer stands in the response.
"""

import asyncio
import base64
import time
from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import httpx2
from loguru import logger

from app.clients.base import PreparedPhoto
from app.clients.errors import ModelError, ModelRefused, ModelRejectedRequest, ModelTimeout
from app.clients.llm.base import LLMAnswer, LLMClient
from app.clients.llm.body import read_error
from app.clients.llm.error_rules import NO_VISION
from app.clients.llm.http import complaint, error_from_response, sdk_call
from app.clients.llm.prompt import Correction, Prompt
from app.clients.llm.request_form import RequestForm, blames_picture, form_after_thoughts, next_form
from app.clients.metering import CallOutcome, ModelCall, note_call
from app.config.model import ModelSettings

T = TypeVar("T")

# A server that refuses a parameter or a format says so with one of these.
_REFUSED_FORM_STATUSES = {400, 422}

# Where every form was refused without a reason, the next photos are not tried in all of them for so long.
GUESS_AGAIN_SECONDS = 10.0
_UNKNOWN_MODEL_CODES = {"model_not_found", "not_found_error"}


class HostedClient(LLMClient):
    """Class data: `first_form` is the form of request that is tried first. What worked is remembered per client."""

    first_form: ClassVar[RequestForm]

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._form = self.first_form
        self._has_worked = False
        self._no_guess_until = 0.0

    @abstractmethod
    async def _create(self, form: RequestForm, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> LLMAnswer:
        """Ask once by the SDK, and take the answer out of its response.

        The SDKs pass on a response without checking it, so any field may be of any type, or None.

        Raises:
            Exception: what the SDK raises, or reading a response that is not what the API promises.
        """

    @abstractmethod
    def _body(self, form: RequestForm, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> dict[str, Any]:
        """Return the fields of a request that have the same name in the SDK's call and on the wire."""

    def batch_request(self, photo: PreparedPhoto) -> dict[str, Any]:
        """Return the request about a picture as it stands in a batch, in the form that is known to work."""
        return self._body(self._form, photo.jpeg, self.prompts[photo.language], None)

    @abstractmethod
    async def _retrieve_model(self) -> object:
        """Ask what costs nothing and shows whether key and model are right; raises like `_create`."""

    async def _ask(self, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> LLMAnswer:
        form = self._form
        while True:
            try:
                outcome = await sdk_call(self._create(form, jpeg, prompt, correction))
            except (ModelTimeout, asyncio.CancelledError):
                # Nothing says that the provider stops, too.
                note_call(ModelCall(CallOutcome.FAILED, is_charged=True))
                raise
            except ModelError:
                note_call(ModelCall(CallOutcome.FAILED, is_charged=False))
                raise
            if isinstance(outcome, LLMAnswer):
                self._remember(form_after_thoughts(form) if outcome.thought else form)
                return outcome
            is_refusal = isinstance(error_from_response(outcome), ModelRefused)
            note_call(ModelCall(CallOutcome.REFUSED if is_refusal else CallOutcome.FAILED, is_charged=False))
            form = self._after_refusal(form, outcome)

    async def _probe(self) -> None:
        outcome = await sdk_call(self._retrieve_model())
        if not isinstance(outcome, httpx2.Response):
            return
        if outcome.status_code == 404 and not read_error(outcome.content)[0] & _UNKNOWN_MODEL_CODES:
            # A proxy that has no such path: nothing is known of the model.
            return
        raise error_from_response(outcome)

    def _remember(self, form: RequestForm) -> None:
        self._has_worked = True
        if form != self._form:
            if str(form) != str(self._form):
                logger.info("model {} ({}) is asked in the form: {}", self.provider, self.model, form)
            self._form = form

    def _after_refusal(self, form: RequestForm, response: httpx2.Response) -> RequestForm:
        """Return the form to try next; raises the error of the response when that would not help."""
        error: ModelError = error_from_response(response)
        if type(error) is not ModelRejectedRequest or response.status_code not in _REFUSED_FORM_STATUSES:
            raise error
        words = complaint(response)
        has_worked = self._has_worked and form == self._form
        may_guess = time.monotonic() >= self._no_guess_until
        lower = next_form(form, words, has_worked=has_worked, may_guess=may_guess)
        if lower is not None:
            return lower
        if has_worked:
            raise ModelRejectedRequest(advice="The model server has taken other pictures in the same form.")
        if blames_picture(words):
            raise ModelRejectedRequest(advice=NO_VISION)
        if may_guess:
            self._no_guess_until = time.monotonic() + GUESS_AGAIN_SECONDS
        raise ModelRejectedRequest(
            advice="The model server refuses the request in every form we know. "
            "Check LLM_MODEL, LLM_BASE_URL and LLM_MAX_TOKENS."
        )


def base64_text(jpeg: bytes) -> str:
    """Return the picture as it stands in a request."""
    return base64.b64encode(jpeg).decode("ascii")


def checked(value: object, kind: type[T]) -> T:
    """Return `value`, which is what a server has put where the SDK promises a `kind`.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, kind):
        raise TypeError
    return value


def token_count(usage: object, name: str) -> int:
    """Return the number under `name` in a response's usage, or 0 where a server does not report it properly."""
    value = getattr(usage, name, None)
    return value if type(value) is int and 0 <= value < 10**9 else 0


def text_or_none(value: object) -> str | None:
    """Return `value` if it is text."""
    return value if isinstance(value, str) else None
