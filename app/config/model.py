"""Settings of the model that looks at the photos, and of further models that people may choose."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from app.categories import Category
from app.config.source import SettingsGroup
from app.language.accept import Language

_NAMED_CLASS = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})=(?P<target>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)")

LOCAL_PROVIDER = "local"
CASCADE_PROVIDER = "cascade"
# Of any model, so that the tables hold it whole.
MODEL_NAME_MAX_LENGTH = 255


class DescriptionLanguage(StrEnum):
    """What DESCRIPTION_LANGUAGE may be; `auto` is the language of each request."""

    CHINESE = "zh"
    ENGLISH = "en"
    AUTO = "auto"


class ModelSettings(SettingsGroup):
    """Which model looks at the photos, and how long we wait for it."""

    provider: str = Field(LOCAL_PROVIDER, validation_alias="LLM_PROVIDER", min_length=1)
    """local, openai, claude, custom, cascade, the name of an installed plugin, or package.module:Class."""
    api_key: SecretStr | None = Field(None, validation_alias="LLM_API_KEY")
    model: str | None = Field(None, validation_alias="LLM_MODEL")
    """Model name; empty: the provider's small current vision model."""
    base_url: str | None = Field(None, validation_alias="LLM_BASE_URL")
    """Address of an OpenAI-compatible server (custom), or of a proxy before openai or claude."""
    max_tokens: int = Field(500, validation_alias="LLM_MAX_TOKENS", ge=50)
    timeout_seconds: float = Field(30.0, validation_alias="LLM_TIMEOUT", gt=0, le=100)
    """One attempt, in seconds."""
    max_retries: int = Field(2, validation_alias="LLM_MAX_RETRIES", ge=0, le=10)
    """Further attempts after a 429, a 5xx or a broken connection."""
    max_concurrency: int = Field(8, validation_alias="LLM_MAX_CONCURRENCY", ge=1)
    """Calls to the model at once, for each worker; the workers of an instance share them."""
    image_max_edge_pixels: int = Field(1024, validation_alias="LLM_IMAGE_MAX_EDGE", ge=64, le=4096)
    """Long edge of the picture that the model is sent."""
    description_language: DescriptionLanguage = Field(DescriptionLanguage.AUTO, validation_alias="DESCRIPTION_LANGUAGE")
    """zh, en, or auto: that of each request, and an entry of the cache gets a description in each."""
    calibration_file: Path | None = Field(None, validation_alias="CALIBRATION_FILE")
    """The temperatures that `image-classifier evaluate --calibrate` has fitted, by model; it need not be there.

    Empty: calibration.json under DATA_DIR (`Settings` fills it in)."""
    local_model: bool | None = Field(None, validation_alias="LOCAL_MODEL")
    """on: `local` can be chosen beside another provider, at 220 MB of each worker; off: it cannot.

    Empty: on where it is the provider, else off.
    """
    local_head: Path | None = Field(None, validation_alias="LOCAL_HEAD")
    """The head of the local model, as `image-classifier train` has written it; empty: the built-in one."""
    further_models: dict[str, str] = Field({}, validation_alias="MODELS")
    """Comma-separated name=package.module:Class: further models that people may choose for their pictures."""
    fallback_models: tuple[str, ...] = Field((), validation_alias="FALLBACK_MODELS")
    """Comma-separated names of MODELS, or local: each is asked where those before it cannot answer for now."""
    falls_back_on_refusal: bool = Field(False, validation_alias="FALLBACK_ON_REFUSAL")
    """Ask the next one too about a picture that a model has refused."""
    cascade_model: str | None = Field(None, validation_alias="CASCADE_MODEL")
    """With LLM_PROVIDER=cascade: what LLM_PROVIDER would be for the model that answers where the local one is not sure.

    LLM_API_KEY, LLM_MODEL, LLM_BASE_URL and the prices are its own."""
    cascade_target_precision: float = Field(0.97, validation_alias="CASCADE_TARGET_PRECISION", ge=0.5, lt=1)
    """The share of right ones among the local model's answers that `evaluate --cascade` chooses thresholds for."""
    cascade_file: Path | None = Field(None, validation_alias="CASCADE_FILE")
    """The thresholds that `evaluate --cascade` has chosen, by model; where it has none, the shipped ones count.

    Empty: cascade.json under DATA_DIR (`Settings` fills it in)."""
    local_only_categories: frozenset[Category] = Field(frozenset(), validation_alias="LOCAL_ONLY_CATEGORIES")
    """Comma-separated categories: what the local model takes for one of them is sent to no other model."""

    @field_validator("fallback_models", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value

    @field_validator("local_only_categories", mode="before")
    @classmethod
    def _split_categories(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = frozenset(filter(None, (part.strip() for part in value.split(","))))
        if unknown := sorted(names - set(Category)):
            raise ValueError(f"there is no category {', '.join(unknown)}; there are {', '.join(Category)}")
        return names

    @field_validator("further_models", mode="before")
    @classmethod
    def _split_models(cls, value: Any) -> Any:
        return named_classes(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fallbacks_are_known(self) -> Self:
        names = self.fallback_models
        if unknown := [name for name in names if name != LOCAL_PROVIDER and name not in self.further_models]:
            raise ValueError(f"FALLBACK_MODELS: {', '.join(unknown)} is neither in MODELS nor {LOCAL_PROVIDER}")
        if len(set(names)) < len(names):
            raise ValueError("FALLBACK_MODELS: a name stands there twice")
        return self

    @model_validator(mode="after")
    def _local_model_of_local_provider(self) -> Self:
        if self.provider == LOCAL_PROVIDER and self.local_model is False:
            raise ValueError("LOCAL_MODEL=off needs another LLM_PROVIDER than local")
        return self

    @model_validator(mode="after")
    def _cascade_has_two_models(self) -> Self:
        if self.provider == CASCADE_PROVIDER and not self.cascade_model:
            raise ValueError(
                "LLM_PROVIDER=cascade needs CASCADE_MODEL: openai, claude, custom, a plugin's name or"
                " package.module:Class, whichever answers what the local model is not sure of"
            )
        if self.cascade_model in {CASCADE_PROVIDER, LOCAL_PROVIDER}:
            raise ValueError(f"CASCADE_MODEL={self.cascade_model}: the local model is asked first anyway; name another")
        return self

    @property
    def fixed_language(self) -> Language | None:
        """The one language of all descriptions; None where each request has its own."""
        is_auto = self.description_language is DescriptionLanguage.AUTO
        return None if is_auto else Language(self.description_language.value)

    @property
    def default_language(self) -> Language:
        """The language of what no request asks for, or one that said nothing of it."""
        return self.fixed_language or Language.CHINESE

    @property
    def is_cascade(self) -> bool:
        """Whether the local model answers where it is sure."""
        return self.provider == CASCADE_PROVIDER

    @property
    def asked_provider(self) -> str:
        """What LLM_PROVIDER would be for the service's model alone, without the local one before it."""
        return self.cascade_model or self.provider if self.is_cascade else self.provider

    @property
    def looks_locally(self) -> bool:
        """Whether the local model runs beside a provider: it looks at photos before they are sent, or in its place."""
        return self.provider == LOCAL_PROVIDER or self.is_cascade or bool(self.local_only_categories)

    @property
    def offers_local(self) -> bool:
        """Whether the local model can be chosen by name."""
        return self.provider == LOCAL_PROVIDER if self.local_model is None else self.local_model

    @property
    def total_timeout_seconds(self) -> float:
        """All attempts and the pauses between them; stays under the 120 s of gunicorn and nginx."""
        return min(self.timeout_seconds * (self.max_retries + 1) + 10.0, 110.0)


def named_classes(text: str) -> dict[str, str]:
    """Return name -> package.module:Class of a comma-separated list of name=package.module:Class.

    Raises:
        ValueError: it is no such list, or a name stands in it twice.
    """
    classes: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        found = _NAMED_CLASS.fullmatch(item)
        if found is None:
            raise ValueError("not a comma-separated list of name=package.module:Class")
        if found["name"] in classes:
            raise ValueError(f"{found['name']} stands there twice")
        classes[found["name"]] = found["target"]
    return classes
