"""Clients behind an HTTP API: the form of a request is negotiated, a response becomes an answer or an error.

A provider's file holds what is its own: how a request looks, and where the answer stands in the response.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import httpx2
from loguru import logger

from app.clients.errors import ModelError, ModelRejectedRequest
from app.clients.llm.base import LLMAnswer, LLMClient
from app.clients.llm.http import complaint, error_from_response
from app.clients.llm.prompt import Correction
from app.clients.llm.request_form import RequestForm, blames_picture, next_form
from app.config.model import ModelSettings

# A server that refuses a parameter or a format says so with one of these.
_REFUSED_FORM_STATUSES = {400, 422}


class HostedClient(LLMClient):
    """Class data: `first_form` is the form of request that is tried first. What worked is remembered per client."""

    first_form: ClassVar[RequestForm]

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._form = self.first_form

    @abstractmethod
    async def _send(self, form: RequestForm, jpeg: bytes, correction: Correction | None) -> httpx2.Response:
        """Send one request and return the response, whatever its status.

        Raises:
            ModelError: there is no response.
        """

    @abstractmethod
    def _read(self, response: httpx2.Response) -> LLMAnswer:
        """Take the answer out of a 2xx response.

        Raises:
            ModelRefused: the response is a refusal.
            ModelResponseInvalid: the response is not what the API promises; something other than the model answered.
        """

    @abstractmethod
    async def _send_probe(self) -> httpx2.Response:
        """Send a request that costs nothing and shows whether key and model are right; like `_send` otherwise."""

    async def _ask(self, jpeg: bytes, correction: Correction | None) -> LLMAnswer:
        form = self._form
        while True:
            response = await self._send(form, jpeg, correction)
            if response.is_success:
                break
            form = self._after_refusal(form, response)
        if form != self._form:
            logger.info(
                "model {} ({}) takes requests with format={} thinking={} limit={}",
                self.provider,
                self.model,
                form.format,
                form.thinking_mode,
                form.token_limit,
            )
            self._form = form
        return self._read(response)

    async def _probe(self) -> None:
        response = await self._send_probe()
        if not response.is_success:
            raise error_from_response(response)

    def _after_refusal(self, form: RequestForm, response: httpx2.Response) -> RequestForm:
        """Return the form to try next; raises the error of the response when that would not help."""
        error: ModelError = error_from_response(response)
        if type(error) is not ModelRejectedRequest or response.status_code not in _REFUSED_FORM_STATUSES:
            raise error
        words = complaint(response)
        lower = next_form(form, words)
        if lower is not None:
            return lower
        if blames_picture(words):
            raise ModelRejectedRequest(
                "The model server does not take this picture. Set LLM_MODEL to a model that can see pictures, "
                "and check that the server has loaded its vision part."
            )
        raise ModelRejectedRequest(
            "The model server refuses the request in every form we know. "
            "Check LLM_MODEL, LLM_BASE_URL and LLM_MAX_TOKENS."
        )


def token_count(usage: Any, name: str) -> int:
    """Return the number under `name` in a response's usage, or 0 where a server does not report it properly."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 10**9 else 0
