"""A model's text becomes a classification only if everything in it is valid; nothing is guessed, mapped or filled in.

Accepted: one JSON object, bare, in a code fence or with prose around it (the same object twice is one object), after
thoughts that are marked as such and have come to an end.
A category may differ in case and surrounding spaces. A confidence is a JSON number from 0 to 1: a string such as
"0.9", `true`, NaN and a percentage such as 95 are invalid, since reading them would be a guess. Further keys are
ignored. A description is optional; one that is not text counts as absent.
"""

import json
import re
import unicodedata
from typing import Any, NamedTuple

from app.categories import Category
from app.clients.errors import ModelAnswerInvalid

DESCRIPTION_MAX_CHARACTERS = 500
# An answer has about 200 characters; this leaves room for a model that thinks aloud, and bounds the search below.
ANSWER_MAX_CHARACTERS = 32_000
# Each brace in prose starts a vain attempt to read JSON; more of them than this are not prose around one object.
_MAX_ATTEMPTS = 32
_ZERO_WIDTH_JOINER = "\u200d"

# What models put around their thoughts, drafts of the answer included, where their server leaves it in the text:
# DeepSeek, Qwen, GLM (<think>), Gemini (<thought>), Mistral ([THINK]), Kimi (◁think▷), Seed (<seed:think>), Skywork
# (<|begin_of_thought|>), MedGemma (<unused94>), and gpt-oss' channels (https://cookbook.openai.com/articles/openai-harmony).
_NAMES = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad)"
_OPENING = re.compile(
    rf"<\|?{_NAMES}\|?>|\[think\]|◁think▷|<\|begin_of_thought\|>|<unused94>|<\|channel\|?>(?:analysis|thought)",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"<\|?/{_NAMES}\|?>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<unused95>|<\|channel\|>final(?:<\|message\|>)?"
    r"|<channel\|>|assistantfinal",
    re.IGNORECASE,
)


class ParsedAnswer(NamedTuple):
    """A valid answer; `confidence` is 0..1, `description` has at most `DESCRIPTION_MAX_CHARACTERS` characters."""

    category: Category
    confidence: float
    description: str | None


def parse_answer(text: str) -> ParsedAnswer:
    """Read a classification from a model's answer.

    Raises:
        ModelAnswerInvalid: its text says what is wrong, without quoting the answer, and can be told to the model.
    """
    answer = _only_object(text)
    return ParsedAnswer(
        _category(answer.get("category")),
        _confidence(answer.get("confidence")),
        _description(answer.get("description")),
    )


def clean_text(text: str, max_characters: int) -> str:
    """Return `text` as one line without control, direction and surrogate characters, cut to `max_characters`.

    A lone surrogate cannot be stored as UTF-8, and direction overrides can disguise what a line says.
    """
    kept = "".join(
        character
        for character in " ".join(text.split())
        if character == _ZERO_WIDTH_JOINER or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
    )
    return kept[:max_characters].strip()


def has_thoughts(text: str) -> bool:
    """Say whether a model's thoughts stand in its answer, marked by one of the usual marks."""
    return bool(_OPENING.search(text) or _CLOSING.search(text))


def is_whole(text: str) -> bool:
    """Say whether an answer that the token limit ended was over before: an object, and then blank space to the end.

    A model that is held to a schema may go on with the blanks that JSON allows after it.
    """
    return text.rstrip() != text and text.rstrip().endswith("}")


def _without_thoughts(text: str) -> str:
    """Return what comes after the last closing mark: the opening one is often part of the prompt, and so not there.

    Raises:
        ModelAnswerInvalid: thoughts have no end, so what looks like an answer in them is a draft.
    """
    answer = text[max((closing.end() for closing in _CLOSING.finditer(text)), default=0) :]
    if _OPENING.search(answer):
        raise ModelAnswerInvalid("The answer holds thoughts that do not end.")
    return answer


def _only_object(text: str) -> dict[str, Any]:
    text = text.strip()
    if len(text) > ANSWER_MAX_CHARACTERS:
        raise ModelAnswerInvalid("The answer has more than {most} characters.", values={"most": ANSWER_MAX_CHARACTERS})
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates)
    if not _is_one_value(text):
        text = _without_thoughts(text)
    found: list[dict[str, Any]] = []
    start = text.find("{")
    for _ in range(_MAX_ATTEMPTS):
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
            if value not in found:
                found.append(value)
        except (ValueError, RecursionError):
            # Not JSON from this brace on, or nested beyond reason: a later brace may start the object.
            end = start + 1
        start = text.find("{", end)
    if not found:
        raise ModelAnswerInvalid("The answer holds no valid JSON object.")
    if len(found) > 1 or start >= 0:
        raise ModelAnswerInvalid("The answer holds more than one JSON object.")
    return found[0]


def _is_one_value(text: str) -> bool:
    """Say whether the answer is JSON and nothing else, so that a mark in it is part of a description."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ModelAnswerInvalid("A key stands twice in the JSON object.")
    return result


def _category(value: object) -> Category:
    key = value.strip().lower() if isinstance(value, str) else None
    for category in Category:
        if category.value == key:
            return category
    raise ModelAnswerInvalid('"category" must be one of: {categories}.', values={"categories": ", ".join(Category)})


def _confidence(value: object) -> float:
    # bool is a subclass of int; NaN fails both comparisons.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ModelAnswerInvalid('"confidence" must be a number from 0 to 1, such as 0.85; not a percentage, not text.')


def _description(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return clean_text(value, DESCRIPTION_MAX_CHARACTERS) or None
