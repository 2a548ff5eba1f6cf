"""Each sentence that a caller may read in an error has its Chinese, with the same values; none is left over."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import TypeVar

import pytest
from pydantic_core import _pydantic_core

from app.api.errors import describe_errors  # noqa: F401 - imports the whole tree
from app.clients.errors import ModelNotFound, ModelUnreachable
from app.config.settings import PROJECT_ROOT
from app.errors import AppError, InvalidRequest
from app.language.accept import Language
from app.language.chinese import PROBLEMS, SENTENCES
from app.language.messages import message_of, problem_of
from app.photo.errors import PhotoError

# They are said to the operator, when the service starts.
AT_START = {
    "app/database/engine.py",
    "app/database/migrate.py",
    "app/services/accounts/lifespan.py",
    "app/services/library/lifespan.py",
    "app/services/request_log/backfill.py",
}
# Where the sentence is a variable: it is the framework's, or one that is checked where it is made.
PASSED_ON = {
    ("app/api/errors.py", "str(error.detail)"),
    ("app/server/limits.py", "msg"),
    ("app/services/accounts/weak_passwords.py", "sentence"),
    ("app/services/photos.py", "error.template"),
}
CHINESE_CHARACTER = re.compile("[\u4e00-\u9fff]")


E = TypeVar("E", bound=Exception)


def below(error: type[E]) -> Iterator[type[E]]:
    yield error
    for child in error.__subclasses__():
        yield from below(child)


# Those of the tests' plugins are theirs.
CLASSES = [error for error in below(AppError) if error.__module__.startswith("app.")]
SOURCES = [path for path in (PROJECT_ROOT / "app").rglob("*.py") if path.parent.name != "language"]


def calls_of(path: Path, names: set[str]) -> Iterator[ast.expr]:
    """The first arguments of the calls of these names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names and node.args:
            yield node.args[0]


def fields_of(sentence: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(sentence) if field is not None}


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_each_error_says_its_sentence_in_chinese(error: type[AppError]) -> None:
    assert not fields_of(error.message)
    assert CHINESE_CHARACTER.search(SENTENCES[error.message])


def test_each_sentence_of_a_single_place_has_its_chinese() -> None:
    names = {error.__name__ for error in (*CLASSES, *below(PhotoError))}
    missing = []
    for path in SOURCES:
        place = path.relative_to(PROJECT_ROOT).as_posix()
        for argument in calls_of(path, names) if place not in AT_START else ():
            choices = [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]
            for choice in choices:
                # One with values in it (an f-string) has to name them instead: `values`.
                is_known = isinstance(choice, ast.Constant) and choice.value in SENTENCES
                if not is_known and (place, ast.unparse(choice)) not in PASSED_ON:
                    missing.append(f"{place}: {ast.unparse(choice)}")
    assert missing == []


def validators() -> list[str]:
    """What validators of ours say of a field."""
    said = []
    for path in SOURCES:
        if path.parent.name in {"schemas", "routes"}:
            module = importlib.import_module(".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts))
            for argument in calls_of(path, {"ValueError"}):
                # The values of these are constants of the module.
                code = compile(ast.Expression(argument), str(path), "eval")
                said.append(eval(code, vars(module)))  # noqa: S307
    return said


def test_what_validators_say_has_its_chinese() -> None:
    said = validators()
    assert said
    assert [sentence for sentence in said if sentence not in SENTENCES] == []


def test_no_sentence_is_left_over() -> None:
    said = {
        node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    }
    assert SENTENCES.keys() - said - set(validators()) == set()


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_chinese_has_the_same_values(sentence: str) -> None:
    assert fields_of(SENTENCES[sentence]) == fields_of(sentence)
    assert CHINESE_CHARACTER.search(SENTENCES[sentence])


def test_the_problems_are_those_of_pydantic_and_have_no_other_values() -> None:
    contexts = {str(each["type"]): set(each.get("example_context") or {}) for each in _pydantic_core.list_all_errors()}
    # Ours.
    contexts["perceptual_hash"] = set()
    for kind, sentence in PROBLEMS.items():
        assert fields_of(sentence) <= contexts[kind], kind


def test_values_are_said_in_both_languages_and_are_not_read_as_sentences() -> None:
    error = InvalidRequest(
        "Unknown query parameter {name!r}; this address knows: {known}.", values={"name": "{0.x}", "known": "a"}
    )
    assert message_of(error, Language.ENGLISH) == "Unknown query parameter '{0.x}'; this address knows: a."
    assert message_of(error, Language.CHINESE) == "未知的查询参数 '{0.x}'；该地址支持：a。"


def test_a_sentence_that_is_not_ours_becomes_that_of_its_class() -> None:
    class OfAPlugin(ModelUnreachable):
        message = "Der Server schläft."

    braces = ModelUnreachable("No {answer} from the server.")
    assert message_of(braces, Language.ENGLISH) == "No {answer} from the server."
    assert message_of(braces, Language.CHINESE) == "无法连接模型，请稍后再试。"
    assert message_of(OfAPlugin(), Language.CHINESE) == "Der Server schläft."


def test_a_problem_that_is_not_known_is_said_in_english() -> None:
    problem = {"type": "uuid_parsing", "msg": "Input should be a valid UUID", "ctx": {"error": "x"}}
    assert problem_of(problem, Language.CHINESE) == "Input should be a valid UUID"


def test_the_causes_that_only_an_operator_can_mend_are_one_sentence() -> None:
    assert message_of(ModelNotFound(), Language.CHINESE) == "模型暂时不可用，请稍后再试。"
