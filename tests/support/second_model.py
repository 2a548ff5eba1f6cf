"""A further model as docs/providers.md shows it: another server, with a key of its own."""

import os
from typing import ClassVar

from pydantic import SecretStr

from app.clients.llm.custom import CustomClient
from app.config.model import ModelSettings

ADDRESS_VARIABLE = "SECOND_MODEL_URL"
KEY_VARIABLE = "SECOND_MODEL_KEY"
MODEL = "gpt-6-luna"


class SecondClient(CustomClient):
    provider: ClassVar[str] = "second"

    def __init__(self, settings: ModelSettings) -> None:
        own = {
            "base_url": os.environ[ADDRESS_VARIABLE],
            "api_key": SecretStr(os.environ[KEY_VARIABLE]),
            "model": MODEL,
        }
        super().__init__(settings.model_copy(update=own))


class FreeClient(CustomClient):
    """A server of one's own: its calls cost nothing."""

    provider: ClassVar[str] = "free"
    is_paid: ClassVar[bool] = False
