"""Which models are compared: the service's own, a provider by name, or all that a file of variables says.

A key never goes to another provider than the one that it was set for: a further model brings its own in its file.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from app.clients.base import ModelClient
from app.clients.calibration import model_key
from app.clients.errors import ModelConfigurationError
from app.clients.llm.base import LLMClient
from app.clients.llm.prompt import Prompt
from app.clients.registry import create_model_client
from app.config.model import LOCAL_PROVIDER, ModelSettings
from app.config.settings import Settings
from app.config.source import problems_of
from app.config.spending import SpendingSettings
from app.services.spending.prices import Price, price_of

MAX_PROMPT_CHARACTERS = 100_000
# What belongs to one model; a file of variables takes none of it from the environment.
_OWN_VARIABLES = (
    *("LLM_PROVIDER", "LLM_API_KEY", "LLM_MODEL", "LLM_BASE_URL"),
    *("LLM_PRICE_INPUT_PER_MTOK", "LLM_PRICE_CACHED_INPUT_PER_MTOK", "LLM_PRICE_OUTPUT_PER_MTOK"),
)
# Input tokens of a picture: width x height / 750 (https://docs.claude.com/en/docs/build-with-claude/vision); others
# count less, or about as much.
_PIXELS_PER_TOKEN = 750
# Of English; Chinese has fewer to a token.
_CHARACTERS_PER_TOKEN = 3.5
_OUTPUT_TOKENS = 80


class NoCandidate(Exception):
    """There is no such model, or it cannot be set up; the text says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model with its prompt: `label` is how reports call it, `key` is for whatever changes its answers."""

    client: ModelClient
    price: Price | None
    label: str
    key: str

    @property
    def model_key(self) -> str:
        """The name under which its temperature is kept."""
        return model_key(self.client.provider, self.client.model)

    def expected_cost_micros(self) -> float:
        """Return what a photo will cost, about, before any was asked; it is rather too much than too little."""
        if self.price is None:
            return 0.0
        if self.price.tokens is None:
            return self.price.per_call_micros
        prompt = _prompt_of(self.client)
        characters = 0 if prompt is None else len(prompt.instructions) + len(prompt.question)
        edge = self.client.settings.image_max_edge_pixels
        tokens = characters / _CHARACTERS_PER_TOKEN + edge * edge / _PIXELS_PER_TOKEN
        return tokens * float(self.price.tokens.input) + _OUTPUT_TOKENS * float(self.price.tokens.output)


def find_candidate(named: str | None, prompt: Path | None, settings: Settings) -> Candidate:
    """Return the model that `named` means; it is not started yet.

    Args:
        named: None: the service's own; PROVIDER, PROVIDER=MODEL, a name of MODELS, or a file of variables (LLM_...).
        prompt: a file with other instructions than the built-in ones.
        settings: of the service.

    Raises:
        NoCandidate: the text says why.
    """
    try:
        client, price = _client_of(named, settings)
    except ModelConfigurationError as error:
        raise NoCandidate(str(error)) from None
    label = f"{client.provider} {client.model}".strip()
    if prompt is not None:
        label += f" ({prompt.name})"
        _give_prompt(client, prompt)
    return Candidate(client, price, label, _key(client))


def _client_of(named: str | None, settings: Settings) -> tuple[ModelClient, Price | None]:
    own, spending = settings.model, settings.spending
    if named is None:
        client = create_model_client(own)
        return client, price_of(client, spending)
    if Path(named).is_file():
        own, spending = _settings_of(Path(named), settings)
        client = create_model_client(own, said_in=named)
        return client, price_of(client, spending)
    provider, _, model = named.partition("=")
    if provider in own.further_models:
        further = own.model_copy(update={"api_key": None, "base_url": None, "model": None})
        further = further.model_copy(update={"provider": own.further_models[provider]})
        client = create_model_client(further, said_in=f"MODELS: {provider}")
        return client, price_of(client, spending, provider)
    changes: dict[str, object] = {
        "provider": provider,
        "model": model or (own.model if provider == own.asked_provider else None),
    }
    if own.asked_provider not in {provider, LOCAL_PROVIDER}:
        changes |= {"api_key": None, "base_url": None}
    try:
        client = create_model_client(own.model_copy(update=changes), said_in="--provider or --against")
    except ModelConfigurationError as error:
        raise NoCandidate(f"{error} A file with its LLM_... variables may be named instead.") from None
    if provider == own.asked_provider and client.model != (own.model or client.default_model):
        # LLM_PRICE_... are those of LLM_MODEL.
        spending = spending.model_copy(update=dict.fromkeys(("input_price", "cached_input_price", "output_price")))
    return client, price_of(client, spending)


def _settings_of(file: Path, service: Settings) -> tuple[ModelSettings, SpendingSettings]:
    try:
        said = dotenv_values(file, interpolate=False, encoding="utf-8-sig")
        values: dict[str, Any] = dict.fromkeys(_OWN_VARIABLES) | {name: value for name, value in said.items() if value}
        if not values["LLM_PROVIDER"]:
            raise NoCandidate(f"{file} has no LLM_PROVIDER.")
        # What was measured of all models is in the files of the service.
        of_service = {name: getattr(service.model, name) for name in ("calibration_file", "cascade_file")}
        model = ModelSettings(**values).model_copy(update=of_service)
        return model, SpendingSettings(**values)
    except ValidationError as error:
        raise NoCandidate(f"{file}: " + "; ".join(problems_of(error))) from None
    except (OSError, UnicodeDecodeError):
        raise NoCandidate(f"{file} is no file of variables.") from None


def _give_prompt(client: ModelClient, file: Path) -> None:
    if not isinstance(client, LLMClient):
        raise NoCandidate(f"{client.provider} takes no prompt.")
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise NoCandidate(f"{file} cannot be read as UTF-8 text.") from None
    if not 0 < len(text) <= MAX_PROMPT_CHARACTERS:
        raise NoCandidate(f"{file} is empty, or has more than {MAX_PROMPT_CHARACTERS} characters.")
    client.prompts = {language: replace(prompt, instructions=text) for language, prompt in client.prompts.items()}


def _prompt_of(client: ModelClient) -> Prompt | None:
    return client.prompts[client.settings.default_language] if isinstance(client, LLMClient) else None


def _key(client: ModelClient) -> str:
    prompt = _prompt_of(client)
    settings = client.settings
    facts = [
        *(client.provider, client.model, settings.base_url, settings.image_max_edge_pixels, settings.max_tokens),
        *((prompt.instructions, prompt.question) if prompt else ()),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
