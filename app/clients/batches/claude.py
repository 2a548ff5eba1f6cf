"""Anthropic's Message Batches: requests in one JSON body, results as JSON Lines."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import anthropic
import httpx2
from anthropic.types import Message

from app.clients.batches.base import BatchClient, create_batch_http_client, lines_of, refused_with
from app.clients.llm.base import LLMAnswer
from app.clients.llm.claude import ClaudeClient
from app.clients.llm.hosted import checked

_LOOKED_THROUGH = 100
_CLOCKS_DIFFER = timedelta(minutes=5)
# What an error's type means as a status (https://platform.claude.com/docs/en/api/errors); others are the server's.
_STATUSES = {"invalid_request_error": 400, "request_too_large": 413, "rate_limit_error": 429}


class ClaudeBatches(BatchClient):
    """The batches of a `ClaudeClient`."""

    def __init__(self, client: ClaudeClient) -> None:
        super().__init__(client)
        self._claude = client
        http_client = create_batch_http_client(client.settings)
        self._sdk = client.sdk.with_options(http_client=http_client, timeout=http_client.timeout)
        # The SDK imports it at its first use, which would stop the event loop.
        self._batches = self._sdk.messages.batches

    async def close(self) -> None:
        await self._sdk.close()

    async def _submit(self, batch_id: str, requests: Mapping[str, dict[str, Any]]) -> str:
        batch = await self._batches.create(
            requests=[{"custom_id": custom_id, "params": body} for custom_id, body in requests.items()]  # type: ignore[typeddict-item]  # the same fields as the Messages API's
        )
        return checked(batch.id, str)

    async def _find(self, batch_id: str, photos: int, since: datetime, known: Collection[str]) -> str | None:
        # A batch bears no name of ours: of those that began since, an unknown one with as many requests is taken for
        # ours. If it is another program's, its results have other ids, and our photos are asked about directly.
        looked_through = 0
        async for batch in self._batches.list(limit=_LOOKED_THROUGH):
            looked_through += 1
            if batch.created_at < since - _CLOCKS_DIFFER or looked_through > _LOOKED_THROUGH:
                break
            counts = batch.request_counts
            total = counts.canceled + counts.errored + counts.expired + counts.processing + counts.succeeded
            if total == photos and batch.id not in known:
                return checked(batch.id, str)
        return None

    async def _has_ended(self, provider_batch_id: str) -> bool:
        return (await self._batches.retrieve(provider_batch_id)).processing_status == "ended"

    async def _results(self, provider_batch_id: str) -> list[dict[str, Any]]:
        # Not by the SDK's `results`: it goes, key and all, wherever the answer's `results_url` leads.
        path = f"/v1/messages/batches/{provider_batch_id}/results"
        response = await self._sdk.get(path, cast_to=httpx2.Response)
        return lines_of(response.content)

    async def _cancel(self, provider_batch_id: str) -> None:
        await self._batches.cancel(provider_batch_id)

    async def _delete(self, provider_batch_id: str) -> None:
        try:
            await self._batches.delete(provider_batch_id)
        except anthropic.NotFoundError:
            # Deleted by an attempt before, whose end was not noted.
            return

    def _read(self, line: dict[str, Any]) -> LLMAnswer | httpx2.Response:
        result = line["result"]
        match result["type"]:
            case "succeeded":
                return self._claude.read(Message.construct(**result["message"]))
            case "errored":
                error = result["error"]
                status = _STATUSES.get(error.get("error", error).get("type"), 500)
                return refused_with(status, error)
            case _:
                # Expired or cancelled: it was never looked at.
                return refused_with(503, {})
