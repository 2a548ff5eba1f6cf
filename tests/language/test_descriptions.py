"""In which language a request gets its descriptions, and what is told of a description by its characters."""

import pytest

from app.config.model import DescriptionLanguage, ModelSettings
from app.language.accept import Language
from app.language.descriptions import guessed_language, language_of

AUTO = DescriptionLanguage.AUTO


@pytest.mark.parametrize(
    ("lang", "accepts", "zone", "language"),
    [
        ("en", "zh", "Asia/Shanghai", "en"),
        ("zh", "en", "Europe/Berlin", "zh"),
        (None, "en-GB,en;q=0.9", "Asia/Shanghai", "en"),
        (None, "zh-CN", "Europe/Berlin", "zh"),
        # It says something, and that is not Chinese.
        (None, "fr", "Asia/Shanghai", "en"),
        # Nothing is said, by no header or by what Node.js sends.
        (None, None, "Asia/Shanghai", "zh"),
        (None, "", "Asia/Urumqi", "zh"),
        (None, "*", "Asia/Chongqing", "zh"),
        (None, ";;,", "Asia/Harbin", "zh"),
        (None, None, "Asia/Hong_Kong", "en"),
        (None, "*;q=0.5", "UTC", "en"),
    ],
)
def test_the_query_wins_then_the_header_then_the_zone(
    lang: str | None, accepts: str | None, zone: str, language: str
) -> None:
    headers = [] if accepts is None else [(b"accept-language", accepts.encode())]
    asked = None if lang is None else Language(lang)
    assert language_of(AUTO, asked, headers, zone) is Language(language)
    for setting in (DescriptionLanguage.CHINESE, DescriptionLanguage.ENGLISH):
        assert language_of(setting, asked, headers, zone).value == setting.value


def test_the_setting_says_whether_there_is_one_language() -> None:
    fixed = {each: ModelSettings.model_validate({"description_language": each}) for each in DescriptionLanguage}
    assert [fixed[each].fixed_language for each in ("zh", "en", "auto")] == ["zh", "en", None]  # type: ignore[index]
    assert fixed[AUTO].default_language is Language.CHINESE


@pytest.mark.parametrize(
    ("description", "language"), [("一只猫", "zh"), ("A cat", "en"), ("A cat in 北京", "zh"), ("", "en"), ("🐈", "en")]
)
def test_a_chinese_character_makes_a_description_chinese(description: str, language: str) -> None:
    assert guessed_language(description) is Language(language)
