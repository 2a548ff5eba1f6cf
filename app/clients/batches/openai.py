"""OpenAI's Batch API: a file of requests in, a file of answers and one of errors out."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import httpx2
import openai
from openai.types.chat import ChatCompletion

from app.clients.batches.base import BatchClient, create_batch_http_client, lines_of, refused_with
from app.clients.llm.base import LLMAnswer
from app.clients.llm.hosted import checked
from app.clients.llm.openai import OpenAIClient

_ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
# What our id of a batch is called in its metadata.
_OURS = "image_classifier_batch"
_ENDED = {"completed", "failed", "expired", "cancelled"}
# We delete the photos when their batch has ended. If we cannot, they go after this time: 24 hours for the batch, and as
# long again.
_PHOTOS_KEPT_SECONDS = 48 * 3600
# The newest of the organisation's batches that are looked through, a hundred at a time.
_LOOKED_THROUGH = 1000
# By which our clock may be ahead of the provider's.
_CLOCKS_DIFFER = timedelta(minutes=5)


class OpenAIBatches(BatchClient):
    """The batches of an `OpenAIClient`."""

    def __init__(self, client: OpenAIClient) -> None:
        super().__init__(client)
        self._openai = client
        http_client = create_batch_http_client(client.settings)
        self._sdk = client.sdk.with_options(http_client=http_client, timeout=http_client.timeout)
        # The SDK imports them at their first use, which would stop the event loop.
        self._batches, self._files = self._sdk.batches, self._sdk.files

    async def close(self) -> None:
        await self._sdk.close()

    async def _submit(self, batch_id: str, requests: Mapping[str, dict[str, Any]]) -> str:
        lines = [
            json.dumps({"custom_id": custom_id, "method": "POST", "url": _ENDPOINT, "body": body}, ensure_ascii=False)
            for custom_id, body in requests.items()
        ]
        file = await self._files.create(
            file=(f"{batch_id}.jsonl", "\n".join(lines).encode(), "application/jsonl"),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": _PHOTOS_KEPT_SECONDS},
            extra_headers=self._openai.headers,
        )
        batch = await self._batches.create(
            completion_window="24h",
            endpoint=_ENDPOINT,
            input_file_id=checked(file.id, str),
            metadata={_OURS: batch_id},
            extra_headers=self._openai.headers,
        )
        return checked(batch.id, str)

    async def _find(self, batch_id: str, photos: int, since: datetime, known: Collection[str]) -> str | None:
        looked_through = 0
        async for batch in self._batches.list(limit=100, extra_headers=self._openai.headers):
            looked_through += 1
            if (batch.metadata or {}).get(_OURS) == batch_id:
                return checked(batch.id, str)
            is_older = batch.created_at < (since - _CLOCKS_DIFFER).timestamp()
            if is_older or looked_through >= _LOOKED_THROUGH:
                break
        return None

    async def _has_ended(self, provider_batch_id: str) -> bool:
        batch = await self._batches.retrieve(provider_batch_id, extra_headers=self._openai.headers)
        return batch.status in _ENDED

    async def _results(self, provider_batch_id: str) -> list[dict[str, Any]]:
        batch = await self._batches.retrieve(provider_batch_id, extra_headers=self._openai.headers)
        lines: list[dict[str, Any]] = []
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                file = await self._files.content(file_id, extra_headers=self._openai.headers)
                lines += lines_of(file.content)
        return lines

    async def _cancel(self, provider_batch_id: str) -> None:
        await self._batches.cancel(provider_batch_id, extra_headers=self._openai.headers)

    async def _delete(self, provider_batch_id: str) -> None:
        batch = await self._batches.retrieve(provider_batch_id, extra_headers=self._openai.headers)
        for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
            if file_id:
                try:
                    await self._files.delete(file_id, extra_headers=self._openai.headers)
                except openai.NotFoundError:
                    # Deleted by an attempt before, whose end was not noted.
                    continue

    def _read(self, line: dict[str, Any]) -> LLMAnswer | httpx2.Response:
        response = line.get("response")
        if not isinstance(response, dict):
            # Such as {"error": {"code": "batch_expired", ...}}: it was never looked at.
            return refused_with(503, {"error": line.get("error")})
        if (status := response["status_code"]) != 200:
            return refused_with(checked(status, int), response.get("body"))
        return self._openai.read(ChatCompletion.construct(**response["body"]))
