"""People and their pictures over HTTP."""

from pathlib import Path

import httpx2

from app.config.settings import Settings
from app.storage.base import MARK
from tests.fakes.images import jpeg_photo
from tests.support.people import bearer, log_in, sign_up

JPEG = jpeg_photo()


async def person(service: httpx2.AsyncClient, name: str = "testuser") -> dict[str, str]:
    """Sign a user up and in; returns the header."""
    await sign_up(service, username=name, email=f"{name}@example.com")
    return bearer(await log_in(service, name))


async def upload(
    service: httpx2.AsyncClient, headers: dict[str, str], data: bytes = JPEG, name: str = "image.jpg"
) -> httpx2.Response:
    return await service.post("/images/upload", headers=headers, files={"file": (name, data, "image/jpeg")})


def files_of(settings: Settings) -> list[Path]:
    """All pictures and thumbnails of the storage."""
    return sorted(path for path in settings.upload_dir.rglob("*") if path.is_file() and path.name != MARK)
