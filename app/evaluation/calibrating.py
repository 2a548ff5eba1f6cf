"""`evaluate --calibrate`: fits a model's temperature, says honestly what it gains, and keeps it."""

from collections.abc import Mapping, Sequence

from app.categories import Category
from app.clients.calibration import tempered, write_temperature
from app.evaluation import statistics
from app.evaluation.answers import Answer
from app.evaluation.candidates import Candidate
from app.evaluation.run import HashedPhoto

MIN_PHOTOS = 100
"""Of fewer, one number more or less would be chance."""

Pair = tuple[Mapping[Category, float], Category]


def calibrate(candidate: Candidate, photos: Sequence[HashedPhoto], answers: Mapping[str, Answer]) -> str:
    """Fit and keep the temperature, and return a sentence for the operator.

    What it gains is measured on the half of the sources that it was not fitted on, and the other way round.
    """
    pairs: list[Pair] = []
    halves: list[bool] = []
    sources = sorted({photo.labelled.source for photo in photos})
    half_of = {source: number % 2 == 0 for number, source in enumerate(sources)}
    for photo in photos:
        answer = answers.get(photo.sha256)
        if answer is not None and answer.probabilities is not None:
            pairs.append((answer.probabilities, photo.labelled.category))
            halves.append(half_of[photo.labelled.source])
    if not pairs:
        return f"{candidate.label} gives no probabilities of the categories, so there is nothing to calibrate."
    if len(pairs) < MIN_PHOTOS or len(set(halves)) < 2:
        return f"{len(pairs)} answers are too few to calibrate with; {MIN_PHOTOS} are needed, of two sources at least."
    before, after = _loss(pairs, 1.0), 0.0
    for half in (True, False):
        fitted = _fit([pair for pair, side in zip(pairs, halves, strict=True) if side is half])
        others = [pair for pair, side in zip(pairs, halves, strict=True) if side is not half]
        after += _loss(others, fitted) * len(others) / len(pairs)
    temperature = _fit(pairs)
    file = candidate.client.settings.calibration_file
    if file is None:
        raise ValueError("the settings name no file")
    write_temperature(file, candidate.model_key, temperature, photos=len(pairs), log_loss=round(after, 4))
    return (
        f"{candidate.label}: temperature {temperature:.3f} of {len(pairs)} photos is in {file}. Log loss {before:.4f}"
        f" without it, {after:.4f} with that of the other half. A service takes it up at its next start."
    )


def _fit(pairs: Sequence[Pair]) -> float:
    return statistics.fit_temperature([each for each, _ in pairs], [truth for _, truth in pairs])


def _loss(pairs: Sequence[Pair], temperature: float) -> float:
    at = [tempered(each, temperature) for each, _ in pairs]
    return statistics.category_log_loss(at, [truth for _, truth in pairs]) or 0.0
