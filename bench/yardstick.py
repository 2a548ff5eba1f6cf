"""What any typed FastAPI service costs: our requests and responses, nothing behind them.

An upload is read as FastAPI's documentation shows, and hashed; that to /decoded is also decoded, which is the least
that a service does which looks at the picture.
"""

import asyncio
import hashlib
import io

from fastapi import FastAPI, UploadFile
from PIL import Image

from app.categories import Category
from app.clock import utc_now
from app.observability.request_id import new_request_id
from app.schemas.classify import CacheHit, CheckCacheRequest, Classification, ClassifyResponse

DECODED_PATH = "/api/v1/classify/decoded"

_ANSWER = Classification(category=Category.FOODS, confidence=0.92, description="一盘精美的意大利面，色香味俱全")

app = FastAPI()


@app.post("/api/v1/classify/check-cache")
async def check_cache(body: CheckCacheRequest) -> CacheHit:
    """Answer every hash as if it were known."""
    return CacheHit(data=_ANSWER, request_id=new_request_id(), timestamp=utc_now())


@app.post("/api/v1/classify")
async def classify(image: UploadFile) -> ClassifyResponse:
    """Answer every upload as if it were known; its hash is computed and dropped."""
    hashlib.sha256(await image.read()).hexdigest()
    return _classified(from_cache=True)


@app.post(DECODED_PATH)
async def classify_decoded(image: UploadFile) -> ClassifyResponse:
    """Answer every upload as if it were new; its hash and its pixels are computed and dropped."""
    photo = await image.read()
    hashlib.sha256(photo).hexdigest()
    await asyncio.to_thread(_decode, photo)
    return _classified(from_cache=False)


def _classified(*, from_cache: bool) -> ClassifyResponse:
    return ClassifyResponse(
        data=_ANSWER, from_cache=from_cache, processing_time_ms=0, request_id=new_request_id(), timestamp=utc_now()
    )


def _decode(photo: bytes) -> None:
    with Image.open(io.BytesIO(photo)) as picture:
        picture.load()
