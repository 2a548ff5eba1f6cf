"""The header Accept-Language: which of the service's two languages a caller would rather read."""

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

HEADER = b"accept-language"
# That of a browser with a dozen languages is shorter.
MAX_CHARACTERS = 300
# https://www.rfc-editor.org/rfc/rfc9110#section-12.5.4: a range, of which the first part is the language, and a weight.
_RANGE = re.compile(r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*[qQ]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?")


class Language(StrEnum):
    """What the service speaks; the values are those of HTML's `lang`."""

    ENGLISH = "en"
    CHINESE = "zh"

    @property
    def other(self) -> "Language":
        """The one that it is not."""
        return Language.ENGLISH if self is Language.CHINESE else Language.CHINESE


def asked_language(headers: Iterable[tuple[bytes, bytes]]) -> Language:
    """Return the language that a request would rather have; English where it names neither.

    Each form of Chinese (`zh-CN`, `zh-Hans`, `zh-TW`) is Chinese. Of two that it wants alike, it is the first. What is
    not as RFC 9110 has it is passed over.

    Args:
        headers: of the request, their names in lower case.
    """
    return said_language(headers) or Language.ENGLISH


def said_language(headers: Iterable[tuple[bytes, bytes]]) -> Language | None:
    """Return the same, but None where a request says nothing: no header, or `*` alone, which Node.js sends."""
    field = b",".join([value for name, value in headers if name == HEADER])
    return _language_in(field[:MAX_CHARACTERS]) if field else None


# A browser says the same with each request.
@lru_cache(maxsize=1000)
def _language_in(field: bytes) -> Language | None:
    weights: dict[str, float] = {}
    for piece in field.decode("latin-1").split(","):
        if found := _RANGE.fullmatch(piece):
            name = found[1].lower()
            weights[name] = max(float(found[2] or 1), weights.get(name, 0.0))
    if weights.keys() <= {"*"}:
        return None
    others = weights.get("*", 0.0)
    named = [Language(name) for name, weight in weights.items() if weight and name in set(Language)]
    candidates: list[Language] = [*named, *Language]
    # The first of the greatest.
    return max(candidates, key=lambda language: weights.get(language, others))
