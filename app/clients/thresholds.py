"""From which probability on the local model's answer counts for good, by category: chosen by measurement, kept as JSON.

`image-classifier evaluate --cascade` chooses the thresholds and writes them to CASCADE_FILE. Those of the head that
ships with the service are in `thresholds.json` beside this module. Each stands under the name of the model that it was
measured for: another head has other probabilities, so it needs thresholds of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from app.categories import Category
from app.clients.errors import ModelConfigurationError

SHIPPED_FILE = Path(__file__).resolve().with_name("thresholds.json")
_MAX_FILE_BYTES = 1_000_000

Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Measured:
    """A part of a whole, and the 95 % interval of the share (Wilson, 1927)."""

    part: Annotated[int, Field(ge=0)]
    whole: Annotated[int, Field(ge=0)]
    low: Probability
    high: Probability

    @property
    def share(self) -> float:
        """The share, 0 of nothing."""
        return self.part / self.whole if self.whole else 0.0


@dataclass(frozen=True, slots=True)
class CategoryThresholds:
    """What was chosen for one category, and what was measured with it.

    From `sure_from` on an answer of this category counts; None: never, since there were too few photos to tell.
    `answered` is the share of such answers among all of this category, `right` of right ones among them. From
    `kept_from` on a photo that must not leave the server if it is of this category stays; `missed` are the photos of
    the category that would leave all the same, `kept_in_vain` those of other categories that would stay.
    """

    sure_from: Probability | None
    answered: Measured
    right: Measured
    kept_from: Probability
    missed: Measured
    kept_in_vain: Measured


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of one model for `target_precision`, and what was measured with them on how many `photos`.

    `cross_validated`: each photo was judged by a head that was trained on other sources.
    """

    target_precision: Probability
    photos: Annotated[int, Field(ge=1)]
    sources: Annotated[int, Field(ge=1)]
    cross_validated: bool
    chosen_at: str
    answered: Measured
    right: Measured
    categories: dict[Category, CategoryThresholds]

    def is_sure(self, category: Category, probability: float) -> bool:
        """Whether an answer counts."""
        sure_from = self.categories[category].sure_from
        return sure_from is not None and probability >= sure_from

    def stays(self, probabilities: Mapping[Category, float], kept: frozenset[Category]) -> bool:
        """Whether a photo is taken for one of the categories of which none may leave the server."""
        return any(probabilities[category] >= self.categories[category].kept_from for category in kept)


_THRESHOLDS = TypeAdapter(Thresholds)
_FILE = TypeAdapter(dict[str, dict[str, Any]])


def thresholds_of(model: str, file: Path | None) -> Thresholds | None:
    """Return the thresholds of a model: those of `file`, else the shipped ones, else None.

    Raises:
        ModelConfigurationError: a file cannot be used; one that is not there has none.
    """
    for each in (file, SHIPPED_FILE):
        found = {} if each is None else _read(each)
        if model in found:
            return _checked(found[model], each)
    return None


def write_thresholds(file: Path, model: str, thresholds: Thresholds) -> None:
    """Keep the thresholds of a model; other models' stay.

    Raises:
        OSError: the file cannot be written.
        ModelConfigurationError: what is there cannot be read.
    """
    models = _read(file) | {model: _THRESHOLDS.dump_python(thresholds, mode="json")}
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(TypeAdapter(dict[str, Any]).dump_json({"models": models}, indent=2) + b"\n")
    new.replace(file)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        return _FILE.validate_python(TypeAdapter(dict[str, Any]).validate_json(file.read_bytes()).get("models"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelConfigurationError(f"CASCADE_FILE: {file} cannot be used ({type(error).__name__}).") from None


def _checked(found: dict[str, Any], file: Path | None) -> Thresholds:
    try:
        thresholds = _THRESHOLDS.validate_python(found)
    except ValidationError as error:
        places = {".".join(map(str, each["loc"])) for each in error.errors()}
        raise ModelConfigurationError(f"CASCADE_FILE: {file} has wrong values: {', '.join(sorted(places))}.") from None
    if missing := sorted(set(Category) - set(thresholds.categories)):
        raise ModelConfigurationError(f"CASCADE_FILE: {file} lacks the categories {', '.join(missing)}.")
    return thresholds
