"""The probability of each category, from the log-probabilities of the answer's tokens.

Where the tokens of the category's value branch, each other way that the server lists leads to another category (or to
none, and is left out). What the tokens after the value say plays no part.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from app.categories import Category

TOP_LOGPROBS = 5
"""How many ways the server lists at each token: what all servers allow that list any (DashScope's limit)."""
_VALUE = re.compile(r'"category"\s*:\s*"\s*(?P<key>[A-Za-z_]+)\s*"')
# An answer has about sixty tokens; one that thinks aloud, as many as LLM_MAX_TOKENS.
_MAX_TOKENS = 20_000
_MIN_TOTAL = 1e-9


class _Token(NamedTuple):
    text: str
    logprob: float
    others: list[tuple[str, float]]


def category_probabilities(content: object) -> dict[Category, float] | None:
    """Return the probabilities of the categories that the answer could have had; they sum to 1.

    Args:
        content: `choices[0].logprobs.content` of a chat completion. Nothing of it can be relied on.

    Returns:
        The answer's category and those that the server has listed beside it; None where there is nothing to be read.
    """
    tokens = _tokens(content)
    if tokens is None:
        return None
    text = "".join(token.text for token in tokens)
    # After thoughts that hold drafts, the last one counts.
    found = next(iter(reversed(list(_VALUE.finditer(text)))), None)
    if found is None or found["key"].lower() not in set(Category):
        return None
    start, end = found.span("key")
    masses = dict.fromkeys(Category, 0.0)
    so_far, place = 0.0, 0
    for token in tokens:
        before, place = place, place + len(token.text)
        if place <= start:
            continue
        if before >= end:
            break
        for other, logprob in token.others:
            if other != token.text:
                _add(masses, _value_of(text[before:start], text[start:before], other), _mass(so_far + logprob))
        so_far += token.logprob
    masses[Category(found["key"].lower())] += _mass(so_far)
    total = sum(masses.values())
    if total < _MIN_TOTAL:
        return None
    return {category: mass / total for category, mass in masses.items() if mass > 0}


def _value_of(lead: str, begun: str, other: str) -> str | None:
    """Return the beginning of the value if `other` came here; None where it is no value.

    Args:
        lead: what the token has before the value, such as a quotation mark.
        begun: what the tokens before have of the value.
        other: the token in its place.
    """
    if lead:
        return other[len(lead) :] if other.startswith(lead) else None
    return begun + other


def _add(masses: dict[Category, float], beginning: str | None, mass: float) -> None:
    """Give the mass to the category that begins so; in equal parts where there are several."""
    value, closing, _ = (beginning or "").partition('"')
    value = value.strip().lower()
    if not value:
        return
    meant = [key for key in Category if (key == value if closing else key.startswith(value))]
    for category in meant:
        masses[category] += mass / len(meant)


def _mass(logprob: float) -> float:
    return math.exp(min(logprob, 0.0))


def _tokens(content: object) -> list[_Token] | None:
    if not isinstance(content, list) or not 0 < len(content) <= _MAX_TOKENS:
        return None
    tokens = []
    for each in content:
        pair = _pair(each)
        if pair is None:
            return None
        others = getattr(each, "top_logprobs", None)
        tokens.append(_Token(*pair, list(_pairs(others))))
    return tokens


def _pairs(others: object) -> Iterator[tuple[str, float]]:
    for other in others[:20] if isinstance(others, list) else ():
        if (pair := _pair(other)) is not None:
            yield pair


def _pair(each: object) -> tuple[str, float] | None:
    text, logprob = getattr(each, "token", None), getattr(each, "logprob", None)
    if not isinstance(text, str) or isinstance(logprob, bool) or not isinstance(logprob, (int, float)):
        return None
    return None if math.isnan(logprob) else (text, float(logprob))
