"""LLM_PROVIDER becomes a client. Built-in providers are loaded like a plugin: by "module:Class".

A name is looked up among the built-in ones, then among the entry points of the group `image_classifier.models`; a
value with a colon names a class itself: a model client, or one that `adapter.py` makes into one. Modules are imported
only when chosen, so that no SDK is loaded in vain.
"""

import functools
import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from app.clients.adapter import METHODS, adapt, is_adaptable
from app.clients.base import LOCAL_MODEL_PREFIX, RESERVED_PREFIXES, ModelClient
from app.clients.errors import ModelConfigurationError
from app.config.model import LOCAL_PROVIDER, MODEL_NAME_MAX_LENGTH, ModelSettings

ENTRY_POINT_GROUP = "image_classifier.models"

BUILT_IN_PROVIDERS = {
    "local": "app.clients.local:LocalClient",
    "openai": "app.clients.llm.openai:OpenAIClient",
    "claude": "app.clients.llm.claude:ClaudeClient",
    "custom": "app.clients.llm.custom:CustomClient",
}


def create_model_client(settings: ModelSettings, *, said_in: str = "LLM_PROVIDER") -> ModelClient:
    """Return the client that `settings.provider` names; it is not started yet. `said_in` is where it was named.

    Of a cascade it is the one that is asked where the local model is not sure.

    Raises:
        ModelConfigurationError: there is no such provider, it cannot be loaded, or it cannot work with the settings.
    """
    if settings.is_cascade:
        settings, said_in = settings.model_copy(update={"provider": settings.asked_provider}), "CASCADE_MODEL"
    origin = f"{said_in}={settings.provider}"
    client_class = _load_class(settings.provider, origin)
    try:
        client = client_class(settings)
    except ModelConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        # Its text may quote the key, so only its type is told.
        raise ModelConfigurationError(f"{origin} cannot be set up ({type(error).__name__}).") from None
    for prefix, meaning in RESERVED_PREFIXES.items():
        is_own = prefix == LOCAL_MODEL_PREFIX and settings.provider == LOCAL_PROVIDER
        if client.model.casefold().startswith(prefix) and not is_own:
            raise ModelConfigurationError(
                f'{origin}: the model\'s name (LLM_MODEL) begins with "{prefix}", which marks {meaning}.'
            )
    if len(client.model) > MODEL_NAME_MAX_LENGTH:
        raise ModelConfigurationError(
            f"{origin}: the model's name (LLM_MODEL) is longer than {MODEL_NAME_MAX_LENGTH} characters."
        )
    return client


def create_further_client(settings: ModelSettings, provider: str, *, said_in: str) -> ModelClient:
    """Return the client of another model than the service's, whose key, address and model are not its own.

    Args:
        settings: of the service's model.
        provider: what LLM_PROVIDER would be for it.
        said_in: where it was named.

    Raises:
        ModelConfigurationError: as `create_model_client`.
    """
    own = settings.model_copy(update={"provider": provider, "api_key": None, "base_url": None, "model": None})
    return create_model_client(own, said_in=said_in)


def plugin_names() -> list[str]:
    """The names of the installed plugins that no built-in provider has, sorted."""
    return sorted(set(_plugins()) - set(BUILT_IN_PROVIDERS))


def _load_class(provider: str, origin: str) -> type[ModelClient]:
    target = _target(provider)
    module_name, _, class_name = target.partition(":")
    try:
        module = import_module(module_name)
        loaded: Any = getattr(module, class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelConfigurationError(f"{origin}: {target} cannot be imported: {error}.") from error
    except Exception as error:
        raise ModelConfigurationError(f"{origin}: importing {target} raised {type(error).__name__}.") from error
    if not (isinstance(loaded, type) and issubclass(loaded, ModelClient)):
        if not is_adaptable(loaded):
            raise ModelConfigurationError(
                f"{origin}: {target} is not a subclass of ModelClient, nor has it the methods {', '.join(METHODS)}."
            )
        try:
            return adapt(loaded)
        except ValueError as error:
            raise ModelConfigurationError(f"{origin}: {target}: {error}.") from None
    for name in ("provider", "default_model"):
        if not isinstance(getattr(loaded, name, None), str):
            raise ModelConfigurationError(f"{origin}: {target} lacks the class attribute {name!r}.")
    return loaded


def _target(provider: str) -> str:
    if provider in BUILT_IN_PROVIDERS:
        return BUILT_IN_PROVIDERS[provider]
    if provider in (plugins := _plugins()):
        return plugins[provider].value
    module_name, _, class_name = provider.partition(":")
    if module_name and class_name:
        return provider
    known = ", ".join([*BUILT_IN_PROVIDERS, *plugin_names()])
    raise ModelConfigurationError(
        f"LLM_PROVIDER={provider} is unknown. There are: {known}; a class of your own is named package.module:Class."
    )


def _plugins() -> dict[str, EntryPoint]:
    return _plugins_on(tuple(sys.path))


@functools.cache
def _plugins_on(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Those of the packages on `path` (sys.path): reading what is installed takes 20 ms, and each model asks."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
