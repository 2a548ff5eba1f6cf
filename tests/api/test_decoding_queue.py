"""Photos that are dear to decode delay only those of the address that sends them."""

import asyncio

import httpx2
import pytest
from PIL import Image

from app.photo import sandbox
from app.runtime import fair_queue
from tests.fakes import images
from tests.support.classify import error_code, upload

OTHER = {"X-Forwarded-For": "192.0.2.1"}


def greedy_headers(number: int) -> dict[str, str]:
    # All of one network, which is one household's.
    return {"X-Forwarded-For": f"2001:db8::{number:x}"}


async def test_many_dear_photos_of_one_address_do_not_delay_another(api: httpx2.AsyncClient) -> None:
    # 12 megapixels in 38 bytes, which may be a blank photo, and something behind it that makes them different photos.
    blank = images.encode(Image.new("RGB", (4000, 3000)), "WEBP", lossless=True, quality=0, method=0)
    answered: list[str] = []

    async def send(photo: bytes, headers: dict[str, str], name: str) -> httpx2.Response:
        answer = await upload(api, photo, headers=headers)
        answered.append(name)
        return answer

    attack = [
        asyncio.create_task(send(blank + number.to_bytes(2), greedy_headers(number), "greedy")) for number in range(16)
    ]
    # Those that are decoded first are under way then, and all others wait.
    await asyncio.wait(attack, return_when=asyncio.FIRST_COMPLETED)
    before = len(answered)
    answer = await send(images.heic_photo(), OTHER, "other")
    assert answer.status_code == 200, answer.text
    # Two threads, each of which may have ended and begun one more before it was decoded.
    assert answered.index("other") <= before + 8
    for answer in await asyncio.gather(*attack):
        assert answer.status_code == 200 or error_code(answer) == "server_busy"


async def test_sixty_webps_of_a_kilobyte_are_refused_before_anything_is_decoded(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process would be too late.
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 0.0)
    photo = images.encode(Image.new("RGB", (4890, 4890)), "WEBP", lossless=True, quality=0, method=0)
    for number in range(60):
        answer = await upload(api, photo + bytes(900) + number.to_bytes(2))
        assert (answer.status_code, error_code(answer)) == (400, "image_too_complex")


async def test_a_photo_whose_turn_does_not_come_is_told_to_come_back(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "MAX_WAIT_SECONDS", 0.0)
    blank = images.encode(Image.new("RGB", (4000, 3000)), "WEBP", lossless=True, quality=0, method=0)
    answers = await asyncio.gather(*(upload(api, blank + number.to_bytes(2)) for number in range(8)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    for answer in refused:
        assert (answer.status_code, error_code(answer)) == (503, "server_busy")
        assert int(answer.headers["Retry-After"]) > 0


async def test_a_machine_without_room_says_so_of_a_good_photo(
    api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 0.001)
    photo = images.heic_photo()
    answer = await upload(api, photo)
    assert (answer.status_code, error_code(answer)) == (503, "server_busy")
    assert "Retry-After" in answer.headers
    monkeypatch.undo()
    # It is held against no account.
    again = await upload(api, photo)
    assert again.status_code == 200, again.text
    assert again.json()["from_cache"] is False
