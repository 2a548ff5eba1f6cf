"""In which language a photo is described to a caller, and in which one a description is."""

import re
from collections.abc import Iterable

from app.config.model import DescriptionLanguage
from app.language.accept import Language, said_language

# The IANA names of China's zones, with the older ones that are links to them today.
CHINESE_ZONES = frozenset({"Asia/Shanghai", "Asia/Chongqing", "Asia/Harbin", "Asia/Urumqi"})
# A Chinese character, as a regular expression of Python and of all databases.
HAN = "[\u4e00-\u9fff]"
_HAN = re.compile(HAN)


def language_of(
    setting: DescriptionLanguage, lang: Language | None, headers: Iterable[tuple[bytes, bytes]], zone: str
) -> Language:
    """Return the language in which a request gets its descriptions.

    Args:
        setting: DESCRIPTION_LANGUAGE; one that is fixed is that of all requests, whatever they say.
        lang: what the request's query says.
        headers: of the request, their names in lower case.
        zone: the IANA name of STATS_TIMEZONE: where the service is, for requests that say nothing.
    """
    if setting is not DescriptionLanguage.AUTO:
        return Language(setting.value)
    return lang or said_language(headers) or (Language.CHINESE if zone in CHINESE_ZONES else Language.ENGLISH)


def guessed_language(description: str) -> Language:
    """Return the language of a description of which none is recorded: with a Chinese character it is Chinese."""
    return Language.CHINESE if _HAN.search(description) else Language.ENGLISH
