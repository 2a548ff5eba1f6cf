"""Anthropic's Messages API through the official SDK, set up from our settings and not from the SDK's own variables."""

from typing import Any, ClassVar

import anthropic
from anthropic.types import Message, MessageParam, OutputConfigParam, TextBlockParam

from app.clients.errors import ModelConfigurationError
from app.clients.llm.base import LLMAnswer
from app.clients.llm.hosted import HostedClient, base64_text, checked, text_or_none, token_count
from app.clients.llm.http import checked_api_key, checked_base_url, create_http_client
from app.clients.llm.prompt import ANSWER_SCHEMA, Correction, Prompt
from app.clients.llm.request_form import AnswerFormat, RequestForm, Thinking, TokenLimit
from app.config.model import ModelSettings

_BASE_URL = "https://api.anthropic.com"
_CUT_OFF_REASONS = {"max_tokens", "model_context_window_exceeded"}
# Input that went through the prompt cache is counted apart (and priced differently); together they are the input.
_INPUT_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


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
        thinking=(Thinking.OFF, Thinking.LOW, Thinking.UNSAID),
        token_limits=(TokenLimit.MAX_TOKENS,),
    )

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        key = checked_api_key(settings)
        if key is None:
            raise ModelConfigurationError("LLM_PROVIDER=claude needs LLM_API_KEY.")
        http_client = create_http_client(settings)
        self.sdk = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=checked_base_url(settings.base_url or _BASE_URL),
            max_retries=0,
            timeout=http_client.timeout,
            http_client=http_client,
            # Spans are ours (app.observability.tracing): the SDK's hold, if a variable says so, the photo.
            open_telemetry=False,
        )
        # The SDK imports them at their first use, which would stop the event loop in the middle of a request.
        self._messages, self._models = self.sdk.messages, self.sdk.models

    async def _create(self, form: RequestForm, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> LLMAnswer:
        return self.read(await self._messages.create(**self._body(form, jpeg, prompt, correction)))

    def _body(self, form: RequestForm, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> dict[str, Any]:
        output: OutputConfigParam = {}
        if form.format is AnswerFormat.JSON_SCHEMA:
            output["format"] = {"type": "json_schema", "schema": ANSWER_SCHEMA}
        if form.thinking_mode is Thinking.LOW:
            output["effort"] = "low"
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.settings.max_tokens,
            "system": self._fixed_part(prompt),
            "messages": self._turns(jpeg, prompt, correction),
        }
        if form.thinking_mode is Thinking.OFF:
            body["thinking"] = {"type": "disabled"}
        if output:
            body["output_config"] = output
        return body

    def read(self, message: Message) -> LLMAnswer:
        """Return the answer in a message.

        Raises:
            AttributeError, TypeError: it is not what the API promises.
        """
        refused = message.stop_reason == "refusal"
        blocks = [] if refused else checked(message.content, list)
        return LLMAnswer(
            text="".join(block.text for block in blocks if block.type == "text"),
            input_tokens=sum(token_count(message.usage, name) for name in _INPUT_COUNTS),
            cached_input_tokens=token_count(message.usage, "cache_read_input_tokens"),
            cache_write_tokens=token_count(message.usage, "cache_creation_input_tokens"),
            output_tokens=token_count(message.usage, "output_tokens"),
            model=text_or_none(message.model),
            cut_off=message.stop_reason in _CUT_OFF_REASONS,
            refused=refused,
        )

    async def _retrieve_model(self) -> object:
        return await self._models.retrieve(self.model)

    async def _close(self) -> None:
        await self.sdk.close()

    def _fixed_part(self, prompt: Prompt) -> list[TextBlockParam]:
        """Return the instructions, marked as what the provider may keep: all photos have them in common."""
        return [{"type": "text", "text": prompt.instructions, "cache_control": {"type": "ephemeral"}}]

    def _turns(self, jpeg: bytes, prompt: Prompt, correction: Correction | None) -> list[MessageParam]:
        question = prompt.question
        if correction and not correction.answer:
            question = f"{question}\n{correction.request}"
        messages: list[MessageParam] = [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/jpeg", "data": base64_text(jpeg)},
                    },
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
