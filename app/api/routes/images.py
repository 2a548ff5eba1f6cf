"""The image library: keep pictures, see them again, delete them. Another account's picture is not found.

A file is sent with its own type and `nosniff`, so that no browser takes a picture for a page.
"""

import re
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from app.api.dependencies import CurrentAccount, LibraryDep, ResourcesDep
from app.api.errors import describe_errors
from app.api.idempotency import (
    IDEMPOTENCY_ERRORS,
    REPLAY_HEADERS,
    IdempotencyKeyDep,
    answer_once,
    owner_of_account,
)
from app.api.uploads import FormField, admitted, missing_image, read_parts
from app.errors import (
    AuthenticationRequired,
    CorruptImage,
    DatabaseUnavailable,
    ImageNotFound,
    ImageTooComplex,
    ImageTooLarge,
    InvalidToken,
    MissingImage,
    PayloadTooLarge,
    QuotaExceeded,
    RequestTimeout,
    ServerBusy,
    StorageUnavailable,
    TokenExpired,
    TooManyImages,
    TooManyPixels,
    UnsupportedImageFormat,
)
from app.photo import PhotoFormat
from app.schemas.images import ID_MAX, PAGE_MAX, ImageAnswer, ImagePage
from app.services.photos import UploadedPhoto

FILE_FIELD = "file"
MEDIA_TYPES = {photo_format: f"image/{photo_format.value}" for photo_format in PhotoFormat} | {
    PhotoFormat.JPEG: "image/jpeg"
}

_COMMON_ERRORS = (AuthenticationRequired, InvalidToken, TokenExpired, DatabaseUnavailable, ServerBusy)
_UPLOAD_ERRORS = describe_errors(
    UnsupportedImageFormat,
    CorruptImage,
    TooManyPixels,
    ImageTooComplex,
    MissingImage,
    TooManyImages,
    RequestTimeout,
    PayloadTooLarge,
    ImageTooLarge,
    QuotaExceeded,
    StorageUnavailable,
    *IDEMPOTENCY_ERRORS,
    *_COMMON_ERRORS,
)
_FILE = {"type": "string", "format": "binary"}
_FORM = {
    "schema": {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: _FILE}},
    "example": {FILE_FIELD: "(the bytes of image.jpg)"},
}
_BINARY = {"schema": _FILE}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "You have it already: `If-None-Match`"}}
_FILE_ERRORS = describe_errors(ImageNotFound, StorageUnavailable, *_COMMON_ERRORS)

router = APIRouter(prefix="/images", tags=["images"])

ImageId = Annotated[int, Path(ge=1, le=ID_MAX)]


@router.post(
    "/upload",
    status_code=201,
    response_model=ImageAnswer,
    responses={201: REPLAY_HEADERS, **_UPLOAD_ERRORS},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": _FORM}}},
)
async def upload(
    request: Request, account: CurrentAccount, library: LibraryDep, resources: ResourcesDep, key: IdempotencyKeyDep
) -> ImageAnswer | Response:
    """Keep a picture: JPEG, PNG, WebP, GIF, BMP, HEIC or AVIF."""
    max_bytes = resources.settings.library.max_upload_bytes
    picture: UploadedPhoto | None = None
    async with admitted(request, resources.upload_memory) as memory:
        parts = read_parts(
            request,
            memory,
            max_images=1,
            max_image_bytes=max_bytes,
            image_field=FILE_FIELD,
        )
        async for part in parts:
            match part:
                case FormField():
                    continue
                case ImageTooLarge():
                    raise part
                case _:
                    picture = part
        if picture is None:
            raise missing_image(FILE_FIELD)
        image = picture
        return await answer_once(
            request,
            key,
            owner_of_account(account),
            lambda keep: library.add(account.id, image, client=memory.client, keep=keep),
            ImageAnswer.model_validate,
            fingerprint=[image.sha256, image.filename],
            image_id_of=lambda added: added.id,
            status=201,
        )


@router.get("/", responses=describe_errors(*_COMMON_ERRORS))
async def list_images(
    account: CurrentAccount,
    library: LibraryDep,
    skip: Annotated[int, Query(ge=0, le=ID_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 20,
) -> ImagePage:
    """Your pictures, the newest first."""
    images, total = await library.page(account.id, skip=skip, limit=limit)
    return ImagePage(items=[ImageAnswer.model_validate(image) for image in images], total=total, skip=skip, limit=limit)


@router.get("/{image_id}", responses=describe_errors(ImageNotFound, *_COMMON_ERRORS))
async def get_image(image_id: ImageId, account: CurrentAccount, library: LibraryDep) -> ImageAnswer:
    """What is known of one of your pictures."""
    return ImageAnswer.model_validate(await library.get(account.id, image_id))


@router.get(
    "/{image_id}/file",
    response_class=Response,
    responses={
        200: {"content": dict.fromkeys(MEDIA_TYPES.values(), _BINARY), "description": "The file"},
        **_NOT_MODIFIED,
        **_FILE_ERRORS,
    },
)
async def get_file(image_id: ImageId, request: Request, account: CurrentAccount, library: LibraryDep) -> Response:
    """The file, byte for byte as you have uploaded it."""
    image = await library.get(account.id, image_id)
    headers = _file_headers(image.sha256) | {"Content-Disposition": _disposition(image.filename)}
    if _has_it(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(image.size_bytes)
    return StreamingResponse(await library.open_file(image), media_type=MEDIA_TYPES[image.format], headers=headers)


@router.get(
    "/{image_id}/thumbnail",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": _BINARY}, "description": "The small picture"},
        **_NOT_MODIFIED,
        **_FILE_ERRORS,
    },
)
async def get_thumbnail(image_id: ImageId, request: Request, account: CurrentAccount, library: LibraryDep) -> Response:
    """A JPEG of at most 256 pixels on the long edge, upright and without metadata."""
    image = await library.get(account.id, image_id)
    headers = _file_headers(f"{image.sha256}-256")
    if _has_it(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return StreamingResponse(await library.open_thumbnail(image), media_type="image/jpeg", headers=headers)


@router.delete("/{image_id}", status_code=204, responses=describe_errors(ImageNotFound, *_COMMON_ERRORS))
async def delete_image(image_id: ImageId, account: CurrentAccount, library: LibraryDep) -> None:
    """Delete one of your pictures, and what models said of it."""
    await library.delete(account.id, image_id)


def _file_headers(tag: str) -> dict[str, str]:
    return {
        "ETag": f'"{tag}"',
        # Only its owner's browser keeps it, and asks before showing it again: the picture or the right may be gone.
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }


def _has_it(request: Request, etag: str) -> bool:
    """RFC 9110, 13.1.2, with the weak comparison."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in known or known == ["*"]


def _disposition(filename: str) -> str:
    """RFC 6266: the name in plain ASCII for old clients, and as it is."""
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", filename)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
