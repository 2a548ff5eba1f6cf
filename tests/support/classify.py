"""Checking and uploading photos over HTTP."""

import hashlib
from io import BytesIO
from typing import Any

import httpx2
from PIL import Image
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.tables.classification import CachedImage

MISS = {"success": True, "cached": False, "message": "Cache not found, please upload the full image"}


def photo(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG whose bytes depend on `seed`."""
    file = BytesIO()
    Image.new("RGB", size, (seed * 37 % 256, seed * 91 % 256, seed // 256)).save(file, "JPEG")
    return file.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def upload(api: httpx2.AsyncClient, image: bytes, **more: Any) -> httpx2.Response:
    return await api.post("/classify", files={"image": ("image.jpg", image, "image/jpeg")}, **more)


async def check(api: httpx2.AsyncClient, image_hash: str, **more: Any) -> httpx2.Response:
    return await api.post("/classify/check-cache", json={"image_hash": image_hash}, **more)


async def hit_count(engine: AsyncEngine, image_hash: str) -> int | None:
    async with engine.connect() as connection:
        query = select(CachedImage.hit_count).where(CachedImage.image_hash == image_hash)
        return (await connection.execute(query)).scalar()


def error_code(response: httpx2.Response) -> str:
    body = response.json()
    assert body["success"] is False
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert body["timestamp"].endswith("Z")
    assert set(body["error"]) == {"code", "message", "details"}
    return str(body["error"]["code"])
