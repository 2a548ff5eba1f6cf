"""Which models one may ask for by name. Only the service's own is there from the start: the others cost memory.

Each is loaded by the first request for it, off the event loop, once for all requests. What cannot be
loaded is tried again at the next request. The local model can be asked for beside another one only where the operator
says so (LOCAL_MODEL): it takes 220 MB of each worker. Further models never see LLM_API_KEY or LLM_BASE_URL: these
belong to the provider that they were made for.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from loguru import logger

from app.clients.base import ModelClient
from app.clients.batches.registry import has_batches
from app.clients.errors import ModelConfigurationError, ModelError, ModelNotFound, ModelTimeout
from app.clients.registry import BUILT_IN_PROVIDERS, create_further_client, plugin_names
from app.config.model import CASCADE_PROVIDER, ModelSettings
from app.errors import UnknownModel
from app.runtime.background import SingleFlight

# What is asked for when no name is given, as the specification has it: the model of the service.
DEFAULT_MODEL_NAME = "dummy"
SERVICE_ALIAS = "default"
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A name one may ask for.

    `alias_of` is the name that it stands for. `model` is what will answer, None while it is not loaded.
    """

    name: str
    provider: str
    model: str | None
    is_default: bool
    alias_of: str | None
    description: str


class ModelCatalogue:
    """Knows the models by name, and loads those that are asked for.

    Args:
        service_client: the model of the service (LLM_PROVIDER), started; its maker closes it.
        settings: also says which further models there are.
        started: those of them that are started already, by name; their maker closes them.

    Raises:
        ModelConfigurationError: a name of MODELS means something else already.
    """

    def __init__(
        self, service_client: ModelClient, settings: ModelSettings, started: Mapping[str, ModelClient] | None = None
    ) -> None:
        self.service_client = service_client
        self._started = started or {}
        self._settings = settings
        self._service_name = service_client.provider if ":" in settings.provider else settings.provider
        self._aliases = {SERVICE_ALIAS: self._service_name, DEFAULT_MODEL_NAME: self._service_name}
        reserved = {self._service_name, *self._aliases, *BUILT_IN_PROVIDERS, CASCADE_PROVIDER}
        if clashes := sorted(reserved & set(settings.further_models)):
            raise ModelConfigurationError(f"MODELS: {', '.join(clashes)} means something else already.")
        # Name -> what LLM_PROVIDER would be called for it.
        self._targets = {LOCAL: LOCAL} if settings.offers_local else {}
        self._targets |= {name: name for name in plugin_names() if name not in self._aliases}
        self._targets |= settings.further_models
        self._targets.pop(self._service_name, None)
        self._clients: dict[str, ModelClient] = {}
        self._loading: SingleFlight[str, ModelClient] = SingleFlight()

    def choices(self) -> list[ModelChoice]:
        """Return all names that one may ask for: the service's model, then the others, then the aliases."""
        return [self._choice(name) for name in self._names()]

    def check(self, name: str) -> None:
        """Do nothing if one may ask for this name.

        Raises:
            UnknownModel: one may not; its details say what names there are.
        """
        if name not in self._names():
            raise UnknownModel(details={"known": self._names()})

    @property
    def batched_names(self) -> list[str]:
        """The names of the model whose photos can be put into a batch: the service's model, if it has any."""
        return [self._service_name, *self._aliases] if has_batches(self.service_client) else []

    def is_batched(self, name: str) -> bool:
        """Whether photos that this model shall look at can be put into a batch."""
        return name in self.batched_names

    async def client_of(self, name: str) -> ModelClient:
        """Return the client behind a name, started.

        Raises:
            UnknownModel: there is no such name.
            ModelError: the model cannot be loaded, or not in time.
        """
        self.check(name)
        name = self._aliases.get(name, name)
        if name == self._service_name:
            return self.service_client
        if (client := self._loaded(name)) is not None:
            return client
        try:
            async with asyncio.timeout(self._settings.total_timeout_seconds):
                client, _ = await self._loading.run(name, partial(self._load, name), is_detached=True)
                return client
        except TimeoutError:
            raise ModelTimeout("The model is still being loaded. Try again shortly.", retry_after_seconds=10) from None

    async def close(self) -> None:
        """Close all clients that were loaded here."""
        await self._loading.cancel()
        await asyncio.gather(*(client.close() for client in self._clients.values()), return_exceptions=True)

    def _names(self) -> list[str]:
        return [self._service_name, *self._targets, *self._aliases]

    def _choice(self, name: str) -> ModelChoice:
        alias_of = self._aliases.get(name)
        meant = alias_of or name
        client = self.service_client if meant == self._service_name else self._loaded(meant)
        return ModelChoice(
            name=name,
            provider=meant,
            model=None if client is None else client.model,
            is_default=name == DEFAULT_MODEL_NAME,
            alias_of=alias_of,
            description=self._description(name, meant),
        )

    def _description(self, name: str, meant: str) -> str:
        if name == DEFAULT_MODEL_NAME:
            return "The specification's default name: the model of this service, no made-up result."
        if name == SERVICE_ALIAS:
            return "The model of this service, whose answers all clients share."
        text = "Ships with the service and runs in it." if meant == LOCAL else "Registered by the operator."
        return f"{text} It is the model of this service." if meant == self._service_name else text

    def _loaded(self, name: str) -> ModelClient | None:
        return self._started.get(name) or self._clients.get(name)

    async def _load(self, name: str) -> ModelClient:
        target = self._targets[name]
        said_in = "plugin" if target == name else f"MODELS: {name}"
        try:
            client = await asyncio.to_thread(create_further_client, self._settings, target, said_in=said_in)
        except ModelConfigurationError as error:
            logger.error("model {} cannot be used: {}", name, error)
            raise ModelNotFound("This model cannot be set up.") from None
        try:
            await client.start()
        except BaseException as error:
            await client.close()
            if isinstance(error, ModelError) or not isinstance(error, Exception):
                raise
            # The text may hold a key, so only the type is logged.
            logger.error("model {} cannot be started: {}", name, type(error).__name__)
            raise ModelError from None
        self._clients[name] = client
        logger.info("model {} is loaded: {}", name, client.model)
        return client
