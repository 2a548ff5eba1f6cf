"""Classification: ask with a hash, upload on a miss; one photo or many."""

import asyncio
import re
from typing import Any

from fastapi import APIRouter, Request, Response
from loguru import logger
from starlette.types import Scope

from app.api.credentials import held_until_checked
from app.api.dependencies import ClassifierDep, ReaderDep, ResourcesDep
from app.api.errors import describe_errors, error_body, log_error
from app.api.idempotency import (
    IDEMPOTENCY_ERRORS,
    REPLAY_HEADERS,
    IdempotencyKeyDep,
    answer_once,
    fingerprint_of,
    owner_of,
)
from app.api.uploads import IMAGE_FIELD, FormField, admitted, read_parts
from app.clients.errors import MODEL_ERRORS
from app.errors import (
    LIMIT_ERRORS,
    AppError,
    CorruptImage,
    DatabaseUnavailable,
    HashMismatch,
    ImageTooComplex,
    ImageTooLarge,
    InvalidRequest,
    MissingImage,
    PayloadTooLarge,
    RequestTimeout,
    ServerBusy,
    TooManyImages,
    TooManyPixels,
    UnsupportedImageFormat,
)
from app.resources import Resources
from app.runtime.memory_budget import Lease
from app.schemas.classify import (
    HIT_EXAMPLE,
    MISS_EXAMPLE,
    CacheHit,
    CacheMiss,
    CheckCacheBatchRequest,
    CheckCacheBatchResponse,
    CheckCacheRequest,
    Classification,
    ClassifyBatchResponse,
    ClassifyResponse,
    SimilarHit,
    SimilarResponse,
)
from app.schemas.common import ErrorResponse
from app.services.classification.service import ClassifierService
from app.services.classification.similar import LookedUp
from app.services.photos import UploadedPhoto
from app.services.request_log.error_counts import count_error
from app.services.request_log.record import Answer, Caller

MAX_IMAGES_PER_CALL = 20
# Photos of one call in memory at once; the next is read from the connection when one of them is answered.
BATCH_CONCURRENCY = 4
# The largest photos that a signed batch may have together: nothing of it is used before its end.
SIGNED_BATCH_PHOTOS = 2

_LOOK_UP_ERRORS = describe_errors(*IDEMPOTENCY_ERRORS, PayloadTooLarge, DatabaseUnavailable, ServerBusy)
IMAGE_ERRORS = (UnsupportedImageFormat, CorruptImage, TooManyPixels, ImageTooComplex)
_FORM_ERRORS = (MissingImage, TooManyImages, RequestTimeout, PayloadTooLarge)

router = APIRouter(prefix="/classify", tags=["classification"])


_LOOK_UP_EXAMPLES = {"hit": {"value": HIT_EXAMPLE}, "miss": {"value": MISS_EXAMPLE}}


@router.post(
    "/check-cache",
    response_model=SimilarHit | CacheHit | CacheMiss,
    responses={
        200: {"content": {"application/json": {"examples": _LOOK_UP_EXAMPLES}}, **REPLAY_HEADERS},
        **_LOOK_UP_ERRORS,
    },
)
async def check_cache(
    request: Request, body: CheckCacheRequest, caller: ReaderDep, classifier: ClassifierDep, key: IdempotencyKeyDep
) -> CacheHit | CacheMiss | Response:
    """Is the result of a photo with this hash known? A hit saves the upload; it is counted and logged."""
    caller = caller.or_user(body.user_id)
    request.state.user = caller.user_id

    def body_of(answer: Answer | None) -> CacheHit | CacheMiss:
        request.state.cached = answer is not None
        return _found(answer)

    return await answer_once(
        request,
        key,
        owner_of(request, caller),
        lambda keep: classifier.look_up(body.image_hash, caller, perceptual_hash=body.perceptual_hash, keep=keep),
        body_of,
        fingerprint=fingerprint_of(request, caller.language, body.model_dump_json()),
        image_hashes=[body.image_hash],
        looks_first=False,
    )


