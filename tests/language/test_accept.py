"""What a browser says of its languages, and what is said to hurt."""

import pytest

from app.language.accept import Language, asked_language


@pytest.mark.parametrize(
    ("field", "language"),
    [
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-Hans-CN", "zh"),
        ("ZH-tw", "zh"),
        ("en-US,en;q=0.9,zh-CN;q=0.8", "en"),
        ("en;q=0.5, zh;q=0.6", "zh"),
        ("zh;q=0.5, en;q=0.6", "en"),
        # Wanted alike: the first.
        ("zh, en", "zh"),
        ("en, zh", "en"),
        # Of what we do not speak, nothing is taken for granted.
        ("fr, zh;q=0.1", "zh"),
        ("fr", "en"),
        ("zha", "en"),
        ("*", "en"),
        ("zh, *", "zh"),
        ("zh;q=0.2, *;q=0.5", "en"),
        ("en;q=0.2, *;q=0.5", "zh"),
        # Not wanted.
        ("zh;q=0", "en"),
        ("zh;q=0.000, en;q=0.1", "en"),
        ("en;q=0, *", "zh"),
        # No weight is more than 1, and what is none is passed over with its language.
        ("zh;q=2, en;q=0.1", "en"),
        ("zh;q=x", "en"),
        ("zh ; q=1.0", "zh"),
        ("", "en"),
        (",;=,-", "en"),
        ("\xff\xfe", "en"),
        ("en;q=0.1," * 100_000 + "zh", "en"),
    ],
)
def test_the_language_is_the_one_with_the_greatest_weight(field: str, language: str) -> None:
    assert asked_language([(b"accept", b"zh"), (b"accept-language", field.encode("latin-1"))]) is Language(language)


def test_without_the_header_it_is_english() -> None:
    assert asked_language([]) is Language.ENGLISH


def test_lines_of_one_header_are_one_list() -> None:
    lines = [(b"accept-language", b"en;q=0.5"), (b"accept-language", b"zh;q=0.7")]
    assert asked_language(lines) is Language.CHINESE
