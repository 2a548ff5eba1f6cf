import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.categories import Category
from app.clients.errors import ModelAnswerInvalid
from app.clients.llm.parsing import (
    ANSWER_MAX_CHARACTERS,
    DESCRIPTION_MAX_CHARACTERS,
    clean_text,
    is_whole,
    parse_answer,
)

VALID = {"category": "pets", "confidence": 0.9, "description": "一只猫"}
BARE = json.dumps(VALID, ensure_ascii=False)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


def changed(**fields: Any) -> str:
    return json.dumps(VALID | fields)


@pytest.mark.parametrize(
    "text",
    [
        BARE,
        f"\ufeff  {BARE}\n",
        f"```json\n{BARE}\n```",
        f"```\n{BARE}\n```",
        f"Here is {{the}} answer: {BARE} I hope it helps {{}}".replace("{}", ":-)"),
        f"{BARE}\n{BARE}",
        f'<think>{{"category": "foods"}} or not?</think>{BARE}',
        changed(category=" Pets "),
        changed(reasoning={"because": ["it", "purrs"]}),
        f"[{BARE}]",
    ],
)
def test_one_object_is_read(text: str) -> None:
    answer = parse_answer(text)
    assert answer == (Category.PETS, 0.9, "一只猫")


DRAFT = '{"category": "other", "confidence": 0.5, "description": "draft"}'
MARKS = [
    ("<think>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<|think|>", "<|/think|>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
    ("analysis", "assistantfinal"),
]


@pytest.mark.parametrize(("opening", "closing"), MARKS)
@pytest.mark.parametrize(
    "form", ["{0} {2} {1} {3}", "{2} {1}\n\n{3}", "{0}{0}{2}{1}{2}{1}{3}", "It may be {2}. {1}\n```json\n{3}\n```"]
)
def test_thoughts_are_no_answer(opening: str, closing: str, form: str) -> None:
    """As `../shared/cases/answer_thoughts_unmarked`, where only the closing mark is there."""
    answer = parse_answer(form.format(opening, closing, DRAFT, BARE))
    assert answer == (Category.PETS, 0.9, "一只猫")


@pytest.mark.parametrize("opening", [opening for opening, _ in MARKS[:-1]])
@pytest.mark.parametrize("form", ["{0} {1}. But wait, in the middle", "{0}{1}", "{1}</think>{0} or {1}"])
def test_thoughts_that_do_not_end_hold_no_answer(opening: str, form: str) -> None:
    """As `../shared/cases/answer_thoughts_unended`."""
    with pytest.raises(ModelAnswerInvalid, match="do not end"):
        parse_answer(form.format(opening, DRAFT))


def test_a_mark_in_a_description_is_part_of_it() -> None:
    assert parse_answer(changed(description="a page about <think> and </think>")).category is Category.PETS


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (BARE + "\n" * 300, True),
        (BARE + " ", True),
        (BARE, False),
        (BARE[:-1] + "  ", False),
        ("", False),
        (" ", False),
    ],
)
def test_blank_space_after_the_object(text: str, whole: bool) -> None:
    assert is_whole(text) is whole


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no valid JSON"),
        ("It is a cat.", "no valid JSON"),
        ("null", "no valid JSON"),
        ('["pets", 0.9]', "no valid JSON"),
        (BARE[:-1], "no valid JSON"),
        (BARE.replace('"', "'"), "no valid JSON"),
        (BARE + BARE.replace("pets", "foods"), "more than one"),
        (BARE + "{" * 40, "more than one"),
        ('{"category": "pets", "category": "foods", "confidence": 0.9}', "twice"),
        ('{"category": "pets", "confidence": 0.9, "more": {"a": 1, "a": 2}}', "twice"),
        ("{}", "category"),
        (changed(category="cats"), "category"),
        (changed(category="宠物萌照"), "category"),
        (changed(category=["pets"]), "category"),
        (changed(category=None), "category"),
        ('{"answer": ' + BARE + "}", "category"),
        ('{"category": "pets"}', "confidence"),
        (changed(confidence=1.7), "confidence"),
        (changed(confidence=-0.01), "confidence"),
        (changed(confidence=95), "confidence"),
        (changed(confidence="0.9"), "confidence"),
        (changed(confidence="90%"), "confidence"),
        (changed(confidence=True), "confidence"),
        (changed(confidence=None), "confidence"),
        (changed(confidence=float("nan")), "confidence"),
        (changed(confidence=float("inf")), "confidence"),
        ('{"category": "pets", "confidence": 1e999}', "confidence"),
        ('{"category": "pets", "confidence": 0.' + "9" * 5000 + "e9}", "confidence"),
        ('{"category": "pets", "confidence": ' + "9" * 5000 + "}", "no valid JSON"),
        ("x" * (ANSWER_MAX_CHARACTERS + 1), "characters"),
    ],
)
def test_invalid_answer_is_named_and_not_quoted(text: str, problem: str) -> None:
    with pytest.raises(ModelAnswerInvalid) as raised:
        parse_answer(text)
    assert problem in raised.value.text
    assert "cats" not in raised.value.text


