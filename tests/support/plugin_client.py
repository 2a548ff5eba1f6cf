"""A model client as a stranger would write it, for a server that speaks OpenAI's wire format."""

import base64
from typing import ClassVar

import httpx2

from app.clients.errors import ModelRefused, ModelResponseInvalid
from app.clients.llm.base import LLMAnswer, LLMClient
from app.clients.llm.http import create_http_client, error_from_exception, error_from_response
from app.clients.llm.prompt import Correction, Prompt
from app.config.model import ModelSettings


class PluginClient(LLMClient):
    provider: ClassVar[str] = "plugin"
    default_model: ClassVar[str] = "test-vision"

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._http = create_http_client(settings)

    async def _ask(self, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> LLMAnswer:
        key = self.settings.api_key.get_secret_value() if self.settings.api_key else ""
        text = prompt.question + (correction.request if correction else "")
        image = {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()}
        parts = [{"type": "image_url", "image_url": image}, {"type": "text", "text": text}]
        messages = [
            {"role": "system", "content": prompt.instructions},
            {"role": "user", "content": parts},
        ]
        try:
            response = await self._http.post(
                f"{self.settings.base_url}/chat/completions",
                json={"model": self.model, "max_tokens": self.settings.max_tokens, "messages": messages},
                headers={"Authorization": f"Bearer {key}"},
            )
        except httpx2.HTTPError as error:
            raise error_from_exception(error) from None
        if not response.is_success:
            raise error_from_response(response)
        return _read(response)

    async def _probe(self) -> None:
        key = self.settings.api_key.get_secret_value() if self.settings.api_key else ""
        response = await self._http.get(
            f"{self.settings.base_url}/models/{self.model}", headers={"Authorization": f"Bearer {key}"}
        )
        if not response.is_success:
            raise error_from_response(response)

    async def _close(self) -> None:
        await self._http.aclose()


def _read(response: httpx2.Response) -> LLMAnswer:
    try:
        body = response.json()
        choice = body["choices"][0]
        refused = choice["message"]["refusal"] or choice["finish_reason"] == "content_filter"
        text = choice["message"]["content"] or ""
        usage = body["usage"]
        answer = LLMAnswer(
            text, usage["prompt_tokens"], usage["completion_tokens"], body["model"], choice["finish_reason"] == "length"
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ModelResponseInvalid from None
    if refused:
        raise ModelRefused
    return answer
