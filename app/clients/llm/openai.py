"""OpenAI's Chat Completions through the official SDK; other servers that speak it are `app.clients.llm.custom`.

Everything comes from the settings: the SDK's own environment variables (another address, an organisation, a key)
never decide where a photo goes.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar

import httpx2
import openai
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field, ValidationError

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

_BASE_URL = "https://api.openai.com/v1"
# The SDK insists on a key; where there is none this stands in for it, and its header is left out.
_NO_KEY = "none"

_RESPONSE_FORMATS: dict[AnswerFormat, dict[str, Any]] = {
    AnswerFormat.JSON_SCHEMA: {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "classification", "strict": True, "schema": ANSWER_SCHEMA},
        }
    },
    AnswerFormat.JSON_OBJECT: {"response_format": {"type": "json_object"}},
    AnswerFormat.PROMPT: {},
}
_REASONING: dict[Thinking, dict[str, Any]] = {
    Thinking.OFF: {"reasoning_effort": "none"},
    Thinking.LOW: {"reasoning_effort": "low"},
    Thinking.UNSAID: {},
}
# "sensitive" is Zhipu's word for it.
_REFUSAL_REASONS = {"content_filter", "sensitive"}


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    model: Any = None
    usage: Any = None


class OpenAIClient(HostedClient):
    """Asks one of OpenAI's models.

    The default is OpenAI's smallest current model: it sees pictures, takes a schema and can leave reasoning out, and
    OpenAI names it as the successor of gpt-4o-mini and gpt-5-nano.
    """

    provider: ClassVar[str] = "openai"
    default_model: ClassVar[str] = "gpt-6-luna"
    first_form: ClassVar[RequestForm] = RequestForm(
        formats=tuple(AnswerFormat),
        thinking=tuple(Thinking),
        token_limits=(TokenLimit.MAX_COMPLETION_TOKENS, TokenLimit.MAX_TOKENS),
    )
    requires_api_key: ClassVar[bool] = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        key = checked_api_key(settings)
        if key is None and self.requires_api_key:
            raise ModelConfigurationError(f"LLM_PROVIDER={self.provider} needs LLM_API_KEY.")
        http_client = create_http_client(settings)
        self._sdk = openai.AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=checked_base_url(settings.base_url or _BASE_URL),
            max_retries=0,
            timeout=http_client.timeout,
            http_client=http_client,
        )
        omitted = ["OpenAI-Organization", "OpenAI-Project"] + ([] if key else ["Authorization"])
        self._headers: Mapping[str, str | openai.Omit] = {name: openai.Omit() for name in omitted}
        self._endpoint = Endpoint.of(
            *(http_client, self._sdk.base_url, "/chat/completions"),
            *(self._sdk.auth_headers, self._sdk.default_headers, self._headers),
        )

    async def _send(self, form: RequestForm, jpeg: bytes, correction: Correction | None) -> httpx2.Response:
        body = {
            "model": self.model,
            "messages": self._messages(correction),
            form.token_limit.value: self.settings.max_tokens,
            **_RESPONSE_FORMATS[form.format],
            **_REASONING[form.thinking_mode],
        }
        return await self._endpoint.post(body_with_picture(body, jpeg))

    def _read(self, response: httpx2.Response) -> LLMAnswer:
        try:
            completion = _Completion.model_validate_json(response.content)
        except ValidationError:
            raise ModelResponseInvalid from None
        choice = completion.choices[0]
        if choice.message.refusal or choice.finish_reason in _REFUSAL_REASONS:
            raise ModelRefused
        return LLMAnswer(
            text=choice.message.content or "",
            input_tokens=token_count(completion.usage, "prompt_tokens"),
            output_tokens=token_count(completion.usage, "completion_tokens"),
            model=completion.model if isinstance(completion.model, str) else None,
            cut_off=choice.finish_reason == "length",
        )

    async def _send_probe(self) -> httpx2.Response:
        return await http_response(self._sdk.models.with_raw_response.retrieve(self.model, extra_headers=self._headers))

    async def _close(self) -> None:
        await self._sdk.close()

    def _messages(self, correction: Correction | None) -> list[ChatCompletionMessageParam]:
        # No "detail": the default keeps the picture as it is, and LLM_IMAGE_MAX_EDGE has already decided its size and
        # so its price. "low" would blur the small print that tells a document from a screenshot.
        question = self.prompt.question
        if correction and not correction.answer:
            question = f"{question}\n{correction.request}"
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": self.prompt.instructions},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PICTURE}"}},
                    {"type": "text", "text": question},
                ],
            },
        ]
        if correction and correction.answer:
            messages += [
                {"role": "assistant", "content": correction.answer},
                {"role": "user", "content": correction.request},
            ]
        return messages


async def http_response(call: Awaitable[Any]) -> httpx2.Response:
    """Await an SDK call made raw and return the HTTP response, whatever its status.

    Raises:
        ModelTimeout, ModelUnreachable: there is no response.
    """
    try:
        raw = await call
    except openai.APIStatusError as error:
        return error.response
    except openai.APIError as error:
        raise error_from_exception(error) from None
    response: httpx2.Response = raw if isinstance(raw, httpx2.Response) else raw.http_response
    return response
