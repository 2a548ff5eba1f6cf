"""What comes of trying to get the right to ask the model for a photo, and of asking it for one account."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.database.statements import Statement
from app.errors import AppError
from app.services.cache.entry import CachedResult
from app.services.request_log.record import Similar


class Outcome(NamedTuple):
    """What is answered, whether it cost nothing, and which photo's answer it is, if a similar one's."""

    entry: CachedResult
    from_cache: bool
    similar: Similar | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """There is a result."""

    entry: CachedResult


@dataclass(frozen=True, slots=True)
class Claimed:
    """The lease is owned by this process: `save_and_release` or `release` must follow."""


@dataclass(frozen=True, slots=True)
class Held:
    """Another process owns the lease."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A limit of the caller is reached."""

    error: AppError


@dataclass(frozen=True, slots=True)
class ApartResult:
    """A result that is kept for one account.

    `statements` belong to the transaction that keeps it; there are none where the model was not asked.
    """

    result: CachedResult
    from_cache: bool
    statements: Sequence[Statement] = ()
