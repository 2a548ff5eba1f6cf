"""Warns of variables that look like settings of the service and are none: a misspelt setting has no effect.

In `.env`, that is every unknown name, except those that Docker Compose and libraries read. The environment is shared
with other programs, so only names count there that begin like ours or almost are ours. Values are never logged.
"""

import os
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches

from loguru import logger

from app.config.settings import known_variables
from app.config.source import read_env_file

# What the second specification and many other services call them.
OTHER_NAMES = {
    "DB_HOST": "MYSQL_HOST",
    "DB_PORT": "MYSQL_PORT",
    "DB_USER": "MYSQL_USER",
    "DB_PASSWORD": "MYSQL_PASSWORD",
    "DB_NAME": "MYSQL_DATABASE",
    "MYSQL_DB": "MYSQL_DATABASE",
    "MYSQL_PASS": "MYSQL_PASSWORD",
    "REDIS_HOST": "REDIS_URL",
}
# Other programs may want these from the environment.
_OTHER_NAMES_IN_FILE = OTHER_NAMES | {
    "DEBUG": "APP_DEBUG",
    "OPENAI_API_KEY": "LLM_API_KEY",
    "OPENAI_BASE_URL": "LLM_BASE_URL",
    "ANTHROPIC_API_KEY": "LLM_API_KEY",
}
_OUR_BEGINNINGS = ("LLM_", "MYSQL_", "LOG_", "CACHE_", "TASK_", "STATS_")
# Known to docker-compose.yml, to MySQL's programs and image, to libraries, and to Python.
_OF_OTHERS = re.compile(
    r"(COMPOSE|DOCKER|AWS|OTEL|PYTHON|UVICORN|GUNICORN|PROMETHEUS)_?.*|HTTPS?_PORT|TZ|\w+_PROXY|SSL_CERT_\w+"
    r"|MYSQL_(ROOT_PASSWORD|ROOT_HOST|ALLOW_EMPTY_PASSWORD|RANDOM_ROOT_PASSWORD|ONETIME_PASSWORD|INITDB_SKIP_TZINFO"
    r"|PWD|TCP_PORT|UNIX_PORT|HOME|HISTFILE|HISTIGNORE|PS1|GROUP_SUFFIX|DEBUG)"
)
# Kubernetes sets them for each service of the namespace: a service named "cache" gives CACHE_PORT=tcp://10.0.0.1:80.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)")
_ADDRESS_OF_KUBERNETES = ("tcp://", "udp://", "sctp://")
# A line of a key that was pasted over several lines may pass for a name; such is not logged.
_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
ALIKE = 0.85
"""From this ratio of difflib on, a name is taken for a misspelt one of ours."""

_told: set[str] = set()


def warn_of_unknown_variables() -> None:
    """Log a line for each unknown variable, once; processes that are forked later do not repeat it."""
    for line in [*_in_file(read_env_file()), *_in_environment(os.environ)]:
        if line not in _told:
            _told.add(line)
            logger.warning("{}", line)


def _in_file(values: Mapping[str, str | None]) -> Iterator[str]:
    for name, value in values.items():
        if value and not _is_known(name) and (_NAME.fullmatch(name) or _is_like_ours(name)):
            yield _line(name, ".env", _OTHER_NAMES_IN_FILE)


def _in_environment(values: Mapping[str, str]) -> Iterator[str]:
    for name, value in values.items():
        if not value or _is_known(name) or _OF_KUBERNETES.fullmatch(name) or value.startswith(_ADDRESS_OF_KUBERNETES):
            continue
        is_ours = name.startswith(_OUR_BEGINNINGS) and _NAME.fullmatch(name)
        if is_ours or name in OTHER_NAMES or _is_like_ours(name):
            yield _line(name, "the environment", OTHER_NAMES)


def _is_known(name: str) -> bool:
    return name in known_variables() or _OF_OTHERS.fullmatch(name) is not None


def _is_like_ours(name: str) -> bool:
    nearest = _nearest(name)
    return nearest is not None and SequenceMatcher(None, nearest, name.upper()).ratio() >= ALIKE


def _nearest(name: str) -> str | None:
    return next(iter(get_close_matches(name.upper(), known_variables(), n=1)), None)


def _line(name: str, place: str, other_names: Mapping[str, str]) -> str:
    nearest = other_names.get(name) or _nearest(name)
    advice = f"did you mean {nearest}?" if nearest else "docs/configuration.md lists all settings."
    return f"{name} in {place} is no setting of the service and has no effect; {advice}"
