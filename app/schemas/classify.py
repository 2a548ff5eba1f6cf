"""Bodies of the classification endpoints, named and shaped as in the specification's sections 3.1 and 3.2."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.categories import Category
from app.language.accept import Language
from app.schemas.common import (
    EXAMPLE_HASH,
    EXAMPLE_MODEL,
    EXAMPLE_REQUEST_ID,
    EXAMPLE_TIMESTAMP,
    ErrorResponse,
    ImageHash,
    RequestId,
    Timestamp,
    UserId,
)

MAX_HASHES_PER_CALL = 500
# A look-up by looks takes a hundred times as long as one by SHA-256.
MAX_PERCEPTUAL_HASHES_PER_CALL = 100

_DATA_EXAMPLE = {
    "category": "travel_scenery",
    "confidence": 0.95,
    "description": "一张美丽的山景日落照片，展现了自然风光的壮美",
    "description_language": "zh",
}
HIT_EXAMPLE: dict[str, Any] = {
    "success": True,
    "cached": True,
    "data": _DATA_EXAMPLE,
    "from_cache": True,
    "model": EXAMPLE_MODEL,
    "request_id": EXAMPLE_REQUEST_ID,
    "timestamp": EXAMPLE_TIMESTAMP,
}
MISS_EXAMPLE: dict[str, Any] = {
    "success": True,
    "cached": False,
    "message": "Cache not found, please upload the full image",
}
_CLASSIFY_EXAMPLE: dict[str, Any] = {
    "success": True,
    "data": {
        "category": "foods",
        "confidence": 0.92,
        "description": "一盘精美的意大利面，色香味俱全",
        "description_language": "zh",
    },
    "from_cache": False,
    "model": EXAMPLE_MODEL,
    "processing_time_ms": 1523,
    "request_id": EXAMPLE_REQUEST_ID,
    "timestamp": EXAMPLE_TIMESTAMP,
}
_SIMILAR_EXAMPLE: dict[str, Any] = {"match": "similar", "similar_to": "1" * 64, "distance": 2}
_ERROR_EXAMPLE: dict[str, Any] = {
    "success": False,
    "error": {"code": "corrupt_image", "message": "The image is damaged or cut off.", "details": None},
    "request_id": "req_1760097600_0b1c2d3e4f5a",
    "timestamp": EXAMPLE_TIMESTAMP,
}


AnsweringModel = Annotated[
    str,
    Field(
        description="The model that gave the answer, also of one from the cache; `manual` where an operator did,"
        " `feedback` where users did."
    ),
]


Stale = Annotated[
    bool,
    Field(
        description="Only there when true: the database is away, and the answer is what this process knew before. A"
        " correction that was made since may be missing.",
        exclude_if=lambda is_stale: not is_stale,
    ),
]


DescriptionLanguage = Annotated[
    Language | None,
    Field(
        description="Language of the description; only there with one. It may be another than was asked for: that of a"
        " known photo that no client has uploaded in this one.",
        exclude_if=lambda language: language is None,
    ),
]


class Classification(BaseModel):
    """What the photo shows."""

    model_config = ConfigDict(from_attributes=True)

    category: Category
    confidence: Annotated[float, Field(ge=0, le=1, description="0..1")]
    description: Annotated[str | None, Field(description="One sentence, or null.")]
    description_language: DescriptionLanguage = None


def _read_bits(value: object) -> object:
    """16 hex digits become a number.

    Raises:
        PydanticCustomError: it is neither that nor null.
    """
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch("[0-9a-fA-F]{16}", value):
        return int(value, 16)
    raise PydanticCustomError("perceptual_hash", "16 hex digits are expected")


# Null stands for a photo that has none.
PerceptualHash = Annotated[
    int | None,
    BeforeValidator(_read_bits, json_schema_input_type=Annotated[str, Field(pattern="^[0-9a-fA-F]{16}$")] | None),
]


class SimilarTo(BaseModel):
    """What the answer of a similar photo says beside it."""

    match: Literal["similar"] = "similar"
    similar_to: Annotated[ImageHash, Field(description="The known photo whose answer this is.")]
    distance: Annotated[
        int, Field(ge=0, le=8, description="Bits in which the perceptual hashes differ; from 5 on, no description.")
    ]


class CheckCacheRequest(BaseModel):
    """The hash of a photo that the client may not have to upload."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image_hash": EXAMPLE_HASH, "user_id": "device_uuid_xxx"}]}
    )

    image_hash: ImageHash
    perceptual_hash: Annotated[
        PerceptualHash,
        Field(
            description="The photo's perceptual hash, 16 hex digits: where its SHA-256 is not known, a similar photo"
            " answers. See docs/api.md for how it is computed.",
            examples=["e1f0a5c39b16d24c"],
            # A key's fingerprint stays what it was without it.
            exclude_if=lambda value: value is None,
        ),
    ] = None
    user_id: UserId | None = None


