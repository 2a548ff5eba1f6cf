"""Anthropic's Messages API through the official SDK, set up from our settings and not from the SDK's own variables."""

from collections.abc import Awaitable
from typing import Any, ClassVar

import anthropic
import httpx2
from anthropic.types import MessageParam
from pydantic import BaseModel, ValidationError

from app.clients.errors import ModelConfigurationError, ModelRefused, ModelResponseInvalid
from app.clients.llm.base import LLMAnswer
from app.clients.llm.hosted import HostedClient, token_count
from app.clients.llm.http import (
    PICTURE,
    Endpoint,
    body_with_picture,
    checked_api_key,
    checked_base_url,
    create_http_client,
    error_from_exception,
)
from app.clients.llm.prompt import ANSWER_SCHEMA, Correction
from app.clients.llm.request_form import AnswerFormat, RequestForm, Thinking, TokenLimit
from app.config.model import ModelSettings

_BASE_URL = "https://api.anthropic.com"
_SCHEMA = {"format": {"type": "json_schema", "schema": ANSWER_SCHEMA}}
_EFFORT = {"effort": "low"}
_CUT_OFF_REASONS = {"max_tokens", "model_context_window_exceeded"}
# Input that went through the prompt cache is counted apart (and priced differently); together they are the input.
_INPUT_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class _Block(BaseModel):
    type: str
    text: str = ""


class _Answer(BaseModel):
    content: list[_Block]
    stop_reason: str | None = None
    model: Any = None
    usage: Any = None


class ClaudeClient(HostedClient):
    """Asks one of Anthropic's models.

    The default is the smallest current one, made for classification at volume. It thinks unless told not to, and
    thoughts count against LLM_MAX_TOKENS, so thinking is switched off; a model that cannot do that (Opus 5.5) is
    asked for little effort.
    """

    provider: ClassVar[str] = "claude"
    default_model: ClassVar[str] = "claude-haiku-5-5"
    first_form: ClassVar[RequestForm] = RequestForm(
        formats=(AnswerFormat.JSON_SCHEMA, AnswerFormat.PROMPT),
        thinking=tuple(Thinking),
        token_limits=(TokenLimit.MAX_TOKENS,),
    )

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        key = checked_api_key(settings)
        if key is None:
            raise ModelConfigurationError("LLM_PROVIDER=claude needs LLM_API_KEY.")
        http_client = create_http_client(settings)
        self._sdk = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=checked_base_url(settings.base_url or _BASE_URL),
            max_retries=0,
            timeout=http_client.timeout,
            http_client=http_client,
        )
        self._endpoint = Endpoint.of(
            http_client, self._sdk.base_url, "/v1/messages", self._sdk.auth_headers, self._sdk.default_headers
        )

    async def _send(self, form: RequestForm, jpeg: bytes, correction: Correction | None) -> httpx2.Response:
        output: dict[str, Any] = _SCHEMA if form.format is AnswerFormat.JSON_SCHEMA else {}
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.settings.max_tokens,
            "system": self.prompt.instructions,
            "messages": self._messages(correction),
        }
        if form.thinking_mode is Thinking.OFF:
            body["thinking"] = {"type": "disabled"}
        elif form.thinking_mode is Thinking.LOW:
            output = output | _EFFORT
        if output:
            body["output_config"] = output
        return await self._endpoint.post(body_with_picture(body, jpeg))

    def _read(self, response: httpx2.Response) -> LLMAnswer:
        try:
            answer = _Answer.model_validate_json(response.content)
        except ValidationError:
            raise ModelResponseInvalid from None
        if answer.stop_reason == "refusal":
            raise ModelRefused
        return LLMAnswer(
            text="".join(block.text for block in answer.content if block.type == "text"),
            input_tokens=sum(token_count(answer.usage, name) for name in _INPUT_COUNTS),
            output_tokens=token_count(answer.usage, "output_tokens"),
            model=answer.model if isinstance(answer.model, str) else None,
            cut_off=answer.stop_reason in _CUT_OFF_REASONS,
        )

    async def _send_probe(self) -> httpx2.Response:
        return await _http_response(self._sdk.models.with_raw_response.retrieve(self.model))

    async def _close(self) -> None:
        await self._sdk.close()

    def _messages(self, correction: Correction | None) -> list[MessageParam]:
        question = self.prompt.question
        if correction and not correction.answer:
            question = f"{question}\n{correction.request}"
        messages: list[MessageParam] = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PICTURE}},
                    {"type": "text", "text": question},
                ],
            }
        ]
        if correction and correction.answer:
            messages += [
                {"role": "assistant", "content": correction.answer},
                {"role": "user", "content": correction.request},
            ]
        return messages


async def _http_response(call: Awaitable[Any]) -> httpx2.Response:
    """Await an SDK call made raw and return the HTTP response, whatever its status."""
    try:
        raw = await call
    except anthropic.APIStatusError as error:
        return error.response
    except anthropic.APIError as error:
        raise error_from_exception(error) from None
    response: httpx2.Response = raw if isinstance(raw, httpx2.Response) else raw.http_response
    return response
