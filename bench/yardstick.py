"""What any typed FastAPI service costs: our requests and responses, nothing behind them.

The upload is read as FastAPI's documentation shows, and hashed.
"""

import hashlib

from fastapi import FastAPI, UploadFile

from app.categories import Category
from app.clock import utc_now
from app.request_id import new_request_id
from app.schemas.classify import CacheHit, CheckCacheRequest, Classification, ClassifyResponse

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
    return ClassifyResponse(
        data=_ANSWER, from_cache=True, processing_time_ms=0, request_id=new_request_id(), timestamp=utc_now()
    )
