"""From answers to figures: one `Report` for each model, and what is between two."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.categories import Category
from app.clients.calibration import ConfidenceSource, read_temperature, tempered
from app.evaluation import statistics
from app.evaluation.answers import Answer
from app.evaluation.candidates import Candidate
from app.evaluation.run import HashedPhoto
from app.evaluation.statistics import Band, McNemar, Share, share
from app.services.spending.prices import MICROS

THRESHOLDS = (0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Judged:
    """A photo with what it shows and what the model has said; no `category` where it has said nothing."""

    path: Path
    truth: Category
    category: Category | None
    confidence: float
    probabilities: Mapping[Category, float] | None
    source: ConfidenceSource | None
    error: str | None

    @property
    def is_right(self) -> bool:
        return self.category is self.truth


@dataclass(frozen=True, slots=True)
class CategoryFigures:
    """How many of a category's photos were found, and how many of those put there belong there."""

    photos: int
    recall: Share
    precision: Share


@dataclass(frozen=True, slots=True)
class Threshold:
    """The answers with at least this confidence: their share, and the share of right ones among them."""

    confidence: float
    covered: Share
    right: Share


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far a confidence can be believed; of the photos with an answer."""

    sources: dict[str, int]
    temperature: float | None
    curve: list[Band]
    thresholds: list[Threshold]
    expected_calibration_error: float | None
    log_loss: float | None
    category_log_loss: float | None


@dataclass(frozen=True, slots=True)
class Spent:
    """Time and money; `cost` and the rest in `currency`. Tokens are of all calls."""

    p50_ms: float | None
    p95_ms: float | None
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: float
    cost_per_thousand: float | None
    currency: str


@dataclass(frozen=True, slots=True)
class Report:
    """What one model has made of the photos that it was asked about.

    A photo without an answer counts as wrong. `confusion` has for each true category how often each answer was given,
    "" for none.
    """

    model: str
    photos: int
    accuracy: Share
    mean_recall: float | None
    errors: dict[str, int]
    categories: dict[str, CategoryFigures]
    confusion: dict[str, dict[str, int]]
    calibration: Calibration
    spent: Spent


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the photos that both were asked about; points are percentage points of accuracy."""

    photos: int
    first: Share
    second: Share
    points: float
    test: McNemar
    cost_per_thousand: float
    cost_per_point: float | None
    currency: str


def judge(
    candidate: Candidate, photos: Sequence[HashedPhoto], answers: Mapping[str, Answer]
) -> tuple[list[Judged], float | None]:
    """Return the answered photos with their confidence as the service would tell it now, and the temperature used."""
    temperature = read_temperature(candidate.client.settings.calibration_file, candidate.model_key)
    judged = []
    for photo in photos:
        answer = answers.get(photo.sha256)
        if answer is None:
            continue
        confidence, probabilities = answer.confidence, answer.probabilities
        if probabilities is not None and answer.category is not None and temperature is not None:
            probabilities = tempered(probabilities, temperature)
            confidence = probabilities[answer.category]
        source = ConfidenceSource.CALIBRATED if probabilities is not None and temperature else answer.source
        labelled = photo.labelled
        judged.append(
            Judged(
                labelled.path,
                labelled.category,
                answer.category,
                confidence,
                probabilities,
                None if answer.category is None else source,
                answer.error,
            )
        )
    return judged, temperature


def report(
    candidate: Candidate,
    judged: Sequence[Judged],
    answers: Sequence[Answer],
    *,
    temperature: float | None,
    currency: str,
) -> Report:
    """Count."""
    confusion = {truth.value: dict.fromkeys([*Category, ""], 0) for truth in Category}
    for each in judged:
        confusion[each.truth][each.category or ""] += 1
    categories = {
        key.value: CategoryFigures(
            sum(confusion[key].values()),
            share(confusion[key][key], sum(confusion[key].values())),
            share(confusion[key][key], sum(row[key] for row in confusion.values())),
        )
        for key in Category
    }
    recalls = [each.recall.value for each in categories.values() if each.recall.value is not None]
    return Report(
        model=candidate.label,
        photos=len(judged),
        accuracy=share(sum(each.is_right for each in judged), len(judged)),
        mean_recall=sum(recalls) / len(recalls) if recalls else None,
        errors=dict(Counter(each.error for each in judged if each.error is not None)),
        categories=categories,
        confusion={truth: {str(key): n for key, n in row.items()} for truth, row in confusion.items()},
        calibration=_calibration([each for each in judged if each.category is not None], temperature),
        spent=_spent(candidate, answers, currency),
    )


def compare(first: Sequence[Judged], second: Sequence[Judged], spent: tuple[Spent, Spent]) -> Comparison:
    """Compare two models on the photos that both were asked about."""
    by_path = {each.path: each for each in second}
    pairs = [(each.is_right, by_path[each.path].is_right) for each in first if each.path in by_path]
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    points = 100 * (sum(other) - sum(one)) / len(pairs) if pairs else 0.0
    more = (spent[1].cost_per_thousand or 0.0) - (spent[0].cost_per_thousand or 0.0)
    return Comparison(
        photos=len(pairs),
        first=share(sum(one), len(pairs)),
        second=share(sum(other), len(pairs)),
        points=points,
        test=statistics.mcnemar(one, other),
        cost_per_thousand=more,
        # Where the better one costs no more, there is nothing to weigh.
        cost_per_point=more / points if points * more > 0 else None,
        currency=spent[0].currency,
    )


def _calibration(answered: Sequence[Judged], temperature: float | None) -> Calibration:
    confidences, right = [each.confidence for each in answered], [each.is_right for each in answered]
    known = [(each.probabilities, each.truth) for each in answered if each.probabilities is not None]
    curve = statistics.bands(confidences, right)
    thresholds = []
    for limit in THRESHOLDS:
        sure = [is_right for confidence, is_right in zip(confidences, right, strict=True) if confidence >= limit]
        thresholds.append(Threshold(limit, share(len(sure), len(answered)), share(sum(sure), len(sure))))
    return Calibration(
        sources=dict(Counter(str(each.source) for each in answered)),
        temperature=temperature,
        curve=curve,
        thresholds=thresholds,
        expected_calibration_error=statistics.expected_calibration_error(curve),
        log_loss=statistics.log_loss(confidences, right),
        category_log_loss=(
            statistics.category_log_loss([each for each, _ in known], [truth for _, truth in known])
            if len(known) == len(answered)
            else None
        ),
    )


def _spent(candidate: Candidate, answers: Sequence[Answer], currency: str) -> Spent:
    calls = [call for answer in answers for call in answer.calls]
    cost = 0.0 if candidate.price is None else sum(candidate.price.cost_micros(each.as_call()) for each in calls)
    milliseconds = [answer.seconds * 1000 for answer in answers if answer.seconds > 0]
    return Spent(
        p50_ms=statistics.percentile(milliseconds, 50),
        p95_ms=statistics.percentile(milliseconds, 95),
        calls=len(calls),
        input_tokens=sum(call.input for call in calls),
        cached_input_tokens=sum(call.cached_input for call in calls),
        output_tokens=sum(call.output for call in calls),
        cost=cost / MICROS,
        cost_per_thousand=1000 * cost / MICROS / len(answers) if answers else None,
        currency=currency,
    )
