"""What an error says in the language of its caller."""

from collections.abc import Mapping
from typing import Any

from app.errors import AppError
from app.language.accept import Language
from app.language.chinese import PROBLEMS, SENTENCES


def message_of(error: AppError, language: Language) -> str:
    """Return the sentence of an error.

    A sentence that is not ours, such as a plugin's, is replaced by that of the error's class, if that one is ours.
    """
    if language is Language.ENGLISH:
        return error.text
    sentence = SENTENCES.get(error.template)
    if sentence is None:
        return SENTENCES.get(error.message, error.text)
    # A value may be a sentence too: what is wrong with a field.
    values = {
        name: SENTENCES.get(value, value) if isinstance(value, str) else value for name, value in error.values.items()
    }
    return sentence.format(**values)


def problem_of(problem: Mapping[str, Any], language: Language) -> str:
    """Return what is wrong with a field, one of pydantic's `errors()`."""
    english: str = problem["msg"]
    if language is Language.ENGLISH:
        return english
    context: Mapping[str, Any] = problem.get("ctx", {})
    if (reason := context.get("error")) and isinstance(reason, ValueError):
        # Of a validator of ours.
        return SENTENCES.get(str(reason), str(reason))
    sentence = PROBLEMS.get(problem["type"])
    if sentence is None:
        return english
    # Of an enumeration: "'hour' or 'day'".
    expected = str(context.get("expected", "")).replace(", ", "、").replace(" or ", "、")
    return sentence.format(**{**context, "expected": expected})
