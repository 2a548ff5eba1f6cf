"""Asks a model about labelled photos, some at a time, and keeps each answer as soon as it is there.

What is wrong with one photo is an answer, too. Where something is wrong with the model or with the way to it, the photo
is asked by the next run; three such in a row end this one.
"""

import asyncio
import hashlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app import photo
from app.categories import Category
from app.clients.base import ModelResult, PreparedPhoto
from app.clients.calibration import ConfidenceSource
from app.clients.errors import ModelAnswerInvalid, ModelError, ModelPreparing, ModelRefused, ModelRejectedRequest
from app.clients.local.training.labelled import MAX_PIXELS, LabelledPhoto
from app.clients.metering import CallMeter
from app.config.model import ModelSettings
from app.evaluation.answers import Answer, AnswerFile, Tokens
from app.evaluation.candidates import Candidate
from app.services.photos import MODEL_IMAGE_MAX_BYTES, MODEL_IMAGE_MIN_EDGE_PIXELS

# A service refuses larger files in its default settings ten times over.
MAX_FILE_BYTES = 100_000_000
# The model says the same of such a photo each time.
_ABOUT_THE_PHOTO = (ModelRefused, ModelRejectedRequest, ModelAnswerInvalid)
_MAX_FAILURES = 3
# A model that has taken none of so many photos takes none at all: it cannot see, or its name is wrong.
_MAX_REJECTED_AT_FIRST = 5
# The local model of a fresh clone is being fetched and built, which takes about a minute.
_PREPARING_SECONDS = 2.0
_MAX_PREPARING_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class HashedPhoto:
    """A labelled photo and the SHA-256 of its file."""

    labelled: LabelledPhoto
    sha256: str


def hash_photos(photos: Sequence[LabelledPhoto]) -> tuple[list[HashedPhoto], list[LabelledPhoto]]:
    """Return the photos that can be read and decoded as far as their header, each content once; and the others."""
    found: dict[str, HashedPhoto] = {}
    unreadable: list[LabelledPhoto] = []
    for labelled in photos:
        try:
            data = labelled.path.read_bytes()
            if len(data) > MAX_FILE_BYTES:
                raise photo.CorruptPhoto
            photo.inspect_photo(data, allowed=frozenset(photo.PhotoFormat), max_pixels=MAX_PIXELS)
        except (OSError, photo.PhotoError):
            unreadable.append(labelled)
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        found.setdefault(sha256, HashedPhoto(labelled, sha256))
    return list(found.values()), unreadable


@dataclass(slots=True)
class Outcome:
    """How a run has ended: `problem` is why photos were left out, or why it ended; `is_stopped` by the operator."""

    problem: ModelError | None = None
    is_stopped: bool = False


async def ask(
    candidate: Candidate,
    photos: Sequence[HashedPhoto],
    file: AnswerFile,
    *,
    concurrency: int,
    on_answer: Callable[[], object],
    on_stop: Callable[[], object],
) -> Outcome:
    """Ask about the photos that `file` has no answer for, and keep the answers in it.

    Ctrl-C ends it when the photos under way are answered, which are paid for; a second one ends it at once.

    Args:
        candidate: the model.
        photos: all of them.
        file: what is known already.
        concurrency: photos at once.
        on_answer: is called after each.
        on_stop: is called at the first Ctrl-C.
    """
    loop, outcome, failures = asyncio.get_running_loop(), Outcome(), 0
    waiting = iter([each for each in photos if each.sha256 not in file.answers])

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        outcome.is_stopped = True
        on_stop()

    async def work() -> None:
        nonlocal failures
        while not outcome.is_stopped and failures < _MAX_FAILURES and (each := next(waiting, None)) is not None:
            try:
                file.keep(await _ask_one(candidate, each))
            except ModelError as error:
                outcome.problem = error
                failures += 1
                continue
            failures = 0
            on_answer()
            known = file.answers.values()
            if len(known) == _MAX_REJECTED_AT_FIRST and all(one.error == ModelRejectedRequest.code for one in known):
                file.forget()
                outcome.problem, failures = ModelRejectedRequest(), _MAX_FAILURES

    await candidate.client.start()
    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        file.close()
        await candidate.client.close()
    return outcome


async def _ask_one(candidate: Candidate, each: HashedPhoto) -> Answer:
    """Return what the model says of a photo.

    Raises:
        ModelError: it says nothing, for a reason that is not the photo's.
    """
    client, meter = candidate.client, CallMeter()
    prepared = await asyncio.to_thread(_prepare, each, client.settings)
    if prepared is None:
        return Answer(each.sha256, 0.0, error="corrupt_image")
    give_up_at = time.perf_counter() + _MAX_PREPARING_SECONDS
    while True:
        started_at = time.perf_counter()
        try:
            result = await client.classify(prepared, meter)
            break
        except ModelPreparing:
            if started_at > give_up_at:
                raise
            meter = CallMeter()
            await asyncio.sleep(_PREPARING_SECONDS)
        except _ABOUT_THE_PHOTO as error:
            seconds = time.perf_counter() - started_at
            return Answer(each.sha256, round(seconds, 4), error=error.code, calls=tuple(map(Tokens.of, meter.calls)))
    return _answer(each.sha256, result, time.perf_counter() - started_at, meter)


def _answer(sha256: str, result: ModelResult, seconds: float, meter: CallMeter) -> Answer:
    source = result.response.get("confidence_source", ConfidenceSource.SELF_REPORTED)
    return Answer(
        sha256,
        round(seconds, 4),
        result.category,
        result.confidence,
        ConfidenceSource(source) if source in set(ConfidenceSource) else ConfidenceSource.SELF_REPORTED,
        _probabilities(result.response.get("probabilities")),
        calls=tuple(map(Tokens.of, meter.calls)),
    )


def _probabilities(found: object) -> dict[Category, float] | None:
    """Return the probabilities in the record of an answer, if it has those of all categories; a plugin's may be any."""
    if not isinstance(found, dict) or set(found) != set(Category):
        return None
    numbers = {Category(key): value for key, value in found.items() if isinstance(value, (int, float)) and value >= 0}
    return numbers if len(numbers) == len(Category) else None


def _prepare(each: HashedPhoto, settings: ModelSettings) -> PreparedPhoto | None:
    """Return the photo as the service would show it to the model; None where it cannot be decoded."""
    try:
        data = each.labelled.path.read_bytes()
        info = photo.inspect_photo(data, allowed=frozenset(photo.PhotoFormat), max_pixels=MAX_PIXELS)
        made = photo.prepare_photo(
            data,
            info,
            max_edge=settings.image_max_edge_pixels,
            max_bytes=MODEL_IMAGE_MAX_BYTES,
            min_edge=MODEL_IMAGE_MIN_EDGE_PIXELS,
        )
    except (OSError, photo.PhotoError):
        return None
    return PreparedPhoto(made.jpeg, settings.default_language)