@router.post(
    "/check-cache/batch", response_model=CheckCacheBatchResponse, responses={200: REPLAY_HEADERS, **_LOOK_UP_ERRORS}
)
async def check_cache_batch(
    request: Request, body: CheckCacheBatchRequest, caller: ReaderDep, classifier: ClassifierDep, key: IdempotencyKeyDep
) -> CheckCacheBatchResponse | Response:
    """The same for up to 500 hashes, such as an album at the app's first start; answers in the order of the hashes."""
    caller = caller.or_user(body.user_id)
    request.state.user = caller.user_id
    looks = body.perceptual_hashes or [None] * len(body.image_hashes)
    photos = list(map(LookedUp, body.image_hashes, looks))
    return await answer_once(
        request,
        key,
        owner_of(request, caller),
        lambda keep: classifier.look_up_many(photos, caller, keep=keep),
        lambda answers: CheckCacheBatchResponse(results=[_found(answer) for answer in answers]),
        fingerprint=fingerprint_of(request, caller.language, body.model_dump_json()),
        image_hashes=body.image_hashes,
    )


def _form_body(image_schema: dict[str, Any], **fields: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": [IMAGE_FIELD], "properties": {IMAGE_FIELD: image_schema, **fields}}
    # Of no field that may be left out: /docs would send it with the reader's own photo, for which it is wrong.
    content = {"schema": schema, "example": {IMAGE_FIELD: "(the bytes of photo.jpg)"}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


_FILE_SCHEMA = {"type": "string", "format": "binary", "description": "The photo, compressed by the client."}


@router.post(
    "",
    response_model=SimilarResponse | ClassifyResponse,
    responses={
        200: REPLAY_HEADERS,
        **describe_errors(
            HashMismatch,
            ImageTooLarge,
            *IMAGE_ERRORS,
            *_FORM_ERRORS,
            *IDEMPOTENCY_ERRORS,
            *LIMIT_ERRORS,
            *MODEL_ERRORS,
            DatabaseUnavailable,
            ServerBusy,
        ),
    },
    openapi_extra=_form_body(
        _FILE_SCHEMA,
        image_hash={
            "type": "string",
            "pattern": "^([0-9a-fA-F]{64})?$",
            "description": "SHA-256 that the client computed, 64 hex digits; refused when it is not that of the bytes.",
            # Without it, Swagger UI makes up a text that fits the pattern, and sends that.
            "default": "",
        },
    ),
)
async def classify(
    request: Request, caller: ReaderDep, resources: ResourcesDep, key: IdempotencyKeyDep
) -> ClassifyResponse | Response:
    """Classify an uploaded photo: from the cache when it is known, else by the model."""
    return await classify_upload(request, caller, resources, key)


@router.post(
    "/batch",
    responses=describe_errors(*_FORM_ERRORS, ServerBusy),
    openapi_extra=_form_body({"type": "array", "items": _FILE_SCHEMA, "maxItems": MAX_IMAGES_PER_CALL}),
)
async def classify_batch(
    request: Request, caller: ReaderDep, classifier: ClassifierDep, resources: ResourcesDep
) -> ClassifyBatchResponse:
    """Classify up to 20 photos, each an `image` part; a bad one gets an error of its own and harms no other.

    An element that is an error has one of the codes of the single call.
    """
    limits = resources.settings.image
    slots = asyncio.Semaphore(BATCH_CONCURRENCY)
    tasks: list[asyncio.Task[ClassifyResponse | ErrorResponse]] = []
    # Less than the share of one client's uploads, of which they are a part.
    held_bytes = SIGNED_BATCH_PHOTOS * limits.max_size_bytes
    async with admitted(request, resources.upload_memory) as memory:
        arriving = read_parts(
            request,
            memory,
            max_images=MAX_IMAGES_PER_CALL,
            max_image_bytes=limits.max_size_bytes,
        )
        parts = held_until_checked(request, arriving, max_bytes=held_bytes)
        try:
            async for part in parts:
                if isinstance(part, FormField):
                    continue
                await slots.acquire()
                task = asyncio.create_task(_classify_item(classifier, part, caller.next_item(), memory, request.scope))
                task.add_done_callback(lambda _: slots.release())
                tasks.append(task)
        finally:
            # After a broken body too: what is under way goes on in the service, and holds memory as long.
            results = await asyncio.gather(*tasks)
    if not tasks:
        raise MissingImage
    return ClassifyBatchResponse(results=results)


async def classify_upload(
    request: Request, caller: Caller, resources: Resources, key: str | None
) -> ClassifyResponse | Response:
    """Read the one photo of a form as it arrives, and classify it; `key` is the request's Idempotency-Key.

    Raises:
        AppError: the errors that the route declares.
    """
    upload: UploadedPhoto | None = None
    claimed_hash: str | None = None
    limits = resources.settings.image
    async with admitted(request, resources.upload_memory) as memory:
        parts = read_parts(
            request,
            memory,
            max_images=1,
            max_image_bytes=limits.max_size_bytes,
        )
        async for part in parts:
            match part:
                case FormField(name="image_hash", value=value):
                    claimed_hash = _claimed_hash(value)
                case FormField():
                    continue
                case ImageTooLarge():
                    raise part
                case _:
                    upload = part
        if upload is None:
            raise MissingImage
        photo = upload

        def body_of(answer: Answer) -> ClassifyResponse:
            request.state.cached = answer.from_cache
            return _classified(answer)

        return await answer_once(
            request,
            key,
            owner_of(request, caller),
            lambda keep: resources.classifier.classify(photo, caller, claimed_hash=claimed_hash, keep=keep),
            body_of,
            fingerprint=fingerprint_of(request, caller.language, photo.sha256, claimed_hash or ""),
            image_hashes=[photo.sha256],
        )


async def _classify_item(
    classifier: ClassifierService, part: UploadedPhoto | ImageTooLarge, caller: Caller, memory: Lease, scope: Scope
) -> ClassifyResponse | ErrorResponse:
    try:
        if isinstance(part, ImageTooLarge):
            raise part
        with memory.working_on(len(part.data)):
            return _classified(await classifier.classify(part, caller))
    except AppError as error:
        with logger.contextualize(request_id=caller.request_id):
            log_error(error)
        return error_body(error, scope, caller.request_id)
    except Exception:  # noqa: BLE001 - one picture's misfortune is not the others'
        logger.exception("unexpected error with one image of a batch")
        count_error(AppError.code)
        return error_body(AppError(), scope, caller.request_id)


def _claimed_hash(value: str) -> str | None:
    value = value.strip()
    if not value:
        return None
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise InvalidRequest("image_hash: 64 hex digits are expected.")
    return value.lower()


def _found(answer: Answer | None) -> CacheHit | CacheMiss:
    return CacheMiss() if answer is None else cache_hit(answer)


def cache_hit(answer: Answer) -> CacheHit:
    """The body that says what is known."""
    if answer.similar is not None:
        return SimilarHit(
            data=Classification.model_validate(answer),
            similar_to=answer.similar.image_hash,
            distance=answer.similar.distance,
            model=answer.model,
            request_id=answer.request_id,
            timestamp=answer.answered_at,
        )
    return CacheHit(
        data=Classification.model_validate(answer),
        stale=answer.is_stale,
        model=answer.model,
        request_id=answer.request_id,
        timestamp=answer.answered_at,
    )


def _classified(answer: Answer) -> ClassifyResponse:
    if answer.similar is not None:
        return SimilarResponse(
            data=Classification.model_validate(answer),
            similar_to=answer.similar.image_hash,
            distance=answer.similar.distance,
            model=answer.model,
            processing_time_ms=answer.processing_time_ms,
            request_id=answer.request_id,
            timestamp=answer.answered_at,
        )
    return ClassifyResponse(
        data=Classification.model_validate(answer),
        from_cache=answer.from_cache,
        stale=answer.is_stale,
        model=answer.model,
        processing_time_ms=answer.processing_time_ms,
        request_id=answer.request_id,
        timestamp=answer.answered_at,
    )
