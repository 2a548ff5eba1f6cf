"""Where settings come from: the environment, then `.env`, and of both only the variables that we document."""

import os
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


def read_env_file() -> dict[str, str | None]:
    """Return the variables of `.env` in the working directory; none where there is no such file."""
    # Not interpolated: a password may well contain "${".
    return dotenv_values(".env", interpolate=False, encoding="utf-8-sig")


class _DocumentedVariables(PydanticBaseSettingsSource):
    """The environment, then `.env`; an empty variable counts as not set.

    Only the names of `.env.example` count. pydantic-settings' own source would also take `HOST`, `USER` or `IMAGE`,
    which many shells and build servers set, for the fields of these names.
    """

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._file = read_env_file()

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = field.validation_alias
        if not isinstance(name, str) or field_name in self.current_state:
            return None, field_name, False
        return os.environ.get(name) or self._file.get(name) or None, name, False

    def __call__(self) -> dict[str, Any]:
        found = [self.get_field_value(field, name) for name, field in self.settings_cls.model_fields.items()]
        return {name: value for value, name, _ in found if value is not None}


class SettingsGroup(BaseSettings):
    """Base of every group of settings."""

    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, hide_input_in_errors=True, frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _DocumentedVariables(settings_cls)


def problems_of(error: ValidationError) -> list[str]:
    """Return what is wrong with settings in a line each, without the values."""
    return [
        f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]
