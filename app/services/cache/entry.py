"""What the cache says of one photo, wherever it is kept: in memory, in Redis, in the database."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.categories import Category
from app.clients.base import ModelResult
from app.language.accept import Language
from app.language.descriptions import guessed_language
from app.services.request_log.record import Answer, Caller, Similar

CONFIDENCE_DIGITS = 4
# The model of entries that an operator has corrected, and of those that enough users have: no model replaces them.
MANUAL_MODEL = "manual"
FEEDBACK_MODEL = "feedback"
PEOPLE = (MANUAL_MODEL, FEEDBACK_MODEL)


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A classification as it is kept.

    `confidence` is 0..1 with four decimals. `model` has given it, or is one of PEOPLE. `cost_micros` is what the calls
    that made it cost, in millionths of CURRENCY: each hit saves as much. `is_stale` is true only of what memory answers
    while the database is away. `language` is that of the description, None where it is not recorded. `translations` are
    what it says in other languages, None where it says nothing; of a language with a text of None a model has none.
    """

    category: Category
    confidence: float
    description: str | None
    model: str
    cost_micros: int = 0
    is_stale: bool = False
    language: Language | None = None
    translations: Mapping[Language, str | None] | None = None

    @property
    def spoken(self) -> Language | None:
        """The language of the description, told by its characters where it is not recorded; None without one."""
        if self.description is None:
            return None
        return self.language or guessed_language(self.description)

    def described(self, wanted: Language | None) -> tuple[str | None, Language | None]:
        """Return the description in the language that is wanted, or else the one that there is; and its language."""
        if self.translations and wanted is not None and (text := self.translations.get(wanted)) is not None:
            return text, wanted
        return self.description, self.spoken


def entry_of(result: ModelResult, model: str, cost_micros: int) -> CachedResult:
    """Return what is kept of a model's answer, which has cost so much."""
    confidence = round(result.confidence, CONFIDENCE_DIGITS)
    translations = None
    if result.translation is not None and result.language is not None:
        translations = {result.language.other: result.translation}
    return CachedResult(
        category=result.category,
        confidence=confidence,
        description=result.description,
        model=model,
        cost_micros=cost_micros,
        language=result.language,
        translations=translations,
    )


def answer_of(result: CachedResult, caller: Caller, *, from_cache: bool, similar: Similar | None = None) -> Answer:
    """Return the answer to `caller`, whose time ends now; `similar` says which photo's it is, if another's."""
    description, language = result.described(caller.language)
    return Answer.now(
        caller,
        category=result.category,
        confidence=result.confidence,
        description=description,
        description_language=language,
        from_cache=from_cache,
        model=result.model,
        cost_micros=result.cost_micros,
        is_stale=result.is_stale,
        similar=similar,
    )
