"""Servers differ in what they accept, so a request has a form, and a refused form is followed by the next lower one.

Negotiable are: whether log-probabilities are asked for, how the answer's format is asked for, how thinking is kept
short (thoughts count against the token limit), what the token limit is called, where the instructions stand, how the
picture is written, and whether the end of the fixed part is marked. Each steps down on its own and never up again, so
that a negotiation ends after `1 + 1 + 2 + 2 + 1 + 1 + 1 + 1` requests at most; servers do not charge for a request that
they refuse. Where a server ignores the wish for no thoughts, the answer shows it: then
further ways to say it are tried, one with each answer, which costs no request.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class AnswerFormat(StrEnum):
    """How the answer's format is asked for: a JSON schema, any JSON object, or by the prompt alone."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    PROMPT = "prompt"


class Thinking(StrEnum):
    """How the model is told to think little: not at all, little, or by not mentioning it.

    The others are ways of particular servers to say "not at all": `thinking` (Zhipu, Ark, Moonshot), `enable_thinking`
    (DashScope, SiliconFlow) and the same as an argument of the model's template (vLLM, SGLang).
    """

    OFF = "off"
    LOW = "low"
    UNSAID = "unsaid"
    DISABLED = "thinking.type"
    NOT_ENABLED = "enable_thinking"
    TEMPLATE = "chat_template_kwargs"


class Logprobs(StrEnum):
    """Whether the log-probabilities of the answer's tokens are asked for."""

    ASKED = "logprobs"
    UNSAID = "no_logprobs"


class TokenLimit(StrEnum):
    """The name of the field with the token limit; OpenAI's newer models refuse the older name."""

    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    MAX_TOKENS = "max_tokens"


class Instructions(StrEnum):
    """Where the instructions stand: some models take no system message, or none beside a picture."""

    SYSTEM = "system"
    USER = "user"


class Picture(StrEnum):
    """How the picture is written: as a `data:` URL, or as bare Base64 in its place (Zhipu)."""

    DATA_URL = "data_url"
    BASE64 = "base64"


class Caching(StrEnum):
    """What of the prompt the provider shall keep for later requests: the fixed part and no more, or what it likes.

    A photo is never asked about twice, and OpenAI charges 1.25 times the price for what it keeps
    (https://developers.openai.com/api/docs/guides/prompt-caching).
    """

    FIXED_PART = "cache_fixed_part"
    UNSAID = "no_cache_mark"


@dataclass(frozen=True, slots=True)
class RequestForm:
    """One way to put a request, and for each part what may follow when the server refuses it.

    `other_ways` of `Thinking` are tried when an answer comes with thoughts all the same.
    """

    formats: tuple[AnswerFormat, ...]
    thinking: tuple[Thinking, ...]
    token_limits: tuple[TokenLimit, ...]
    instructions: tuple[Instructions, ...] = (Instructions.SYSTEM,)
    pictures: tuple[Picture, ...] = (Picture.DATA_URL,)
    other_ways: tuple[Thinking, ...] = ()
    logprobs: tuple[Logprobs, ...] = (Logprobs.UNSAID,)
    caching: tuple[Caching, ...] = (Caching.UNSAID,)

    @property
    def format(self) -> AnswerFormat:
        return self.formats[0]

    @property
    def thinking_mode(self) -> Thinking:
        return self.thinking[0]

    @property
    def token_limit(self) -> TokenLimit:
        return self.token_limits[0]

    def __str__(self) -> str:
        parts: tuple[tuple[StrEnum, ...], ...] = (
            *(self.formats, self.thinking, self.token_limits, self.instructions),
            *(self.pictures, self.logprobs, self.caching),
        )
        return " ".join(str(part[0]) for part in parts)


