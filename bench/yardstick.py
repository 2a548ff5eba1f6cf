"""What any typed FastAPI service costs: our requests and responses, nothing behind them.

An upload is read as FastAPI's documentation shows, and hashed. That to /modelled is also decoded, the least check that
it is a picture, and sent to the model at MODEL_URL by the same call of the same SDK as ours.
"""

import asyncio
import base64
import hashlib
import io
import os
from functools import cache

from fastapi import FastAPI, UploadFile
from openai import AsyncOpenAI
from PIL import Image

from app.categories import Category
from app.clock import utc_now
from app.observability.request_id import new_request_id
from app.schemas.classify import CacheHit, CheckCacheRequest, Classification, ClassifyResponse
from bench.instant_model import MODEL

MODELLED_PATH = "/api/v1/classify/modelled"

_ANSWER = Classification(category=Category.FOODS, confidence=0.92, description="一盘精美的意大利面，色香味俱全")

app = FastAPI()


@app.post("/api/v1/classify/check-cache")
async def check_cache(body: CheckCacheRequest) -> CacheHit:
    """Answer every hash as if it were known."""
    return CacheHit(data=_ANSWER, model=MODEL, request_id=new_request_id(), timestamp=utc_now())


@app.post("/api/v1/classify")
async def classify(image: UploadFile) -> ClassifyResponse:
    """Answer every upload as if it were known; its hash is computed and dropped."""
    hashlib.sha256(await image.read()).hexdigest()
    return _classified(_ANSWER, from_cache=True)


@app.post(MODELLED_PATH)
async def classify_modelled(image: UploadFile) -> ClassifyResponse:
    """Answer every upload as the model does; nothing is stored."""
    photo = await image.read()
    hashlib.sha256(photo).hexdigest()
    await asyncio.to_thread(_decode, photo)
    picture = f"data:image/jpeg;base64,{base64.b64encode(photo).decode()}"
    completion = await _model().chat.completions.create(
        model=MODEL,
        max_completion_tokens=500,
        response_format={"type": "json_object"},
        messages=[
            {"role": "system", "content": "Answer with category, confidence and description, as JSON."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]},
        ],
    )
    answer = Classification.model_validate_json(completion.choices[0].message.content or "")
    return _classified(answer, from_cache=False)


@cache
def _model() -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{os.environ['MODEL_URL']}/v1", api_key="none", max_retries=0)


def _classified(answer: Classification, *, from_cache: bool) -> ClassifyResponse:
    return ClassifyResponse(
        data=answer,
        from_cache=from_cache,
        model=MODEL,
        processing_time_ms=0,
        request_id=new_request_id(),
        timestamp=utc_now(),
    )


def _decode(photo: bytes) -> None:
    with Image.open(io.BytesIO(photo)) as picture:
        picture.load()
