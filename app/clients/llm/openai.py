"""OpenAI's Chat Completions through the official SDK; other servers that speak it are `app.clients.llm.custom`.

Everything comes from the settings: the SDK's own environment variables (another address, an organisation, a key)
never decide where a photo goes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from openai.types.chat.chat_completion_content_part_text_param import (
    ChatCompletionContentPartTextParam,
    PromptCacheBreakpoint,
)
from openai.types.chat.completion_create_params import ResponseFormat

from app.clients.errors import ModelConfigurationError, ModelResponseInvalid
from app.clients.llm.base import LLMAnswer
from app.clients.llm.body import chunk_text
from app.clients.llm.error_rules import is_refusal
from app.clients.llm.hosted import HostedClient, base64_text, checked, text_or_none, token_count
from app.clients.llm.http import checked_api_key, checked_base_url, create_http_client
from app.clients.llm.logprobs import TOP_LOGPROBS, category_probabilities
from app.clients.llm.parsing import has_thoughts
from app.clients.llm.prompt import ANSWER_SCHEMA, Correction, Prompt
from app.clients.llm.request_form import (
    AnswerFormat,
    Caching,
    Instructions,
    Logprobs,
    Picture,
    RequestForm,
    Thinking,
    TokenLimit,
)
from app.config.model import ModelSettings

_BASE_URL = "https://api.openai.com/v1"
# The SDK insists on a key; where there is none this stands in for it, and its header is left out.
_NO_KEY = "none"

_RESPONSE_FORMATS: dict[AnswerFormat, ResponseFormat | openai.Omit] = {
    AnswerFormat.JSON_SCHEMA: {
        "type": "json_schema",
        "json_schema": {"name": "classification", "strict": True, "schema": ANSWER_SCHEMA},
    },
    AnswerFormat.JSON_OBJECT: {"type": "json_object"},
    AnswerFormat.PROMPT: openai.omit,
}
_REASONING: dict[Thinking, Literal["none", "low"]] = {Thinking.OFF: "none", Thinking.LOW: "low"}
# Fields that OpenAI itself does not have.
_OTHER_FIELDS: dict[Thinking, dict[str, object]] = {
    Thinking.DISABLED: {"thinking": {"type": "disabled"}},
    Thinking.NOT_ENABLED: {"enable_thinking": False},
    Thinking.TEMPLATE: {"chat_template_kwargs": {"enable_thinking": False}},
}
# Where servers put thoughts: DeepSeek, DashScope, Zhipu, Ark, vLLM; OpenRouter, Ollama.
_THOUGHT_FIELDS = ("reasoning_content", "reasoning")
# The server lost its model in the middle of the answer: OpenRouter, Zhipu.
_BROKEN_FINISHES = {"error", "network_error"}


class OpenAIClient(HostedClient):
    """Asks one of OpenAI's models.

    The default is OpenAI's smallest current model: it sees pictures, takes a schema and can leave reasoning out, and
    OpenAI names it as the successor of gpt-4o-mini and gpt-5-nano.
    """

    provider: ClassVar[str] = "openai"
    default_model: ClassVar[str] = "gpt-6-luna"
    first_form: ClassVar[RequestForm] = RequestForm(
        formats=tuple(AnswerFormat),
        thinking=(Thinking.OFF, Thinking.LOW, Thinking.UNSAID),
        token_limits=(TokenLimit.MAX_COMPLETION_TOKENS, TokenLimit.MAX_TOKENS),
        logprobs=tuple(Logprobs),
        caching=tuple(Caching),
    )
    requires_api_key: ClassVar[bool] = True

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        key = checked_api_key(settings)
        if key is None and self.requires_api_key:
            raise ModelConfigurationError(f"LLM_PROVIDER={self.provider} needs LLM_API_KEY.")
        http_client = create_http_client(settings)
        self.sdk = openai.AsyncOpenAI(
            api_key=key or _NO_KEY,
            base_url=checked_base_url(settings.base_url or _BASE_URL),
            max_retries=0,
            timeout=http_client.timeout,
            http_client=http_client,
        )
        omitted = ["OpenAI-Organization", "OpenAI-Project"] + ([] if key else ["Authorization"])
        self.headers: Mapping[str, str | openai.Omit] = dict.fromkeys(omitted, openai.omit)
        # The SDK imports them at their first use, which would stop the event loop in the middle of a request.
        self._completions, self._models = self.sdk.chat.completions, self.sdk.models

    async def _create(self, form: RequestForm, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> LLMAnswer:
        completion = await self._completions.create(
            **self._body(form, jpeg, prompt, correction),
            extra_body=_OTHER_FIELDS.get(form.thinking_mode),
            # Some servers stream unless they are told not to.
            stream=False,
            extra_headers=self.headers,
        )
        return self.read(completion)

    def _body(self, form: RequestForm, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> dict[str, Any]:
        limit, newer = self.settings.max_tokens, form.token_limit is TokenLimit.MAX_COMPLETION_TOKENS
        asks_logprobs = form.logprobs[0] is Logprobs.ASKED
        fields = {
            "model": self.model,
            "messages": self._messages(form, jpeg, prompt, correction),
            "max_completion_tokens" if newer else "max_tokens": limit,
            "response_format": _RESPONSE_FORMATS[form.format],
            "reasoning_effort": _REASONING.get(form.thinking_mode, openai.omit),
            "logprobs": asks_logprobs or openai.omit,
            "top_logprobs": TOP_LOGPROBS if asks_logprobs else openai.omit,
            "prompt_cache_options": {"mode": "explicit"} if _marks_fixed_part(form) else openai.omit,
        }
        return {name: value for name, value in fields.items() if value is not openai.omit}

    def read(self, completion: ChatCompletion) -> LLMAnswer:
        """Return the answer in a response of Chat Completions.

        Raises:
            ModelResponseInvalid, AttributeError, LookupError, TypeError: it is not what the API promises.
        """
        choice = completion.choices[0]
        # A refused answer may have no message at all.
        refused = is_refusal(choice.finish_reason) or bool(choice.message.refusal)
        if choice.finish_reason in _BROKEN_FINISHES:
            raise ModelResponseInvalid
        usage = completion.usage
        text = "" if refused else _text(choice.message.content)
        return LLMAnswer(
            text=text,
            input_tokens=token_count(usage, "prompt_tokens"),
            cached_input_tokens=token_count(getattr(usage, "prompt_tokens_details", None), "cached_tokens"),
            cache_write_tokens=token_count(getattr(usage, "prompt_tokens_details", None), "cache_write_tokens"),
            output_tokens=token_count(usage, "completion_tokens"),
            model=text_or_none(completion.model),
            cut_off=choice.finish_reason == "length",
            refused=refused,
            probabilities=category_probabilities(getattr(getattr(choice, "logprobs", None), "content", None)),
            thought=has_thoughts(text) or any(getattr(choice.message, name, None) for name in _THOUGHT_FIELDS),
        )

    async def _retrieve_model(self) -> object:
        return await self._models.retrieve(self.model, extra_headers=self.headers)

    async def _close(self) -> None:
        await self.sdk.close()

    def _messages(
        self, form: RequestForm, jpeg: bytes, prompt: Prompt, correction: Correction | None
    ) -> list[ChatCompletionMessageParam]:
        # No "detail": the default keeps the picture as it is, and LLM_IMAGE_MAX_EDGE has already decided its size and
        # so its price. "low" would blur the small print that tells a document from a screenshot.
        question = prompt.question
        if form.instructions[0] is Instructions.USER:
            question = f"{prompt.instructions}\n\n{question}"
        if correction and not correction.answer:
            question = f"{question}\n{correction.request}"
        url = base64_text(jpeg)
        if form.pictures[0] is Picture.DATA_URL:
            url = f"data:image/jpeg;base64,{url}"
        messages: list[ChatCompletionMessageParam] = [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
            }
        ]
        if form.instructions[0] is Instructions.SYSTEM:
            instructions: str | list[ChatCompletionContentPartTextParam] = prompt.instructions
            if _marks_fixed_part(form):
                mark: PromptCacheBreakpoint = {"mode": "explicit"}
                instructions = [{"type": "text", "text": prompt.instructions, "prompt_cache_breakpoint": mark}]
            messages.insert(0, {"role": "system", "content": instructions})
        if correction and correction.answer:
            messages += [
                {"role": "assistant", "content": correction.answer},
                {"role": "user", "content": correction.request},
            ]
        return messages


def _marks_fixed_part(form: RequestForm) -> bool:
    return form.caching[0] is Caching.FIXED_PART and form.instructions[0] is Instructions.SYSTEM


def _text(content: object) -> str:
    """Return the text of a message, which is a text or a list of chunks; none where it is all thoughts."""
    return chunk_text(content if isinstance(content, list) else checked(content or "", str))
