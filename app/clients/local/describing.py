"""Says in one sentence what the local model can honestly say of a photo.

The category always; and where the model is sure of it, what the network recognises (`names.tsv`) or how many faces
there are. What it is not sure of it does not say.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.categories import CATEGORY_TEXTS, Category
from app.clients.local.classes import class_indices
from app.clients.local.features import FloatArray, Sight
from app.language.accept import Language

SURE = 0.8
"""From this confidence on, at least 95 % of the answers are right, as training measures across sources."""
_NAMES = Path(__file__).resolve().parent / "names.tsv"
MOST_FACES = 10
"""More are not counted exactly."""


@dataclass(frozen=True, slots=True)
class Name:
    """What some classes of ImageNet are called, in photos of a category, from a probability on.

    The names and their probabilities were chosen by eye; docs/local-model.md has how often what is said is right.
    """

    category: Category
    least: float
    classes: tuple[int, ...]
    chinese: str
    english: str


def describe(category: Category, confidence: float, sight: Sight, language: Language) -> str:
    """Describe a photo in one sentence of `language`."""
    text, is_chinese = CATEGORY_TEXTS[category], language is Language.CHINESE
    if confidence < SURE:
        if is_chinese:
            return f"本地模型不太确定，这张图片可能属于“{text.chinese}”。"
        return f'The local model is not sure; this picture may be "{text.english}".'
    if is_chinese:
        seen = _seen_in_chinese(category, sight)
        return f"本地模型认为这张图片属于“{text.chinese}”{seen}。"
    return f'The local model takes this picture for "{text.english}"{_seen_in_english(category, sight)}.'


def recognise(category: Category, classes: FloatArray) -> Name | None:
    """Return the narrowest name of the category's that is likely enough, such as a breed before "dog", or None.

    Args:
        category: of the photo.
        classes: probability of each class, shape (1000,).
    """
    names = (name for name in _names() if name.category is category)
    likely = [name for name in names if classes[list(name.classes)].sum() >= name.least]
    return min(likely, key=lambda name: len(name.classes), default=None)


def _seen_in_chinese(category: Category, sight: Sight) -> str:
    if faces := _faces_worth_saying(category, sight):
        return f"，有 {faces} 张人脸" if faces <= MOST_FACES else f"，有 {MOST_FACES} 张以上人脸"
    name = recognise(category, sight.classes)
    return "" if name is None else f"，很可能是{name.chinese}"


def _seen_in_english(category: Category, sight: Sight) -> str:
    if faces := _faces_worth_saying(category, sight):
        count = f"{faces} face{'s'[: faces != 1]}" if faces <= MOST_FACES else f"more than {MOST_FACES} faces"
        return f", with {count}"
    name = recognise(category, sight.classes)
    return "" if name is None else f", most likely: {name.english}"


def _faces_worth_saying(category: Category, sight: Sight) -> int:
    """Return the number of faces where it agrees with the category, else 0: passers-by have faces, too."""
    agrees = {Category.SINGLE_PERSON: sight.faces == 1, Category.SOCIAL_ACTIVITIES: sight.faces > 1}
    return sight.faces if agrees.get(category) else 0


@cache
def _names() -> tuple[Name, ...]:
    rows = [line.split("\t") for line in _NAMES.read_text(encoding="utf-8").splitlines()[1:]]
    return tuple(Name(Category(row[0]), float(row[1]), class_indices(row[2]), *row[3:]) for row in rows)