@pytest.mark.parametrize("confidence", [0, 1, 0.0, 1.0, 5e-324])
def test_confidence_at_the_bounds(confidence: float) -> None:
    parsed = parse_answer(changed(confidence=confidence)).confidence
    assert parsed == confidence
    assert type(parsed) is float


@pytest.mark.parametrize("opening", ["[", "{", '{"a":', '{"', '[{"a":[', "{}", '{"a":1}', "<think>", '{"a":"'])
@pytest.mark.parametrize("characters", [ANSWER_MAX_CHARACTERS, 100_000])
@pytest.mark.timeout(60)
def test_hostile_nesting_is_refused(opening: str, characters: int) -> None:
    text = (opening * characters)[:characters]
    with pytest.raises(ModelAnswerInvalid):
        parse_answer(text)


@pytest.mark.parametrize("description", [None, "", "  \n ", 7, ["a"], {"zh": "猫"}, "\x00\x1b\u202e"])
def test_unusable_description_counts_as_absent(description: object) -> None:
    assert parse_answer(changed(description=description)).description is None


def test_description_is_cleaned_and_bounded() -> None:
    text = "A \x00cat\x1b[31m\n\tsays \u202e\ud800hi\u200b 👩\u200d🚀 " + "x" * 1000
    description = parse_answer(changed(description=text)).description
    assert description is not None
    assert description.startswith("A cat[31m says hi 👩\u200d🚀 xxx")
    assert len(description) == DESCRIPTION_MAX_CHARACTERS


@given(st.text())
@example("\ud800")
@example(BARE)
def test_any_text_is_valid_or_invalid(text: str) -> None:
    try:
        confidence = parse_answer(text).confidence
    except ModelAnswerInvalid:
        return
    assert 0 <= confidence <= 1


@given(json_values, json_values, json_values)
def test_any_values_are_valid_or_invalid(category: Any, confidence: Any, description: Any) -> None:
    text = json.dumps({"category": category, "confidence": confidence, "description": description})
    with pytest.raises(ModelAnswerInvalid, match="category"):
        parse_answer(text)
    valid = type(confidence) in {int, float} and 0 <= confidence <= 1
    text = json.dumps({"category": "foods", "confidence": confidence, "description": description})
    if valid:
        answer = parse_answer(text)
        assert (answer.category, answer.confidence) == (Category.FOODS, confidence)
        assert answer.description is None or isinstance(description, str)
    else:
        with pytest.raises(ModelAnswerInvalid, match="confidence"):
            parse_answer(text)


@given(st.sampled_from(Category), st.floats(0, 1), st.text(), st.text(st.characters(exclude_characters="{}<")))
def test_valid_answer_survives_its_surroundings(
    category: Category, confidence: float, description: str, prose: str
) -> None:
    fields = {"category": category, "confidence": confidence, "description": description}
    answer = parse_answer(f"{prose}{json.dumps(fields)}{prose}")
    assert (answer.category, answer.confidence) == (category, confidence)


@given(st.text(st.characters(codec=None)), st.integers(1, 50))
def test_clean_text_can_be_stored(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    assert len(cleaned) <= limit
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert "\n" not in cleaned
    assert "\x00" not in cleaned
