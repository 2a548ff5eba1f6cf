"""Any server that speaks OpenAI's Chat Completions: the same client, humbler in what it expects."""

from typing import ClassVar

import httpx2

from app.clients.errors import ModelConfigurationError, ModelNotFound, ModelResponseInvalid
from app.clients.llm.http import error_from_response, sdk_call
from app.clients.llm.openai import OpenAIClient
from app.clients.llm.request_form import (
    AnswerFormat,
    Instructions,
    Logprobs,
    Picture,
    RequestForm,
    Thinking,
    TokenLimit,
)
from app.config.model import ModelSettings

# `owned_by` of servers that run the models themselves: Ollama, vLLM, SGLang, llama.cpp, LM Studio. What such a server
# does not list it does not have. A server that routes (OpenRouter, one-api, LiteLLM) or sells models takes names that
# its list does not hold: aliases, snapshots, names of endpoints.
_LISTS_ALL = {"library", "vllm", "sglang", "llamacpp", "organization_owner"}


class CustomClient(OpenAIClient):
    """Asks the model LLM_MODEL at LLM_BASE_URL (Ollama, vLLM, LM Studio, DashScope, Zhipu ...); the key is optional.

    The token limit goes by its old name first: servers that do not know the new one tend to ignore it silently.
    """

    provider: ClassVar[str] = "custom"
    default_model: ClassVar[str] = ""
    first_form: ClassVar[RequestForm] = RequestForm(
        formats=tuple(AnswerFormat),
        thinking=(Thinking.OFF, Thinking.LOW, Thinking.UNSAID),
        token_limits=(TokenLimit.MAX_TOKENS, TokenLimit.MAX_COMPLETION_TOKENS),
        instructions=tuple(Instructions),
        pictures=tuple(Picture),
        other_ways=(Thinking.DISABLED, Thinking.NOT_ENABLED, Thinking.TEMPLATE),
        logprobs=tuple(Logprobs),
    )
    requires_api_key: ClassVar[bool] = False

    def __init__(self, settings: ModelSettings) -> None:
        if not settings.base_url:
            raise ModelConfigurationError(
                "LLM_PROVIDER=custom needs LLM_BASE_URL, such as http://127.0.0.1:11434/v1 for Ollama."
            )
        if not settings.model:
            raise ModelConfigurationError("LLM_PROVIDER=custom needs LLM_MODEL: the name of a model that can see.")
        super().__init__(settings)

    async def _probe(self) -> None:
        try:
            outcome = await sdk_call(self._listed_models())
        except ModelResponseInvalid:
            # Some servers answer any path with a page.
            return
        if isinstance(outcome, httpx2.Response):
            # The list of models is optional for such a server; that it answers is all that can be learnt here.
            if outcome.status_code not in {404, 405}:
                raise error_from_response(outcome)
            return
        names, owners = outcome
        if names and _base_name(self.model) not in names and owners <= _LISTS_ALL:
            raise ModelNotFound

    async def _listed_models(self) -> tuple[set[str], set[object]]:
        """Return the names of the models that the server lists, and whose it says they are."""
        page = await self._models.list(extra_headers=self.headers)
        names = {_base_name(model.id) for model in page.data}
        return names, {getattr(model, "owned_by", None) for model in page.data}


def _base_name(name: str) -> str:
    """A model's name without namespace and tag: servers list "models/x" or "x:latest" for what one asks as "x"."""
    return name.rpartition("/")[2].partition(":")[0].lower()
