"""Servers differ in what they accept, so a request has a form, and a refused form is followed by the next lower one.

Three things are negotiable: how the answer's format is asked for, how thinking is kept short (thoughts count against
the token limit), and what the token limit is called. Each steps down on its own and never up again, so that a
negotiation ends after `1 + 2 + 2 + 1` requests at most; servers do not charge for a request that they refuse.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class AnswerFormat(StrEnum):
    """How the answer's format is asked for: a JSON schema, any JSON object, or by the prompt alone."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    PROMPT = "prompt"


class Thinking(StrEnum):
    """How the model is told to think little: not at all, little, or by not mentioning it."""

    OFF = "off"
    LOW = "low"
    UNSAID = "unsaid"


class TokenLimit(StrEnum):
    """The name of the field with the token limit; OpenAI's newer models refuse the older name."""

    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    MAX_TOKENS = "max_tokens"


@dataclass(frozen=True, slots=True)
class RequestForm:
    """One way to put a request, and for each part what may follow when the server refuses it."""

    formats: tuple[AnswerFormat, ...]
    thinking: tuple[Thinking, ...]
    token_limits: tuple[TokenLimit, ...]

    @property
    def format(self) -> AnswerFormat:
        return self.formats[0]

    @property
    def thinking_mode(self) -> Thinking:
        return self.thinking[0]

    @property
    def token_limit(self) -> TokenLimit:
        return self.token_limits[0]


_THINKING_WORDS = ("reasoning", "thinking", "effort")
_TOKEN_LIMIT_WORDS = ("max_tokens", "max_completion_tokens")
_FORMAT_WORDS = ("response_format", "output_config", "output_format", "schema", "json_object", "structured", "grammar")
_IMAGE_WORDS = ("image", "vision", "multimodal", "multi-modal", "content must be a string", "图片", "图像")


def blames_picture(complaint: str) -> bool:
    """Say whether a refusal (lower case) is about the picture, not about the form of the request."""
    return any(word in complaint for word in _IMAGE_WORDS)


def next_form(form: RequestForm, complaint: str) -> RequestForm | None:
    """Return the form to try after a refusal, or None when nothing is left to try.

    `complaint` is the server's answer in lower case. What it names is stepped down; when it names nothing that can
    be, it is about the picture or says nothing, and only in the latter case the next part in turn is stepped down.
    """
    steps = (
        (_THINKING_WORDS, replace(form, thinking=form.thinking[1:]) if len(form.thinking) > 1 else None),
        (_TOKEN_LIMIT_WORDS, replace(form, token_limits=form.token_limits[1:]) if len(form.token_limits) > 1 else None),
        (_FORMAT_WORDS, replace(form, formats=form.formats[1:]) if len(form.formats) > 1 else None),
    )
    for words, lower in steps:
        if lower is not None and any(word in complaint for word in words):
            return lower
    if blames_picture(complaint):
        return None
    return next((lower for _, lower in reversed(steps) if lower is not None), None)
