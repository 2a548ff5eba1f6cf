"""The contract of a provider's batches: many prepared photos in, and some hours later an outcome for each.

The public methods raise nothing but `ModelError`; a provider fills in the private ones, by the calls of its SDK. A
photo is known by the id that its request has in the batch (`custom_id`).
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import httpx2

from app.clients.base import ModelResult, PreparedPhoto
from app.clients.errors import ModelError
from app.clients.llm.base import LLMAnswer
from app.clients.llm.hosted import HostedClient
from app.clients.llm.http import (
    CONNECT_TIMEOUT_SECONDS,
    RESPONSE_MAX_BYTES,
    BoundedClient,
    create_http_client,
    error_from_response,
    sdk_call,
)
from app.clients.metering import ModelCall
from app.config.model import ModelSettings

T = TypeVar("T")

# Of the requests of a batch. The providers take more: 200 MB and 50 000 requests at OpenAI
# (https://developers.openai.com/api/docs/guides/batch), 256 MB and 100 000 at Anthropic
# (https://platform.claude.com/docs/en/build-with-claude/batch-processing). What is sent is in memory two or three
# times, so ours is smaller.
MAX_BYTES = 24 * 1024 * 1024
MAX_PHOTOS = 500
# An answer with the log-probabilities of its tokens has about 20 KB.
RESULTS_MAX_BYTES = 8 * RESPONSE_MAX_BYTES
# Between two parts of a file on its way, or until a provider has taken one in.
TIMEOUT_SECONDS = 120.0
# What stands around the picture in a request, instructions included; measured: 6 KB.
_REQUEST_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What came of one photo; `call` is what it is charged for, None where the provider asks for no money."""

    custom_id: str
    outcome: ModelResult | ModelError
    call: ModelCall | None


class BatchClient(ABC):
    """The batches of one model client."""

    def __init__(self, client: HostedClient) -> None:
        self._client = client

    async def submit(self, batch_id: str, photos: Mapping[str, PreparedPhoto]) -> str:
        """Have the provider look at photos, each under its own id, and return the provider's id of the batch.

        Raises:
            ModelError: it was not submitted, unless the connection was lost: `find` says then.
        """
        requests = {custom_id: self._client.batch_request(photo) for custom_id, photo in photos.items()}
        return await _asked(self._submit(batch_id, requests))

    async def find(self, batch_id: str, photos: int, since: datetime, known: Collection[str]) -> str | None:
        """Return the provider's id of a batch whose submission has no known end; None: it was not submitted.

        Args:
            batch_id: ours.
            photos: how many are in it.
            since: when the submission began.
            known: ids of other batches of ours at this provider.

        Raises:
            ModelError: the provider does not say.
        """
        return await _asked(self._find(batch_id, photos, since, known))

    async def has_ended(self, provider_batch_id: str) -> bool:
        """Say whether the provider has done what it will do for a batch. Raises ModelError."""
        return await _asked(self._has_ended(provider_batch_id))

    async def results(self, provider_batch_id: str) -> list[BatchOutcome]:
        """Return what came of the photos of a batch that has ended; some may be missing. Raises ModelError."""
        lines = await _asked(self._results(provider_batch_id))
        # Reading thousands of token probabilities takes a second.
        return await asyncio.to_thread(lambda: [self._outcome(line) for line in lines if "custom_id" in line])

    async def cancel(self, provider_batch_id: str) -> None:
        """Have the provider look at no further photos; the batch ends some minutes later. Raises ModelError."""
        await _asked(self._cancel(provider_batch_id))

    async def delete(self, provider_batch_id: str) -> None:
        """Have the provider delete the photos and the answers of a batch that has ended. Raises ModelError."""
        await _asked(self._delete(provider_batch_id))

    @abstractmethod
    async def close(self) -> None:
        """Release the connections."""

    @abstractmethod
    async def _submit(self, batch_id: str, requests: Mapping[str, dict[str, Any]]) -> str: ...

    @abstractmethod
    async def _find(self, batch_id: str, photos: int, since: datetime, known: Collection[str]) -> str | None: ...

    @abstractmethod
    async def _has_ended(self, provider_batch_id: str) -> bool: ...

    @abstractmethod
    async def _results(self, provider_batch_id: str) -> list[dict[str, Any]]: ...

    @abstractmethod
    async def _cancel(self, provider_batch_id: str) -> None: ...

    @abstractmethod
    async def _delete(self, provider_batch_id: str) -> None: ...

    @abstractmethod
    def _read(self, line: dict[str, Any]) -> LLMAnswer | httpx2.Response:
        """Return the answer in a line of the results, or the response that the provider would have refused with.

        Raises:
            Exception: the line is not what the API promises.
        """

    def _outcome(self, line: dict[str, Any]) -> BatchOutcome:
        custom_id = str(line["custom_id"])
        try:
            answer = self._read(line)
        except (AttributeError, LookupError, TypeError, ValueError, ModelError):
            return BatchOutcome(custom_id, ModelError("The batch holds no answer for this picture."), None)
        if isinstance(answer, httpx2.Response):
            return BatchOutcome(custom_id, error_from_response(answer), None)
        call, outcome = self._client.judged(answer)
        return BatchOutcome(custom_id, outcome, replace(call, is_batched=True))


def create_batch_http_client(settings: ModelSettings) -> BoundedClient:
    """Return the HTTP client for batches: more bytes and more time than a single photo has."""
    http_client = create_http_client(settings)
    http_client.max_bytes, http_client.reads_files = RESULTS_MAX_BYTES, True
    http_client.timeout = httpx2.Timeout(TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    return http_client


def request_bytes(photo: PreparedPhoto) -> int:
    """Return about how many bytes the request for a photo has: Base64 makes four of three."""
    return len(photo.jpeg) * 4 // 3 + _REQUEST_BYTES


def lines_of(content: bytes) -> list[dict[str, Any]]:
    """Return the objects of JSON Lines; a line that is none is passed over: its photo is asked about directly."""
    return list(_objects(content))


def refused_with(status: int, body: object) -> httpx2.Response:
    """Return the response that a line of the results stands for."""
    return httpx2.Response(status, content=json.dumps(body).encode())


async def _asked(call: Awaitable[T]) -> T:
    outcome = await sdk_call(call)
    if isinstance(outcome, httpx2.Response):
        raise error_from_response(outcome)
    return outcome


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value
