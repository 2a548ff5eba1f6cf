"""gunicorn's own messages, in the form and the places of ours, from the first on."""

from typing import Any

from gunicorn.glogging import Logger

from app.config.settings import load_settings
from app.config.unknown import warn_of_unknown_variables
from app.observability.logging import configure_logging


class SharedLogger(Logger):  # type: ignore[misc]  # it comes without types
    """Hands everything to `app/observability/logging.py`."""

    def setup(self, cfg: Any) -> None:
        """Read gunicorn's settings, then take its handlers away."""
        super().setup(cfg)
        configure_logging(load_settings())
        # Before the fork, so that no worker repeats it.
        warn_of_unknown_variables()