class CheckCacheBatchRequest(BaseModel):
    """The hashes of an album."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image_hashes": [EXAMPLE_HASH, "0" * 64], "user_id": "device_uuid_xxx"}]}
    )

    image_hashes: Annotated[list[ImageHash], Field(min_length=1, max_length=MAX_HASHES_PER_CALL)]
    perceptual_hashes: Annotated[
        list[PerceptualHash] | None,
        Field(
            max_length=MAX_HASHES_PER_CALL,
            description="The photos' perceptual hashes, as one is sent with a single look-up: one for each of"
            f" `image_hashes`, in their order, or null where there is none to send. Up to"
            f" {MAX_PERCEPTUAL_HASHES_PER_CALL} of them other than null.",
            examples=[["e1f0a5c39b16d24c", None]],
            # A key's fingerprint stays what it was without it.
            exclude_if=lambda value: value is None,
        ),
    ] = None
    user_id: UserId | None = None

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        """Refuse perceptual hashes of which it is not clear whose they are, and more than one call looks up.

        Raises:
            PydanticCustomError: there are not as many as photos, or too many.
        """
        values = self.perceptual_hashes
        if values is None:
            return self
        if len(values) != len(self.image_hashes):
            raise PydanticCustomError(
                "perceptual_hashes",
                "perceptual_hashes: {photos} are expected, one or null for each of image_hashes, not {number}",
                {"photos": len(self.image_hashes), "number": len(values)},
            )
        if len(values) - values.count(None) > MAX_PERCEPTUAL_HASHES_PER_CALL:
            raise PydanticCustomError(
                "perceptual_hashes",
                "perceptual_hashes: {largest} other than null are the most",
                {"largest": MAX_PERCEPTUAL_HASHES_PER_CALL},
            )
        return self


class CacheHit(BaseModel):
    """The photo is known: no upload is needed."""

    model_config = ConfigDict(json_schema_extra={"examples": [HIT_EXAMPLE]})

    success: Literal[True] = True
    cached: Literal[True] = True
    data: Classification
    from_cache: Literal[True] = True
    stale: Stale = False
    model: AnsweringModel
    request_id: RequestId
    timestamp: Timestamp


class SimilarHit(SimilarTo, CacheHit):
    """The photo is not known, but a similar one: no upload is needed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**HIT_EXAMPLE, **_SIMILAR_EXAMPLE}]})


class CacheMiss(BaseModel):
    """The photo is not known: upload it."""

    model_config = ConfigDict(json_schema_extra={"examples": [MISS_EXAMPLE]})

    success: Literal[True] = True
    cached: Literal[False] = False
    message: Literal["Cache not found, please upload the full image"] = "Cache not found, please upload the full image"


class CheckCacheBatchResponse(BaseModel):
    """One element per hash, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"success": True, "results": [HIT_EXAMPLE, MISS_EXAMPLE]}]}
    )

    success: Literal[True] = True
    results: list[SimilarHit | CacheHit | CacheMiss]


class ClassifyResponse(BaseModel):
    """The classification of an uploaded photo."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CLASSIFY_EXAMPLE]})

    success: Literal[True] = True
    data: Classification
    from_cache: bool
    stale: Stale = False
    model: AnsweringModel
    processing_time_ms: Annotated[int, Field(ge=0)]
    request_id: RequestId
    timestamp: Timestamp


class SimilarResponse(SimilarTo, ClassifyResponse):
    """The classification of a similar photo, given for an uploaded one: no model was asked."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_CLASSIFY_EXAMPLE, "from_cache": True, **_SIMILAR_EXAMPLE}]}
    )

    from_cache: Literal[True] = True


class ClassifyBatchResponse(BaseModel):
    """One element per image, in the order of the upload: an answer or an error of its own."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"success": True, "results": [_CLASSIFY_EXAMPLE, _ERROR_EXAMPLE]}]}
    )

    success: Literal[True] = True
    results: list[SimilarResponse | ClassifyResponse | ErrorResponse]
