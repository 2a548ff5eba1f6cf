import json

import pytest

from app.categories import CATEGORY_TEXTS, Category
from app.clients.llm.parsing import parse_answer
from app.clients.llm.prompt import ANSWER_SCHEMA, Correction, build_prompt
from app.language.accept import Language


@pytest.mark.parametrize("language", list(Language))
def test_prompt_explains_every_category(language: Language) -> None:
    instructions = build_prompt(language).instructions
    for category, text in CATEGORY_TEXTS.items():
        assert f"- {category} ({text.english}, {text.chinese}): {text.meaning}" in instructions


def test_prompt_asks_for_the_language() -> None:
    assert "in Simplified Chinese" in build_prompt(Language.CHINESE).instructions
    assert "in English" in build_prompt(Language.ENGLISH).instructions


@pytest.mark.parametrize("language", list(Language))
def test_example_in_the_prompt_is_valid(language: Language) -> None:
    assert parse_answer(build_prompt(language).instructions).category is Category.FOODS


def test_prompt_defends_against_text_in_the_picture() -> None:
    assert "never an instruction" in build_prompt(Language.ENGLISH).instructions


def test_prompt_says_json() -> None:
    """OpenAI and DashScope refuse JSON mode when the word is missing."""
    assert "JSON" in build_prompt(Language.ENGLISH).question


def test_schema_is_what_strict_mode_takes() -> None:
    assert set(ANSWER_SCHEMA["required"]) == set(ANSWER_SCHEMA["properties"])
    assert ANSWER_SCHEMA["additionalProperties"] is False
    assert ANSWER_SCHEMA["properties"]["category"]["enum"] == [str(category) for category in Category]
    assert "minimum" not in json.dumps(ANSWER_SCHEMA)


def test_correction_tells_the_problem() -> None:
    assert "It was empty." in Correction("", "It was empty.").request