_THINKING_WORDS = ("reasoning", "thinking", "effort", "chat_template_kwargs")
_TOKEN_LIMIT_WORDS = ("max_tokens", "max_completion_tokens")
# "Logprobs is not enabled for models/gemini-2.5-pro", "Unrecognized request argument supplied: logprobs".
_LOGPROBS_WORDS = ("logprobs",)
_CACHING_WORDS = ("prompt_cache",)
_FORMAT_WORDS = ("response_format", "output_config", "output_format", "schema", "json_object", "structured", "grammar")
# vllm#8854 ("incompatible with system messages"), litellm#6569, rig#788; templates of Gemma and Mistral ("must
# alternate"); Google AI Studio ("Developer instruction is not enabled").
_INSTRUCTIONS_WORDS = (
    *("system message", "system role", "system prompt", "system instruction", "developer instruction"),
    *("role 'system'", 'role "system"', "role: system", "must alternate", "roles are supported"),
)
# Of Zhipu (https://github.com/BigPizzaV3/CodexPlusPlus/issues/2031), and of servers that want Base64 or say "no URL".
_PICTURE_WORDS = (
    *("图片输入格式", "base64", "data:image", "data url", "data uri", "invalid image_url", "invalid image url"),
    *("image url format", "url scheme", "unsupported protocol", "must be a valid url"),
)
_IMAGE_WORDS = ("image", "vision", "multimodal", "multi-modal", "content must be a string", "图片", "图像")


def blames_picture(complaint: str) -> bool:
    """Say whether a refusal (lower case) is about the picture, not about the form of the request."""
    return any(word in complaint for word in _IMAGE_WORDS)


def next_form(form: RequestForm, complaint: str, *, has_worked: bool, may_guess: bool = True) -> RequestForm | None:
    """Return the form to try after a refusal, or None when nothing is left to try.

    `complaint` is the server's answer in lower case. What it names is stepped down; when it names nothing that can
    be, it is about the picture or says nothing, and only in the latter case the next part in turn is stepped down, if
    `may_guess`.
    In a form that `has_worked` with other pictures, only what is named can be at fault, and the picture's form is not.
    """
    if "enable_thinking" in complaint and Thinking.NOT_ENABLED in form.other_ways:
        # DashScope: "parameter.enable_thinking must be set to false for non-streaming calls".
        return _with_way(form, Thinking.NOT_ENABLED)
    steps = [
        (_THINKING_WORDS, replace(form, thinking=form.thinking[1:]) if len(form.thinking) > 1 else None),
        (_TOKEN_LIMIT_WORDS, replace(form, token_limits=form.token_limits[1:]) if len(form.token_limits) > 1 else None),
        (_FORMAT_WORDS, replace(form, formats=form.formats[1:]) if len(form.formats) > 1 else None),
        (_LOGPROBS_WORDS, replace(form, logprobs=form.logprobs[1:]) if len(form.logprobs) > 1 else None),
        (_CACHING_WORDS, replace(form, caching=form.caching[1:]) if len(form.caching) > 1 else None),
    ]
    if not has_worked:
        steps += [
            (_INSTRUCTIONS_WORDS, replace(form, instructions=form.instructions[1:]) if form.instructions[1:] else None),
            (_PICTURE_WORDS, replace(form, pictures=form.pictures[1:]) if form.pictures[1:] else None),
        ]
    for words, lower in steps:
        if lower is not None and any(word in complaint for word in words):
            return lower
    if has_worked or not may_guess or blames_picture(complaint):
        return None
    # What costs the least is given up first: the mark, log-probabilities, format, the limit's name, thinking, then the
    # places.
    return next((lower for _, lower in (*reversed(steps[:5]), *steps[5:]) if lower is not None), None)


def form_after_thoughts(form: RequestForm) -> RequestForm:
    """Return the form to try next after an answer that came with thoughts, though it was asked for without."""
    if form.other_ways:
        return _with_way(form, form.other_ways[0])
    if form.thinking_mode in {Thinking.DISABLED, Thinking.NOT_ENABLED, Thinking.TEMPLATE}:
        # None of them helps, so none is sent.
        return replace(form, thinking=(Thinking.UNSAID,))
    return form


def _with_way(form: RequestForm, way: Thinking) -> RequestForm:
    return replace(
        form,
        thinking=(way, Thinking.UNSAID),
        other_ways=tuple(other for other in form.other_ways if other is not way),
    )
