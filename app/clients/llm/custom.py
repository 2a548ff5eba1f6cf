"""Any server that speaks OpenAI's Chat Completions: the same client, humbler in what it expects."""

from typing import ClassVar

import httpx2

from app.clients.errors import ModelConfigurationError, ModelNotFound, ModelResponseInvalid
from app.clients.llm.http import error_from_response, sdk_call
from app.clients.llm.openai import OpenAIClient
from app.clients.llm.request_form import AnswerFormat, Instructions, Picture, RequestForm, Thinking, TokenLimit
from app.config.model import ModelSettings


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
            names = await sdk_call(self._model_names())
        except ModelResponseInvalid:
            # Some servers answer any path with a page.
            return
        if isinstance(names, httpx2.Response):
            # The list of models is optional for such a server; that it answers is all that can be learnt here.
            if names.status_code not in {404, 405}:
                raise error_from_response(names)
        elif names and _base_name(self.model) not in names:
            raise ModelNotFound

    async def _model_names(self) -> set[str]:
        page = await self._models.list(extra_headers=self._headers)
        return {_base_name(model.id) for model in page.data}


def _base_name(name: str) -> str:
    """A model's name without namespace and tag: servers list "models/x" or "x:latest" for what one asks as "x"."""
    return name.rpartition("/")[2].partition(":")[0].lower()
